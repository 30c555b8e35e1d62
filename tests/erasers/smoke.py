"""An erasing recipe on a model small enough for seconds: what tests of the pictograms' and SD 1.4's recipes share."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser

ROOT = Path(__file__).parents[2]
STEPS = 3
SMALL = {
    "steps": STEPS,
    "batch_size": 1,
    "probe_size": 2,
    "num_inference_steps": 4,
    "anchors": 1,
    "warmup_steps": 1,
    "pool_size": 4,
    "retain_batch_size": 2,
    "attack_steps": 2,
    "trim_batches": 2,
    "mask_batches": 1,
    "mask_seeds": 1,
    "before": 1,
    "nearest": 8,
    "rounds": 1,
    "search_steps": 1,
    "word_steps": 2,
}
"""Options that cost time, for every method that has them."""
QUIET = (
    "--trainer.accelerator=cpu",
    "--trainer.callbacks=[]",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=false",
)


def method(recipe: Path) -> type[Eraser]:
    """The class that a recipe names."""
    module, name = yaml.safe_load(recipe.read_text())["model"]["class_path"].rsplit(".", 1)
    return getattr(import_module(module), name)


def accepted(cls: type[Eraser]) -> set[str]:
    """The options a recipe can give a method: those of its constructor, and of those it passes options on to."""
    names: set[str] = set()
    for part in cls.__mro__:
        parameters = inspect.signature(part).parameters
        names |= set(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def is_closed_form(recipe: Path) -> bool:
    """Whether the method solves in one step."""
    return "steps" not in accepted(method(recipe))


def small(recipe: Path, **options: Any) -> dict[str, Any]:
    """Those of `SMALL` and of `options` that a recipe's method has."""
    return {name: value for name, value in (SMALL | options).items() if name in accepted(method(recipe))}


def command(recipe: Path, base: Path, folder: Path, **options: Any) -> list[str]:
    """Arguments that run a recipe on the model at `base` for a few steps."""
    arguments = [f"--config={recipe}", f"--model.diffusion.base={base}", f"--trainer.default_root_dir={folder}"]
    arguments += [f"--model.{name}={value}" for name, value in small(recipe, **options).items()]
    if "data" in yaml.safe_load(recipe.read_text()):
        cache = folder.parent / "cache"
        arguments += ["--data.count=3", "--data.num_inference_steps=2", f"--data.cache={cache}"]
    return arguments


def smoke(recipe: Path, base: Path, folder: Path, *more: str, **options: Any) -> Path:
    """Run a recipe on the model at `base` for a few steps, and return its folder."""
    try:
        main(["fit", *command(recipe, base, folder, **options), *QUIET, *more])
    except SystemExit as error:  # leaving from within a fixture is not something pytest takes for an error
        raise AssertionError(error.code) from error
    return folder


def moved(folder: Path, base: Path) -> Tensor:
    """How far an artefact is from its base, as one vector; of what stands beside it, what begins at zero."""
    tensors, state = load_file(folder / "erasure.safetensors"), Diffusion.from_pretrained(base).state_dict()
    names = [name for name in sorted(tensors) if not name.endswith(("lora_down", ".down.weight", ".down.bias"))]
    return torch.cat([(tensors[name] - state.get(name, torch.zeros(()))).flatten() for name in names])
