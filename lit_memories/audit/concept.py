"""The concept-level audit: what does a model say of the concept's pictures, and of others?"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from lit_memories.audit.answers import values_of
from lit_memories.audit.base import Audit
from lit_memories.audit.collection import AuditMetrics, from_records
from lit_memories.audit.group import SampleGroup
from lit_memories.concept import Concept
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_pil
from lit_memories.inverters.base import Inverter
from lit_memories.probes.base import Answers, Probe
from lit_memories.probes.denoising import Denoising
from lit_memories.probes.judging import Judging
from lit_memories.probes.known import Known
from lit_memories.probes.samples import Samples
from lit_memories.probes.seed import Seed
from lit_memories.probes.typicality import Typicality
from lit_memories.records import Record, SetName, artefact_path, image_path
from lit_memories.seeds import read_seeds
from lit_memories.settings import short_hash


class ConceptAudit(Audit):
    """Puts probes to images of a concept and of other things, and records what they find, a sample at a time.

    Args:
        diffusion: the model under audit.
        inverter: how seeds are found.
        concept: what the model should have forgotten.
        probes: the questions to ask, in this order; if None, how surprised the model is by pictures, which seeds they
            have and whether these look like noise, what the inverter adds, and what prompts bring.
        posterior_seed: look at a sample of each image's posterior under the encoder, drawn from this seed for every
            image, instead of its mean; the official code does so, with 42, before it calls ReNoise.
        **options: see `Audit`.

    Raises:
        ValueError: as `Audit` does, or if the judge's errors are to be measured and are not.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        inverter: Inverter,
        concept: Concept,
        probes: Sequence[Probe] | None = None,
        posterior_seed: int | None = None,
        **options: Any,
    ) -> None:
        usual = (Denoising(), Samples(), Seed(), Typicality(), Known())
        super().__init__(diffusion, inverter, concept, usual if probes is None else probes, **options)
        if self.judge is not None and self.judge.fallible and Judging.name not in self.probes:
            raise ValueError(
                f"{type(self.judge).__name__} is often wrong, and its rates say nothing without how often: add the "
                "probe that measures it, --model.probes+=Judging"
            )
        for probe in self.probes.values():
            probe.check(diffusion, self.num_inference_steps)
        self._posterior_seed = posterior_seed
        self.lessons = {}
        self.metrics = AuditMetrics(self.dimension)

    def prepare_data(self) -> None:
        """Refuse what `Audit` does, and say if what was erased is another concept than is asked about."""
        super().prepare_data()
        erasure = self.diffusion.erasure
        if erasure is not None and (erased := str(erasure.provenance.concept["name"])) != self.concept.name:
            rank_zero_warn(
                f"the erasure is of {erased!r}, and this audit asks about {self.concept.name!r}: to audit what was "
                "erased, give its recipe or --model.concept"
            )

    @property
    def posterior_seed(self) -> int | None:
        """From which latents are drawn of the encoder's posterior; None takes its mean."""
        return self._posterior_seed

    @property
    def lesson(self) -> int:
        """How many pictures of each set probes teach the model."""
        return max(probe.lesson for probe in self.probes.values())

    def teach(self, lessons: Mapping[SetName, Sequence[Sample]]) -> None:
        """Take the pictures that probes teach the model, by set; the model stays as it is."""
        self.lessons = {name: SampleGroup(self, samples) for name, samples in lessons.items()}

    @property
    def taught(self) -> dict[SetName, str]:
        """Hashes of these pictures."""
        return {name: short_hash("/".join(s.content for s in group.samples)) for name, group in self.lessons.items()}

    def on_predict_start(self) -> None:
        """Open the run folder for writing, and count what is recorded already."""
        super().on_predict_start()
        if self.trainer.is_global_zero:
            self.metrics.update(list(self.opened.held.values()))

    def audit(self, batch: list[Sample]) -> list[Record]:
        """Audit a batch and put it on disk, a probe at a time."""
        return [record for samples in _alike(batch) for record in self._ask(samples)]

    def summary(self, records: Sequence[Record]) -> dict[str, float]:
        """The carried metrics, checked against those that the records give."""
        counted = {record.set for record in records if record.counts("seed") and record.conditioning is None}
        if not {"concept", "reference"} <= counted:
            return {}
        carried = self.metrics.compute()
        if self.trainer.is_global_zero:
            _check(carried, from_records(records, self.dimension))
        return carried

    def _ask(self, samples: Sequence[Sample]) -> list[Record]:
        """Put the probes that are left to samples of one kind."""
        group, records = SampleGroup(self, samples, self._seeds_of(samples)), []
        for name in samples[0].ask:
            with self.costs.count(name, group):
                answers = self.probes[name](group)
                values = values_of(answers, len(samples))
            found = [self._record(sample, name, answer) for sample, answer in zip(samples, values, strict=True)]
            seeds = {}
            if answers.seeds is not None:
                if not self.probes[name].leaves_seeds:
                    raise ValueError(f"the probe {name} gives seeds to keep and does not say so: set its leaves_seeds")
                group.keep(answers.seeds)
                seeds = dict(zip((record.key for record in found), answers.seeds.cpu(), strict=True))
            self.costs.keep()
            made = {
                artefact_path(self.folder, name, record.key): {k: x[row] for k, x in answers.artefacts.items()}
                for row, record in enumerate(found if answers.artefacts else [])
            }
            self.writer.write(found, seeds, self._pictures(samples, answers), made)
            if name == "seed":
                self.metrics.update([r for r in found if name not in self._answered(r.key)])
            records += found
        return records

    def _answered(self, key: str) -> set[str]:
        return set(self.opened.held[key].probes) if key in self.opened.held else set()

    def _seeds_of(self, samples: Sequence[Sample]) -> Tensor | None:
        """The seeds that an earlier run found for samples, if it found all and a probe needs them."""
        ask = samples[0].ask
        if "seed" in ask or not any("seeds" in self.probes[name].needs for name in ask):
            return None
        keys = [self.key(sample.name) for sample in samples]
        found = read_seeds(self.folder, keys)
        return torch.stack([found[key] for key in keys]) if found.keys() >= set(keys) else None

    def _record(self, sample: Sample, probe: str, answer: dict[str, Any]) -> Record:
        place = self.key(sample.name), sample.set, sample.index, sample.prompt
        asked = {probe: self.info.mark(probe)}
        return Record(*place, {probe: answer}, sample.conditioning, model=self.info.fingerprint, asked=asked)

    def _pictures(self, samples: Sequence[Sample], answers: Answers) -> dict[Path, Image.Image]:
        return {
            image_path(self.folder, sample.set, sample.index, kind): to_pil(image.nan_to_num())
            for kind, images in answers.pictures.items()
            for sample, image in zip(samples, images, strict=True)
            if sample.index < self.keep_images and sample.conditioning is None
        }


def _alike(batch: Sequence[Sample]) -> Iterator[list[Sample]]:
    """A batch in groups that are asked the same questions in the same way."""

    def kind(sample: Sample) -> tuple[tuple[str, ...], str, str]:
        return sample.ask, sample.set, sample.conditioning or ""

    for _, samples in groupby(sorted(batch, key=kind), key=kind):
        yield list(samples)


def _check(carried: dict[str, float], recomputed: dict[str, float]) -> None:
    """The metrics reduced across processes and those computed from the records are the same numbers."""
    for name, value in recomputed.items():
        if abs(carried[name] - value) > 1e-6 * max(1.0, abs(value)):
            raise RuntimeError(
                f"metric {name} is {carried[name]} in the loop and {value} from the records: please report"
            )
