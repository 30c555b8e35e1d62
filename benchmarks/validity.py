"""Which number of an audit tells a model that knows a concept from one that never saw it?

Writes docs/results/validity.{md,json}.

    python benchmarks/validity.py

Four models of known truth a concept: the base and the other concept's control have seen it, its own control never did,
and random weights know nothing at all. Every number of an audit is asked, image by image, to tell the model that never
saw the concept from the one that did and differs in nothing else. Resumable: complete audits are not run again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from lit_memories.data.pictograms import FACTORS, parse_caption
from lit_memories.metrics.bootstrap import Estimate, bootstrap
from lit_memories.metrics.inference import auc, permutation_test
from lit_memories.metrics.typicality import TESTS
from lit_memories.recipes import run
from lit_memories.records import RUN_FILE, Record, RunInfo, SetName, read_run

CONTROLS = {"umbrella": "checkpoints/without-umbrella", "striped": "checkpoints/without-striped"}
WITHHELD = {"umbrella": ("object", "umbrella"), "striped": ("style", "striped")}
KNOWS, NEVER = "knows", "never knew"
CONDITIONINGS = ("empty", "own@3")
MEASURES: dict[str, tuple[Callable[[Record], float | None], str]] = {
    "NLL of the seed": (lambda r: r.nll, "up"),
    "PSNR": (lambda r: r.psnr, "down"),
    "PSNR to the round trip": (lambda r: r.psnr_round_trip, "down"),
    "concept seen in the rebuilt image": (lambda r: r.shows_concept, "down"),
    "minus log p(x)": (lambda r: None if r.log_likelihood is None else -r.log_likelihood, "up"),
    "reach": (lambda r: r.reach, "down"),
    **{
        f"typicality: {name.replace('_', ' ')}": (lambda r, name=name: (r.typicality or {}).get(name, [None])[0], "any")
        for name in TESTS
    },
}
"""Numbers of one image, and which way forgetting is said to move them."""


def main(
    concepts: tuple[str, ...] = tuple(CONTROLS),
    folder: Path = Path("runs/validity"),
    out: Path = Path("docs/results/validity"),
    images: int = 32,
) -> None:
    """Audit the models of known truth, and score every number.

    Args:
        concepts: umbrella, striped.
        folder: for audits.
        out: where the tables go, without suffix.
        images: of the concept, and as many others.
    """
    for concept in concepts:
        for name, options in _models(concept).items():
            place = folder / concept / name.replace(" ", "-")
            if not ((place / RUN_FILE).is_file() and RunInfo.load(place).complete):
                print(f"== {concept}: {name}", flush=True)
                _audit(concept, options, place, images)
    results = {
        concept: _score(concept, folder / concept)
        for concept in CONTROLS
        if all((folder / concept / name.replace(" ", "-") / RUN_FILE).is_file() for name in _models(concept))
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    out.with_suffix(".md").write_text(_page(results))


def _models(concept: str) -> dict[str, list[str]]:
    other = next(path for name, path in CONTROLS.items() if name != concept)
    return {
        "vanilla": [],
        KNOWS: [f"--model.diffusion.base={other}", "--model.role=erased"],
        NEVER: [f"--model.diffusion.base={CONTROLS[concept]}", "--model.role=control"],
        "random": ["--model.diffusion.weights=random"],
    }


def _audit(concept: str, options: list[str], place: Path, images: int) -> None:
    run(
        [
            "predict",
            f"--config=recipes/pictograms/audit/{concept}.yaml",
            f"--data.concept_images.limit={images}",
            f"--data.reference_images.limit={images}",
            f"--data.conditionings=[{', '.join(CONDITIONINGS)}]",
            "--model.likelihood_probes=1",
            "--model.reach_directions=2",
            f"--trainer.default_root_dir={place}",
            *options,
        ]
    )


def _score(concept: str, folder: Path) -> dict[str, Any]:
    runs = {name: read_run(folder / name.replace(" ", "-")) for name in _models(concept)}

    # By row: a record under another conditioning has another prompt, but shows the same image.
    seen = {
        (of, record.index)
        for of in ("concept", "reference")
        for record in runs["vanilla"].of(of)
        if not _shows_other(concept, record)
    }

    def records(name: str, of: SetName, conditioning: str | None = None) -> dict[str, Record]:
        found = runs[name].of(of, conditioning)
        return {record.key: record for record in found if (of, record.index) in seen}

    rows = []
    for label, (value, direction) in MEASURES.items():
        tables = {(name, of): _values(records(name, of), value) for name in runs for of in ("concept", "reference")}
        raw = {of: _auc(tables[NEVER, of], tables[KNOWS, of]) for of in ("concept", "reference")}
        paired = {of: _auc(*(_shift(tables[name, of], tables["vanilla", of]) for name in (NEVER, KNOWS))) for of in raw}
        rows.append({"measure": label, "direction": direction, "raw": raw, "paired": paired})
    for label in CONDITIONINGS:
        tables = {
            (name, of): _values(records(name, of, label), lambda r: r.nll)
            for name in runs
            for of in ("concept", "reference")
        }
        paired = {
            of: _auc(*(_shift(tables[name, of], tables["vanilla", of]) for name in (NEVER, KNOWS)))
            for of in ("concept", "reference")
        }
        raw = {of: _auc(tables[NEVER, of], tables[KNOWS, of]) for of in paired}
        rows.append({"measure": f"NLL of the seed, {label}", "direction": "up", "raw": raw, "paired": paired})
    counts = {of: sum(name == of for name, _ in seen) for of in ("concept", "reference")}
    return {"images": counts, "measures": rows, "placebos": _placebos(concept, runs)}


def _shows_other(concept: str, record: Record) -> bool:
    """Whether an image shows what the other control never saw: of it, that one is no model that knows."""
    factor, value = next(pair for name, pair in WITHHELD.items() if name != concept)
    return getattr(parse_caption(record.prompt), factor) == value


def _values(records: dict[str, Record], value: Callable[[Record], float | None]) -> dict[str, float]:
    return {key: found for key, record in records.items() if (found := value(record)) is not None}


def _shift(own: dict[str, float], vanilla: dict[str, float]) -> dict[str, float]:
    return {key: own[key] - vanilla[key] for key in own if key in vanilla}


def _auc(never: dict[str, float], knows: dict[str, float]) -> dict[str, Any] | None:
    keys = [key for key in never if key in knows]
    if len(keys) < 5:
        return None
    return _plain(auc(*(torch.tensor([table[key] for key in keys]).double() for table in (never, knows))))


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _placebos(concept: str, runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Forgetting of things both models have seen, which must not be distinguishable from none."""
    rows = []
    shifts = {
        name: {
            record.key: (record.nll - vanilla.nll, parse_caption(record.prompt))
            for record, vanilla in _pairs(runs[name], runs["vanilla"])
            if not _shows_other(concept, record)
        }
        for name in (NEVER, KNOWS)
    }
    for factor in ("color", "background", "style"):
        for value in FACTORS[factor]:
            for name, table in shifts.items():
                inside = [shift for shift, shown in table.values() if getattr(shown, factor) == value]
                outside = [shift for shift, shown in table.values() if getattr(shown, factor) != value]
                if min(len(inside), len(outside)) < 5 or (factor, value) == WITHHELD[concept]:
                    continue
                e, r = (torch.tensor(x).double() for x in (inside, outside))
                estimate = bootstrap(lambda a, b: a.mean(-1) - b.mean(-1), [e, r])
                p = permutation_test(e, r).p_value
                placebo = {"model": name, "factor": factor, "value": value, "images": len(inside), "p": p}
                rows.append(placebo | {"forgetting": _plain(estimate)})
    return rows


def _pairs(own: Any, vanilla: Any) -> list[tuple[Record, Record]]:
    known = {record.key: record for record in vanilla.of("reference")}
    return [(record, known[record.key]) for record in own.of("reference") if record.key in known]


def _page(results: dict[str, Any]) -> str:
    lines = [
        "# What each number of an audit can tell\n",
        "`python benchmarks/validity.py`, seed 0: audits of models of known truth with every option on (20 DDIM steps, "
        "one probe, two directions). For each number of an image the probability (AUC, 95 % interval) that it is "
        "higher in the control that never saw the concept than in the other control, which saw it and was trained "
        "alike. On concept images 0 or 1 tells them apart and 0.5 does not; on reference images, which both have seen, "
        "0.5 is right. Images that show what the other control never saw are left out. *Paired* takes vanilla's number "
        "of the same image off first.\n",
    ]
    for concept, found in results.items():
        lines += [
            f"## {concept}\n",
            f"{found['images']['concept']} concept and {found['images']['reference']} reference images.\n",
            "| number | concept | reference | concept, paired | reference, paired |",
            "|---|---|---|---|---|",
        ]
        for row in found["measures"]:
            cells = [row[how][of] for how in ("raw", "paired") for of in ("concept", "reference")]
            lines.append(f"| {row['measure']} | {' | '.join(map(_cell, cells))} |")
        placebos = found["placebos"]
        alarms = sum(entry["p"] < 0.05 for entry in placebos)
        lines.append(
            f"\nPlacebos: {len(placebos)} sets of reference images that share a colour, background or style were taken "
            f"for the concept; the permutation test calls {alarms} of them forgotten at level 0.05.\n"
        )
    return "\n".join(lines) + "\n"


def _cell(estimate: dict[str, Any] | None) -> str:
    return "–" if estimate is None else f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


if __name__ == "__main__":
    auto_cli(main)
