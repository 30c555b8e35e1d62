"""Samples of an audit before it: what they are, where their images come from, and how they are shared out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from lit_memories.concept import Concept
from lit_memories.data.readable import readable
from lit_memories.data.sources import Resize, Source, read_picture
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.records import TOO_FEW, Place, SetName


@dataclass
class Sample:
    """One sample before its audit.

    Args:
        set: it belongs to.
        index: its row there.
        content: hash of what it is.
        prompt: it is audited under.
        image: (3, h, w) in [0, 1], if it has one.
        picture: hash of its pixels, if it has an image.
        conditioning: what the prompt is, if not the image's own.
        guidance_scale: it is looked at under, if not the audit's.
        ask: the probes that it is put to.
        lesson: whether it is one of those that probes teach the model.
    """

    set: SetName
    index: int
    content: str
    prompt: str
    image: Tensor | None = None
    picture: str | None = None
    conditioning: str | None = None
    guidance_scale: float | None = None
    ask: tuple[str, ...] = ()
    lesson: bool = False

    @property
    def name(self) -> str:
        """What the sample's record is keyed by: all of it that an audit sees. `content` holds the own prompt."""
        other = [] if self.conditioning is None else [self.conditioning, digest(self.prompt.encode())]
        return "/".join([self.set, self.content, *other])

    @property
    def place(self) -> Place:
        """Where its record stands."""
        return Place(self.set, self.index, conditioned=self.conditioning is not None, lesson=self.lesson)

    @property
    def work(self) -> tuple[str, ...]:
        """What tells it from other pieces of work."""
        return (self.name, *self.ask)


class Audit(Protocol):
    """What the data needs of the audit it feeds: the model's image size and window, and what is left to do."""

    diffusion: Diffusion
    image_size: tuple[int, int]
    concept: Concept

    @property
    def lesson(self) -> int:
        """How many pictures of each set probes teach the model."""

    def teach(self, lessons: Mapping[SetName, Sequence[Sample]]) -> None:
        """Take these pictures, with their pixels, by set."""

    @property
    def stages(self) -> list[tuple[str, ...]]:
        """Probes that are asked together, in the order in which all samples meet them."""

    def asked_of(self, place: Place) -> list[str]:
        """The probes that a sample is put to."""

    def open_run(self, data: dict[str, Any], places: Mapping[str, Place]) -> dict[str, list[str]]:
        """Check or make the run folder; for each name the probes that are left to ask."""


class ImageRows:
    """One set's images: readable rows as samples without pixels, and the names of the others."""

    def __init__(self, name: SetName, source: Source, size: tuple[int, int], resize: Resize = "crop") -> None:
        self.source, self.size, self.resize = source, size, resize
        self.rows = source.load()
        self.samples: list[Sample] = []
        self.unreadable: list[str] = []
        self.repeated = 0
        seen: set[str] = set()
        for index, caption, picture in readable(self.rows, name, size, resize, self.unreadable):
            content = digest(picture.tobytes() + caption.encode())
            if content in seen:
                self.repeated += 1
                continue
            seen.add(content)
            self.samples.append(Sample(name, index, content, caption, picture=digest(picture.tobytes())))

    def describe(self, used: int) -> dict[str, Any]:
        """What ``run.json`` says of the set, of which `used` rows are."""
        source = self.source.describe() + (", squeezed" if self.resize == "squeeze" else "")
        counts = {"rows": used, "unreadable": self.unreadable, "repeated": self.repeated}
        return {"source": source, **counts, **self.source.details()}

    def pixels(self, index: int) -> Tensor:
        """The image (3, h, w) of a row."""
        return to_tensor(read_picture(self.rows[index]["image"], self.size, self.resize))

    def lesson(self, count: int) -> list[Sample]:
        """The first samples, which probes teach the model, with their images; they are marked as such.

        Raises:
            ValueError: if no other is left to ask about.
        """
        if count >= len(self.samples):
            name = self.samples[0].set
            raise ValueError(
                f"a lesson takes {count} pictures of the {name} set and asks about the others, and it has "
                f"{len(self.samples)}: add pictures, or have the probe that teaches take fewer with its option lesson"
            )
        if len(self.samples) - count < TOO_FEW:
            rank_zero_warn(
                f"a lesson takes {count} pictures of the {self.samples[0].set} set, which leaves "
                f"{len(self.samples) - count} to ask about: with fewer than {TOO_FEW} a report concludes nothing of it"
            )
        self.samples[:count] = [replace(sample, lesson=True) for sample in self.samples[:count]]
        return [self.with_pixels(sample) for sample in self.samples[:count]]

    def with_pixels(self, sample: Sample) -> Sample:
        """One of the samples, with its image."""
        return replace(sample, image=self.pixels(sample.index))


def count_cut(data: dict[str, Any], samples: Sequence[Sample], diffusion: Diffusion) -> None:
    """Add to what ``run.json`` says of each set how many of its prompts the text encoder's window cuts; warn of them.

    Args:
        data: description of each set.
        samples: of all sets; those under another conditioning belong to the set ``conditioned``.
        diffusion: the model.
    """
    prompts = {sample.prompt for sample in samples}
    long = {prompt for prompt in prompts if diffusion.exceeds_window(prompt)}
    for name, entry in data.items():
        entry["cut"] = sum(s.prompt in long for s in samples if name == ("conditioned" if s.conditioning else s.set))
    if long:
        rank_zero_warn(
            f"{len(long)} of {len(prompts)} prompts are longer than the text encoder's window and are cut there, as in "
            "Stable Diffusion: the model does not see their ends"
        )


class AuditRows(Dataset[Sample]):
    """Samples with their images, decoded when asked for."""

    def __init__(self, samples: list[Sample], images: Mapping[SetName, ImageRows]) -> None:
        self.samples, self.images = samples, images

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        sample = self.samples[position]
        if sample.set in self.images:
            return self.images[sample.set].with_pixels(sample)
        return sample


class Piece(Protocol):
    """A piece of work, and what tells it from others."""

    @property
    def work(self) -> tuple[str, ...]:
        """What it is."""


Work = TypeVar("Work", bound=Piece)


def fill_up(left: list[Work], samples: list[Work], world_size: int) -> list[Work]:
    """Give every process work: Lightning's prediction loop needs a batch on each; repeats are merged away."""
    if len(samples) < world_size:
        raise ValueError(f"{len(samples)} samples cannot be shared by {world_size} processes: use fewer devices")
    keys = {s.work for s in left}
    spare = [s for s in samples if s.work not in keys]
    missing = world_size - len(left) if 0 < len(left) < world_size else 0
    return left + spare[:missing]


def in_stages(
    samples: Sequence[Sample], stages: Sequence[Sequence[str]], ask: Mapping[str, Sequence[str]]
) -> list[Sample]:
    """Samples with the probes they are put to, all of them through one stage before any goes to the next.

    Args:
        samples: in order.
        stages: probes that are asked together, in order.
        ask: the probes of each sample, by its name.
    """
    pieces = (
        (sample, tuple(name for name in stage if name in ask[sample.name])) for stage in stages for sample in samples
    )
    return [replace(sample, ask=names) for sample, names in pieces if names]


def digest(content: bytes) -> str:
    """Hash by which contents are told apart."""
    return hashlib.sha256(content).hexdigest()
