"""The concept-level audit: which seeds do the concept's images have in this model, and how likely are they?"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lit_memories.audit.base import Audit
from lit_memories.audit.collection import AuditMetrics, from_records
from lit_memories.audit.quality import quality, sound_psnr
from lit_memories.concept import Concept
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_pil
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.metrics.functional import gaussian_nll
from lit_memories.metrics.typicality import combined_p_value, typicality
from lit_memories.ops.likelihood import ladder, log_likelihood
from lit_memories.ops.sphere import crossing, rotate
from lit_memories.records import Record, finite, image_path

ANGLES = tuple(range(0, 91, 15))
"""Degrees at which reach looks at the way from a seed to noise."""


class ConceptAudit(Audit):
    """Inverts images of a concept and of other things, and records what it finds, a sample at a time.

    Args:
        diffusion: the model under audit.
        inverter: how seeds are found.
        concept: what the model should have forgotten.
        sample_guidance_scale: of the prompted samples.
        likelihood_probes: random probes for log p(latents | prompt) of every image, under its own prompt at guidance 1;
            0 leaves it out. Costs as many vector-Jacobian products a step.
        reach_directions: random directions in which to walk from the seed of every concept image until the judge no
            longer sees the concept; 0 leaves it out. Costs a DDIM run an angle (15 degrees) and direction.
        posterior_seed: invert a sample of each image's posterior under the encoder, drawn from this seed for every
            image, instead of its mean; the official code does so, with 42, before it calls ReNoise.
        **options: see `Audit`.

    Raises:
        ValueError: if a number is negative, or reach is asked for without a judge.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        inverter: Inverter,
        concept: Concept,
        sample_guidance_scale: float = 7.5,
        likelihood_probes: int = 0,
        reach_directions: int = 0,
        posterior_seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, inverter, concept, **options)
        if likelihood_probes < 0 or reach_directions < 0:
            raise ValueError(
                f"likelihood_probes ({likelihood_probes}) and reach_directions ({reach_directions}) cannot be negative"
            )
        if reach_directions and self.judge is None:
            raise ValueError("reach_directions needs a judge that sees the concept: add one to the recipe")
        self.sample_guidance_scale = sample_guidance_scale
        self.likelihood_probes, self.reach_directions = likelihood_probes, reach_directions
        self.posterior_seed = posterior_seed
        self.metrics = AuditMetrics(self.dimension)

    def on_predict_start(self) -> None:
        """Open the run folder for writing, and count what is recorded already."""
        super().on_predict_start()
        if self.trainer.is_global_zero:
            self.metrics.update(list(self.recorded.values()))

    def audit(self, batch: list[Sample]) -> list[Record]:
        """Audit a batch and put it on disk."""
        self._seeds: dict[str, Tensor] = {}
        self._pictures: dict[Path, Image.Image] = {}
        records = [record for samples in _alike(batch) for record in self._audit(samples)]
        self.writer.write(records, self._seeds, self._pictures)
        self.metrics.update([record for record in records if record.key not in self.recorded])
        return records

    def summary(self, records: Sequence[Record]) -> dict[str, float]:
        """The carried metrics, checked against those that the records give."""
        counted = {record.set for record in records if record.flag is None and record.conditioning is None}
        if not {"concept", "reference"} <= counted:
            return {}
        carried = self.metrics.compute()
        if self.trainer.is_global_zero:
            _check(carried, from_records(records, self.dimension))
        return carried

    def _audit(self, samples: Sequence[Sample]) -> list[Record]:
        if samples[0].image is not None:
            return self._audit_images(samples)
        return self._audit_known(samples) if samples[0].set == "known" else self._audit_samples(samples)

    def _audit_images(self, samples: Sequence[Sample]) -> list[Record]:
        originals = torch.stack([sample.image for sample in samples if sample.image is not None]).to(self.device)
        latents = self.encode(originals, self.posterior_seed)
        round_trips = self.decode(latents)
        inversion, restored = self.invert(_prompts(samples), latents, self._guidance(samples))
        regenerated = self.decode(restored)
        numbers = {
            "nll": gaussian_nll(inversion.seeds),
            "psnr": sound_psnr(regenerated, originals),
            "psnr_ceiling": sound_psnr(round_trips, originals),
            "psnr_round_trip": sound_psnr(regenerated, round_trips),
        }
        verdicts = self.judged(samples, regenerated)
        if samples[0].conditioning is None:
            for kind, images in {"original": originals, "round_trip": round_trips, "regenerated": regenerated}.items():
                self._keep(samples, kind, images)
            if self.likelihood_probes:
                numbers |= self._likelihood(samples, latents)
            if self.reach_directions and samples[0].set == "concept":
                numbers["reach"] = self._reach(samples, inversion.seeds)
        return self._records(samples, numbers, inversion, verdicts)

    def _audit_known(self, samples: Sequence[Sample]) -> list[Record]:
        seeds = self.diffusion.draw_seeds(self.generators(samples))
        prompts, guidance_scale = _prompts(samples), self._guidance(samples)
        latents = self.inverter.sample(self.noise(prompts, guidance_scale), seeds, self.steps)
        inversion, restored = self.invert(prompts, latents, guidance_scale)
        nll = gaussian_nll(inversion.seeds)
        numbers = {
            "nll": nll,
            "psnr_round_trip": sound_psnr(self.decode(restored), self.decode(latents)),
            "seed_error": relative_norm(inversion.seeds - seeds, seeds),
            "nll_bias": nll - gaussian_nll(seeds),
        }
        return self._records(samples, numbers, inversion, [{}] * len(samples))

    def _audit_samples(self, samples: Sequence[Sample]) -> list[Record]:
        seeds = self.diffusion.draw_seeds(self.generators(samples))
        latents = self.sample(_prompts(samples), seeds, self.sample_guidance_scale)
        images = self.decode(latents)
        self._keep(samples, "sample", images)
        sound = latents.flatten(1).isfinite().all(1).cpu()
        return self._records(samples, {}, None, self.judged(samples, images), sound)

    def _likelihood(self, samples: Sequence[Sample], latents: Tensor) -> dict[str, Tensor]:
        """How likely latents are under their prompts; models share the probes, which makes differences more exact."""
        levels, found = ladder(self.diffusion.schedule, len(self.steps)), []
        for first in range(0, len(samples), self.block_size):  # a block at a time: gradients keep what calls held
            block = slice(first, first + self.block_size)
            predict_noise = self.noise(_prompts(samples[block]), 1.0)
            generators = self.generators(samples[block], "/probes")
            with torch.inference_mode(False):  # latents made in inference mode cannot take part in gradients
                found.append(
                    log_likelihood(predict_noise, latents[block].clone(), levels, generators, self.likelihood_probes)
                )
        numbers = {"log_likelihood": "log_likelihood", "bits_per_dim": "bits_per_dim", "likelihood_gap": "gap"}
        return {name: torch.cat([getattr(part, attribute) for part in found]) for name, attribute in numbers.items()}

    def _reach(self, samples: Sequence[Sample], seeds: Tensor) -> Tensor:
        """Degrees from each seed towards noise at which half of the walks no longer show the concept."""
        angles, seen = torch.tensor(ANGLES, dtype=torch.float64), []
        generators = self.generators(samples, "/reach")
        for _ in range(self.reach_directions):
            directions = self.diffusion.draw_seeds(generators)
            # A seed that is not finite has no great circle; its record is flagged, and any other serves in its place.
            sound = seeds.flatten(1).isfinite().all(1)[:, None, None, None]
            walks = rotate(torch.where(sound, seeds, directions.roll(1, -1)), directions, angles * math.pi / 180)
            many = [sample for sample in samples for _ in ANGLES]
            predict_noise = self.noise(_prompts(many), self._guidance(samples))
            images = self.decode(self.inverter.sample(predict_noise, walks.flatten(0, 1), self.steps))
            shown = [verdict["shows_concept"] for verdict in self.judged(many, images)]
            seen.append(torch.tensor(shown, dtype=torch.float64).view(len(samples), len(ANGLES)))
        return crossing(angles, torch.stack(seen).mean(0)).angle

    def _records(
        self,
        samples: Sequence[Sample],
        numbers: dict[str, Tensor],
        inversion: Inversion | None,
        verdicts: Sequence[dict[str, Any]],
        sound: Tensor | None = None,
    ) -> list[Record]:
        numbers = {name: column.cpu() for name, column in numbers.items()}  # once, and not a number at a time
        if inversion is not None:
            inversion = inversion.cpu()
        records = []
        for row, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
            values: dict[str, Any] = {name: finite(float(column[row])) for name, column in numbers.items()}
            whole = None not in values.values() and (sound is None or bool(sound[row]))
            values |= verdict
            key = self.key(sample.name)
            if inversion is None:
                values["flag"] = None if whole else "not finite"
            else:
                values |= quality(self.inverter, inversion, row, whole)
                values["typicality"] = _typicality(inversion.seeds[row : row + 1])
                self._seeds[key] = inversion.seeds[row]
            place = (key, sample.set, sample.index, sample.prompt)
            records.append(Record(*place, conditioning=sample.conditioning, **values))
        return records

    def _guidance(self, samples: Sequence[Sample]) -> float:
        own = samples[0].guidance_scale
        return self.guidance_scale if own is None else own

    def _keep(self, samples: Sequence[Sample], kind: str, images: Tensor) -> None:
        for sample, image in zip(samples, images, strict=True):
            if sample.index < self.keep_images:
                self._pictures[image_path(self.folder, sample.set, sample.index, kind)] = to_pil(image.nan_to_num())


def _alike(batch: Sequence[Sample]) -> Iterator[list[Sample]]:
    """A batch in groups that are audited in the same way."""

    def kind(sample: Sample) -> tuple[bool, str, str]:
        drawn = "drawn" if sample.set in {"prompted", "retained", "unprompted"} else sample.set
        return sample.image is None, drawn, sample.conditioning or ""

    for _, samples in groupby(sorted(batch, key=kind), key=kind):
        yield list(samples)


def _prompts(samples: Sequence[Sample]) -> list[str]:
    return [sample.prompt for sample in samples]


def _typicality(seed: Tensor) -> dict[str, list[float | None]]:
    """Value and p-value of each test of one seed (1, c, h, w), and the p-value of all together as both.

    One at a time: sums over several seeds at once round in another order.
    """
    tests = typicality(seed)
    whole = combined_p_value(tests)
    pairs = {name: (test.value, test.p_value) for name, test in tests.items()} | {"combined": (whole, whole)}
    return {name: [finite(float(x)) for x in pair] for name, pair in pairs.items()}


def _check(carried: dict[str, float], recomputed: dict[str, float]) -> None:
    """The metrics reduced across processes and those computed from the records are the same numbers."""
    for name, value in recomputed.items():
        if abs(carried[name] - value) > 1e-6 * max(1.0, abs(value)):
            raise RuntimeError(
                f"metric {name} is {carried[name]} in the loop and {value} from the records: please report"
            )
