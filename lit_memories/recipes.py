"""Recipes: YAML files that Lightning's command line turns into a model, data and a Trainer."""

import gc
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate
from typing import Any, cast, get_args, get_type_hints

import torch
from jsonargparse import ArgumentError, Namespace
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_memories.audit.place import check_place, check_whole
from lit_memories.concept_options import afresh
from lit_memories.lightning_files import CHECKPOINTS, CONFIG_FILE, LOGS, Checkpoints, Log, SaveConfig, own_config
from lit_memories.lock import check_alone
from lit_memories.processes import Watch, lost
from lit_memories.recipe_files import check_empty, model_of, probes_of
from lit_memories.settings import check_numbers, check_sizes
from lit_memories.storage.files import check_inside
from lit_memories.storage.hub import redact
from lit_memories.storage.weights import check_checkpoint
from lit_memories.terminal import SAFE, said

EXTRAS = {"TensorBoardLogger": "tensorboard", "WandbLogger": "wandb"}
"""Loggers that need a package which comes with an extra of the same name."""

FOUND_BY_LIGHTNING = {"best", "last", "hpc"}
"""Words in the place of a checkpoint's name, for which Lightning looks for one."""


class RecipeParser(LightningArgumentParser):
    """A parser that writes settings, to ``config.yaml`` and the screen, without the secrets in their addresses."""

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Settings as text; they were checked when they were read, and that takes as long as reading them."""
        return redact(super().dump(*args, **{"skip_validation": True} | kwargs))


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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Options as settings; numbers are checked, and a recipe of another command is named as such.

        Raises:
            ValueError: if a number is none that can be reckoned with, or the command is another one's.
        """
        command = str(self.asked)
        try:
            super().parse_arguments(parser, args)
        except ArgumentError:
            if (named := model_of(args)) is not None:  # where that is the reason, the error says something else
                check_kind(command, named)
            check_probes(probes_of(args))
            raise
        asked = self.config[command]
        check_numbers(settings := asked.as_dict())
        for name in ("model", "data"):
            check_sizes(settings.get(name), name)
            check_empty(settings.get(name), name)
            check_nulls(asked.get(name), name)
        if type(asked.seed_everything) is int and not 0 <= asked.seed_everything < 2**32:
            raise ValueError(f"seed_everything must be in 0..{2**32 - 1}, got {asked.seed_everything}")
        check_kind(command, str(asked.model.class_path), data=asked.get("data") is not None)

    def before_instantiate_classes(self) -> None:
        """Refuse, before anything is loaded, what cannot be: a logger without its package, hardware that is not there.

        Raises:
            ValueError: naming the extra that brings it, another precision or accelerator, what would leave an audit
                incomplete, or what is in its folder and not an audit's.
        """
        gc.enable()
        trainer = self.config[self.subcommand].trainer
        if self.subcommand == "predict":
            check_whole(trainer)
            check_place(Path(trainer.default_root_dir or "."))
        quiet_libraries()
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not {**there, "gpu": any(there.values())}.get(trainer.accelerator, True):
            raise ValueError(f"no GPU is there for --trainer.accelerator {trainer.accelerator}: choose cpu or auto")
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
        """The recipe's trainer, its processes under watch; without a logger of its own it logs as CSV.

        Raises:
            ValueError: if there can be none with these settings, or its folder holds somebody else's configuration.
        """
        asked = self.config_init[self.subcommand].trainer
        if asked.logger is None or asked.logger is True:
            kwargs["logger"] = Log(asked.default_root_dir or ".")
        try:
            watch, trainer = Watch(), super().instantiate_trainer(**kwargs)
        except Exception as error:  # it does nothing but look at settings, and has many words for those it refuses
            where = ", ".join(f"{name} {asked[name]}" for name in ("accelerator", "devices", "strategy"))
            raise ValueError(f"no trainer can be made with {where} and its other settings: {error}") from error
        root = Path(trainer.default_root_dir)
        check_inside(root, (CONFIG_FILE, LOGS, CHECKPOINTS))
        config = root / CONFIG_FILE  # a log has a folder of its own for it, and audits have looked already
        if self.subcommand != "predict" and not trainer.loggers and config.exists() and not own_config(config):
            raise ValueError(
                f"{config} is not of this program, which would replace it: move it, or choose another folder with "
                "--trainer.default_root_dir"
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = Checkpoints()
        cast("Any", trainer).callbacks.insert(0, watch)
        watch.start(trainer)
        return trainer

    def before_fit(self) -> None:
        """Look at the folder that will be written to, before data are read."""
        if hasattr(self.model, "check_folder"):
            self.model.check_folder(Path(self.trainer.default_root_dir))
        check_alone(self.trainer)

    def _parse_ckpt_path(self) -> None:
        """Refuse what is no checkpoint, or would run code; which classes are made, and with what, the recipe says."""
        chosen = self.config[self.config["subcommand"]].get("ckpt_path")
        if chosen and chosen not in FOUND_BY_LIGHTNING:
            check_checkpoint(Path(chosen))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}


def run(argv: Sequence[str], cli: type[RecipeCLI] = RecipeCLI) -> RecipeCLI:
    """Run a recipe.

    Args:
        argv: subcommand and options, as on the command line.
        cli: what reads them, and is given back with what it made.

    Raises:
        ValueError: if the trainer refuses its settings.
        ConnectionError: if another process of the run died.
    """
    quiet()
    kind: type[RecipeCLI] = type(cli.__name__, (cli,), {"asked": next(iter(argv), None)})
    try:
        return kind(
            LightningModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=RecipeParser,
            save_config_callback=SaveConfig,
            parser_kwargs={"prog": "lit-memories", "exit_on_error": False}
            | {name: {"exit_on_error": False} for name in kind.subcommands()},
            args=afresh(argv),
        )
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        if not lost(error):
            raise
        reason = f"another process of this run ended before its time, look for its error; {SAFE}"
        raise ConnectionError(reason) from error


def check_nulls(value: Any, name: str) -> None:
    """Refuse null where a class has no use for it; the parser takes it for any value that has a default.

    Args:
        value: settings of a class, and of those within.
        name: of them.

    Raises:
        ValueError: naming the first one.
    """
    for part in value if isinstance(value, list) else ():
        check_nulls(part, name)
    if not isinstance(value, Namespace) or not isinstance(value.get("init_args"), Namespace):
        return
    hints = _hints(locate(str(value.class_path)))
    for option, part in vars(value.init_args).items():
        if part is None and option in hints and type(None) not in (hints[option], *get_args(hints[option])):
            raise ValueError(f"{name}.{option} cannot be null")
        check_nulls(part, f"{name}.{option}")


def _hints(kind: Any) -> dict[str, Any]:
    """Types of what a class's constructors take, those that hand on ``**options`` included."""
    from lit_memories.diffusion import Diffusion  # which attacks name without loading it

    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__) if isinstance(kind, type) else ():
        if "__init__" in vars(base) and base.__module__.startswith("lit_memories."):
            found |= get_type_hints(vars(base)["__init__"], localns={"Diffusion": Diffusion})
    return {option: hint for option, hint in found.items() if hint is not Any}


def check_probes(names: Sequence[str]) -> None:
    """Refuse the name of a probe that is none of this package's and no dotted path of another.

    Args:
        names: of classes.

    Raises:
        ValueError: naming the nearest, and those that there are.
    """
    from lit_memories.attacks import ASKABLE

    known = {probe.__name__: f"{probe.__module__}.{probe.__name__}" for probe in ASKABLE.values()}
    for name in names:
        own = "." not in name or name.startswith("lit_memories.probes.")
        if own and name not in known and name not in known.values():
            near = get_close_matches(name.rpartition(".")[2], known, 1)
            meant = f", did you mean {known[near[0]] if '.' in name else near[0]}?" if near else ";"
            raise ValueError(f"no probe is called {name}{meant} there are {', '.join(known)}: see lit-memories probes")


def option_in_full(line: str) -> str:
    """An error of the parser about an option that a class does not have, with the option's whole name and the nearest.

    Args:
        line: the error; any other comes back as it is.
    """
    from lit_memories.identity import arguments_of

    kinds, wrong = re.findall(r"class_path '([\w.]+)'", line), re.search(r"Option '(\w+)' is not accepted", line)
    if not kinds or wrong is None or not isinstance(kind := locate(kinds[-1]), type):
        return line
    names = sorted(arguments_of(kind) - {"self"})
    whole = ".".join([*re.findall(r"Parser key '([\w.]+)'", line), wrong[1]])
    near = get_close_matches(wrong[1], names, 1) or [name for name in names if wrong[1][:4] in name][:1]
    meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
    meant = meant if names else f"name first, with --{whole.rpartition('.')[0]}, which of its kinds it is"
    return f"--{whole}: {kind.__name__} has no option {wrong[1]}; {meant}"


STEPS = {"fit": "training_step", "validate": "validation_step", "predict": "predict_step"}
"""What a model must be able to do to be run by a command."""
LOADERS = {"fit": "train_dataloader", "validate": "val_dataloader", "predict": "predict_dataloader"}
"""What it must bring if the recipe has no data."""


def check_kind(command: str, class_path: str, data: bool = True) -> None:
    """Refuse a model that a command has no use for: an eraser is no audit, and an audit does not train.

    Args:
        command: of the Trainer.
        class_path: of the model.
        data: whether the recipe has data.

    Raises:
        ValueError: naming the command that it is for, or asking for data.
    """
    kind = locate(class_path)
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        return

    def brings(name: str) -> bool:
        return getattr(kind, name) is not getattr(LightningModule, name)

    if not brings(STEPS[command]):
        others = " or ".join(f"lit-memories {other}" for other, step in STEPS.items() if brings(step))
        raise ValueError(f"{kind.__name__} is not for {command}: run it with {others}")
    if not data and not brings(LOADERS[command]):
        raise ValueError(f"{kind.__name__} needs data, and data is null: leave it as the recipe has it")


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
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {said(str(message))}\n"


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
