"""How soon is it back? Models of known truth and erased ones, taught eight pictures of the concept again.

Writes docs/results/relearning.{md,json} and docs/figures/relearning.png.

    python benchmarks/erasure.py    # trains the erased models; those that are not at hand are left out
    python benchmarks/relearning.py

Every model has the same two lessons, of the concept and of castles, which no model forgot: a placebo. Each is taught in
all weights and by factors of rank 4. Resumable: complete audits are not run again.
"""

import json
from pathlib import Path

from erasure import CONTROLS, METHODS
from jsonargparse import auto_cli
from relearning_page import FORMS, draw, page, rows_of
from validity_scores import KNOWS, NEVER, WITHHELD

from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE
from lit_memories.runs import RunInfo, read_run


def main(
    concepts: tuple[str, ...] = tuple(CONTROLS),
    forms: tuple[str, ...] = tuple(FORMS),
    folder: Path = Path("runs/relearning"),
    erasures: Path = Path("runs/erasure-table"),
    out: Path = Path("docs/results/relearning"),
    figure: Path = Path("docs/figures/relearning.png"),
    images: int = 24,
    draw_pictures: bool = True,
) -> None:
    """Audit, compare, write the page of all that is there.

    Args:
        concepts: umbrella, striped.
        forms: of teaching, names of `relearning_page.FORMS`.
        folder: for audits.
        erasures: where benchmarks/erasure.py left its models.
        out: where the page goes, without suffix.
        figure: where the figure goes.
        images: of the concept and of castles, eight of each for the lesson.
        draw_pictures: whether the judge looks at pictures too.
    """
    for form in forms:
        for concept in concepts:
            for name, options in models_of(concept, erasures).items():
                place = folder / concept / form / name
                if (place / RUN_FILE).is_file() and RunInfo.load(place).complete:
                    continue
                print(f"== {concept}: teaching {name}, {form}", flush=True)
                probe = {"rank": FORMS[form], "draw": draw_pictures, "guidance_scale": 3.0}
                asked = [
                    {"class_path": "Denoising", "init_args": {"empty": False}},
                    {"class_path": "Relearning", "init_args": probe},
                ]
                factor, value = WITHHELD[concept]
                castles = {"keep": {"object": "castle"}, "withhold": [{factor: value}], "limit": images}
                source = json.dumps({"class_path": "PictogramSource", "init_args": castles})
                run(
                    [
                        "predict",
                        f"--config=recipes/pictograms/audit/{concept}.yaml",
                        f"--model.probes={json.dumps(asked)}",
                        f"--data.concept_images.limit={images}",
                        f"--data.reference_images={source}",
                        "--data.known=0",
                        "--data.prompted=0",
                        "--data.batch_size=16",
                        f"--trainer.default_root_dir={place}",
                        *options,
                    ]
                )
    found = {
        (concept, form): {
            name: read_run(folder / concept / form / name)
            for name in models_of(concept, erasures)
            if (folder / concept / form / name / RUN_FILE).is_file()
        }
        for concept in CONTROLS
        for form in FORMS
    }
    tables = {key: rows_of(runs) for key, runs in found.items() if {"vanilla", NEVER} <= runs.keys()}
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"concept": concept, "form": form, **row} for (concept, form), rows in tables.items() for row in rows]
    out.with_suffix(".json").write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n", encoding="utf-8")
    draw(found, figure)
    out.with_suffix(".md").write_text(page(tables, images, figure), encoding="utf-8")


def models_of(concept: str, erasures: Path) -> dict[str, list[str]]:
    """Options of every model, by name: those of known truth, and the erased ones that are at hand."""
    other = next(path for name, path in CONTROLS.items() if name != concept)
    found = {
        "vanilla": [],
        NEVER: [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
        KNOWS: [f"--model.diffusion.base={other}", "--model.role=erased"],
    }
    for method in METHODS:
        place = erasures / concept / "models" / method
        if (place / WEIGHTS_FILE).is_file():
            found[method] = [f"--model.diffusion.erasure={place}"]
    return found


if __name__ == "__main__":
    auto_cli(main)
