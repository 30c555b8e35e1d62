"""Every door: all attacks on vanilla, erased and never-knew models, and which of them are evidence of a memory.

Writes docs/results/attacks.{md,json}.

    python benchmarks/erasure.py     # trains the erased models; those that are not at hand are left out
    python benchmarks/replicates.py  # trains never-knew models of other trainings; the same
    python benchmarks/attacks.py

Attacks as recipes/pictograms/attack has them, all in one audit of a model, on the same pictures. Resumable: complete
audits are not run again, and a run that was stopped goes on with the attack that it was at.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from attacks_page import page, rows_of
from erasure import CONTROLS
from jsonargparse import auto_cli
from worlds_models import CONCEPTS

from lit_memories.attacks import ATTACKS
from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE
from lit_memories.runs import RunInfo, read_run

RECIPES = Path("recipes/pictograms/attack")
METHODS = ("esd", "uce", "salun", "spm", "advunlearn", "scissorhands")
OTHERS = (0, 1)
"""Training seeds of benchmarks/replicates.py whose never-knew models are attacked too."""


def main(
    concepts: tuple[str, ...] = tuple(CONTROLS),
    attacks: tuple[str, ...] = tuple(name for name in ATTACKS if name != "replay"),
    folder: Path = Path("runs/attacks"),
    erasures: Path = Path("runs/erasure-table"),
    replicates: Path = Path("runs/replicates"),
    out: Path = Path("docs/results/attacks"),
    images: int = 16,
    limit: int = 8,
) -> None:
    """Attack, compare, write the page of all that is there.

    Args:
        concepts: umbrella, striped.
        attacks: names of `lit_memories.attacks.ATTACKS`.
        folder: for audits.
        erasures: where benchmarks/erasure.py left its models.
        replicates: where benchmarks/replicates.py left its models.
        out: where the page goes, without suffix.
        images: of the concept that attacks may learn from or be tried on.
        limit: of these that an attack is tried on.
    """
    for concept in concepts:
        for name, options in models_of(concept, erasures, replicates).items():
            place = folder / concept / name
            info = RunInfo.load(place) if (place / RUN_FILE).is_file() else None
            if info is not None and info.complete and set(attacks) <= info.probes.keys():
                continue
            print(f"== {concept}: attacking {name}", flush=True)
            run(
                [
                    "predict",
                    f"--config={RECIPES}/plain.yaml",
                    f"--model.concept=recipes/pictograms/concepts/{concept}.yaml",
                    f"--model.probes={json.dumps(list(probes_of(attacks, limit)))}",
                    f"--data.concept_images.keep={json.dumps(CONCEPTS[concept])}",
                    f"--data.reference_images.withhold={json.dumps([CONCEPTS[concept]])}",
                    f"--data.concept_images.limit={images}",
                    f"--data.reference_images.limit={images}",
                    "--model.keep_images=2",
                    "--trainer.callbacks=[]",
                    "--trainer.enable_progress_bar=false",
                    f"--trainer.default_root_dir={place}",
                    *options,
                ]
            )
    found = {
        concept: {
            name: read_run(folder / concept / name)
            for name in models_of(concept, erasures, replicates)
            if (folder / concept / name / RUN_FILE).is_file()
        }
        for concept in CONTROLS
    }
    rows = [row for runs in found.values() if {"vanilla", "never-knew"} <= runs.keys() for row in rows_of(runs)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(rows, limit), encoding="utf-8")


def probes_of(attacks: tuple[str, ...], limit: int) -> Iterator[dict[str, Any]]:
    """The attacks as their recipes have them, on so many pictures each; plain draws as many as most of them ask."""
    asked: dict[str, dict[str, Any]] = {}
    for name in attacks:
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        for probe in recipe["model"]["init_args"]["probes"]:
            kinds = (n for n, kind in ATTACKS.items() if probe["class_path"].endswith(f".{kind.__name__}"))
            if (own := next(kinds, None)) is None:
                continue
            before = asked.get(own, {"init_args": {"draws": 0}})["init_args"].get("draws", 0)
            if own in attacks and (own != "plain" or probe["init_args"]["draws"] > before):
                asked[own] = probe
    for probe in asked.values():
        lesson = probe["init_args"].get("lesson", 0)
        yield {**probe, "init_args": {**probe["init_args"], "limit": limit + lesson}}


def models_of(concept: str, erasures: Path, replicates: Path) -> dict[str, list[str]]:
    """Options of every model, by name: those of known truth, and the erased ones that are at hand."""
    other = next(path for name, path in CONTROLS.items() if name != concept)
    found = {
        "vanilla": [],
        "knows": [f"--model.diffusion.base={other}", "--model.role=erased"],
        "never-knew": [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
    }
    for seed in OTHERS:
        place = replicates / "models" / f"seed{seed}-without-{concept}"
        if (place / "model_index.json").is_file():
            found[f"never-knew, training {seed}"] = [f"--model.diffusion.base={place}", "--model.role=erased"]
    for method in METHODS:
        place = erasures / concept / "models" / method
        if (place / WEIGHTS_FILE).is_file():
            found[method] = [f"--model.diffusion.erasure={place}"]
    return found


if __name__ == "__main__":
    auto_cli(main)
