"""Recipes: YAML files that Lightning's command line turns into a model, data and a Trainer."""

import logging
import warnings
from collections.abc import Sequence

import diffusers
import transformers
from lightning import LightningModule
from lightning.pytorch.cli import LightningCLI


class RecipeCLI(LightningCLI):
    """LightningCLI as it is, minus the subcommand nothing here implements."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer's methods that a recipe can call."""
        return {name: arguments for name, arguments in LightningCLI.subcommands().items() if name != "test"}


def run(argv: Sequence[str]) -> None:
    """Run a recipe.

    Args:
        argv: subcommand and options, as on the command line.
    """
    quiet()
    RecipeCLI(
        LightningModule,
        subclass_mode_model=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "lit-memories", "exit_on_error": False}
        | {name: {"exit_on_error": False} for name in RecipeCLI.subcommands()},
        args=list(argv),
    )


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
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
