"""What every probe is given and gives: tensors in, numbers and artefacts out."""

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Generator, Tensor, nn

from lit_memories.concept import Concept
from lit_memories.inverters.base import Inversion, Inverter, PromptedPredictor
from lit_memories.numbers import Asked, Number
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.probes.prices import Price, Terms
from lit_memories.records import SetName

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion
    from lit_memories.words import Words

Need: TypeAlias = Literal["inverter", "seeds", "judge", "gradients", "steps", "lesson", "concept"]
"""What a probe cannot do without: the audit's inverter, the seeds that the probe ``seed`` finds, a judge, gradients of
the network, the audit's DDIM steps, pictures to teach the model, or what the concept is called."""
Column: TypeAlias = Tensor | Sequence[Any]
"""A value a sample: a tensor (n,) or (n, k) of numbers that have to be finite, or plain values."""
IMAGES: tuple[SetName, ...] = ("concept", "reference")
"""The sets of images."""


class Group(Protocol):
    """Samples of one set that are asked together, and the model that they are put to.

    How many they are, and which, changes no sample's numbers: whatever is drawn comes from the samples' own generators,
    and every call of a network has the audit's number of rows.
    """

    @property
    def set(self) -> SetName:
        """Of all samples."""

    @property
    def concept(self) -> Concept:
        """What the model should have forgotten; for probes that say so in their `needs`."""

    @property
    def prompts(self) -> Sequence[str]:
        """One a sample."""

    @property
    def keys(self) -> Sequence[str]:
        """Of the samples' records, the same in the audits of all models."""

    @property
    def rows(self) -> Tensor:
        """The samples' rows (n,), by which `predictor` knows whose prompts to take."""

    @property
    def conditioned(self) -> bool:
        """Whether these are images under other prompts, or another guidance, than their own."""

    @property
    def guidance_scale(self) -> float:
        """Of inversion and regeneration."""

    @property
    def asked_guidance(self) -> float | None:
        """The guidance that images are looked at under, where their conditioning says one."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The model's noise levels."""

    @property
    def steps(self) -> Sequence[DDIMStep]:
        """The audit's DDIM steps, noise first."""

    @property
    def inverter(self) -> Inverter:
        """The audit's."""

    @property
    def network(self) -> nn.Module:
        """The U-Net, to compute with other weights than its own (`ops.lessons`), which nobody writes to."""

    @property
    def lesson(self) -> "Group":
        """The pictures of the set that probes teach the model, always the same object; see `Probe.lesson`."""

    @property
    def images(self) -> Tensor:
        """The samples' images (n, 3, h, w) in [0, 1]."""

    @property
    def latents(self) -> Tensor:
        """Of the images (n, c, h, w)."""

    @property
    def round_trips(self) -> Tensor:
        """The latents decoded again (n, 3, h, w)."""

    @property
    def inversion(self) -> Inversion:
        """Of the latents, under the samples' prompts and guidance; found once, however many probes ask."""

    @property
    def seeds(self) -> Tensor:
        """The samples' seeds (n, c, h, w), those of an earlier run where it found them."""

    def predictor(self, guidance_scale: float, prompts: Sequence[str] | None = None) -> PromptedPredictor:
        """The model's predictions under prompts, the samples' own if None."""

    def predictor_of(
        self, embeds: Tensor, guidance_scale: float, diffusion: "Diffusion | None" = None
    ) -> PromptedPredictor:
        """Predictions under embeddings (n, rows, width), differentiable; of another model than the audit's if given."""

    @property
    def words(self) -> "Words":
        """The model's text encoder and vocabulary.

        Raises:
            ValueError: if it has text encoders that read different words.
        """

    @property
    def evaluations(self) -> int:
        """Of networks, on all samples together, since the probe was asked."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, 3, h, w) of latents, each decoded alone."""

    def judge(self, images: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Column]:
        """What the judge sees, a column each of ``shows_concept``, ``probability``, ``correct``; {} without one."""

    def generators(self, purpose: str = "") -> list[Generator]:
        """The samples' own sources of randomness on the CPU: the same for every model, another for each purpose."""

    def draw_seeds(self, generators: Sequence[Generator]) -> Tensor:
        """Seeds from the prior (n, c, h, w), one a generator."""

    def blocks(self) -> "Iterator[Group]":
        """The samples again, as many at a time as fit a call of the network."""


@dataclass(frozen=True)
class Answers:
    """What a probe found, a value a sample.

    Args:
        numbers: by name. A sample with a number that is not finite is flagged, and does not count.
        flags: why else a sample must not count, or None.
        pictures: to keep of the first samples, by kind (n, 3, h, w).
        seeds: to keep (n, c, h, w).
        artefacts: what an attack made, to keep of all samples, by name (n, ...).
    """

    numbers: Mapping[str, Column]
    flags: Sequence[str | None] | None = None
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    seeds: Tensor | None = None
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)


class Probe(ABC):
    """Asks a model one question about samples.

    It computes on tensors and knows of no files, processes or pages: the audit puts it to the samples and writes what
    it finds, statistics and report follow what it says of its numbers.
    """

    name: ClassVar[str]
    """What records call it: the class's name in small letters."""
    question: ClassVar[str]
    """In one sentence, with the equation's source."""
    sets: ClassVar[tuple[SetName, ...]] = IMAGES
    """Of samples that it is asked about."""
    numbers: ClassVar[tuple[Number, ...]]
    """That it measures."""
    conditioned: ClassVar[bool] = False
    """Whether it is asked of images under other prompts too."""
    needs: ClassVar[tuple[Need, ...]] = ()
    """What it cannot do without."""
    uses: ClassVar[tuple[Need, ...]] = ()
    """What changes its numbers where it is there."""
    limit: int | None = None
    """Of how many samples of a set, its first, it is asked; None asks it of all. No number depends on it."""
    lesson: int = 0
    """How many pictures of a set, its first that can be read, it teaches the model; it is not asked about them."""
    leaves_seeds: ClassVar[bool] = False
    """Whether each of its answers comes with a seed to keep."""
    leaves_artefacts: bool = False
    """Whether each of its answers comes with artefacts to keep; those that are lost or damaged are then made anew."""
    pictures: ClassVar[bool] = False
    """Whether it leaves pictures of the first samples of a set."""
    says: ClassVar[str] = ""
    """What its numbers tell, and what they do not, as docs/validity.md has found."""
    cost: ClassVar[str] = ""
    """Network evaluations an image, in words."""

    @abstractmethod
    def __call__(self, group: Group) -> Answers:
        """What the model says of samples."""

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:  # noqa: B027, most ask nothing of it
        """Refuse, before anything is asked, a model that it cannot be put to; none if not overridden.

        Args:
            diffusion: the model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying why.
        """

    def price(self, terms: Terms) -> Price:
        """Network evaluations that a sample costs, counted before it is asked; unknown if not overridden."""
        return Price(0, math.inf)

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the probe after its class."""
        super().__init_subclass__(**options)
        cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    def settings(self, schedule: NoiseSchedule) -> dict[str, Any]:
        """What its numbers depend on besides model, sample and the audit: all that its constructor takes."""
        names = inspect.signature(type(self)).parameters.keys() - {"limit"}
        return {name: getattr(self, name) for name in sorted(names)}

    @classmethod
    def asked(cls, settings: Mapping[str, Any]) -> Asked:
        """What a run says of it."""
        return Asked(cls.name, cls.question, settings, cls.numbers, cls.sets, cls.conditioned, cls.leaves_seeds)


def by_block(group: Group, measure: Callable[[Group], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Numbers of samples that are measured a block at a time, where more would not fit into memory."""
    found = [measure(part) for part in group.blocks()]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def check_lesson(lesson: int, limit: int | None) -> None:
    """Refuse a limit that leaves a probe nothing to ask about beside the pictures that it teaches.

    Raises:
        ValueError: saying so.
    """
    if limit is not None and limit <= lesson:
        raise ValueError(
            f"the lesson takes the first {lesson} images, so that a limit of {limit} leaves none to ask about: "
            "limit must be more than lesson, or null for all"
        )
