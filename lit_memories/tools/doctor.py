"""``lit-memories doctor``: what this machine has, what a recipe needs, and whether it fits."""

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pydoc import locate
from typing import Any, cast

import torch
from jsonargparse import Namespace
from rich.console import Console

from lit_memories.erasers.base import Eraser
from lit_memories.ops.footprint import footprint
from lit_memories.recipe_files import model_of
from lit_memories.recipes import run
from lit_memories.terminal import printable
from lit_memories.tools import outlines
from lit_memories.tools.machine import PACKAGES, Device, devices, machine
from lit_memories.tools.plan import PlanCLI, gigabytes, plan_of

USAGE = """\
usage: lit-memories doctor [--config RECIPE [OPTIONS OF THE RECIPE]] [--json]

Tells what this machine has and, of an audit or an eraser, what its recipe needs and whether it fits.
Ends with 0 if it fits, or there is no recipe; 1 if it does not; 2 if the recipe or an option is wrong."""
KEPT = 4
"""Copies of what is trained that an eraser holds: the original, gradients, and the two moments of Adam."""
HUNGRY = "16", "16-mixed"
"""Precisions that no processor has."""


def doctor(argv: Sequence[str]) -> int:
    """Print what this machine has, and whether a recipe fits.

    Args:
        argv: ``doctor`` and a recipe's options, if any, and ``--json``.

    Returns:
        The exit code: 0 if it fits, 1 if it does not.

    Raises:
        ValueError: as the recipe's command would, before it begins.
    """
    if {"--help", "-h"} & set(argv):
        print(USAGE)  # noqa: T201 - this is the program's output
        return 0
    options = [argument for argument in argv[1:] if argument != "--json"]
    found: dict[str, Any] = {"machine": machine(), "recipe": examined(options) if options else None}
    if "--json" in argv:
        print(json.dumps(found, indent=2))  # noqa: T201
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in [*_of_machine(found["machine"]), *(_of_recipe(found["recipe"]) if options else ())]:
            console.print(printable(line), markup=False)
    return 0 if not options or found["recipe"]["fits"] else 1


def examined(options: Sequence[str]) -> dict[str, Any]:
    """What a recipe needs, and what of it this machine lacks, as plain values.

    Args:
        options: ``--config`` and others of the recipe's command.

    Raises:
        ValueError: as the command would.
    """
    kind = locate(str(model_of(options)))
    trains = isinstance(kind, type) and issubclass(kind, Eraser)
    try:
        cli = cast("PlanCLI", run(["fit" if trains else "predict", *options], PlanCLI))
        most = trained(cli.model) if trains else plan_of(cli).most
    except (ValueError, OSError) as error:
        if (missing := _missing(error)) is None:
            raise
        return {"device": None, "needs": None, "lacking": [str(missing)], "fits": False}
    asked, there = cli.trainer_settings, devices()
    wanted = {"auto": there[0].kind, "gpu": "cuda or mps"}.get(asked.accelerator, asked.accelerator)
    device = next((one for one in there if one.kind in wanted.split(" or ")), None)
    lacking = [*_lacking(asked, device, wanted, most), *_packages(cli)]
    return {"device": device and device.name, "needs": most, "lacking": lacking, "fits": not lacking}


def _missing(error: BaseException | None) -> OSError | None:
    """Why a model or pictures cannot be had, if that is what an error comes from: the parser has it as a cause."""
    while error is not None and not isinstance(error, FileNotFoundError | PermissionError | ConnectionError):
        error = error.__cause__
    return error


def trained(eraser: Eraser) -> int:
    """Bytes that an eraser holds together: the model, copies of what it trains, and one network call with gradients.

    Methods that solve take less, and those that search for words, or make two gradients, somewhat more.

    Args:
        eraser: of an outline.
    """
    model, parameters = eraser.diffusion, list(eraser.selected.values())
    weights = sum(part.size for part in outlines.parts(model) if not part.offloaded)
    copies = KEPT * sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def step() -> object:
        rows = eraser.batch_size
        embeds = model.encode_prompts([""]).float().expand(rows, -1, -1)
        latents = torch.empty((rows, *model.latent_shape), device="meta")
        return torch.autograd.grad(model.predict(latents, 0.0, embeds).sum(), parameters, allow_unused=True)

    return int(weights + copies + footprint(step))


def _lacking(asked: Namespace, device: Device | None, wanted: str, most: int) -> Iterator[str]:
    """What of the hardware is missing."""
    if device is None:
        yield f"no {wanted} is here for --trainer.accelerator {asked.accelerator}: choose cpu or auto"
        return
    if most > device.free:
        yield (
            f"{gigabytes(most)} GB are needed at most, and {gigabytes(device.free)} are free on {device.name}: try a "
            "smaller --model.block_size or batch_size, or another device"
        )
    if device.kind == "cpu" and str(asked.precision) in HUNGRY:
        yield f"precision {asked.precision} needs a GPU: choose --trainer.precision bf16-mixed or 32-true"


def _packages(cli: PlanCLI) -> Iterator[str]:
    """Packages that classes of the recipe need and that are not installed."""
    for path in cli.classes:
        package = PACKAGES.get(path.rpartition(".")[2])
        if package is not None and find_spec(package) is None:
            yield f"{path.rpartition('.')[2]} needs a package: pip install 'lit-memories[{package}]'"


def _of_machine(found: dict[str, Any]) -> Iterator[str]:
    yield f"lit-memories {found['lit-memories']}, Python {found['python']}, torch {found['torch']}"
    for one in found["devices"]:
        memory = f"{gigabytes(one['free'])} GB free of {gigabytes(one['memory'])}"
        yield f"{one['kind']}: {one['name']}, {memory}, precision {', '.join(one['precisions'])}"
    for place, free in found["disk"].items():
        yield f"disk: {gigabytes(free)} GB free at {place}"
    yield f"hub: {found['hub']}"
    yield "extras: " + ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in found["extras"].items())


def _of_recipe(found: dict[str, Any]) -> Iterator[str]:
    for line in found["lacking"]:
        yield f"recipe: {line}"
    if found["fits"]:
        yield f"recipe: it fits; at most {gigabytes(found['needs'])} GB are needed on {found['device']}"
    else:
        yield "recipe: it does not fit this machine"
