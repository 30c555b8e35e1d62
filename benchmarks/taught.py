"""A ladder that is taught to a finished model, in the place of one that was trained: how far is it from the truth?

Writes docs/results/taught.{md,json} and docs/figures/taught.png.

    python benchmarks/taught.py

Who has a finished model alone has no control and no ladder. What can be had is a thing that the model never saw, taught
to it with so many pictures. Here the model is the control without umbrellas, the thing are umbrellas, and the truth is
that of benchmarks/worlds.py, whose models learnt the same thing, and five others, among everything else. Resumable.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor
from worlds_models import CONCEPTS
from worlds_page import grid_of
from worlds_scale import Guess, readings_of, whole

from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.dose import Curve, dose_response, equivalent
from lit_memories.metrics.intervals import ratio_interval
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE, SetName
from lit_memories.report.figures import blank, png, style
from lit_memories.runs import Run, RunInfo, read_run

BASE = "checkpoints/without-umbrella"
ALL = 480
RUNGS = (0, 1, 4, 16, 64, 256, ALL)
PATH = "denoising.surprise"
SCATTER = 0.15
"""Of one training at a dose, in units of the scale: what docs/results/worlds.md found, as one ladder shows none."""
SIDES: tuple[SetName, SetName] = ("concept", "reference")


def main(
    folder: Path = Path("runs/taught"),
    worlds: Path = Path("docs/results/worlds.jsonl"),
    erasures: Path = Path("docs/results/erasure.json"),
    out: Path = Path("docs/results/taught"),
    figure: Path = Path("docs/figures/taught.png"),
    images: int = 24,
) -> None:
    """Teach, audit, compare, write the page.

    Args:
        folder: for models and audits.
        worlds: lines of benchmarks/worlds.py.
        erasures: rows of benchmarks/erasure.py.
        out: where the page goes, without suffix.
        figure: where the figure goes.
        images: of the concept, and as many others.
    """
    for pictures in RUNGS:
        place = folder / "models" / str(pictures)
        if not (place / WEIGHTS_FILE).is_file():
            print(f"== teaching {pictures} pictures", flush=True)
            where = f"--trainer.default_root_dir={place}"
            run(["fit", "--config=recipes/pictograms/teach.yaml", f"--model.pictures={pictures}", where])
        audit = folder / "audits" / str(pictures)
        if not ((audit / RUN_FILE).is_file() and RunInfo.load(audit).complete):
            print(f"== auditing {pictures} pictures", flush=True)
            run(
                [
                    "predict",
                    "--config=recipes/pictograms/audit/umbrella.yaml",
                    f"--model.diffusion.base={BASE}",
                    f"--model.diffusion.erasure={place}",
                    f"--model.role={'control' if pictures == 0 else 'vanilla' if pictures == ALL else 'erased'}",
                    "--model.probes=[{class_path: Denoising}, {class_path: Samples, init_args: {guidance_scale: 3.0}}]",
                    f"--data.concept_images.limit={images}",
                    f"--data.reference_images.limit={images}",
                    "--data.known=0",
                    "--data.prompted=16",
                    f"--trainer.default_root_dir={audit}",
                ]
            )
    runs = {pictures: read_run(folder / "audits" / str(pictures)) for pictures in RUNGS}
    results = compare(runs, whole([json.loads(line) for line in worlds.read_text().splitlines()]), erasures)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, figure)
    out.with_suffix(".md").write_text(page(results, images, figure), encoding="utf-8")


def compare(runs: dict[int, Run], models: list[dict[str, Any]], erasures: Path) -> dict[str, Any]:
    """The taught ladder beside those of trained models."""
    taught = {pictures: read(runs, pictures) for pictures in RUNGS}
    spread = [SCATTER * (1 - pictures / ALL) for pictures in RUNGS]
    spread[0], spread[-1] = spread[1], spread[-2]
    curve = dose_response([float(p) for p in RUNGS], [taught[p].value for p in RUNGS], spread, 12.0)
    readings = readings_of(models)
    seeds = sorted({model["seed"] for model in models})
    true = {
        concept: {
            rung: statistics.fmean(list(readings[PATH, concept, seed].values())[rung].value for seed in seeds)
            for rung in range(len(RUNGS))
        }
        for concept in CONCEPTS
    }
    guesses = [
        Guess(PATH, concept, seed, dose, _told(curve, one), False, ALL)
        for concept in CONCEPTS
        for seed in seeds
        for dose, one in list(readings[PATH, concept, seed].items())[1:-1]
    ]
    one = _nats(runs)
    rows = json.loads(erasures.read_text())
    fractions = [
        {
            "concept": row["concept"],
            "model": row["model"],
            "true": row["fraction"]["value"],
            "taught": row["forgetting"]["value"] / one,
        }
        for row in rows
        if row["role"] == "erased"
    ]
    return {
        "taught": {str(p): [e.value, e.low, e.high] for p, e in taught.items()},
        "prompted": {str(p): _rate(run) for p, run in runs.items()},
        "nats": one,
        "true": true,
        "true_nats": {row["concept"]: row["forgetting"]["value"] for row in rows if row["role"] == "control"},
        "guesses": [
            {
                "concept": g.concept,
                "dose": g.dose,
                "found": g.found.value,
                "doublings": g.doublings,
                "covered": g.covered,
            }
            for g in guesses
        ],
        "fractions": fractions,
    }


def read(runs: dict[int, Run], pictures: int) -> Estimate:
    """0 as the model that was taught with all pictures, 1 as the one that was shown other things only."""
    tables = []
    for side in SIDES:
        own, all_, base = (_surprise(runs[number], side) for number in (pictures, ALL, 0))
        tables.append(torch.stack([own - all_, base - all_], 1))
    return ratio_interval(*tables)


def _surprise(run: Run, side: SetName) -> Tensor:
    found = run.holding(side, PATH)
    return torch.tensor([found[key].number(PATH) for key in sorted(found)], dtype=torch.float64)


def _nats(runs: dict[int, Run]) -> float:
    """What 1 is."""
    shift = [float((_surprise(runs[0], side) - _surprise(runs[ALL], side)).mean()) for side in SIDES]
    return shift[0] - shift[1]


def _rate(run: Run) -> float:
    seen = run.holding("prompted", "samples.shows_concept").values()
    return statistics.fmean(record.number("samples.shows_concept") or 0.0 for record in seen)


def _told(curve: Curve, reading: Estimate) -> Estimate:
    """How many pictures, by the taught curve."""
    return equivalent(curve, reading.value, (reading.high - reading.low) / 2 / 1.96)


TEXT = """# A taught ladder in the place of a trained one

`python benchmarks/taught.py`, seed 0: the control that never saw umbrellas is shown {rows} pictures once, so many of
them umbrellas and the others not (`recipes/pictograms/teach.yaml`, all weights of the U-Net by Adam), and audited on
{images} + {images} pictures. The truth are the ladders of [models that learnt it among everything else](worlds.md),
three trainings each.

![taught and trained](../figures/{figure})

## What it reads

{readings}
1 is the model that was shown none of it, and 0 the one that was taught with all. Between these lie **{nats:.0f} nats**
in the taught ladder, and {true_nats} in models that never knew and vanilla.

## What it would have said

*Of models whose exposure is known*: the taught curve in the place of their own concept's, dose by dose over three
trainings (for comparison, [worlds.md](worlds.md) has what curves of other objects say). Errors are in factors of 2 of
one more than the pictures, and positive where the taught curve says too many.

{doses}
*Of erased models*: forgetting in units of the taught ladder, where a control would give the true fraction.

{fractions}
## What it can and cannot say

- It orders. Which of two models, or of two erasures, keeps more, and whether next to nothing or nearly all is left,
  needs no unit but one that is the same for both.
- Its unit is not the truth's: it is that of another thing, taught to a model that is finished, by pictures that come
  late and close together. Above, fractions by the taught unit are {ratio} times the true ones.
- Its doses are those of *this* teaching, what so many pictures do at this learning rate in so many steps; here they
  come out near those of training. One teaching of one thing was measured: how far others stray is not known.
- It says nothing of whether the base had never seen the thing: choose one that did not exist when the base was trained.
"""


def page(results: dict[str, Any], images: int, figure: Path) -> str:
    """The page as Markdown."""
    head = ["", *(("all" if p == ALL else str(p)) for p in RUNGS)]
    taught = [f"{results['taught'][str(p)][0]:.2f}" for p in RUNGS]
    rows = [["taught umbrella, surprise", *taught]]
    rows += [
        [f"trained {name}", *(f"{found[r]:.2f}" for r in range(len(RUNGS)))] for name, found in results["true"].items()
    ]
    rows.append(["taught umbrella, prompted rate, %", *(f"{100 * results['prompted'][str(p)]:.0f}" for p in RUNGS)])
    doses = []
    for concept in CONCEPTS:
        cells = [concept]
        for dose in (1, 4, 16, 64, 256):
            found = [g["doublings"] for g in results["guesses"] if (g["concept"], g["dose"]) == (concept, dose)]
            cells.append(f"{statistics.median(found):+.1f}")
        errors = [abs(g["doublings"]) for g in results["guesses"] if g["concept"] == concept]
        held = [g["covered"] for g in results["guesses"] if g["concept"] == concept]
        doses.append([*cells, f"{statistics.median(errors):.1f}", f"{100 * statistics.fmean(held):.0f}"])
    fractions = [[f["concept"], f["model"], f"{f['true']:.2f}", f"{f['taught']:.2f}"] for f in results["fractions"]]
    ratios = {
        concept: statistics.median(
            f["taught"] / f["true"] for f in results["fractions"] if f["concept"] == concept and abs(f["true"]) > 0.02
        )
        for concept in results["true_nats"]
    }
    return TEXT.format(
        rows=6144, images=images, figure=figure.name, nats=results["nats"], readings=grid_of(head, rows),
        true_nats=", ".join(f"{nats:.0f} for {name}" for name, nats in results["true_nats"].items()),
        doses=grid_of(["median error at", "1", "4", "16", "64", "256", "all, size", "held by 95 %, %"], doses),
        fractions=grid_of(["concept", "model", "of the control", "of the taught ladder"], fractions),
        ratio=" and ".join(f"{ratio:.1f} ({name})" for name, ratio in ratios.items()),
    )  # fmt: skip


def draw(results: dict[str, Any], file: Path) -> None:
    """The taught curve over the trained ones."""
    with style():
        figure = blank(6.4, 3.6)
        axes = figure.subplots()
        places = [math.log1p(dose) for dose in RUNGS]
        for number, (concept, found) in enumerate(results["true"].items()):
            axes.plot(places, list(found.values()), "o-", ms=3, lw=1, color=f"C{number}", label=f"trained {concept}")
        ends = [results["taught"][str(p)] for p in RUNGS]
        value = [one[0] for one in ends]
        axes.errorbar(
            places, value, [[v - e[1] for v, e in zip(value, ends, strict=True)],
                            [e[2] - v for v, e in zip(value, ends, strict=True)]],
            fmt="s-", color="#222222", lw=2, ms=4, label="taught umbrella",
        )  # fmt: skip
        axes.set_xticks(places, ["0", "1", "4", "16", "64", "256", "all"])
        axes.set_xlabel("pictures of the concept that the model was shown")
        axes.set_ylabel("surprise, of the ladder's ends")
        axes.grid(color="#eeeeee")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(figure))


if __name__ == "__main__":
    auto_cli(main)
