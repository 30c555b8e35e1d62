"""The data module of a concept-level audit: concept and reference images, known seeds, prompts to sample."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lit_memories.data.conditionings import Conditioning
from lit_memories.data.naming import doubts
from lit_memories.data.samples import Audit, AuditRows, ImageRows, Sample, count_cut, digest, fill_up, in_stages
from lit_memories.data.sources import Resize, Source
from lit_memories.records import SetName

_DRAWN: dict[SetName, str] = {
    "known": "seeds from the prior, under prompts of both sets in turn",
    "prompted": "seeds from the prior, under the concept's prompts",
    "retained": "seeds from the prior, under the reference's prompts",
    "unprompted": "seeds from the prior, without a prompt",
}


class AuditData(LightningDataModule):
    """The samples of a concept-level audit.

    Rows whose image cannot be read are left out, named and counted; the rest goes on. An image that stands in a set
    more than once with the same caption is one observation, and counts once. Images are resized to the model's own
    size, as the seeds' null law is that of its latents. Prompts longer than the text encoder's window are cut by it, as
    in the official code, and counted.

    Args:
        concept_images: images of the concept (E).
        reference_images: images of other things (R).
        known: how many known seeds to invert (K), the inverter's calibration; prompts are those of E and R in turn.
        prompted: how many images to sample under E's prompts and as many under R's, to see what prompting shows.
        batch_size: samples in flight at once; no result depends on it.
        conditionings: under what else to invert every image: ``empty`` (no prompt), ``anchor`` and ``paraphrase`` (the
            concept's anchor, or other words for it, in its place), ``phrase`` (its name alone), ``shuffled`` (the
            caption of another image of its set, a control), ``own``; each with ``@W`` for guidance W instead of the
            audit's, ``own@3`` for instance. A method that only re-routes the concept's words forgets under its own
            prompt and remembers under another.
        resize: what to do with images of another size: scale until they fill the model's and take the middle
            (``crop``), or scale each side by a factor of its own, as officially (``squeeze``).
        unprompted: how many images to sample without a prompt: how often plain noise ends in the concept.

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
        resize: Resize = "crop",
        unprompted: int = 0,
    ) -> None:
        super().__init__()
        if min(known, prompted, unprompted) < 0 or batch_size < 1:
            raise ValueError("known, prompted and unprompted cannot be negative, and batch_size must be at least 1")
        self.sources = {"concept": concept_images, "reference": reference_images}
        self.known, self.prompted, self.unprompted, self.batch_size = known, prompted, unprompted, batch_size
        self.conditionings = [Conditioning.parse(text) for text in dict.fromkeys(conditionings)]
        self.resize = resize

    def setup(self, stage: str) -> None:
        """Read and check the sets, and leave out what the run has recorded already.

        Raises:
            ValueError: if a set is empty or no more than a lesson, or both show the same image, whatever the captions.
        """
        trainer = cast("Trainer", self.trainer)
        audit = cast("Audit", trainer.lightning_module)
        names: tuple[SetName, SetName] = "concept", "reference"
        images = {name: ImageRows(name, self.sources[name], audit.image_size, self.resize) for name in names}
        for name, rows in images.items():
            if not rows.samples:
                raise ValueError(f"the {name} set is empty: none of its {len(rows.rows)} images can be read")
        if shared := {s.picture for s in images["concept"].samples} & {s.picture for s in images["reference"].samples}:
            raise ValueError(f"concept and reference set share {len(shared)} images: keep them apart")
        for line in doubts(audit.concept, *([s.prompt for s in images[name].samples] for name in names)):
            rank_zero_warn(line)
        if audit.lesson:
            audit.teach({name: rows.lesson(audit.lesson) for name, rows in images.items()})
        samples = [s for rows in images.values() for s in rows.samples]
        samples += [c for how in self.conditionings for rows in images.values() for c in how.all(rows, audit.concept)]
        samples += self._promptings(images)
        data: dict[str, Any] = {name: rows.describe(len(rows.samples)) for name, rows in images.items()}
        if self.conditionings:
            labels = ", ".join(how.label for how in self.conditionings)
            count = sum(s.conditioning is not None for s in samples)
            data["conditioned"] = {"source": f"the images again, under: {labels}", "rows": count, "unreadable": []}
        for name, source in _DRAWN.items():
            if name != "unprompted" or self.unprompted:
                data[name] = {"source": source, "rows": sum(s.set == name for s in samples), "unreadable": []}
        count_cut(data, samples, audit.diffusion)
        left = in_stages(samples, audit.stages, audit.open_run(data, {s.name: s.place for s in samples}))
        whole = in_stages(samples, audit.stages, {s.name: audit.asked_of(s.place) for s in samples})
        self.rows = AuditRows(fill_up(left, whole, trainer.world_size), images)

    def _promptings(self, images: Mapping[SetName, ImageRows]) -> list[Sample]:
        concept = [s.prompt for s in images["concept"].samples]
        reference = [s.prompt for s in images["reference"].samples]
        both = [prompt for pair in zip(concept, reference, strict=False) for prompt in pair] or concept
        sets: dict[SetName, Sequence[str]] = {
            "known": _cycle(both, self.known),
            "prompted": _cycle(concept, self.prompted),
            "retained": _cycle(reference, self.prompted),
            "unprompted": [""] * self.unprompted,
        }
        return [
            Sample(name, index, digest(f"{index}/{prompt}".encode()), prompt)
            for name, prompts in sets.items()
            for index, prompt in enumerate(prompts)
        ]

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The samples in order, without those recorded."""
        return DataLoader(self.rows, batch_size=self.batch_size, collate_fn=list)


def _cycle(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[i % len(prompts)] for i in range(count)]
