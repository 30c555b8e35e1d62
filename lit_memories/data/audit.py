"""The samples of an audit: concept and reference images, known seeds, prompts to sample."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import datasets
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_memories.concept import Concept
from lit_memories.data.sources import Source, describe_rows, read_picture
from lit_memories.images import to_tensor
from lit_memories.records import Record, SetName


@dataclass
class Sample:
    """One sample before its audit.

    Args:
        set: it belongs to.
        index: its row there.
        content: hash of what it is.
        prompt: it is audited under.
        image: (3, h, w) in [0, 1], if it has one.
        conditioning: what the prompt is, if not the image's own.
        guidance_scale: of the inversion, if not the audit's.
    """

    set: SetName
    index: int
    content: str
    prompt: str
    image: Tensor | None = None
    conditioning: str | None = None
    guidance_scale: float | None = None

    @property
    def name(self) -> str:
        """What the sample's record is keyed by."""
        return "/".join([self.set, self.content, *([self.conditioning] if self.conditioning else [])])


class Audit(Protocol):
    """What the data needs of the audit it feeds: the image size, and what is recorded already."""

    image_size: tuple[int, int]
    concept: Concept
    complete: bool

    def open_run(self, data: dict[str, Any], expected: int) -> dict[str, Record]:
        """Check or make the run folder; the records already in it, by key."""

    def key(self, content: str) -> str:
        """The key of a sample's record."""


PROMPTS = ("own", "empty", "anchor", "paraphrase", "phrase")
"""Prompts a conditioning can have."""

_DRAWN: dict[SetName, str] = {
    "known": "seeds from the prior, under prompts of both sets in turn",
    "prompted": "seeds from the prior, under the concept's prompts",
    "retained": "seeds from the prior, under the reference's prompts",
}


class AuditData(LightningDataModule):
    """The samples of a concept-level audit.

    Rows whose image cannot be read are left out, named and counted; the rest goes on. An image that stands in a set
    more than once with the same caption is one observation, and counts once. Images are resized to the model's own size
    (plain bicubic, aspect ratio not kept, as in the official code): the seeds' null law is that of its latents.

    Args:
        concept_images: images of the concept (E).
        reference_images: images of other things (R).
        known: how many known seeds to invert (K), the inverter's calibration; prompts are those of E and R in turn.
        prompted: how many images to sample under E's prompts and as many under R's, to see what prompting shows.
        batch_size: samples in flight at once; no result depends on it.
        conditionings: under what else to invert every image: ``empty`` (no prompt), ``anchor`` and ``paraphrase`` (the
            concept's anchor, or other words for it, in its place), ``phrase`` (its name alone), ``own``; each with
            ``@W`` for guidance W instead of the audit's, ``own@3`` for instance. A method that only re-routes the
            concept's words forgets under its own prompt and remembers under another.

    Raises:
        ValueError: if a number is out of range or a conditioning unknown.
    """

    def __init__(
        self,
        concept_images: Source,
        reference_images: Source,
        known: int = 16,
        prompted: int = 24,
        batch_size: int = 16,
        conditionings: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if min(known, prompted) < 0 or batch_size < 1:
            raise ValueError(f"known ({known}) and prompted ({prompted}) cannot be negative, batch_size at least 1")
        self.sources = {"concept": concept_images, "reference": reference_images}
        self.known, self.prompted, self.batch_size = known, prompted, batch_size
        self.conditionings = [Conditioning.parse(text) for text in conditionings]

    def setup(self, stage: str) -> None:
        """Read and check the sets, and leave out what the run has recorded already.

        Raises:
            ValueError: if a set is empty, or both share an image.
        """
        trainer = cast("Trainer", self.trainer)
        audit = cast("Audit", trainer.lightning_module)
        size = audit.image_size
        images = {
            "concept": ImageRows("concept", self.sources["concept"].load(), size),
            "reference": ImageRows("reference", self.sources["reference"].load(), size),
        }
        for name, rows in images.items():
            if not rows.samples:
                raise ValueError(f"the {name} set is empty: none of its {len(rows.rows)} images can be read")
        if shared := {s.content for s in images["concept"].samples} & {s.content for s in images["reference"].samples}:
            raise ValueError(
                f"concept and reference set share {len(shared)} images with the same prompt: keep them apart"
            )
        shown = [s for rows in images.values() for s in rows.samples]
        samples = shown + [c for how in self.conditionings for s in shown if (c := how.of(s, audit.concept))]
        samples += self._promptings(images)
        data: dict[str, Any] = {
            name: describe_rows(self.sources[name], len(rows.samples), rows.unreadable, rows.repeated)
            for name, rows in images.items()
        }
        if self.conditionings:
            labels = ", ".join(how.label for how in self.conditionings)
            count = sum(s.conditioning is not None for s in samples)
            data["conditioned"] = {"source": f"the images again, under: {labels}", "rows": count, "unreadable": []}
        for name, source in _DRAWN.items():
            data[name] = {"source": source, "rows": sum(s.set == name for s in samples), "unreadable": []}
        recorded = audit.open_run(data, len(samples))
        left = [s for s in samples if audit.key(s.name) not in recorded]
        if not left and not audit.complete:
            left = samples[:1]  # killed between its last batch and its end: one sample again brings it there
        self.rows = AuditRows(fill_up(left, samples, trainer.world_size), images)

    def _promptings(self, images: dict[str, "ImageRows"]) -> list[Sample]:
        concept = [s.prompt for s in images["concept"].samples]
        reference = [s.prompt for s in images["reference"].samples]
        both = [prompt for pair in zip(concept, reference, strict=False) for prompt in pair] or concept
        sets: dict[SetName, Sequence[str]] = {
            "known": _cycle(both, self.known),
            "prompted": _cycle(concept, self.prompted),
            "retained": _cycle(reference, self.prompted),
        }
        return [
            Sample(name, index, _hash(f"{index}/{prompt}".encode()), prompt)
            for name, prompts in sets.items()
            for index, prompt in enumerate(prompts)
        ]

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The samples in order, without those recorded."""
        return DataLoader(self.rows, batch_size=self.batch_size, collate_fn=list)


@dataclass(frozen=True)
class Conditioning:
    """Another prompt, or other guidance, to invert images under."""

    label: str
    prompt: str
    guidance_scale: float | None

    @classmethod
    def parse(cls, text: str) -> "Conditioning":
        """Read ``PROMPT`` or ``PROMPT@GUIDANCE``.

        Raises:
            ValueError: if it is neither, or is what every audit does anyway.
        """
        prompt, _, guidance = text.partition("@")
        try:
            scale = float(guidance) if guidance else None
        except ValueError:
            scale = math.nan
        if prompt not in PROMPTS or text == "own" or (scale is not None and not scale >= 0):
            raise ValueError(f"unknown conditioning {text!r}: choose {', '.join(PROMPTS)}, or one with @GUIDANCE")
        return cls(text, prompt, scale)

    def of(self, sample: Sample, concept: Concept) -> Sample | None:
        """An image's sample under this; None if that differs in nothing from the sample itself."""
        prompt = sample.prompt
        if self.prompt == "empty":
            prompt = ""
        elif sample.set == "concept" and self.prompt == "phrase":
            prompt = concept.phrase
        elif sample.set == "concept" and self.prompt == "anchor":
            prompt = concept.anchored(prompt)
        elif sample.set == "concept" and self.prompt == "paraphrase":
            prompt = concept.paraphrased(prompt, sample.index)
        if prompt == sample.prompt and self.guidance_scale is None:
            return None
        return replace(sample, prompt=prompt, conditioning=self.label, guidance_scale=self.guidance_scale)


class ImageRows:
    """One set's images: readable rows as samples without pixels, and the names of the others."""

    def __init__(self, name: SetName, rows: datasets.Dataset, size: tuple[int, int]) -> None:
        self.rows, self.size = rows, size
        self.samples: list[Sample] = []
        self.unreadable: list[str] = []
        self.repeated = 0
        seen: set[str] = set()
        for index, row in enumerate(rows):
            try:
                pixels = read_picture(row["image"], size)
            except Exception:  # Pillow raises nearly anything on damaged files, SyntaxError and struct.error among it
                self.unreadable.append(row["image"]["path"] or f"row {index}")
                continue
            content = _hash(pixels.tobytes() + row["caption"].encode())
            if content in seen:
                self.repeated += 1
                continue
            seen.add(content)
            self.samples.append(Sample(name, index, content, row["caption"]))

    def pixels(self, index: int) -> Tensor:
        """The image (3, h, w) of a row."""
        return to_tensor(read_picture(self.rows[index]["image"], self.size))

    def with_pixels(self, sample: Sample) -> Sample:
        """One of the samples, with its image."""
        return replace(sample, image=self.pixels(sample.index))


class AuditRows(Dataset[Sample]):
    """Samples with their images, decoded when asked for."""

    def __init__(self, samples: list[Sample], images: dict[str, ImageRows]) -> None:
        self.samples, self.images = samples, images

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        sample = self.samples[position]
        if sample.set in self.images:
            return self.images[sample.set].with_pixels(sample)
        return sample


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _cycle(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[i % len(prompts)] for i in range(count)]


class Named(Protocol):
    """A piece of work, and what tells it from others."""

    @property
    def name(self) -> str:
        """What it is."""


Work = TypeVar("Work", bound=Named)


def fill_up(left: list[Work], samples: list[Work], world_size: int) -> list[Work]:
    """Give every process work: Lightning's prediction loop needs a batch on each; repeats are merged away."""
    if len(samples) < world_size:
        raise ValueError(f"{len(samples)} samples cannot be shared by {world_size} processes: use fewer devices")
    keys = {s.name for s in left}
    spare = [s for s in samples if s.name not in keys]
    missing = world_size - len(left) if 0 < len(left) < world_size else 0
    return left + spare[:missing]
