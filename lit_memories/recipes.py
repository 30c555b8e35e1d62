"""Recipes: YAML files that Lightning's command line turns into a model, data and a Trainer."""

import dataclasses
import gc
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from lit_memories.concept import Concept
from lit_memories.processes import Watch, lost
from lit_memories.storage.weights import refuse_code
from lit_memories.terminal import SAFE

EXTRAS = {"TensorBoardLogger": "tensorboard", "WandbLogger": "wandb"}
"""Loggers that need a package which comes with an extra of the same name."""


class RecipeCLI(LightningCLI):
    """LightningCLI as it is, minus the subcommand nothing here implements, and minus all trust in checkpoints."""

    asked: str | None = None
    """The method that is called; parsers of the others would take time for nothing. None makes all."""

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """The Trainer's methods that a recipe can call."""
        every = {name: arguments for name, arguments in LightningCLI.subcommands().items() if name != "test"}
        return {cls.asked: every[cls.asked]} if cls.asked in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """A logger writes to the run folder, whichever it is."""
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")

    def before_instantiate_classes(self) -> None:
        """Refuse, before anything is loaded, a logger whose package is missing, and float16 where it cannot be had.

        Raises:
            ValueError: naming the extra that brings it, or another precision.
        """
        gc.enable()
        quiet_libraries()
        trainer = self.config[self.subcommand].trainer
        on_cpu = trainer.accelerator == "cpu" or not torch.accelerator.is_available()
        if str(trainer.precision) in {"16", "16-mixed"} and on_cpu:
            raise ValueError(
                f"precision {trainer.precision} needs a GPU, and on a CPU bfloat16 would take its place: choose "
                "--trainer.precision bf16-mixed or 32-true"
            )
        loggers = trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            name = str(getattr(logger, "class_path", "")).split(".")[-1]
            if name in EXTRAS and not find_spec(EXTRAS[name]):
                raise ValueError(
                    f"{name} needs a package that is not installed: pip install 'lit-memories[{EXTRAS[name]}]'"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The recipe's trainer, its processes under watch; without a logger of its own it logs as CSV."""
        asked = self.config_init[self.subcommand].trainer
        if asked.logger is None or asked.logger is True:
            kwargs["logger"] = CSVLogger(asked.default_root_dir or ".")
        watch, trainer = Watch(), super().instantiate_trainer(**kwargs)
        cast("Any", trainer).callbacks.insert(0, watch)
        watch.start(trainer)
        return trainer

    def _parse_ckpt_path(self) -> None:
        """Refuse a checkpoint that would run code; which classes are made, and with what, the recipe alone says."""
        chosen = self.config[self.config["subcommand"]].get("ckpt_path")
        if chosen and Path(chosen).is_file():
            refuse_code(Path(chosen))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}


def run(argv: Sequence[str]) -> None:
    """Run a recipe.

    Args:
        argv: subcommand and options, as on the command line.

    Raises:
        ConnectionError: if another process of the run died.
    """
    quiet()
    kind: type[RecipeCLI] = type("RecipeCLI", (RecipeCLI,), {"asked": next(iter(argv), None)})
    try:
        kind(
            LightningModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "lit-memories", "exit_on_error": False}
            | {name: {"exit_on_error": False} for name in kind.subcommands()},
            args=afresh(argv),
        )
    except Exception as error:
        if not lost(error):
            raise
        reason = f"another process of this run ended before its time, look for its error; {SAFE}"
        raise ConnectionError(reason) from error


def afresh(argv: Sequence[str]) -> list[str]:
    """Arguments in which a concept named by its file is that file's alone.

    The parser lays the file over the recipe's own concept, and would leave that one's templates, anchor prompts, pairs
    where the file is silent; they are emptied first.
    """
    arguments: list[str] = []
    for argument in argv:
        if argument.split("=")[0] == "--model.concept":
            for field in dataclasses.fields(Concept):
                if field.default is not dataclasses.MISSING:
                    arguments.append(f"--model.concept.{field.name}={field.default}")
                elif field.default_factory is not dataclasses.MISSING:
                    arguments.append(f"--model.concept.{field.name}={field.default_factory()}")
        arguments.append(argument)
    return arguments


def quiet() -> None:
    """Silence what tells a user of this program nothing: hardware it has not, advice that cannot be followed."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "LightningCLI's args parameter",
        ".*does not have many workers.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        "Starting from v1.9.0, `tensorboardX`.*",
        "Found \\d+ module\\(s\\) in eval mode.*",
        "The number of training batches.*",
        "`training_step` returned `None`.*",
        ".*configure_optimizers` returned `None`.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def quiet_libraries() -> None:
    """Silence the libraries that load models and data; help does without the seconds they take to import."""
    import datasets
    import diffusers
    import transformers

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
