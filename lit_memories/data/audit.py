"""The samples of an audit: concept and reference images, known seeds, prompts to sample."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import datasets
from lightning import LightningDataModule, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_memories.data.sources import Source, describe_rows
from lit_memories.images import to_tensor
from lit_memories.records import Record, SetName


@dataclass
class Sample:
    """One sample before its audit: its set and row there, content hash, prompt, and image if it has one."""

    set: SetName
    index: int
    content: str
    prompt: str
    image: Tensor | None = None


class Audit(Protocol):
    """What the data needs of the audit it feeds: the image size, and what is recorded already."""

    image_size: tuple[int, int]
    complete: bool

    def open_run(self, data: dict[str, Any], expected: int) -> dict[str, Record]:
        """Check or make the run folder; the records already in it, by key."""

    def key(self, content: str) -> str:
        """The key of a sample's record."""


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
    """

    def __init__(
        self,
        concept_images: Source,
        reference_images: Source,
        known: int = 16,
        prompted: int = 24,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        if min(known, prompted) < 0 or batch_size < 1:
            raise ValueError(f"known ({known}) and prompted ({prompted}) cannot be negative, batch_size at least 1")
        self.sources = {"concept": concept_images, "reference": reference_images}
        self.known, self.prompted, self.batch_size = known, prompted, batch_size

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
        samples = [s for rows in images.values() for s in rows.samples] + self._promptings(images)
        data: dict[str, Any] = {
            name: describe_rows(self.sources[name], len(rows.samples), rows.unreadable, rows.repeated)
            for name, rows in images.items()
        }
        for name, source in _DRAWN.items():
            data[name] = {"source": source, "rows": sum(s.set == name for s in samples), "unreadable": []}
        recorded = audit.open_run(data, len(samples))
        left = [s for s in samples if audit.key(f"{s.set}/{s.content}") not in recorded]
        if not left and not audit.complete:
            left = samples[:1]  # killed between its last batch and its end: one sample again brings it there
        self.rows = AuditRows(_fill_up(left, samples, trainer.world_size), images)

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
                pixels = _decode(row["image"], size)
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
        return to_tensor(_decode(self.rows[index]["image"], self.size))


class AuditRows(Dataset[Sample]):
    """Samples with their images, decoded when asked for."""

    def __init__(self, samples: list[Sample], images: dict[str, ImageRows]) -> None:
        self.samples, self.images = samples, images

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        sample = self.samples[position]
        if sample.set in self.images:
            return Sample(**{**vars(sample), "image": self.images[sample.set].pixels(sample.index)})
        return sample


def _decode(image: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    source = io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    height, width = size
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BICUBIC)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _cycle(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[i % len(prompts)] for i in range(count)]


def _fill_up(left: list[Sample], samples: list[Sample], world_size: int) -> list[Sample]:
    """Give every process work: Lightning's prediction loop needs a batch on each; repeats are merged away."""
    if len(samples) < world_size:
        raise ValueError(f"{len(samples)} samples cannot be shared by {world_size} processes: use fewer devices")
    keys = {(s.set, s.content) for s in left}
    spare = [s for s in samples if (s.set, s.content) not in keys]
    missing = world_size - len(left) if 0 < len(left) < world_size else 0
    return left + spare[:missing]
