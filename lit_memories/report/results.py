"""``results.json``: the report's numbers for programs, in the types of `lit_memories.report.schema`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from torch import Tensor

from lit_memories.metrics.null import Null
from lit_memories.numbers import Asked
from lit_memories.records import finite
from lit_memories.report.exposure import pictures
from lit_memories.report.hygiene import precision_sentences
from lit_memories.report.schema import (
    RESULTS_SCHEMA,
    ImageLevelResult,
    MemoriesResult,
    ProbeResult,
    ProvenanceResult,
    Results,
    RunResult,
    VerdictResult,
)
from lit_memories.report.verdict import Verdict
from lit_memories.runs import Run, RunInfo
from lit_memories.statistics.image_level import Memories, image_notes
from lit_memories.statistics.pairing import Comparison, expected
from lit_memories.statistics.quantities import RunStatistics, Summary


@dataclass(frozen=True)
class ConceptLevel:
    """What a report knows of its concept-level runs."""

    comparison: Comparison
    summary: Summary
    verdicts: list[Verdict]


def results(level: ConceptLevel | None, memories: Sequence[Memories], draws: int, seed: int) -> Results:
    """Everything a report knows, ready for JSON.

    Args:
        level: the concept-level runs, if there are any.
        memories: the image-level runs.
        draws: resamples of the bootstrap, and relabellings of tests.
        seed: of both.
    """
    info = memories[0].run.info if level is None else level.comparison.runs[0].info
    null = Null(info.dimension)
    found: Results = {
        "schema": RESULTS_SCHEMA,
        "version": release(),
        "concept": info.concept,
        "vanilla": None,
        "control": None,
        "settings": None,
        "scale": None,
        "null": {"dimension": info.dimension, "mean": null.mean, "sd": null.sd},
        "resampling": {"draws": draws, "seed": seed},
        "notes": [],
        "precision": [],
        "judge": None,
        "runs": [],
        "memories": _image_level(memories) if memories else None,
    }
    if level is not None:
        summary = level.summary
        runs = zip(summary.runs, level.verdicts, level.comparison.runs, strict=True)
        found |= {
            "vanilla": summary.vanilla.name,
            "control": summary.control,
            "settings": info.settings,
            "scale": summary.scale,
            "notes": list(summary.notes),
            "precision": precision_sentences(summary),
            "judge": _plain(summary.judge),
            "runs": [_run(statistics, verdict, run) for statistics, verdict, run in runs],
        }
    return found


def to_json(found: Mapping[str, Any]) -> str:
    """The text of ``results.json``, or of another file of numbers; NaN and infinity become null."""
    return json.dumps(_plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run(statistics: RunStatistics, verdict: Verdict, run: Run) -> RunResult:
    names = RunResult.__annotations__.keys() - {"verdict", "provenance", "probes", "exposures"}
    values = {name: _plain(getattr(statistics, name)) for name in names}
    values["verdict"] = _verdict(verdict)
    values["provenance"] = _provenance(run.info, run)
    values["probes"] = {name: _probe(asked, statistics) for name, asked in statistics.asked.items()}
    values["exposures"] = {
        path: {"pictures": _plain(found), "words": pictures(found)} for path, found in statistics.exposures.items()
    }
    return cast(RunResult, {name: values[name] for name in RunResult.__annotations__})


def _probe(asked: Asked, statistics: RunStatistics) -> ProbeResult:
    paths = {number.name: asked.path(number) for number in asked.numbers}
    return {
        "question": asked.question,
        "settings": _plain(asked.settings),
        "sets": list(asked.sets),
        "cost": statistics.cost.get(asked.name, {}),
        "numbers": {
            name: _plain(statistics.numbers[path]) for name, path in paths.items() if path in statistics.numbers
        },
    }


def _image_level(memories: Sequence[Memories]) -> ImageLevelResult:
    runs = [found.run for found in memories]
    return {
        "settings": runs[0].info.settings,
        "notes": image_notes(memories),
        "runs": [
            cast(
                MemoriesResult,
                {
                    "name": found.name,
                    "role": found.role,
                    **{name: _plain(getattr(found, name)) for name in ("queries", "euclidean", "cosine", "stages")},
                    "provenance": _provenance(found.run.info, found.run),
                },
            )
            for found in memories
        ],
    }


def _verdict(verdict: Verdict) -> VerdictResult:
    return {
        "category": verdict.category,
        "headline": verdict.headline,
        "sentences": list(verdict.sentences),
        "limits": list(verdict.limits),
    }


def _provenance(info: RunInfo, run: Run) -> ProvenanceResult:
    return {
        "folder": str(run.folder),
        "settings_hash": info.settings_hash,
        "model": info.model,
        "data": info.data,
        "versions": info.versions,
        "precision": info.precision,
        "complete": not run.gaps,
        "records": len(run.records),
        "records_expected": expected(info),
    }


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(value, field.name)) for field in fields(value)]


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON knows them."""
    if is_dataclass(value):
        return {name: _plain(part) for name, part in _items(value)}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return finite(value)
    return value


def release() -> str:
    """The version of this package, which results and pages name."""
    try:
        return version("lit-memories")
    except PackageNotFoundError:
        return "unknown"
