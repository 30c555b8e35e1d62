"""Which number of an audit tells a model that knows a concept from one that never saw it?

Writes docs/results/validity.{md,json} and docs/figures/validity.png, of the flow pictograms the same with -flow, and of
both docs/results/validity-families.md.

    python benchmarks/validity.py
    python benchmarks/validity.py --family flow

Models of known truth: the base and the other concept's control have seen the concept, its own control never did; that
control taught for a while, which has seen the more of it the longer; random weights, which know nothing at all. Beside
them every erased model of benchmarks/erasure.py that is at hand: all by the plain audits made there, and those that
--models names by audits with every option on. Every number of an audit is asked, image by image, to order them.
Resumable: what is trained is not trained again, and complete audits are not run again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasure import FAMILIES, UNET, FamilyName
from families import Family
from jsonargparse import auto_cli
from validity_families import write
from validity_page import draw, page
from validity_scores import CONTROLS, ERASED, KNOWN, KNOWS, NEVER, TAUGHT, folder_of, score

from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE
from lit_memories.runs import RunInfo, read_run

LESSON = {"lr": 5e-4, "schedule": "constant_with_warmup", "warmup_steps": 4}
"""How the control is taught: far more gently than it was trained, on all pictures."""


@dataclass(frozen=True)
class Effort:
    """How much is asked of models.

    Args:
        images: of the concept, and as many others, for models of known truth.
        other_images: the same for taught and erased models.
        conditionings: under what else images are inverted, in models of known truth.
        other_conditionings: the same in taught and erased models.
        erased: rows of benchmarks/erasure.py that are audited with every option on.
    """

    images: int
    other_images: int
    conditionings: tuple[str, ...]
    other_conditionings: tuple[str, ...]
    erased: tuple[str, ...]


EFFORTS = {
    "unet": Effort(32, 16, ("empty", "own@3", "shuffled"), ("empty",), ERASED),
    "flow": Effort(16, 12, ("empty",), ("empty",), ()),
}
"""By family; of the flow as much as half an hour of one core a concept allows."""


def main(
    family: FamilyName = "unet",
    concepts: tuple[str, ...] = tuple(CONTROLS),
    models: tuple[str, ...] | None = None,
    folder: Path = Path("runs/validity"),
    erasures: Path = Path("runs/erasure-table"),
    out: Path = Path("docs/results/validity"),
    figure: Path = Path("docs/figures/validity.png"),
) -> None:
    """Audit, score every number, write the page.

    Args:
        family: of the models; folders, pages and figures of the flow's have its suffix behind their names.
        concepts: umbrella, striped.
        models: which to audit with every option on, of vanilla, knows, never knew, random, taught N, and the rows of
            benchmarks/erasure.py; None: those of the family's effort. The page shows all that are audited.
        folder: for audits and taught models.
        erasures: where benchmarks/erasure.py left its models and their plain audits.
        out: where the tables go, without suffix.
        figure: where the figure goes.
    """
    kind, effort = FAMILIES[family], EFFORTS[family]
    folder, erasures, page_file = kind.own(folder), kind.own(erasures), kind.own(out)
    figure = figure.with_name(f"{figure.stem}{kind.suffix}{figure.suffix}")
    usual = (*KNOWN, *TAUGHT, *effort.erased)
    models = usual if models is None else models
    for concept in concepts:
        known = _known(kind, concept)
        for name, options in (known | _taught(concept, folder) | _erased(family, concept, erasures)).items():
            if name not in models:
                continue
            if name in known:
                _audit(concept, name, folder, options, effort.images, effort.conditionings)
                continue
            if name in TAUGHT:
                teach(concept, TAUGHT[name], folder / concept / "models" / folder_of(name), family=kind)
            lean = ["--data.known=0", f"--data.prompted={effort.other_images}"]
            _audit(concept, name, folder, options + lean, effort.other_images, effort.other_conditionings)
    results = {
        concept: score(concept, folder / concept, erasures / concept)
        for concept in CONTROLS
        if all((folder / concept / folder_of(name) / RUN_FILE).is_file() for name in KNOWN)
    }
    if not results:
        print(f"nothing to score yet: of no concept have all of {', '.join(KNOWN)} been audited")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    page_file.with_suffix(".json").write_text(_lines(results) + "\n")
    draw(results, figure)
    command = "python benchmarks/validity.py" + (f" --family {family}" if kind.suffix else "")
    text = page(results, command, usual, effort.images, effort.other_images, figure, page_file)
    page_file.with_suffix(".md").write_text(text)
    write(out)


def _known(family: Family, concept: str) -> dict[str, list[str]]:
    other = next(path for name, path in family.controls.items() if name != concept)
    base = f"--model.diffusion.base={family.base}"
    return {
        "vanilla": [base],
        KNOWS: [f"--model.diffusion.base={other}", "--model.role=erased"],
        NEVER: [f"--model.diffusion.base={family.controls[concept]}", "--model.role=control"],
        "random": [base, "--model.diffusion.weights=random"],
    }


def _taught(concept: str, folder: Path) -> dict[str, list[str]]:
    place = folder / concept / "models"
    return {name: [f"--model.diffusion.base={place / folder_of(name)}", "--model.role=erased"] for name in TAUGHT}


def _erased(name: FamilyName, concept: str, erasures: Path) -> dict[str, list[str]]:
    family = FAMILIES[name]
    found = {method: erasures / concept / "models" / method for method in family.methods}
    if missing := [method for method, place in found.items() if not (place / WEIGHTS_FILE).is_file()]:
        options = f"--family {name} --concepts '[{concept}]' --methods '[{', '.join(missing)}]'"
        print(f"{concept}: left out, as {erasures} does not hold them; to make them: benchmarks/erasure.py {options}")
    return {
        method: [f"--model.diffusion.base={family.base}", f"--model.diffusion.erasure={place}"]
        for method, place in found.items()
        if method not in missing
    }


def teach(concept: str, steps: int, place: Path, *options: str, family: Family = UNET) -> None:
    """Go on training the control that never saw the concept, on pictures that are not withheld from it.

    Args:
        concept: that it never saw.
        steps: of 32 pictures.
        place: for the model; nothing is done if it is there.
        *options: more of the command line.
        family: of the control.
    """
    if (place / "model_index.json").is_file():
        return
    print(f"== {concept}: teaching for {steps} steps", flush=True)
    vae, classifier = "checkpoints/pictograms/vae", "checkpoints/classifier"
    run(
        [
            "fit",
            f"--config={family.branch}",
            f"--model.init_from={family.controls[concept]}",
            f"--model.save_to={place}",
            f"--model.autoencoder={vae}",
            f"--model.classifier={classifier}",
            *(f"--model.{name}={value}" for name, value in LESSON.items()),
            f"--data.autoencoder={vae}",
            "--data.train_size=8192",
            f"--trainer.max_steps={steps}",
            "--trainer.val_check_interval=1",
            "--trainer.limit_val_batches=0",
            "--trainer.logger=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.callbacks=[]",
            f"--trainer.default_root_dir={place.parent / 'logs' / place.name}",
            *options,
        ]
    )


def _audit(
    concept: str, name: str, folder: Path, options: list[str], images: int, conditionings: tuple[str, ...]
) -> None:
    place = folder / concept / folder_of(name)
    if (place / RUN_FILE).is_file():
        info = RunInfo.load(place)
        there = info.data["concept"]["rows"] >= images and set(conditionings) <= set(read_run(place).conditionings)
        if info.complete and there:
            return
    print(f"== {concept}: {name}", flush=True)
    run(
        [
            "predict",
            f"--config=recipes/pictograms/audit/{concept}.yaml",
            f"--data.concept_images.limit={images}",
            f"--data.reference_images.limit={images}",
            f"--data.conditionings=[{', '.join(conditionings)}]",
            "--model.probes+=Likelihood",
            "--model.probes+=Reach",
            f"--trainer.default_root_dir={place}",
            *options,
        ]
    )


def _lines(results: dict[str, dict[str, Any]]) -> str:
    """JSON, a line a row of each table."""
    tables = []
    for concept, found in results.items():
        parts = []
        for name, rows in found.items():
            listed = isinstance(rows, list)
            shown = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]" if listed else json.dumps(rows)
            parts.append(f"{json.dumps(name)}: {shown}")
        tables.append(f"{json.dumps(concept)}: {{\n" + ",\n".join(parts) + "\n}")
    return "{\n" + ",\n".join(tables) + "\n}"


if __name__ == "__main__":
    auto_cli(main)
