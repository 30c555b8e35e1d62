"""What Lightning writes beside a recipe's result, through this program's own way to write files."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_memories.storage.files import check_place, write

CONFIG_FILE, LOGS, CHECKPOINTS = "config.yaml", "lightning_logs", "checkpoints"
"""What is in a folder that a recipe writes to, besides its result."""
CONFIG_HEAD = "# the settings that lit-memories ran with"
"""How a configuration of this program's begins."""


def own_config(file: Path) -> bool:
    """Whether this program wrote a configuration."""
    head = CONFIG_HEAD.encode()
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(head)) == head


class SaveConfig(SaveConfigCallback):
    """Writes the recipe, as it was run, to ``config.yaml`` in the folder of the log."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it, once."""
        root = Path(trainer.default_root_dir)
        folder = Path(trainer.log_dir or root)  # the processes agree on it, so that each has to ask
        if trainer.is_global_zero and not self.already_saved:
            text = f"{CONFIG_HEAD}\n{self.parser.dump(self.config, skip_none=False)}"
            write(folder / CONFIG_FILE, text, root if folder.is_relative_to(root) else folder)
        self.already_saved = True


class Checkpoints(TorchCheckpointIO):
    """Checkpoints as files that are whole or not there. One that cannot be written does not end a training."""

    def __init__(self) -> None:
        self.failed = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one, or warn."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        self.failed = True
        with forgiven("this checkpoint is missing, and the one before is kept"):
            write(Path(path), content.getvalue())
            self.failed = False

    def remove_checkpoint(self, path: Any) -> None:
        """Remove an earlier one, unless that which should take its place could not be written."""
        if not self.failed:
            super().remove_checkpoint(path)


class Log(CSVLogger):
    """Lightning's log as CSV. If it cannot be written, or a link is in its place, that does not end a training."""

    @rank_zero_only
    def save(self) -> None:
        """Write what was logged since the last time, or warn."""
        with forgiven("the log has gaps"):
            for name in (self.experiment.NAME_METRICS_FILE, self.experiment.NAME_HPARAMS_FILE):
                try:
                    check_place(Path(self.log_dir) / name, Path(self.save_dir))
                except ValueError as error:
                    raise OSError(str(error)) from error
            super().save()


@contextmanager
def forgiven(consequence: str) -> Iterator[None]:
    """Within the context what cannot be written is warned of: it is not what a training is for.

    Args:
        consequence: what is missing then.
    """
    try:
        yield
    except OSError as error:
        warnings.warn(f"{error}; training goes on, {consequence}", stacklevel=3)
