"""``results.json``: the report's numbers for programs; every field is described in ``docs/results-schema.md``."""

import json
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypedDict, cast

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.records import Run, RunInfo, finite
from lit_memories.report.conditionings import Conditioned
from lit_memories.report.pairing import Comparison, expected
from lit_memories.report.quantities import InverterStatistics, RunStatistics, SetStatistics, Summary
from lit_memories.report.verdict import Verdict

RESULTS_SCHEMA = 1


class EstimateResult(TypedDict):
    """A number with its interval; ends that are not known are None."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    count: int


class SetResult(TypedDict):
    """`SetStatistics`."""

    count: int
    psnr: EstimateResult | None
    psnr_ceiling: EstimateResult | None
    psnr_round_trip: EstimateResult | None
    nll: EstimateResult
    nll_sd: EstimateResult
    z: EstimateResult
    w1: EstimateResult
    shift: EstimateResult
    seen: EstimateResult | None


class InverterResult(TypedDict):
    """`InverterStatistics`."""

    known: int
    nll_bias: EstimateResult | None
    worst_bias: float | None
    seed_error: EstimateResult | None
    converged: EstimateResult | None
    evaluations: EstimateResult | None
    worst_residual: float | None


class VerdictResult(TypedDict):
    """`Verdict`."""

    category: str
    headline: str
    sentences: list[str]
    limits: list[str]


class ConditionedResult(TypedDict):
    """`Conditioned`."""

    label: str
    images: int
    forgetting: EstimateResult
    fraction: EstimateResult | None
    p: float


class ProvenanceResult(TypedDict):
    """Where a run comes from, as its ``run.json`` says."""

    folder: str
    settings_hash: str
    model: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    precision: str
    complete: bool
    records: int
    records_expected: int | None


class RunResult(TypedDict):
    """`RunStatistics` with verdict and provenance."""

    name: str
    role: str
    verdict: VerdictResult
    forgetting: EstimateResult
    fraction: EstimateResult | None
    damage: EstimateResult
    prompted: EstimateResult | None
    retained: EstimateResult | None
    retained_by_factor: dict[str, EstimateResult]
    retained_change: EstimateResult | None
    relative_distance: EstimateResult
    relative_distance_w2_squared: EstimateResult
    concept: SetResult
    reference: SetResult
    conditionings: list[ConditionedResult]
    typicality: dict[str, EstimateResult]
    likelihood: EstimateResult | None
    reach: EstimateResult | None
    resolvable: float | None
    inverter: InverterResult
    records: dict[str, int]
    used: dict[str, int]
    flags: dict[str, int]
    unreadable: dict[str, list[str]]
    provenance: ProvenanceResult


class NullResult(TypedDict):
    """The law of the NLL of a seed from the prior."""

    dimension: int
    mean: float
    sd: float


class PairingResult(TypedDict):
    """`Pairing`."""

    used: int
    left_out: int


class BootstrapResult(TypedDict):
    """How intervals were made."""

    draws: int
    seed: int
    method: str


class Results(TypedDict):
    """The whole file."""

    schema: int
    version: str
    concept: str
    vanilla: str
    control: str | None
    settings: dict[str, Any]
    null: NullResult
    bootstrap: BootstrapResult
    pairing: dict[str, PairingResult]
    notes: list[str]
    runs: list[RunResult]


def results(summary: Summary, verdicts: list[Verdict], comparison: Comparison, draws: int, seed: int) -> Results:
    """Everything a report knows, ready for JSON."""
    runs = zip(summary.runs, verdicts, comparison.runs, strict=True)
    return {
        "schema": RESULTS_SCHEMA,
        "version": _version(),
        "concept": summary.concept_name,
        "vanilla": summary.vanilla.name,
        "control": summary.control,
        "settings": comparison.runs[0].info.settings,
        "null": {"dimension": summary.dimension, "mean": summary.null_mean, "sd": summary.null_sd},
        "bootstrap": {"draws": draws, "seed": seed, "method": "bca"},
        "pairing": {
            name: {"used": pairing.used, "left_out": pairing.left_out} for name, pairing in summary.pairings.items()
        },
        "notes": list(summary.notes),
        "runs": [_run(statistics, verdict, run) for statistics, verdict, run in runs],
    }


def to_json(found: Results) -> str:
    """The text of ``results.json``; NaN and infinity become null."""
    return json.dumps(_plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run(statistics: RunStatistics, verdict: Verdict, run: Run) -> RunResult:
    values = {name: _plain(value) for name, value in _items(statistics)}
    values["verdict"] = _verdict(verdict)
    values["provenance"] = _provenance(run.info, run)
    return cast(RunResult, {name: values[name] for name in RunResult.__annotations__})


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
        "complete": info.complete,
        "records": len(run.records),
        "records_expected": expected(info),
    }


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(value, field.name)) for field in fields(value)]


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON knows them."""
    if isinstance(value, Estimate | SetStatistics | InverterStatistics | Conditioned):
        return {name: _plain(part) for name, part in _items(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return finite(value)
    return value


def _version() -> str:
    try:
        return version("lit-memories")
    except PackageNotFoundError:
        return "unknown"
