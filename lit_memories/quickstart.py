"""The whole story in minutes: erase a concept, audit four models, compare."""

import subprocess
import sys
from pathlib import Path

from rich.console import Console

RECIPES = Path("recipes/pictograms")
CONTROLS = {"umbrella": "checkpoints/without-umbrella", "striped": "checkpoints/without-striped"}


def quickstart(out: Path = Path("runs/quickstart"), concept: str = "umbrella") -> None:
    """Erase a pictogram concept with ESD, audit four models for it, and write the report.

    A second call takes up where an earlier one stopped.

    Args:
        out: folder for everything that is made.
        concept: umbrella or striped, the concepts there are controls for.
    """
    if concept not in CONTROLS:
        raise ValueError(f"no control for {concept!r}: choose {' or '.join(CONTROLS)}")
    if not RECIPES.is_dir():
        raise FileNotFoundError(f"no {RECIPES} here: run this from the root of the repository")
    console = Console()
    erasure, audit = out / "esd", RECIPES / "audit" / f"{concept}.yaml"
    models = {
        "vanilla": [],
        "esd": [f"--model.diffusion.erasure={erasure}"],
        "never-knew": [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
        "random": ["--model.diffusion.weights=random"],
    }
    console.rule(f"1/{len(models) + 2}  erasing {concept} with ESD")
    if (erasure / "erasure.safetensors").is_file():
        console.print(f"{erasure} is there already")
    else:
        recipe = RECIPES / "erase" / "esd.yaml"
        chosen = f"--model.concept={RECIPES / 'concepts' / f'{concept}.yaml'}"
        _run("fit", f"--config={recipe}", chosen, f"--trainer.default_root_dir={erasure}")
    for number, (name, options) in enumerate(models.items(), 2):
        console.rule(f"{number}/{len(models) + 2}  auditing {name}")
        _run(
            "predict", f"--config={audit}", *options, f"--model.name={name}", f"--trainer.default_root_dir={out / name}"
        )
    console.rule(f"{len(models) + 2}/{len(models) + 2}  report")
    from lit_memories.report import report

    report([out / name for name in models], out)


def _run(*arguments: str) -> None:
    """One command in a process of its own, as a user would type it."""
    command = [sys.executable, "-m", "lit_memories", *arguments]
    finished = subprocess.run(command, check=False)  # noqa: S603 - our own program
    if finished.returncode:
        raise ValueError(f"stopped: lit-memories {' '.join(arguments)} ended with code {finished.returncode}")
