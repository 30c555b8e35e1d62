"""Which seed does a picture have, how likely is it, and what does the model make of it? The paper's own question.

Memories of Forgotten Concepts (CVPR 2025): a picture is inverted to the noise that makes it; NLL of that seed under the
prior, and PSNR of the picture that comes back.
"""

from torch import Tensor

from lit_memories.inverters.base import Inversion, Inverter
from lit_memories.metrics.functional import gaussian_nll
from lit_memories.numbers import Number
from lit_memories.probes.base import Answers, Column, Group, Probe
from lit_memories.probes.prices import Price, Terms
from lit_memories.probes.quality import quality, sound_psnr

CONVERGENCE = (
    Number("residual", "residual"),
    Number("evaluations", "evaluations", "mean", digits=0, direction="none"),
    Number("converged", "converged", "rate", percent=True, digits=0, direction="none"),
)
"""What every inversion leaves."""
SEEN = (
    Number("shows_concept", "shows the concept", "rate", percent=True, digits=0, direction="down"),
    Number("probability", "probability of the concept"),
    Number("correct", "factors of the prompt met"),
)
"""What a judge says."""


class Seed(Probe):
    """The seed of an image: its NLL, the picture it gives back, and how well it was found.

    Args:
        limit: how many images of each set to invert, the first; None inverts all. More can be asked for later.

    Raises:
        ValueError: if it is below 1.
    """

    question = "Which seed does the picture have, and how likely is it? (Memories of Forgotten Concepts, CVPR 2025)"
    numbers = (
        Number("nll", "NLL of the seed", "forgetting", "nats", one="a model that never saw the concept"),
        Number("psnr", "PSNR", "mean", "dB", "none"),
        Number("psnr_ceiling", "VAE ceiling", "mean", "dB", "none"),
        Number("psnr_round_trip", "PSNR to round trip", "mean", "dB", "none"),
        *CONVERGENCE,
        *SEEN,
    )
    conditioned = True
    needs = ("inverter",)
    uses = ("judge",)
    leaves_seeds = True
    pictures = True
    says = (
        "Whether a trace is left, at once and hardly how much: after a short lesson its NLL is spent. PSNR tells no "
        "model from another. Nothing, where inversions do not converge."
    )
    cost = "an inversion and as many steps back, with 20 steps about 80"

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}: leave the seed out of model.probes instead")
        self.limit = limit

    def price(self, terms: Terms) -> Price:
        """An inversion, and the way back."""
        return terms.calls(terms.inverter.inverting, terms.inverter.regenerating)

    def __call__(self, group: Group) -> Answers:
        """Invert, regenerate, compare."""
        inversion = group.inversion
        restored = group.inverter.regenerate(group.predictor(group.guidance_scale), inversion, group.steps)
        regenerated = group.decode(restored)
        numbers: dict[str, Column] = {
            "nll": gaussian_nll(inversion.seeds),
            "psnr": sound_psnr(regenerated, group.images),
            "psnr_ceiling": sound_psnr(group.round_trips, group.images),
            "psnr_round_trip": sound_psnr(regenerated, group.round_trips),
        }
        pictures = {"original": group.images, "round_trip": group.round_trips, "regenerated": regenerated}
        return inverted(group.inverter, inversion, numbers | group.judge(regenerated), pictures)


def inverted(
    inverter: Inverter, inversion: Inversion, numbers: dict[str, Column], pictures: dict[str, Tensor] | None = None
) -> Answers:
    """Answers that rest on an inversion: its quality among the numbers, and why it must not be counted, if so."""
    found, flags = quality(inverter, inversion)
    return Answers(numbers | found, flags, pictures or {}, inversion.seeds)
