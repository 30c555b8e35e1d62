"""Records to numbers. The mathematics is that of `lit_memories.metrics`; here is only what goes into it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lit_memories.metrics import functional
from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.inference import images_to_resolve, resolvable
from lit_memories.metrics.intervals import mean_interval, paired_rate_interval
from lit_memories.metrics.null import Null
from lit_memories.records import SETS, Record, Run, SetName
from lit_memories.report.conditionings import conditioned
from lit_memories.report.convergence import converged_share, unmeasured
from lit_memories.report.pairing import PAIRED, Comparison, unreadable
from lit_memories.report.placebos import placebos
from lit_memories.report.quantities import InverterStatistics, RunStatistics, SetStatistics, Summary
from lit_memories.report.shifts import Shifts, shifts

Statistic: TypeAlias = Callable[..., Tensor]
Bootstrap: TypeAlias = Callable[[Statistic, Sequence[Tensor]], Estimate]
GOAL, GOAL_SHARE = 5.0, 0.1
"""What is worth resolving: so many nats or, with a control, this share of its forgetting."""


def summarise(comparison: Comparison, draws: int = 10_000, seed: int = 0) -> Summary:
    """Compute every statistic of every run.

    Args:
        comparison: runs that may be compared.
        draws: resamples of the bootstrap, and relabellings of tests.
        seed: of both; the same for every statistic.
    """
    info = comparison.runs[0].info
    null = Null(info.dimension)
    control = comparison.control
    summary = Summary(
        concept_name=info.concept,
        runs=tuple(_run(comparison, row, null, draws, seed) for row in range(len(comparison.runs))),
        control=None if control is None else comparison.runs[control].info.name,
        dimension=info.dimension,
        null_mean=null.mean,
        null_sd=null.sd,
        guidance_scale=_guidance(info.settings),
        inverter=_inverter_name(info.settings),
        notes=comparison.notes,
    )
    return replace(summary, runs=tuple(_with_goal(summary, row, comparison) for row in range(len(summary.runs))))


def _with_goal(summary: Summary, row: int, comparison: Comparison) -> RunStatistics:
    """A run with what its images resolve, and how many it takes to resolve what is worth it."""
    control = summary.control_run
    goal = GOAL_SHARE * abs(control.forgetting.value) if summary.calibrated and control is not None else GOAL
    least, images = _resolution(_moved(comparison, row), goal)
    return replace(summary.runs[row], resolvable=least, goal=goal, images_needed=images)


def find(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a name anywhere in nested settings, outermost first, or None."""
    if name in settings:
        return settings[name]
    nested = (find(value, name) for value in settings.values() if isinstance(value, Mapping))
    return next((value for value in nested if value is not None), None)


def _guidance(settings: Mapping[str, Any]) -> float | None:
    value = find(settings, "guidance_scale")
    return float(value) if isinstance(value, int | float) else None


def _inverter_name(settings: Mapping[str, Any]) -> str | None:
    value = find(settings, "inverter")
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("class_path", "name", "class") if key in value), None)
    return value.rsplit(".", 1)[-1] if isinstance(value, str) else None


def _moved(comparison: Comparison, row: int) -> Shifts:
    moved = shifts(comparison, row)
    if moved is None:  # a comparison has been checked for that
        raise ValueError(f"{comparison.runs[row].folder} has no image in common with vanilla's run")
    return moved


def _run(comparison: Comparison, row: int, null: Null, draws: int, seed: int) -> RunStatistics:
    run, vanilla, moved = comparison.runs[row], comparison.runs[comparison.vanilla], _moved(comparison, row)
    used = {name: comparison.used(row, name) for name in PAIRED}
    nll = [_values(used[name], "nll") for name in PAIRED]
    boot = partial(bootstrap, draws=draws, seed=seed)
    retained = _met(run)
    prompts = [record.prompt for record in used["reference"]]
    distance = partial(functional.relative_distance, null=null)
    return RunStatistics(
        name=run.info.name,
        role=run.info.role,
        concept=_set(used["concept"], moved.concept, null, boot),
        reference=_set(used["reference"], moved.reference, null, boot),
        relative_distance=boot(distance, nll),
        relative_distance_w2_squared=boot(partial(distance, form="w2_squared"), nll),
        forgetting=moved.forgetting,
        fraction=moved.fraction,
        damage=moved.damage,
        prompted=_rate(_present(run.of("prompted"), "shows_concept")),
        unprompted=_rate(_present(run.of("unprompted"), "shows_concept")),
        retained=_rate(retained.values()),
        retained_by_factor=_by_factor(run),
        retained_change=_change(retained, _met(vanilla)),
        conditionings=conditioned(comparison, row, draws, seed),
        typicality=_atypical(used["concept"]),
        likelihood=_likelihood(comparison, row),
        reach=_mean(used["concept"], "reach"),
        reach_change=_reach_change(comparison, row),
        placebos=placebos(moved.reference, prompts, run.info.concept, draws, seed),
        resolvable=None,
        goal=GOAL,
        images_needed=None,
        inverter=_inverter(run),
        precision=run.info.precision,
        pairing={name: comparison.pairing(row, name) for name in PAIRED},
        records={name: sum(record.set == name for record in run.records) for name in SETS},
        used={**{name: len(run.of(name)) for name in SETS}, **{name: len(used[name]) for name in PAIRED}},
        flags=dict(sorted(Counter(record.flag for record in run.records if record.flag is not None).items())),
        unreadable=unreadable(run.info),
    )


def _set(records: Sequence[Record], shift: Tensor, null: Null, boot: Bootstrap) -> SetStatistics:
    nll = _values(records, "nll")
    return SetStatistics(
        count=len(records),
        psnr=_mean(records, "psnr"),
        psnr_ceiling=_mean(records, "psnr_ceiling"),
        psnr_round_trip=_mean(records, "psnr_round_trip"),
        nll=mean_interval(nll),
        nll_sd=boot(lambda x: x.std(-1, correction=0), [nll]),
        z=mean_interval(null.z_score(nll)),
        w1=boot(lambda x: functional.earth_movers_distance(x, null), [nll]),
        shift=mean_interval(shift),
        seen=_rate(_present(records, "shows_concept")),
    )


def _atypical(records: Sequence[Record], level: float = 0.05) -> dict[str, Estimate]:
    """Share of seeds that each test of typicality, and all together, tell from the prior's."""
    tests = [record.typicality for record in records if record.typicality]
    rates = {
        name: _rate(float(p < level) for p in (test[name][1] for test in tests) if p is not None)
        for name in (tests[0] if tests else {})
    }
    return {name: rate for name, rate in rates.items() if rate is not None}


def _resolution(moved: Shifts, goal: float) -> tuple[float | None, int | None]:
    """What the sets resolve, from how much the shifts of their images scatter, and how many images the goal takes."""
    sets = [moved.concept, moved.reference]
    if min(map(len, sets)) < 2 or not any(shift.any() for shift in sets):
        return None, None
    (concept, n), (reference, m) = ((float(shift.std()), len(shift)) for shift in sets)
    return resolvable(concept, n, reference, m), images_to_resolve(goal, concept, reference)


def _changes(comparison: Comparison, row: int, name: SetName, number: str) -> Tensor:
    """A number less vanilla's, of each image of a set that both measured it on."""
    pairs = zip(*comparison.shared([row, comparison.vanilla], name), strict=True)
    values = [(getattr(own, number), getattr(vanilla, number)) for own, vanilla in pairs]
    return torch.tensor([a - b for a, b in values if a is not None and b is not None], dtype=torch.float64)


def _reach_change(comparison: Comparison, row: int) -> Estimate | None:
    changes = _changes(comparison, row, "concept", "reach")
    return mean_interval(changes) if len(changes) else None


def _likelihood(comparison: Comparison, row: int) -> Estimate | None:
    """Forgetting in terms of the latents' own likelihood."""
    concept, reference = (-_changes(comparison, row, name, "log_likelihood") for name in PAIRED)
    return mean_interval(concept, reference) if len(concept) and len(reference) else None


def _inverter(run: Run) -> InverterStatistics:
    known = run.of("known")
    biases = _present(known, "nll_bias")
    # Guided inversions converge less often, and say nothing about seeds found under the own prompt. Flagged records
    # count: an inversion that failed is news about the inverter.
    own = [record for record in run.records if record.conditioning is None and record.evaluations is not None]
    residuals = _present(own, "residual")
    return InverterStatistics(
        known=len(known),
        nll_bias=_mean(known, "nll_bias"),
        worst_bias=max(map(abs, biases), default=None),
        seed_error=_mean(known, "seed_error"),
        inversions=len(own),
        unmeasured=sum(map(unmeasured, own)),
        converged=converged_share(own),
        evaluations=_mean(own, "evaluations"),
        worst_residual=max(residuals, default=None),
    )


def _present(records: Iterable[Record], name: str) -> list[float]:
    values = (getattr(record, name) for record in records)
    return [float(value) for value in values if value is not None]


def _values(records: Iterable[Record], name: str) -> Tensor:
    return torch.tensor(_present(records, name), dtype=torch.float64)


def _mean(records: Iterable[Record], name: str) -> Estimate | None:
    values = _values(records, name)
    return mean_interval(values) if len(values) else None


def _rate(values: Iterable[float]) -> Estimate | None:
    hits = [value > 0.5 for value in values]
    return wilson_interval(sum(hits), len(hits)) if hits else None


def _judged(run: Run, name: SetName) -> list[tuple[str, dict[str, bool]]]:
    return [(record.key, record.correct) for record in run.of(name) if record.correct]


def _met(run: Run) -> dict[str, float]:
    """For each retained sample, whether the judge sees every factor of its prompt."""
    return {key: float(all(correct.values())) for key, correct in _judged(run, "retained")}


def _by_factor(run: Run) -> dict[str, Estimate]:
    judged = [correct for _, correct in _judged(run, "retained")]
    factors = sorted({factor for correct in judged for factor in correct})
    rates = {factor: _rate(float(correct[factor]) for correct in judged if factor in correct) for factor in factors}
    return {factor: rate for factor, rate in rates.items() if rate is not None}


def _change(own: Mapping[str, float], vanilla: Mapping[str, float]) -> Estimate | None:
    changes = [own[key] - vanilla[key] for key in own if key in vanilla]
    return paired_rate_interval(changes.count(1), changes.count(-1), len(changes)) if changes else None
