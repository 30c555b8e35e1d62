"""Do the findings of the pictograms hold on photographs? docs/results/photographs.{md,json} and a sheet a concept.

    python benchmarks/photographs.py   # about an hour of one core, with the models of `make fashion`

Fashion-MNIST's base model and controls, erased by recipes/fashion/erase, audited by recipes/fashion/audit with doors
beside. Resumable: what is trained is not trained again, complete audits are not run again, and audits keep what they
have. Pages are made of all that is there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attacks_numbers import proofs_of, rows_of
from jsonargparse import auto_cli
from photographs_page import page
from sheets import sheet
from validity_scores import KNOWS, NEVER, folder_of, measures_of, told_apart

from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.recipe_files import read_recipe
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE
from lit_memories.report import report
from lit_memories.runs import Run, RunInfo, read_run

RECIPES = Path("recipes/fashion")
BASE = "checkpoints/fashion"
CONTROLS = {name: f"checkpoints/fashion-without-{name}" for name in ("sneaker", "bag")}
METHODS = ("uce", "esd", "ac", "spm", "salun", "scissorhands")
ATTACKS = ("completion", "noise_probe")
"""Recipes of recipes/fashion/attack; each has plain draws beside it."""
OTHERS = ("t-shirt", "trousers", "dress", "coat", "sandal", "shirt", "boot")
"""Kinds on the sheets beside the concept."""


def main(
    concepts: tuple[str, ...] = tuple(CONTROLS),
    methods: tuple[str, ...] = METHODS,
    folder: Path = Path("runs/photographs"),
    out: Path = Path("docs/results/photographs"),
    figures: Path = Path("docs/figures"),
) -> None:
    """Erase, audit, compare.

    Args:
        concepts: sneaker, bag.
        methods: recipes of recipes/fashion/erase.
        folder: for models and audits.
        out: where page and numbers go, without suffix.
        figures: where the sheets of samples go.
    """
    for concept in concepts:
        for name, options in models_of(concept, methods, folder).items():
            place = folder / concept / folder_of(name)
            if not ((place / RUN_FILE).is_file() and RunInfo.load(place).complete):
                print(f"== {concept}: auditing {name}", flush=True)
                doors = [] if name == "random" else [f"--model.probes+={json.dumps(door)}" for door in doors_of()]
                where = [f"--trainer.default_root_dir={place}", "--data.prompted=48"]
                run(["predict", f"--config={RECIPES}/audit/{concept}.yaml", *options, *doors, *where])
    results: dict[str, Any] = {}
    for concept in CONTROLS:
        runs = {place.parent.name: read_run(place.parent) for place in (folder / concept).glob(f"*/{RUN_FILE}")}
        runs = {name: found for name, found in runs.items() if found.info.complete}
        if not {"vanilla", folder_of(KNOWS), folder_of(NEVER), "random"} <= set(runs):
            print(f"{concept} is not on the page yet: not all models of known truth have been audited")
            continue
        report([folder / concept / name for name in ("vanilla", *sorted(set(runs) - {"vanilla"}))], folder / concept)
        results[concept] = score(concept, runs, folder / concept / "results.json")
        _sheet(concept, folder / concept, figures / f"photographs-{concept}.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(results), encoding="utf-8")


def doors_of() -> list[dict[str, Any]]:
    """Attacks as their recipes have them, plain draws first."""
    recipes = [read_recipe(RECIPES / "attack" / f"{name}.yaml") for name in ATTACKS]
    probes = [probe for recipe in recipes for probe in recipe["model"]["init_args"]["probes"]]
    attacks = [probe for probe in probes if probe["class_path"].startswith("lit_memories.attacks.")]
    return list({probe["class_path"]: probe for probe in attacks}.values())


def models_of(concept: str, methods: tuple[str, ...], folder: Path) -> dict[str, list[str]]:
    """Options of an audit by model; those that are not there yet are trained."""
    (other,) = (path for name, path in CONTROLS.items() if name != concept)
    models = {
        "vanilla": [],
        KNOWS: [f"--model.diffusion.base={other}", "--model.role=erased"],
        NEVER: [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
        "random": ["--model.diffusion.weights=random"],
    }
    for method in methods:
        erasure = folder / concept / "models" / method
        if not (erasure / WEIGHTS_FILE).is_file():
            print(f"== {concept}: training {method}", flush=True)
            chosen = [f"--model.concept={RECIPES}/concepts/{concept}.yaml", f"--trainer.default_root_dir={erasure}"]
            run(["fit", f"--config={RECIPES}/erase/{method}.yaml", *chosen])
        models[method] = [f"--model.diffusion.erasure={erasure}"]
    return models


def score(concept: str, runs: Mapping[str, Run], file: Path) -> dict[str, Any]:
    """The numbers of a concept.

    Args:
        concept: sneaker, bag.
        runs: audits by folder.
        file: the report's results.
    """
    (other,) = (name for name in CONTROLS if name != concept)
    records = [record for record in runs["vanilla"].records if record.conditioning is None]
    hidden = frozenset((record.set, record.index) for record in records if other in record.prompt.split())
    names = ("prompted", "retained", "forgetting", "fraction", "damage")
    entries = json.loads(file.read_text(encoding="utf-8"))["runs"]
    asked = {name: found for name, found in runs.items() if name != "random"}  # no doors were tried on that one
    return {
        "known": [told_apart(measure, dict(runs), hidden) for measure in measures_of(runs["vanilla"])],
        "models": [
            {"model": entry["name"], **{name: entry[name] for name in names}, "verdict": entry["verdict"]["category"]}
            for entry in entries
        ],
        "doors": rows_of(asked),
        "proofs": proofs_of(asked),
    }


def _sheet(concept: str, folder: Path, file: Path) -> None:
    """Five prompts for the concept, seven for other things."""
    erased = sorted(place for place in (folder / "models").iterdir() if (place / WEIGHTS_FILE).is_file())
    shown: dict[str, tuple[str, Path | None]]
    shown = {"vanilla": (BASE, None), "never knew": (CONTROLS[concept], None)}
    shown |= {place.name: (BASE, place) for place in erased}
    sheet(shown, [f"a photo of a {kind}" for kind in (*[concept] * 5, *OTHERS)], file)


if __name__ == "__main__":
    auto_cli(main)
