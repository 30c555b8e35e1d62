"""The whole story in minutes: erase a concept, audit four models, compare."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lit_memories.erasure import PROVENANCE_FILE, WEIGHTS_FILE, Erasure
from lit_memories.records import RUN_FILE
from lit_memories.runs import RunInfo
from lit_memories.settings import differences
from lit_memories.storage.files import check_inside
from lit_memories.storage.shipped import model_folder, shipped
from lit_memories.terminal import printable

CONTROLS = {"umbrella": "checkpoints/without-umbrella", "striped": "checkpoints/without-striped"}
PROBES = [
    {"class_path": "lit_memories.probes.denoising.Denoising"},
    {"class_path": "lit_memories.probes.samples.Samples", "init_args": {"guidance_scale": 3.0}},
    {"class_path": "lit_memories.probes.seed.Seed", "init_args": {"limit": 8}},
]
"""What decides comes first; for the paper's numbers a few pictures are inverted, which is what takes the time."""
FEW = "--data.known=0", "--data.prompted=16"
SMALL = {"batch_size": 4, "num_inference_steps": 10}
"""Half of what the recipe's ESD takes, and as good on the concepts there are controls for."""


def quickstart(out: Path = Path("runs/quickstart"), concept: str = "umbrella") -> None:
    """Erase a pictogram concept with ESD, audit four models for it, and write the report.

    A second call takes up where an earlier one stopped.

    Args:
        out: folder for everything that is made.
        concept: umbrella or striped, the concepts there are controls for.

    Raises:
        ValueError: if there is no control for the concept, or the folder holds something else.
        FileNotFoundError: if the shipped models are neither here nor installed.
    """
    if concept not in CONTROLS:
        raise ValueError(f"no control for {concept!r}: choose {' or '.join(CONTROLS)}")
    model_folder(CONTROLS[concept])
    recipes, erasure, console = shipped("recipes") / "pictograms", out / "erasure", Console()
    models: dict[str, list[str]] = {
        "vanilla": [],
        "esd": [f"--model.diffusion.erasure={erasure}"],
        "never-knew": [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
        "random": ["--model.diffusion.weights=random"],
    }
    steps = len(models) + 2
    _check(out, [erasure.name, *models], concept)
    console.rule(f"1/{steps}  erasing {concept} with ESD")
    if _erased(erasure, concept):
        console.print(printable(f"{erasure} is there already"), markup=False)
    else:
        chosen = f"--model.concept={recipes / 'concepts' / f'{concept}.yaml'}"
        small = [f"--model.{name}={value}" for name, value in SMALL.items()]
        _run("fit", recipes / "erase" / "esd.yaml", chosen, *small, f"--trainer.default_root_dir={erasure}")
    for number, (name, options) in enumerate(models.items(), 2):
        console.rule(f"{number}/{steps}  auditing {name}")
        asked = (f"--model.probes={json.dumps(PROBES)}", *FEW, f"--trainer.default_root_dir={out / name}")
        _run("predict", recipes / "audit" / f"{concept}.yaml", *options, *asked)
    console.rule(f"{steps}/{steps}  report")
    from lit_memories.report import report

    report([out / name for name in models], out)


def _check(out: Path, names: Sequence[str], concept: str) -> None:
    """Refuse, before anything long, a folder with another concept's audits in it, or links that lead out of it."""
    check_inside(out, tuple(names))
    for name in names:
        if (out / name / RUN_FILE).is_file() and (there := RunInfo.load(out / name).concept) != concept:
            raise ValueError(f"{out / name} holds an audit for {there}: choose another folder with --out")


def _erased(folder: Path, concept: str) -> bool:
    """Whether a folder holds the whole erasure that is wanted; one that a killed process left is made again.

    Raises:
        ValueError: if it holds another one.
    """
    if not all((folder / name).is_file() for name in (PROVENANCE_FILE, WEIGHTS_FILE)):
        return False
    there = Erasure.load(folder).provenance
    wanted = {"method": "ESD", "concept": concept, **SMALL}
    found = {"method": there.method, "concept": there.concept["name"]} | {n: there.settings.get(n) for n in SMALL}
    if lines := differences(found, wanted):
        raise ValueError(f"{folder} holds another erasure ({'; '.join(lines)}): choose another folder with --out")
    return True


def _run(command: str, recipe: Path, *options: str) -> None:
    from lit_memories.recipes import run

    run([command, f"--config={recipe}", *options])
