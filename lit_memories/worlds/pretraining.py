"""What the pretraining modules share: optimiser, schedule, sample grids, saving."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from diffusers.optimization import get_scheduler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lit_memories.images import grid
from lit_memories.lightning_files import forgiven
from lit_memories.lock import OneWriter
from lit_memories.ops.sound import check_weights
from lit_memories.storage.files import check_inside, keep, whole, whole_folder
from lit_memories.worlds.muon import MuonAdamW

Schedule = Literal["constant_with_warmup", "cosine", "linear"]
SAMPLES = "samples"
"""Where pictures of a training's progress go, in its run folder."""


class Pretraining(OneWriter, ABC):
    """A network of a world in training; at the end of fit it is saved as a diffusers folder.

    Args:
        save_to: folder that receives the trained weights.
        lr: peak learning rate of AdamW; Muon's is ten times that.
        schedule: learning-rate schedule by step, as diffusers names them.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled weight decay.
    """

    def __init__(
        self,
        save_to: Path,
        lr: float = 2e-3,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_to, self.lr, self.schedule = Path(save_to), lr, schedule
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained weights to `folder` in diffusers' layout."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Muon and AdamW with a per-step schedule that ends at the trainer's last step."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = MuonAdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        scheduler = get_scheduler(
            self.schedule,
            optimizer,
            num_warmup_steps=self.warmup_steps,
            num_training_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @rank_zero_only
    def log_grid(self, name: str, images: Tensor, columns: int = 8) -> None:
        """Save images (n, 3, h, w) in [0, 1] as one PNG under the run's ``samples/`` folder."""
        root = Path(self.trainer.default_root_dir)
        file = root / SAMPLES / f"{name}-{self.global_step:06d}.png"
        with forgiven("this picture is missing"), whole(file, root) as part:
            grid(images, columns).save(part, "PNG")

    @property
    def folders(self) -> list[Path]:
        """The trainer's, and that of the trained weights."""
        return [*super().folders, self.save_to]

    def prepare_data(self) -> None:
        """Find out, before anything is read, whether the trained weights can be written.

        Raises:
            OSError: if they cannot.
            ValueError: if a link leads out of their folder, or another process writes to it.
        """
        if self.trainer.state.fn == "fit":
            check_inside(Path(self.trainer.default_root_dir), (SAMPLES,))
            check_inside(self.save_to, (".",))
        super().prepare_data()

    def on_fit_end(self) -> None:
        """Save once; by now the averaged weights, if any, are in place.

        Raises:
            ValueError: if the training diverged.
            OSError: if that cannot be done; says where they are instead.
        """
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            check_weights(dict(self.named_parameters()))
            keep(self.save_to, self._save)

    def _save(self, folder: Path) -> None:
        with whole_folder(folder) as part:
            self.save(part)
