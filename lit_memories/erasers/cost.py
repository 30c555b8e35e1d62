"""What an erasure cost."""

import json
import time
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lit_memories.storage.files import write

COST_FILE = "cost.json"


class Cost(Callback):
    """Counts network evaluations and seconds of a fit, and writes them to ``cost.json`` in its folder.

    An evaluation is one sample sent forward through the network. Both count on in a resumed run, and hold the probe's
    share, which is the same for all methods; drawing or encoding images, which is cached, is not in them.
    """

    def __init__(self) -> None:
        self.evaluations, self.seconds = 0, 0.0
        self._hook: RemovableHandle | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._hook = cast("Any", pl_module).diffusion.network.register_forward_pre_hook(self._count, with_kwargs=True)
        self._since = time.monotonic()

    def _count(self, _module: Any, args: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        self.evaluations += len(args[0] if args else options["hidden_states"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting, before the result is looked at."""
        if self._hook is not None:
            self._hook.remove()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the counts."""
        self._spent = {name: round(value, 1) for name, value in self.state_dict().items()}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, when the erasure is safe."""
        if stage == "fit" and trainer.is_global_zero:
            write(Path(trainer.default_root_dir) / COST_FILE, json.dumps(self._spent) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Both counts so far."""
        return {"evaluations": self.evaluations, "seconds": self.seconds + time.monotonic() - self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self.evaluations, self.seconds = state_dict["evaluations"], state_dict["seconds"]
