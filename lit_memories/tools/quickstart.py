"""The whole story in minutes: erase a concept, audit four models, compare."""

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

    Raises:
        ValueError: if there is no control for the concept.
        FileNotFoundError: if this is not the root of the repository.
    """
    if concept not in CONTROLS:
        raise ValueError(f"no control for {concept!r}: choose {' or '.join(CONTROLS)}")
    if not RECIPES.is_dir():
        raise FileNotFoundError(f"no {RECIPES} here: run this from the root of the repository")
    erasure, console = out / "erasure", Console()
    models: dict[str, list[str]] = {
        "vanilla": [],
        "esd": [f"--model.diffusion.erasure={erasure}"],
        "never-knew": [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
        "random": ["--model.diffusion.weights=random"],
    }
    steps = len(models) + 2
    console.rule(f"1/{steps}  erasing {concept} with ESD")
    if (erasure / "erasure.safetensors").is_file():
        console.print(f"{erasure} is there already")
    else:
        chosen = f"--model.concept={RECIPES / 'concepts' / f'{concept}.yaml'}"
        _run("fit", RECIPES / "erase" / "esd.yaml", chosen, f"--trainer.default_root_dir={erasure}")
    for number, (name, options) in enumerate(models.items(), 2):
        console.rule(f"{number}/{steps}  auditing {name}")
        _run("predict", RECIPES / "audit" / f"{concept}.yaml", *options, f"--trainer.default_root_dir={out / name}")
    console.rule(f"{steps}/{steps}  report")
    from lit_memories.report import report

    report([out / name for name in models], out)


def _run(command: str, recipe: Path, *options: str) -> None:
    from lit_memories.recipes import run

    run([command, f"--config={recipe}", *options])
