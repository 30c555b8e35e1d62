"""How many seeds does one picture have, and how far apart are they? The paper's Sequential Inversion Block.

A query is reached by way of support pictures: the autoencoder alone is inverted from a support's latent to the query,
and what comes out is inverted to a seed under the query's prompt.
"""

from typing import Any, Protocol

from torch import Tensor

from lit_memories.inverters.decoder import DecoderInversion
from lit_memories.metrics.functional import gaussian_nll
from lit_memories.numbers import Number
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.probes.base import Answers, Column, Group, Probe
from lit_memories.probes.prices import Price, Terms
from lit_memories.probes.quality import sound_psnr
from lit_memories.probes.seed import CONVERGENCE, SEEN, inverted
from lit_memories.records import MEMORY_SETS, finite

STAGES = (
    Number("psnr_support", "1. support decoded", unit="dB"),
    Number("psnr_decoder", "2. query decoded", unit="dB"),
    Number("psnr", "3. query regenerated", unit="dB"),
    Number("psnr_round_trip", "stage 3 against stage 2", unit="dB"),
    Number("psnr_ceiling", "VAE ceiling", unit="dB"),
)


class MemoryGroup(Group, Protocol):
    """A query's latents: its own, the same from another start, and one by way of each support."""

    @property
    def decoded(self) -> Tensor:
        """What the latents decode to (n, 3, h, w)."""

    @property
    def stages(self) -> dict[str, Column]:
        """What the decoder inversions left: ``psnr_decoder``, ``psnr_support``, ``decoder_passes``."""


class Memories(Probe):
    """Seeds of one picture by many ways, and their distances from the seed it has by itself.

    Args:
        decoder: how latents that decode to an image are found.
        reencode: decode what the decoder inversion found to 8 bit and invert a sample of that picture's posterior.
    """

    question = "How many seeds does one picture have, and how far apart are they? (Memories of Forgotten Concepts)"
    sets = MEMORY_SETS
    numbers = (
        Number("distance", "Euclidean to the own seed"),
        Number("cosine_distance", "1 - cosine to the own seed"),
        Number("latent_cosine_distance", "1 - cosine to the own latent"),
        Number("nll", "NLL of the seed", unit="nats"),
        *STAGES,
        Number("decoder_passes", "passes through the decoder"),
        *CONVERGENCE,
        *SEEN,
    )
    needs = ("inverter",)
    uses = ("judge",)
    leaves_seeds = True
    pictures = True
    says = "Whether a picture's seeds are one or many. Not whether the concept was forgotten."
    cost = "an inversion a support, with 20 steps about 80 each, and up to 3000 passes through the decoder"

    def __init__(self, decoder: DecoderInversion, reencode: bool = False) -> None:
        self.decoder, self.reencode = decoder, reencode

    def settings(self, schedule: NoiseSchedule) -> dict[str, Any]:
        """How latents are found."""
        return {"decoder": self.decoder.settings(), "reencode": self.reencode}

    def price(self, terms: Terms) -> Price:
        """An inversion, and the way back; decoder inversions ask no network."""
        return terms.calls(terms.inverter.inverting, terms.inverter.regenerating)

    def __call__(self, group: MemoryGroup) -> Answers:  # type: ignore[override]
        """Invert, regenerate, compare with the query and with its own seed, which is the first."""
        inversion = group.inversion
        restored = group.inverter.regenerate(group.predictor(group.guidance_scale), inversion, group.steps)
        regenerated, target = group.decode(restored), group.images
        numbers: dict[str, Column] = {
            "nll": gaussian_nll(inversion.seeds),
            "psnr": sound_psnr(regenerated, target),
            "psnr_ceiling": sound_psnr(group.round_trips, target[:1]).expand(len(target)),
            "psnr_round_trip": sound_psnr(regenerated, group.decoded),
        }
        seeds, latents = inversion.seeds.cpu(), group.latents.cpu()
        apart = [_distances(seed, seeds[0]) for seed in seeds]
        numbers["distance"] = [None, *(distance for distance, _ in apart[1:])]
        numbers["cosine_distance"] = [None, *(cosine for _, cosine in apart[1:])]
        numbers["latent_cosine_distance"] = [None, *(_distances(x, latents[0])[1] for x in latents[1:])]
        found = numbers | group.stages | group.judge(regenerated)
        return inverted(group.inverter, inversion, found, {"regenerated": regenerated})


def _distances(seed: Tensor, own: Tensor) -> tuple[float | None, float | None]:
    """Euclidean distance of two seeds, and 1 less their cosine; a pair at a time rounds alike in any company."""
    a, b = seed.double().flatten(), own.double().flatten()
    return finite(float((a - b).norm())), finite(float(1 - (a @ b) / (a.norm() * b.norm())))
