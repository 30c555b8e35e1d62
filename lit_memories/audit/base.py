"""What every audit shares: a run folder that can be taken up again, and a model whose every call has one size."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Callback, LightningModule
from torch import Generator, Tensor

from lit_memories.audit.costs import Costs
from lit_memories.audit.embedding import Embeddings, encoder_of
from lit_memories.audit.folder import merge, rearrange, renew
from lit_memories.audit.group import SampleGroup
from lit_memories.audit.guarded import check_guard, check_role, guard_of
from lit_memories.audit.kernels import exact_kernels
from lit_memories.audit.memory import enough_memory
from lit_memories.audit.needs import NEEDED, by_name, check_guidance, guidances_of, needed_by
from lit_memories.audit.opening import asked_of, open_folder
from lit_memories.audit.place import check_place, check_whole
from lit_memories.audit.precision import check_precision, network_dtype, warn_of_tolerance
from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.audit.writer import RecordWriter, explained
from lit_memories.concept import Concept
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import versions
from lit_memories.identity import arguments_of, autoencoder_of, configuration_of, schedule_of
from lit_memories.inverters.base import Inversion, Inverter
from lit_memories.judges.base import Judge
from lit_memories.lock import Unlock, lock
from lit_memories.numbers import STRONGEST, check_range
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.generators import seeded
from lit_memories.probes.base import Column, Probe
from lit_memories.records import Place, Record, SetName, read_records
from lit_memories.runs import Role, RunInfo
from lit_memories.seeds import sound_seeds
from lit_memories.settings import plain, short_hash
from lit_memories.storage.files import check_writable


class Audit(LightningModule, ABC):
    """Nothing is trained and nothing is logged: `predict_step` returns and writes `Record`s.

    The run folder is the trainer's ``default_root_dir``. Its mixed precision is the U-Net's alone: text encoder,
    autoencoder, judge and all algebra stay in float32, as they take little of the time and bear much of the accuracy.

    Args:
        diffusion: the model under audit.
        inverter: how seeds are found.
        concept: what the model should have forgotten.
        probes: the questions to ask, in this order; each once.
        judge: detector that says whether a picture shows the concept; None leaves the prompted rate out.
        name: what tables call the run; the run folder's name if None.
        role: what the model is in a comparison; if None, ``erased`` with an erasure, ``random`` with random weights,
            else ``vanilla``. Only a ``control`` has to be named.
        num_inference_steps: DDIM steps, both ways.
        guidance_scale: of inversion and regeneration; 1 as in the paper.
        block_size: rows of every network call. It is part of the settings, as rounding depends on it; the batch size,
            best a multiple of it, is not.
        keep_images: how many samples of each set leave pictures for the report.
        seed: of everything drawn.

    Raises:
        ValueError: if `block_size` is below 1, a probe is named twice, or lacks what it needs, or the judge cannot
            tell the concept, a transformed model is called vanilla, or the guidance is out of range.
    """

    OUTSIDE: ClassVar[frozenset[str]] = frozenset({"diffusion", "concept", "name", "role", "keep_images", "probes"})
    """Arguments that are no settings: model, concept and probes stand elsewhere, the others change no number."""
    lessons: Mapping[SetName, SampleGroup]
    """The pictures that probes teach the model, by set."""

    def __init__(
        self,
        diffusion: Diffusion,
        inverter: Inverter,
        concept: Concept,
        probes: Sequence[Probe],
        judge: Judge | None = None,
        name: str | None = None,
        role: Role | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        block_size: int = 8,
        keep_images: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        check_range("guidance_scale", guidance_scale, 0, STRONGEST)
        check_role(diffusion, role)
        concept.check_single("an audit", "audit each by its file")
        if judge is not None:
            judge.check(concept)
        self.diffusion, self.inverter, self.concept, self.judge = diffusion, inverter, concept, judge
        self.name, self.role = name, role or _role(diffusion)
        self.guidance_scale, self.block_size = guidance_scale, block_size
        self.keep_images, self.seed, self.num_inference_steps = keep_images, seed, num_inference_steps
        self.steps = diffusion.schedule.ddim_steps(num_inference_steps)
        inverter.check(self.steps)
        self.probes = by_name(probes, judge is not None)
        self.embed = Embeddings(encoder_of(diffusion))

    @property
    def posterior_seed(self) -> int | None:
        """From which latents are drawn of the encoder's posterior; None takes its mean."""
        return None

    @property
    def named(self) -> str:
        """A hash of the words for the concept."""
        return short_hash(json.dumps(self.concept.to_dict(), sort_keys=True))

    @property
    def stages(self) -> list[tuple[str, ...]]:
        """The probes as all samples meet them in turn; those that need seeds go with the one that finds them."""
        needy = tuple(name for name, probe in self.probes.items() if "seeds" in probe.needs)
        return [(name, *needy) if name == "seed" else (name,) for name in self.probes if name not in needy]

    def configure_callbacks(self) -> list[Callback]:
        """What gives the run folder free when the audit ends or fails."""
        return [Unlock([self.folder])]

    def prepare_data(self) -> None:
        """Refuse, before anything is read, a precision that would round latents or weights, a full disk, company.

        Raises:
            ValueError: for any but ``32-true`` and the mixed ones; if another process writes to the run folder, or
                something else is there, or the trainer would leave samples out, or a guard has no seeds to give.
            OSError: if the run folder cannot be written.
        """
        check_precision(self.trainer)
        check_whole(self.trainer)
        check_place(self.folder)
        check_guard(self)
        with explained(self.folder):
            check_writable(self.folder)
            if self.trainer.is_global_zero:
                lock(self.folder)

    def predict_step(self, batch: Any, batch_idx: int) -> list[Record]:
        """Audit a batch and put it on disk.

        Raises:
            OSError: if memory runs out; one line that says what to try.
        """
        memory = enough_memory(self.block_size, self.image_size, self.folder)
        with memory, exact_kernels(), torch.autocast(self.device.type, enabled=False):
            return self.audit(batch)

    @abstractmethod
    def audit(self, batch: Any) -> list[Record]:
        """Audit a batch and put it on disk."""

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
        """What every probe's numbers depend on besides the sample and the model: what the constructors take, and more.

        A new option is in it unless `OUTSIDE` says that no number depends on it, or `needs.NEEDED` that only some do.
        """
        diffusion, some = self.diffusion, {name for names in NEEDED.values() for name in names}
        names = sorted(arguments_of(type(self)) - self.OUTSIDE - some)
        return {name: _described(getattr(self, name), self.concept) for name in names} | {
            "audit": type(self).__name__,
            "schedule": schedule_of(diffusion.schedule),
            "vae": autoencoder_of(diffusion),
            "image_size": list(self.image_size),
            "speed": diffusion.speed.settings(),
            "torch_dtype": str(diffusion.network.dtype).removeprefix("torch."),
            "precision": str(self.trainer.precision),
            "matmul_precision": torch.get_float32_matmul_precision(),
        }

    def settings_of(self, probe: Probe) -> dict[str, Any]:
        """What else a probe's own numbers depend on."""
        shared = {name: _described(getattr(self, name), self.concept) for name in needed_by(probe)}
        own = {name: _described(value, self.concept) for name, value in probe.settings(self.diffusion.schedule).items()}
        return shared | own

    def asked_of(self, place: Place) -> list[str]:
        """The probes that a sample is put to."""
        return asked_of(place, self.probes)

    def open_run(self, data: dict[str, Any], places: Mapping[str, Place]) -> dict[str, list[str]]:
        """Check that the run folder is new or of this very audit, and read what it holds.

        Args:
            data: what the data module says of its sets, for ``run.json``.
            places: the finished run's records, by the name each is keyed by.

        Returns:
            For each name the probes that are left to ask.

        Raises:
            ValueError: if the folder holds records of another audit, or a probe's with other settings (names what
                differs), or the model cannot be guided as it is asked.
            OSError: if it cannot be written.
        """
        asked = guidances_of(self.guidance_scale, self.probes.values(), getattr(self.trainer, "datamodule", None))
        check_guidance(self.diffusion, asked, self.inverter)
        self.opened = open_folder(self.folder, self._describe(data), self.probes, places, self.keep_images)
        self.info, self.recorded, self.finished = self.opened.info, self.opened.recorded, self.opened.finished
        self.expected = sum(map(len, self.opened.asked.values()))
        return self.opened.left

    def _describe(self, data: dict[str, Any]) -> RunInfo:
        settings = plain(self.settings())
        diffusion = self.diffusion
        return RunInfo(
            name=self.name or self.folder.name,
            role=self.role,
            concept=self.concept.name,
            settings=settings,
            settings_hash=short_hash(json.dumps(settings, sort_keys=True)),
            model={
                "base": diffusion.base,
                "revision": diffusion.revision,
                "base_fingerprint": diffusion.fingerprint,
                "fingerprint": diffusion.guarded_fingerprint(),
                "configuration": configuration_of(diffusion),
                "erasure": None if diffusion.erasure is None else diffusion.erasure.provenance.to_dict(),
            }
            | ({} if diffusion.transform is None else {"transform": diffusion.transform.settings()})
            | guard_of(diffusion),
            dimension=self.dimension,
            data=plain(data),
            versions=versions(),
            precision=str(self.trainer.precision),
            probes={name: plain(probe.asked(self.settings_of(probe)).to_dict()) for name, probe in self.probes.items()},
        )

    def key(self, content: str) -> str:
        """The key of a sample's record: the same for every model, another for other settings."""
        return self.info.key(content)

    def on_predict_start(self) -> None:
        """Open the run folder for writing."""
        warn_of_tolerance(self.inverter, network_dtype(self.trainer), self.diffusion.network.dtype)
        self.costs = Costs(self.folder, self.trainer.global_rank)
        self.trainer.strategy.barrier("audit: run folder read")
        if self.trainer.is_global_zero:
            with explained(self.folder):
                self.costs.gather()
                model = str(self.info.fingerprint)
                if self.opened.renamed:
                    marks = {name: self.info.mark(name) for name in self.info.probes}
                    renew(self.folder, self.opened.renamed, model, marks)
                if self.opened.changed or self.costs.stopped:
                    rearrange(self.folder, self.opened.places, model)
                self.info.save(self.folder)
        self.trainer.strategy.barrier("audit: run folder arranged")
        self.writer = RecordWriter(self.folder, self.trainer.global_rank, str(self.info.fingerprint))

    def summary(self, records: Sequence[Record]) -> dict[str, float]:
        """Numbers for ``run.json`` from all records of the finished run; none here."""
        return {}

    def on_predict_epoch_end(self) -> None:
        """Merge what the processes wrote."""
        self.trainer.strategy.barrier("audit: all records written")
        if self.trainer.is_global_zero:
            with explained(self.folder):
                self.costs.gather()
                merge(self.folder, self.opened.places, str(self.info.fingerprint))
        self.trainer.strategy.barrier("audit: merged")
        records = read_records(self.folder, [])
        metrics = self.summary(records)
        if self.trainer.is_global_zero:
            with explained(self.folder):
                complete = self.opened.answered(records, sound_seeds(self.folder))
                replace(self.info, metrics=metrics, complete=complete).save(self.folder)

    def predictor(self, prompts: Sequence[str], guidance_scale: float) -> BlockwisePredictor:
        """The model's predictions under prompts, as inverters and samplers take them."""
        return self.predictor_of(self.embed(prompts), guidance_scale)

    def predictor_of(
        self, embeds: Tensor, guidance_scale: float, diffusion: Diffusion | None = None
    ) -> BlockwisePredictor:
        """Predictions under embeddings (n, rows, width), of another model than the audited one if given."""
        model, dtype = self.diffusion if diffusion is None else diffusion, network_dtype(self.trainer)
        empty = self.embed([""]) if diffusion is None else diffusion.encode_prompts([""]).float()
        beside = empty if model.guard is None else model.beside_embeds().float()
        return BlockwisePredictor(model, embeds, empty, guidance_scale, self.block_size, dtype, beside)

    def invert(self, prompts: Sequence[str], latents: Tensor, guidance_scale: float) -> tuple[Inversion, Tensor]:
        """Seeds of latents under prompts, and the latents that the inverter's sampler makes of them."""
        predict = self.predictor(prompts, guidance_scale)
        inversion = self.inverter(predict, latents, self.steps)
        return inversion, self.inverter.regenerate(predict, inversion, self.steps)

    def encode(self, images: Tensor, seed: int | None = None) -> Tensor:
        """Latents of images in float32, each encoded alone: posterior means, or samples drawn anew from `seed` each."""

        def one(image: Tensor) -> Tensor:
            generator = None if seed is None else Generator().manual_seed(seed)
            return self.diffusion.encode_images(image, generator)

        return in_blocks(one, 1, images).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents in float32, each decoded alone."""
        return in_blocks(self.diffusion.decode_latents, 1, latents).float()

    def generators(self, samples: Sequence[Sample], purpose: str = "") -> list[Generator]:
        """The samples' own sources of randomness: functions of the run's seed and the sample, not of the model."""
        return [seeded(f"{self.seed}/{sample.set}/{sample.content}{purpose}") for sample in samples]

    def judged(self, prompts: Sequence[str], images: Tensor) -> dict[str, Column]:
        """What the judge sees in pictures that were asked for by prompts, by name a value a picture; {} without one."""
        if self.judge is None:
            return {}
        verdicts = self.judge(images.nan_to_num(), prompts, self.concept)
        return {
            name: [verdict.get(name) for verdict in verdicts] for name in dict.fromkeys(k for v in verdicts for k in v)
        }


def _described(value: Any, concept: Concept) -> Any:
    """An argument as plain values."""
    if isinstance(value, Judge):
        return value.identity(concept)
    return value.settings() if hasattr(value, "settings") else value


def _role(diffusion: Diffusion) -> Role:
    if any(changed is not None for changed in (diffusion.erasure, diffusion.transform, diffusion.guard)):
        return "erased"
    return "random" if diffusion.weights == "random" else "vanilla"
