"""The concept-level audit: which seeds do the concept's images have in this model, and how likely are they?"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from PIL import Image
from torch import Generator, Tensor

from lit_memories.audit.collection import AuditMetrics, from_records
from lit_memories.audit.writer import RecordWriter, explained, merge
from lit_memories.classifier import PictogramJudge
from lit_memories.concept import Concept
from lit_memories.data.audit import Sample
from lit_memories.diffusion import Diffusion, fingerprint
from lit_memories.erasure import versions
from lit_memories.images import to_pil
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.metrics.functional import gaussian_nll, psnr
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.rollout import rollout
from lit_memories.records import RUN_FILE, Record, Role, RunInfo, differences, finite, image_path, read_records

DIVERGED = 0.1
"""Relative residual above which an inversion is not counted: its seed does not belong to its image."""


class ConceptAudit(LightningModule):
    """Inverts images of a concept and of other things, and records what it finds, a sample at a time.

    Nothing is trained and nothing is logged: `predict_step` returns and writes `Record`s, from which the report is
    computed. The run folder is the trainer's ``default_root_dir``.

    Args:
        diffusion: the model under audit.
        inverter: how seeds are found.
        concept: what the model should have forgotten.
        judge: classifier that says whether a picture shows the concept; None leaves the prompted rate out.
        name: what tables call the run; the run folder's name if None.
        role: what the model is in a comparison; if None, ``erased`` with an erasure, ``random`` with random weights,
            else ``vanilla``. Only a ``control`` has to be named.
        num_inference_steps: DDIM steps, both ways.
        guidance_scale: of inversion and regeneration; 1 as in the paper.
        sample_guidance_scale: of the prompted samples.
        block_size: rows of every network call. It is part of the settings, as rounding depends on it; the batch size,
            best a multiple of it, is not.
        keep_images: how many samples of each set leave pictures for the report.
        seed: of known seeds and prompted samples.

    Raises:
        ValueError: if `block_size` is below 1.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        inverter: Inverter,
        concept: Concept,
        judge: PictogramJudge | None = None,
        name: str | None = None,
        role: Role | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        sample_guidance_scale: float = 7.5,
        block_size: int = 8,
        keep_images: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.diffusion, self.inverter, self.concept, self.judge = diffusion, inverter, concept, judge
        self.name, self.role = name, role or _role(diffusion)
        self.guidance_scale, self.sample_guidance_scale = guidance_scale, sample_guidance_scale
        self.block_size, self.keep_images, self.seed = block_size, keep_images, seed
        self.steps = diffusion.schedule.ddim_steps(num_inference_steps)
        self.metrics = AuditMetrics(self.dimension)
        self._embeds: dict[str, Tensor] = {}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width the model works at."""
        return self.diffusion.image_size

    @property
    def dimension(self) -> int:
        """Number of elements of a seed."""
        channels, height, width = self.diffusion.latent_shape
        return channels * height * width

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.trainer.default_root_dir)

    def settings(self) -> dict[str, Any]:
        """Everything a record depends on besides the sample and the model."""
        schedule = self.diffusion.schedule
        return {
            "audit": type(self).__name__,
            "inverter": self.inverter.settings(),
            "num_inference_steps": len(self.steps),
            "timestep_spacing": schedule.timestep_spacing,
            "first_timestep": self.steps[0].timestep,
            "prediction_type": schedule.prediction_type,
            "guidance_scale": self.guidance_scale,
            "sample_guidance_scale": self.sample_guidance_scale,
            "image_size": list(self.image_size),
            "vae": fingerprint(self.diffusion.vae),
            "judge": None if self.judge is None else fingerprint(self.judge),
            "block_size": self.block_size,
            "precision": str(self.trainer.precision),
            "seed": self.seed,
        }

    def open_run(self, data: dict[str, Any], expected: int) -> dict[str, Record]:
        """Check that the run folder is new or of this very audit, and read what it holds.

        Args:
            data: what the data module says of its sets, for ``run.json``.
            expected: how many records the finished run will have.

        Returns:
            The records already there, by key.

        Raises:
            ValueError: if the folder holds records of another audit; names what differs.
            OSError: if it cannot be written.
        """
        self.info = self._describe(data)
        if (self.folder / RUN_FILE).is_file():
            there = RunInfo.load(self.folder)
            if lines := differences(there.comparable(), self.info.comparable()):
                raise ValueError(
                    f"{self.folder} holds records of another audit ({'; '.join(lines[:3])}): "
                    "choose another folder with --trainer.default_root_dir"
                )
        recorded = {record.key: record for record in read_records(self.folder)}
        self.recorded, self.expected = recorded, expected
        return recorded

    @property
    def complete(self) -> bool:
        """Whether the run folder was completed by an earlier run."""
        return (self.folder / RUN_FILE).is_file() and RunInfo.load(self.folder).complete

    def _describe(self, data: dict[str, Any]) -> RunInfo:
        settings = json.loads(json.dumps(self.settings()))
        diffusion = self.diffusion
        return RunInfo(
            name=self.name or self.folder.name,
            role=self.role,
            concept=self.concept.name,
            settings=settings,
            settings_hash=_hash(json.dumps(settings, sort_keys=True)),
            model={
                "base": diffusion.base,
                "revision": diffusion.revision,
                "base_fingerprint": diffusion.fingerprint,
                "fingerprint": fingerprint(diffusion.unet, diffusion.text_encoder),
                "erasure": None if diffusion.erasure is None else diffusion.erasure.provenance.to_dict(),
            },
            dimension=self.dimension,
            data=data,
            versions=versions(),
            precision=str(self.trainer.precision),
        )

    def key(self, content: str) -> str:
        """The key of a sample's record: the same for every model, another for other settings."""
        return _hash(content + self.info.settings_hash)

    def on_predict_start(self) -> None:
        """Open the run folder for writing, and count what is recorded already."""
        self.writer = RecordWriter(self.folder, self.trainer.global_rank)
        if self.trainer.is_global_zero:
            with explained(self.folder):
                self.info.save(self.folder)
            self.metrics.update(list(self.recorded.values()))

    def predict_step(self, batch: list[Sample], batch_idx: int) -> list[Record]:
        """Audit a batch and put it on disk."""
        images = [sample for sample in batch if sample.image is not None]
        known = [sample for sample in batch if sample.set == "known"]
        sampled = [sample for sample in batch if sample.set in {"prompted", "retained"}]
        self._seeds: dict[str, Tensor] = {}
        self._pictures: dict[Path, Image.Image] = {}
        records = [
            *(self._audit_images(images) if images else []),
            *(self._audit_known(known) if known else []),
            *(self._audit_samples(sampled) if sampled else []),
        ]
        self.writer.write(records, self._seeds, self._pictures)
        self.metrics.update([record for record in records if record.key not in self.recorded])
        return records

    def on_predict_epoch_end(self) -> None:
        """Merge what the processes wrote, and check the carried metrics against the records."""
        self.trainer.strategy.barrier("audit: all records written")
        if self.trainer.is_global_zero:
            with explained(self.folder):
                merge(self.folder)
        self.trainer.strategy.barrier("audit: merged")
        records = read_records(self.folder)
        counted = {record.set for record in records if record.flag is None}
        carried = self.metrics.compute() if {"concept", "reference"} <= counted else {}
        if self.trainer.is_global_zero:
            _check(carried, from_records(records, self.dimension) if carried else {})
            complete = len(records) == self.expected
            with explained(self.folder):
                RunInfo(**{**vars(self.info), "metrics": carried, "complete": complete}).save(self.folder)

    def _audit_images(self, samples: Sequence[Sample]) -> list[Record]:
        originals = torch.stack([sample.image for sample in samples if sample.image is not None]).to(self.device)
        latents = in_blocks(self.diffusion.encode_images, 1, originals)
        round_trips = self._decode(latents)
        inversion, restored = self._invert(samples, latents)
        regenerated = self._decode(restored)
        numbers = {
            "nll": gaussian_nll(inversion.seeds),
            "psnr": _psnr(regenerated, originals),
            "psnr_ceiling": _psnr(round_trips, originals),
            "psnr_round_trip": _psnr(regenerated, round_trips),
        }
        for kind, images in {"original": originals, "round_trip": round_trips, "regenerated": regenerated}.items():
            self._keep(samples, kind, images)
        return self._records(samples, numbers, inversion, self._judge(samples, regenerated))

    def _audit_known(self, samples: Sequence[Sample]) -> list[Record]:
        seeds = self._draw(samples)
        latents = rollout(self._noise_fn(samples, self.guidance_scale), seeds, self.steps)
        inversion, restored = self._invert(samples, latents)
        nll = gaussian_nll(inversion.seeds)
        numbers = {
            "nll": nll,
            "psnr_round_trip": _psnr(self._decode(restored), self._decode(latents)),
            "seed_error": relative_norm(inversion.seeds - seeds, seeds),
            "nll_bias": nll - gaussian_nll(seeds),
        }
        return self._records(samples, numbers, inversion, [{}] * len(samples))

    def _audit_samples(self, samples: Sequence[Sample]) -> list[Record]:
        latents = rollout(self._noise_fn(samples, self.sample_guidance_scale), self._draw(samples), self.steps)
        images = self._decode(latents)
        self._keep(samples, "sample", images)
        return self._records(samples, {}, None, self._judge(samples, images), latents.flatten(1).isfinite().all(1))

    def _records(
        self,
        samples: Sequence[Sample],
        numbers: dict[str, Tensor],
        inversion: Inversion | None,
        verdicts: Sequence[dict[str, Any]],
        sound: Tensor | None = None,
    ) -> list[Record]:
        records = []
        for row, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
            values: dict[str, Any] = {name: finite(float(column[row])) for name, column in numbers.items()}
            flag = "not finite" if None in values.values() or (sound is not None and not sound[row]) else None
            values |= verdict
            key = self.key(f"{sample.set}/{sample.content}")
            if inversion is not None:
                residual = float(inversion.residual[row])
                flag = flag or ("diverged" if residual > DIVERGED else None)
                values["residual"] = finite(residual)
                values["evaluations"] = int(inversion.evaluations[row])
                values["converged"] = bool(inversion.converged[row])
                self._seeds[key] = inversion.seeds[row].cpu()
            records.append(Record(key, sample.set, sample.index, sample.prompt, flag=flag, **values))
        return records

    def _invert(self, samples: Sequence[Sample], latents: Tensor) -> tuple[Inversion, Tensor]:
        """Seeds of latents, and the latents that DDIM makes of the seeds."""
        embeds = self._embed(samples)

        def predict_noise(rows_latents: Tensor, timestep: int, rows: Tensor) -> Tensor:
            return self._blockwise(rows_latents, timestep, embeds[rows], self.guidance_scale)

        inversion = self.inverter(predict_noise, latents, self.steps)
        return inversion, rollout(self._noise_fn(samples, self.guidance_scale), inversion.seeds, self.steps)

    def _noise_fn(self, samples: Sequence[Sample], guidance_scale: float) -> Any:
        embeds = self._embed(samples)
        return lambda latents, timestep: self._blockwise(latents, timestep, embeds, guidance_scale)

    def _blockwise(self, latents: Tensor, timestep: int, embeds: Tensor, guidance_scale: float) -> Tensor:
        empty = None if guidance_scale == 1.0 else self._embed_one("").expand(self.block_size, -1, -1)
        return in_blocks(
            lambda x, c: self.diffusion.predict_noise(x, timestep, c, guidance_scale, empty),
            self.block_size,
            latents,
            embeds,
        )

    def _embed_one(self, prompt: str) -> Tensor:
        if prompt not in self._embeds:
            self._embeds[prompt] = self.diffusion.encode_prompts([prompt]).float()
        return self._embeds[prompt]

    def _embed(self, samples: Sequence[Sample]) -> Tensor:
        return torch.cat([self._embed_one(sample.prompt) for sample in samples])

    def _decode(self, latents: Tensor) -> Tensor:
        return in_blocks(self.diffusion.decode_latents, 1, latents).float()

    def _draw(self, samples: Sequence[Sample]) -> Tensor:
        """The samples' own seeds: functions of the run's seed and the sample, not of the model."""
        digests = [hashlib.sha256(f"{self.seed}/{sample.set}/{sample.content}".encode()).digest() for sample in samples]
        generators = [Generator().manual_seed(int.from_bytes(digest[:7], "big")) for digest in digests]
        return self.diffusion.draw_seeds(generators)

    def _judge(self, samples: Sequence[Sample], images: Tensor) -> list[dict[str, Any]]:
        if self.judge is None:
            return [{} for _ in samples]
        return self.judge(images.nan_to_num(), [sample.prompt for sample in samples], self.concept.factors)

    def _keep(self, samples: Sequence[Sample], kind: str, images: Tensor) -> None:
        for sample, image in zip(samples, images, strict=True):
            if sample.index < self.keep_images:
                self._pictures[image_path(self.folder, sample.set, sample.index, kind)] = to_pil(image.nan_to_num())


def _psnr(images: Tensor, target: Tensor) -> Tensor:
    """PSNR (n,), NaN where a picture is not finite."""
    sound = (images + target).flatten(1).isfinite().all(1)
    return psnr(images.nan_to_num(), target.nan_to_num()).where(sound, torch.nan)


def _role(diffusion: Diffusion) -> Role:
    if diffusion.erasure is not None:
        return "erased"
    return "random" if diffusion.weights == "random" else "vanilla"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _check(carried: dict[str, float], recomputed: dict[str, float]) -> None:
    """The metrics reduced across processes and those computed from the records are the same numbers."""
    for name, value in recomputed.items():
        if abs(carried[name] - value) > 1e-6 * max(1.0, abs(value)):
            raise RuntimeError(
                f"metric {name} is {carried[name]} in the loop and {value} from the records: please report"
            )
