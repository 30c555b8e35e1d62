"""Does the model still draw other things as well? Utility as papers quote it: KID, FID, CMMD, CLIP score, LPIPS."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lit_memories.judges.measures import Features, Measure, PictureDistance, TextScore
from lit_memories.numbers import STRONGEST, Number, check_range
from lit_memories.ops.rollout import rollout_rows
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.probes.base import Answers, Column, Group, Probe
from lit_memories.probes.other_model import check_alike, other_predictor
from lit_memories.probes.prices import Price, Terms

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion

OUT_OF_REACH = "out of reach"
"""What a run says in place of a network's identity that could not be had."""


class Utility(Probe):
    """Samples under other prompts than the concept's, as seen by networks that papers compare pictures with.

    They are the pictures of the probe ``samples`` where that has the same guidance. Features of each picture, real ones
    of the reference set among them, are kept as artefacts; the report compares their sets. Networks that cannot be had
    are named, and the others' numbers stand.

    Args:
        features: networks whose features of pictures are compared, each kind once.
        clip: how well pictures fit their prompts.
        preference: the same by a model that learnt people's choices.
        distance: from the picture that `vanilla` draws of the same noise.
        vanilla: the model from before the erasure; in a recipe ``vanilla: {base: FOLDER}``. It costs a run more.
        guidance_scale: of the samples.

    Raises:
        ValueError: if nothing is to be measured, a kind of features stands there twice, only one of `distance` and
            `vanilla` is given, or the guidance is out of range.
    """

    question = "Does the model draw other things as well as vanilla does, and as real pictures are?"
    sets = ("retained", "reference")
    numbers = (
        Number("clip_score", "CLIP score", "paired", digits=2, direction="none"),
        Number("preference", "preference score", "paired", digits=2, direction="none"),
        Number("distance", "perceptual distance to vanilla, same noise", "mean", digits=3, direction="none"),
    )
    needs = ("steps",)
    says = (
        "Whether pictures of other things changed, and still fit their prompts, as published tables have it. Not if "
        "single prompts fail: a judge that knows what they ask for says that."
    )
    cost = "a DDIM run, guided, of other prompts: with 20 steps 40, twice with vanilla; of real pictures none"

    def __init__(
        self,
        features: Sequence[Features] = (),
        clip: TextScore | None = None,
        preference: TextScore | None = None,
        distance: PictureDistance | None = None,
        vanilla: "Diffusion | None" = None,
        guidance_scale: float = 7.5,
    ) -> None:
        check_range("guidance_scale", guidance_scale, 0, STRONGEST)
        self.features, self.clip, self.preference = list(features), clip, preference
        self.distance, self.vanilla, self.guidance_scale = distance, vanilla, guidance_scale
        names = [one.name for one in features]
        if len(set(names)) < len(names):
            raise ValueError(f"features of a kind are named twice among {', '.join(names)}: name each once")
        if (distance is None) != (vanilla is None):
            raise ValueError("the probe utility takes distance and vanilla, which it is a distance from, or neither")
        if not self._named:
            raise ValueError("the probe utility has nothing to measure: give it features, clip, preference or distance")
        self.leaves_artefacts = bool(names)
        self._lost: dict[str, str] | None = None

    @property
    def _named(self) -> dict[str, Measure]:
        """All that is measured, by name."""
        scores = {"clip": self.clip, "preference": self.preference, "distance": self.distance}
        named: dict[str, Any] = {f"features of {one.name}": one for one in self.features}
        return named | {name: one for name, one in scores.items() if one is not None}

    @property
    def lost(self) -> dict[str, str]:
        """What is out of reach, by name, and why; looked for once.

        Raises:
            ValueError: if nothing else is left.
            OSError: if it is named on this machine, and not there.
        """
        from lightning.pytorch.utilities import rank_zero_warn  # reports, which know probes by name, do without it

        if self._lost is None:
            found = {name: why for name, one in self._named.items() if (why := _why_not(one)) is not None}
            if found.keys() == self._named.keys():
                raise ValueError(f"nothing that the probe utility measures can be had: {'; '.join(found.values())}")
            for name, why in found.items():
                rank_zero_warn(f"utility goes without {name}, which is {OUT_OF_REACH}: {why}")
            self._lost = found
        return self._lost

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse another model whose latents or noise levels are not the audited one's.

        Args:
            diffusion: the audited model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying what differs.
        """
        if self.vanilla is not None:
            check_alike("the probe utility", diffusion, self.vanilla, num_inference_steps)

    def settings(self, schedule: NoiseSchedule) -> dict[str, Any]:
        """What measures, by all that its numbers depend on, or as out of reach."""
        seen = {name: OUT_OF_REACH if name in self.lost else one.identity() for name, one in self._named.items()}
        vanilla = None if self.vanilla is None else self.vanilla.guarded_fingerprint()
        return {"measures": seen, "vanilla": vanilla, "guidance_scale": self.guidance_scale}

    def price(self, terms: Terms) -> Price:
        """A run, and vanilla's; nothing of real pictures."""
        if terms.set == "reference":
            return Price.of(0)
        return terms.run(self.guidance_scale) * (1 if self.vanilla is None else 2)

    def __call__(self, group: Group) -> Answers:
        """Draw, and look."""
        if group.set == "reference":
            return self._seen(group, group.images, [True] * len(group.prompts), {})
        seeds = group.draw_seeds(group.generators())
        latents = rollout_rows(group.predictor(self.guidance_scale), seeds, group.steps)
        images, sound = group.decode(latents), latents.flatten(1).isfinite().all(1)
        numbers: dict[str, Column] = {}
        if self.distance is not None and self.vanilla is not None and "distance" not in self.lost:
            usual = rollout_rows(other_predictor(group, self.vanilla, self.guidance_scale), seeds, group.steps)
            sound = sound & usual.flatten(1).isfinite().all(1)
            numbers["distance"] = self.distance(_in_8_bit(images), _in_8_bit(group.decode(usual)))
        return self._seen(group, images, sound.tolist(), numbers)

    def _seen(self, group: Group, images: Tensor, sound: Sequence[bool], numbers: dict[str, Column]) -> Answers:
        """What the networks say of pictures, as they would be stored."""
        images = _in_8_bit(images)
        for name, path, score in (("clip", "clip_score", self.clip), ("preference", "preference", self.preference)):
            if score is not None and name not in self.lost:
                numbers[path] = score(images, group.prompts)
        kept = [one for one in self.features if f"features of {one.name}" not in self.lost]
        artefacts = {one.name: one(images).cpu() for one in kept}
        for features in artefacts.values():
            finite = features.isfinite().all(1).tolist()
            sound = [good and seen for good, seen in zip(sound, finite, strict=True)]
        return Answers(numbers, [None if good else "not finite" for good in sound], artefacts=artefacts)


def _in_8_bit(images: Tensor) -> Tensor:
    """Pictures as files have them; those that are not finite, which do not count, with zeros."""
    return images.nan_to_num().clamp(0, 1).mul(255).round().div(255)


def _why_not(measure: Measure) -> str | None:
    """Why a network cannot be had, in a line; None if it can.

    Raises:
        OSError: if it is named on this machine, and not there.
    """
    try:
        measure.identity()
    except (OSError, ImportError) as error:
        if not measure.remote:
            raise
        return str(error).partition("\n")[0]
    return None
