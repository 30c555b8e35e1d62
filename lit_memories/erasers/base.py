"""Everything an erasure method does not say in its paper: selection, teacher, optimiser, probe, artefact."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents, repeated
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.folder import announce, check_folder
from lit_memories.erasers.result import check_result
from lit_memories.erasure import Erasure, Provenance, versions
from lit_memories.identity import arguments_of
from lit_memories.lock import OneWriter
from lit_memories.ops.generators import seeded
from lit_memories.ops.rollout import rollout
from lit_memories.ops.select import Selection, select
from lit_memories.ops.targets import match
from lit_memories.storage.files import keep

SEVERAL = "ESD, UCE, RECE, SPEED, MACE, GLoCE, SalUn, EraseDiff and Scissorhands"
"""The methods that take a concept of several parts, as an error names them."""
_NOT_SETTINGS = {"diffusion", "concept", "train", "probe_size", "seed"}

ROUNDING = 10
"""Weight up to which a distance between nearly equal predictions may be trained in mixed precision. On the shipped
model SPM's gradient in bfloat16 has a cosine of 0.99 with that in float32 at 10, of 0.55 at 100 and of 0 at 1000, the
official weight (tests/slow/test_rounding.py)."""


class Eraser(OneWriter, ABC):
    """A model in erasure. Subclasses give the loss; the rest is here.

    The trainer's ``default_root_dir`` becomes the `Erasure` folder. Only the selected parameters are trained, only they
    are in checkpoints and in the artefact. Every random number comes from `generator`, and every row of a data set from
    the step's number, so that a resumed run equals an uninterrupted one.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: which parameters may change; None if the method brings its own.
        steps: training steps; the length of an epoch.
        lr: learning rate of Adam.
        batch_size: samples a step and process.
        probe_size: how many fixed noisy latents validation looks at.
        seed: of everything drawn in training.

    Raises:
        ValueError: if the selection is empty, an option is out of range, or the model carries an erasure of other
            tensors.
    """

    forget_images: ClassVar[Literal["concept", "anchor"] | None] = None
    """What the images of the forget set show, if the method needs one."""
    retain_images: ClassVar[bool] = False
    """Whether the method needs images of other things."""
    several: ClassVar[bool] = False
    """Whether the method takes a concept of several parts."""
    one_process: ClassVar[str | None] = None
    """Why the method runs on one device only, if so."""
    amplifies: ClassVar[tuple[str, ...]] = ()
    """Arguments that weigh the distance between predictions which are nearly equal, and so multiply their rounding."""
    max_grad_norm: float | None = None
    """Norm to clip gradients to."""

    diffusion: Diffusion
    concept: Concept
    seed: int

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection | None = "attn2",
        steps: int = 200,
        lr: float = 1e-5,
        batch_size: int = 1,
        probe_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if steps < 1 or batch_size < 1 or probe_size < 1 or lr < 0:
            raise ValueError(
                f"steps ({steps}), batch_size ({batch_size}) and probe_size ({probe_size}) must be at least 1, "
                f"lr ({lr}) not negative"
            )
        if not self.several:
            concept.check_single(type(self).__name__, f"{SEVERAL} take several")
        self.diffusion, self.concept, self.strict_loading, self._teaching = diffusion, concept, False, False
        self.train_rule, self.steps, self.lr, self.batch_size = train, steps, lr, batch_size
        self.probe_size, self.seed = probe_size, seed
        if train is not None:
            self.adopt(select(diffusion, train))

    def adopt(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Take parameters to train, by the names they get in the artefact."""
        self.selected = dict(parameters)
        for parameter in self.selected.values():
            parameter.requires_grad_(True)
        if self.diffusion.adapter is not None:
            raise ValueError("the model carries an adapter, which no method trains on: load the base itself")
        replaced = self.diffusion.replaced
        if others := sorted(set(replaced) - set(self.selected)):
            raise ValueError(f"its erasure changed {others[0]}, which train={self.train_rule!r} does not select")
        self._originals = {
            name: replaced.get(name, parameter.detach()).clone() for name, parameter in self.selected.items()
        }

    @abstractmethod
    def erase_loss(self, batch: Batch) -> Tensor:
        """The paper's objective for one step, a scalar."""

    def probe_target(self, latents: Tensor, timestep: float, prompts: Sequence[str]) -> Tensor:
        """What the method wants predicted for concept prompts at `latents` (n, c, h, w); called inside `teacher`.

        Here, what the original model predicts with the anchor in the concept's place.
        """
        return self.predict(latents, timestep, [self.concept.anchored(prompt) for prompt in prompts])

    def predict(self, latents: Tensor, timesteps: float | Tensor, prompts: Sequence[str]) -> Tensor:
        """What the model, as it is now, predicts for prompts (n, c, h, w)."""
        return self.diffusion.predict(latents, timesteps, self.diffusion.encode_prompts(prompts))

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters for the artefact's provenance: what the constructors take, by name."""
        wanted = sorted(arguments_of(type(self)) - _NOT_SETTINGS)
        return {"train": self.train_rule} | {name: getattr(self, name) for name in wanted if hasattr(self, name)}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Within the context, or two of them, the model is the original one, to the bit, and gradients are off."""
        inside, self._teaching = self._teaching, True
        self._swap(not inside)
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap(not inside)
            self._teaching = inside

    def _swap(self, needed: bool) -> None:
        torch.clear_autocast_cache()  # it holds rounded weights by parameter, whatever is in the parameter now
        for name, parameter in self.selected.items() if needed else ():
            original = self._originals[name].to(parameter.device)
            self._originals[name], parameter.data = parameter.data, original

    def generator(self, purpose: str = "") -> Generator:
        """The source of randomness for this step, process and purpose."""
        return seeded(f"{self.seed}/{self.global_step}/{self.global_rank}/{purpose}")

    @property
    def share(self) -> tuple[int, int]:
        """Which process this is, and of how many."""
        return (self.global_rank, self.trainer.world_size) if self._trainer else (0, 1)

    def rows(self, images: Latents, count: int) -> tuple[Tensor, list[str]]:
        """This step's rows of a set, from an endless stream of shuffled passes: latents (count, c, h, w), captions."""
        rank, world = self.share
        latents, captions = images.rows((self.global_step * world + rank) * count, count, self.seed)
        return latents.to(self.device), captions

    def noised(self, latents: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents diffused to random timesteps: the noisy latents, the timesteps (n,), and what is to be predicted."""
        return self.diffusion.schedule.noised(latents, generator)

    def diffusion_loss(self, latents: Tensor, prompts: Sequence[str], generator: Generator) -> Tensor:
        """The ordinary training loss of images (n, c, h, w) under prompts, at random timesteps."""
        noisy, timesteps, wanted = self.noised(latents, generator)
        return match(self.predict(noisy, timesteps, prompts), wanted)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches that name all prompts; the loss draws from them."""
        return repeated({"prompts": self.concept.prompts, "retain": self.concept.retain}, self.steps)

    def val_dataloader(self) -> DataLoader[Any]:
        """One batch of the probe."""
        return repeated({}, 1)

    def configure_optimizers(self) -> Any:
        """Adam on the selected parameters."""
        return torch.optim.Adam(self.selected.values(), lr=self.lr)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step of the method."""
        loss = self.erase_loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        return loss

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *_: Any, **__: Any
    ) -> None:
        """Clip to the method's own norm, unless the trainer has another."""
        self.clip_gradients(optimizer, gradient_clip_val=gradient_clip_val or self.max_grad_norm)

    def setup(self, stage: str) -> None:
        """Check, before anything long begins, that this can be trained here.

        Raises:
            ValueError: in fit, if the model carries an erasure already, weights or precision would round small steps
                away, a weight would multiply the rounding, the method cannot run on several devices, its images are
                missing, or its folder holds something else.
            OSError: if its folder cannot be written.
        """
        if stage != "fit":
            return
        name = type(self).__name__
        if not hasattr(self, "selected"):
            raise ValueError(f"{name} trains what train selects: null is for methods with parameters of their own")
        if any(x is not None for x in (self.diffusion.erasure, self.diffusion.transform, self.diffusion.guard)):
            raise ValueError("the base model carries an erasure, a transform or a guard already: erase from the base")
        short = {str(p.dtype).removeprefix("torch.") for p in self.selected.values()} - {"float32", "float64"}
        if short or self.trainer.precision in {"16-true", "bf16-true"}:
            raise ValueError(
                f"small steps vanish in weights stored as {', '.join(short) or self.trainer.precision}: load them with "
                "torch_dtype float32 and train with --trainer.precision bf16-mixed"
            )
        for option in self.amplifies if str(self.trainer.precision).endswith("-mixed") else ():
            if (weight := getattr(self, option)) > ROUNDING:
                raise ValueError(
                    f"{option} {weight:g} multiplies the rounding of {self.trainer.precision}, so that gradients would "
                    f"be noise: train {name} with --trainer.precision 32-true, or with {option} {ROUNDING} or less"
                )
        if self.one_process and self.trainer.world_size > 1:
            raise ValueError(f"{name} runs on one device: {self.one_process}; pass --trainer.devices 1")
        if (self.forget_images or self.retain_images) and getattr(self.trainer, "datamodule", None) is None:
            raise ValueError(
                f"{name} needs images: add `data: {{class_path: lit_memories.data.erasure.ErasureData}}` to the recipe"
            )
        self.check_folder(Path(self.trainer.default_root_dir))

    def prepare(self, batch: Batch) -> None:
        """What a method does once before its first step, and again when it is resumed; nothing here."""

    def on_train_start(self) -> None:
        """Let the method prepare itself."""
        with self.trainer.precision_plugin.forward_context():  # as in the steps, or targets would differ by rounding
            self.prepare(next(iter(self.trainer.train_dataloader or [])))

    def on_fit_start(self) -> None:
        """Make the probe before anything changes."""
        self._make_probe()

    def on_validation_start(self) -> None:
        """Make the probe if nothing was trained before, as in ``lit-memories validate``."""
        if not hasattr(self, "_probe_goal"):
            self._make_probe()

    def _make_probe(self) -> None:
        """Latents early in a run, where the concept is decided, on fixed prompts and seeds."""
        steps = self.diffusion.schedule.ddim_steps(20)
        prompts, retain = self.concept.prompts, self.concept.retain or [""]
        self._probe_prompts = [prompts[i % len(prompts)] for i in range(self.probe_size)]
        self._probe_retain = [retain[i % len(retain)] for i in range(self.probe_size)]
        seeds = self.diffusion.draw_seeds([Generator().manual_seed(i) for i in range(self.probe_size)])
        self._probe_timestep = steps[stop := len(steps) // 4].timestep
        with self.teacher():
            predict = self.diffusion.predict_fn(self.diffusion.encode_prompts(self._probe_prompts))
            self._probe_latents = rollout(predict, seeds, steps[:stop])
            self._probe_goal = self.probe_target(self._probe_latents, self._probe_timestep, self._probe_prompts)
            self._probe_start, self._probe_kept = self._probe(self._probe_prompts), self._probe(self._probe_retain)
            self._probe_end = self._probe_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log how far the concept's prediction went, and how far the others' drifted.

        ``erase_ratio`` is the squared distance to the method's target over what it was (1 at the start, 0 when
        reached); ``retain_drift`` the relative change of predictions for retained prompts (0 at the start).
        """
        ends = self._probe(self._probe_prompts), self._probe_start
        distance, start = ((end - self._probe_goal).square().sum() for end in ends)
        drift = (self._probe(self._probe_retain) - self._probe_kept).norm() / self._probe_kept.norm()
        self.log("val/erase_ratio", distance / start, prog_bar=True, batch_size=1)
        self.log("val/retain_drift", drift, prog_bar=True, batch_size=1)

    def _probe(self, prompts: Sequence[str]) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # as before the first step, whatever precision trains
            return self.predict(self._probe_latents, self._probe_timestep, prompts)

    def erasure(self) -> Erasure:
        """The selected tensors as they are now, with provenance."""
        tensors = {name: parameter.detach().cpu().clone() for name, parameter in self.selected.items()}
        with self.teacher():
            rounded = self.diffusion.rounded_fingerprints()
        return Erasure(tensors, replace(self._provenance(), base_rounded=rounded))

    def _provenance(self) -> Provenance:
        return Provenance(
            method=type(self).__name__,
            concept=self.concept.to_dict(),
            base=self.diffusion.base,
            base_revision=self.diffusion.revision,
            base_fingerprint=self.diffusion.fingerprint,
            settings=self.settings(),
            steps=self.global_step,
            seed=self.seed,
            versions=versions(),
            gate=self.gate_prompts(),
            prediction_type=self.diffusion.schedule.prediction_type,
        )

    def check_folder(self, folder: Path) -> None:
        """Refuse a folder that the erasure cannot go to; see `erasers.folder.check_folder`."""
        check_folder(folder, self._provenance())

    def gate_prompts(self) -> list[str] | None:
        """For methods that train an adapter: the prompts near which it acts."""
        return None

    @torch.no_grad()
    def on_train_end(self) -> None:
        """See what is predicted now; later the model is no longer on its device."""
        super().on_train_end()
        self._probe_end = self._probe(self._probe_prompts)

    def on_fit_end(self) -> None:
        """Save the artefact.

        Raises:
            ValueError: if it is none; see `erasers.result.check_result`.
            OSError: if it cannot be written to its folder; says where it is instead.
        """
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            erasure = self.erasure()
            check_result(erasure.tensors, self._originals, self._probe_start, self._probe_end, self.concept.name)
            keep(folder := Path(self.trainer.default_root_dir), erasure.save)
            announce(folder, erasure.provenance)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what can change."""
        mine = set(map(id, self.selected.values()))
        names = {name for name, parameter in self.named_parameters() if id(parameter) in mine}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}


def draw(prompts: Sequence[str], count: int, generator: Generator) -> list[str]:
    """`count` prompts at random, with replacement."""
    return [prompts[i] for i in torch.randint(len(prompts), (count,), generator=generator).tolist()]
