"""All erasure methods on the two pictogram concepts: docs/results/erasure.{md,json} and a sheet of samples each.

    python benchmarks/erasure.py                        # everything, about three hours on one core
    python benchmarks/erasure.py --concepts '[umbrella]' # a part; the table is made of all that is there
    python benchmarks/erasure.py --family flow          # the same of the rectified flow, into the same page

Resumable: models that are trained and audits that are complete are not run again. Recipes as they stand in
recipes/pictograms/erase or recipes/pictograms/flow/erase, with the family's options for the concept.
"""

import json
from pathlib import Path
from typing import Any, Literal

from erasure_page import write
from families import FLOW, PRETRAIN, RECIPES, Family
from jsonargparse import auto_cli
from safetensors import safe_open
from sheets import sheet

from lit_memories.erasers.cost import COST_FILE
from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE
from lit_memories.report import report
from lit_memories.runs import RunInfo
from lit_memories.worlds.pictograms import Pictogram

METHODS: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in ("esd", "uce", "rece", "ac")},
    "ac-noise": ("ac", ["--model.target=noise"]),
    "fmn": ("fmn", []),
    "fmn-hard": ("fmn", ["--model.lr=1e-3", "--model.steps=100"]),
    **{name: (name, []) for name in ("salun", "erasediff", "spm", "advunlearn", "scissorhands")},
}
"""Rows of the table: each a recipe, and options that make a variant of it."""
CONTROLS = {"umbrella": "checkpoints/without-umbrella", "striped": "checkpoints/without-striped"}
OPTIONS: dict[tuple[str, str], list[str]] = {("esd", "striped"): ["--model.eta=4"]}
"""What a concept needs besides the recipe, by method and concept."""
UNET = Family(
    title="U-Net",
    base="checkpoints/pictograms",
    controls=CONTROLS,
    branch=PRETRAIN / "text_to_image_branch.yaml",
    erase=RECIPES / "erase",
    methods=METHODS,
    options=OPTIONS,
)
FAMILIES = {"unet": UNET, "flow": FLOW}
FamilyName = Literal["unet", "flow"]


def main(
    family: FamilyName = "unet",
    concepts: tuple[str, ...] = tuple(CONTROLS),
    methods: tuple[str, ...] | None = None,
    folder: Path = Path("runs/erasure-table"),
    out: Path = Path("docs/results/erasure"),
    figures: Path = Path("docs/figures"),
    audits: bool = True,
) -> None:
    """Train, audit, compare.

    Args:
        family: of the models.
        concepts: umbrella, striped.
        methods: rows of the family's table; None: all.
        folder: for models and audits, with the family's suffix behind its name.
        out: where the table goes, without suffix; rows of the family, with its suffix, beside it.
        figures: where the sheets go.
        audits: whether to audit and compare; if not, models are trained and no more.
    """
    models, folder = FAMILIES[family], FAMILIES[family].own(folder)
    methods = tuple(models.methods) if methods is None else methods
    for concept in concepts:
        base, control = (f"--model.diffusion.base={name}" for name in (models.base, models.controls[concept]))
        asked = {"vanilla": [base], "never-knew": [control, "--model.role=control"]}
        for method in methods:
            erasure = folder / concept / "models" / method
            if not (erasure / WEIGHTS_FILE).is_file():
                print(f"== {concept}: training {method}", flush=True)
                recipe, name = (
                    models.erase / f"{models.methods[method][0]}.yaml",
                    f"{RECIPES}/concepts/{concept}.yaml",
                )
                options = models.methods[method][1] + models.options.get((method, concept), [])
                place = f"--trainer.default_root_dir={erasure}"
                run(["fit", f"--config={recipe}", f"--model.concept={name}", place, *options])
            asked[method] = [base, f"--model.diffusion.erasure={erasure}"]
        if not audits:
            continue
        for name, options in asked.items():
            place = folder / concept / name
            if not ((place / RUN_FILE).is_file() and RunInfo.load(place).complete):
                print(f"== {concept}: auditing {name}", flush=True)
                recipe, more = RECIPES / "audit" / f"{concept}.yaml", "--data.prompted=48"
                run(["predict", f"--config={recipe}", *options, more, f"--trainer.default_root_dir={place}"])
        report([folder / concept / name for name in asked], folder / concept)
        _sheet(models, folder / concept, concept, methods, figures / f"erasure{models.suffix}-{concept}.png")
    if not audits:
        return
    found = [file for name in models.controls if (file := folder / name / "results.json").is_file()]
    rows = [row for file in found for row in _rows(file)]
    out.parent.mkdir(parents=True, exist_ok=True)
    models.own(out).with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    write(out.with_suffix(".md"))


def _rows(file: Path) -> list[dict[str, Any]]:
    results = json.loads(file.read_text())
    rows = []
    for entry in results["runs"]:
        names = ("prompted", "retained", "retained_by_factor", "forgetting", "fraction", "damage")
        row = {"concept": results["concept"], "model": entry["name"], "role": entry["role"]}
        row |= {name: entry[name] for name in names}
        row |= {name: entry["paper"][name] for name in ("relative_distance", "relative_distance_w2_squared")}
        numbers = {name: entry["probes"][name]["numbers"] for name in ("denoising", "seed")}
        row["fraction_empty"] = numbers["denoising"]["surprise_empty"]["fraction"]
        row |= {f"{name}_seeds": numbers["seed"]["nll"][name] for name in ("forgetting", "fraction")}
        row["verdict"] = entry["verdict"]["category"]
        model = file.parent / "models" / entry["name"]
        if (model / WEIGHTS_FILE).is_file():
            provenance = entry["provenance"]["model"]["erasure"]
            with safe_open(model / WEIGHTS_FILE, "pt") as tensors:
                shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
            row["parameters"] = sum(_product(shape) for shape in shapes)
            row["bytes"] = (model / WEIGHTS_FILE).stat().st_size
            row |= json.loads((model / COST_FILE).read_text())
            row |= {"steps": provenance["steps"], "settings": provenance["settings"]}
        rows.append(row)
    return rows


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _sheet(family: Family, folder: Path, concept: str, methods: tuple[str, ...], file: Path) -> None:
    """Five prompts for the concept, seven for other things."""
    shown: dict[str, tuple[str, Path | None]]
    shown = {"vanilla": (family.base, None), "never knew": (family.controls[concept], None)}
    shown |= {method: (family.base, folder / "models" / method) for method in methods}
    sheet(shown, [picture.caption for picture in PROMPTS[concept]], file)


_OTHERS = (
    Pictogram("anchor", "yellow", "black", "outline"),
    Pictogram("heart", "green", "white", "solid"),
    Pictogram("airplane", "white", "blue", "outline"),
    Pictogram("skull", "white", "black", "solid"),
    Pictogram("telephone", "red", "yellow", "outline"),
    Pictogram("knight", "black", "green", "solid"),
    Pictogram("snowflake", "blue", "white", "outline"),
)
_SOME = (("red", "blue"), ("white", "green"), ("black", "yellow"), ("blue", "white"), ("green", "red"))
PROMPTS = {
    "umbrella": (*(Pictogram("umbrella", *pair, "solid") for pair in _SOME), *_OTHERS),
    "striped": (
        *(
            Pictogram(thing, *pair, "striped")
            for thing, pair in zip(("castle", "anchor", "heart", "skull", "gear"), _SOME, strict=True)
        ),
        *_OTHERS,
    ),
}


if __name__ == "__main__":
    auto_cli(main)
