"""Records to numbers. The mathematics is that of `lit_memories.metrics`; here is only what goes into it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lit_memories.metrics import functional
from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.inference import images_to_resolve, resolvable
from lit_memories.metrics.null import Null
from lit_memories.records import SETS, Record, Run, SetName
from lit_memories.report.conditionings import Conditioned, conditioned
from lit_memories.report.convergence import converged_share, unmeasured
from lit_memories.report.pairing import Comparison, unreadable
from lit_memories.report.placebos import Placebos, placebos
from lit_memories.report.quantities import InverterStatistics, RunStatistics, SetStatistics, Summary

Statistic: TypeAlias = Callable[..., Tensor]
Bootstrap: TypeAlias = Callable[[Statistic, Sequence[Tensor]], Estimate]
OWN, VANILLA, CONTROL = 0, 1, 2  # columns of a paired sample
GOAL, GOAL_SHARE = 5.0, 0.1
"""What is worth resolving: so many nats or, with a control, this share of its forgetting."""


@dataclass(frozen=True)
class Paired:
    """NLL of one run, vanilla and the control on the same images: what is resampled together.

    Args:
        concept: of E (n, 3), columns the run's own, vanilla's and the control's (vanilla's again without one).
        reference: of R (m, 3).
    """

    concept: Tensor
    reference: Tensor

    def estimate(self, statistic: Statistic, boot: Bootstrap, columns: Sequence[int]) -> Estimate:
        """Bootstrap a statistic of the columns of E followed by those of R."""

        def of_columns(concept: Tensor, reference: Tensor) -> Tensor:
            return statistic(*(concept[..., column] for column in columns), *(reference[..., c] for c in columns))

        return boot(of_columns, [self.concept, self.reference])


def summarise(comparison: Comparison, draws: int = 10_000, seed: int = 0) -> Summary:
    """Compute every statistic of every run.

    Args:
        comparison: paired runs.
        draws: resamples of the bootstrap.
        seed: of the resampling; the same for every statistic.
    """
    boot = partial(bootstrap, draws=draws, seed=seed)
    info = comparison.runs[0].info
    null = Null(info.dimension)
    calibrated = _calibrated(comparison, boot)
    control = comparison.control
    goal = GOAL if control is None or not calibrated else GOAL_SHARE * abs(_own_forgetting(comparison, control))
    return Summary(
        concept_name=info.concept,
        runs=tuple(
            _run(comparison, row, null, calibrated, goal, conditionings, _placebos(comparison, row, draws, seed), boot)
            for row, conditionings in enumerate(conditioned(comparison, boot, draws, seed))
        ),
        control=None if control is None else comparison.runs[control].info.name,
        dimension=info.dimension,
        null_mean=null.mean,
        null_sd=null.sd,
        guidance_scale=_guidance(info.settings),
        inverter=_inverter_name(info.settings),
        pairings=comparison.pairings,
        notes=comparison.notes,
    )


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


def _paired(comparison: Comparison, row: int) -> Paired:
    control = comparison.vanilla if comparison.control is None else comparison.control
    columns = (row, comparison.vanilla, control)
    return Paired(
        torch.stack([_values(comparison.concept[column], "nll") for column in columns], 1),
        torch.stack([_values(comparison.reference[column], "nll") for column in columns], 1),
    )


def _calibrated(comparison: Comparison, boot: Bootstrap) -> bool:
    """Whether there is a control whose own forgetting is distinguishable from none."""
    if comparison.control is None:
        return False
    own = _paired(comparison, comparison.control).estimate(functional.forgetting, boot, (OWN, VANILLA))
    return own.low > 0 or own.high < 0


def _own_forgetting(comparison: Comparison, row: int) -> float:
    paired = _paired(comparison, row)
    tables = (paired.concept, paired.reference)
    return float(functional.forgetting(*(table[:, column] for table in tables for column in (OWN, VANILLA))))


def _placebos(comparison: Comparison, row: int, draws: int, seed: int) -> Placebos | None:
    reference = _paired(comparison, row).reference
    prompts = [record.prompt for record in comparison.reference[row]]
    return placebos(reference[:, OWN] - reference[:, VANILLA], prompts, comparison.runs[row].info.concept, draws, seed)


def _run(
    comparison: Comparison,
    row: int,
    null: Null,
    calibrated: bool,
    goal: float,
    conditionings: tuple[Conditioned, ...],
    placebo: Placebos | None,
    boot: Bootstrap,
) -> RunStatistics:
    run, paired = comparison.runs[row], _paired(comparison, row)
    least, images = _resolution(paired, goal)
    retained = _met(run)
    distance = partial(functional.relative_distance, null=null)
    return RunStatistics(
        name=run.info.name,
        role=run.info.role,
        concept=_set(comparison.concept[row], paired.concept, null, boot),
        reference=_set(comparison.reference[row], paired.reference, null, boot),
        relative_distance=paired.estimate(distance, boot, (OWN,)),
        relative_distance_w2_squared=paired.estimate(partial(distance, form="w2_squared"), boot, (OWN,)),
        forgetting=paired.estimate(functional.forgetting, boot, (OWN, VANILLA)),
        fraction=paired.estimate(functional.forgetting_fraction, boot, (OWN, VANILLA, CONTROL)) if calibrated else None,
        damage=boot(lambda r: functional.damage(r[..., OWN], r[..., VANILLA]), [paired.reference]),
        prompted=_rate(_present(run.of("prompted"), "shows_concept")),
        unprompted=_rate(_present(run.of("unprompted"), "shows_concept")),
        retained=_rate(retained.values()),
        retained_by_factor=_by_factor(run),
        retained_change=_change(retained, _met(comparison.runs[comparison.vanilla]), boot),
        conditionings=conditionings,
        typicality=_atypical(comparison.concept[row]),
        likelihood=_likelihood(comparison, row, boot),
        reach=_mean(comparison.concept[row], "reach", boot),
        reach_change=_reach_change(comparison, row, boot),
        placebos=placebo,
        resolvable=least,
        goal=goal,
        images_needed=images,
        inverter=_inverter(run, boot),
        precision=run.info.precision,
        records={name: sum(record.set == name for record in run.records) for name in SETS},
        used={
            **{name: len(run.of(name)) for name in SETS},
            "concept": len(paired.concept),
            "reference": len(paired.reference),
        },
        flags=dict(sorted(Counter(record.flag for record in run.records if record.flag is not None).items())),
        unreadable=unreadable(run.info),
    )


def _set(records: Sequence[Record], paired: Tensor, null: Null, boot: Bootstrap) -> SetStatistics:
    nll = [paired[:, OWN]]
    return SetStatistics(
        count=len(paired),
        psnr=_mean(records, "psnr", boot),
        psnr_ceiling=_mean(records, "psnr_ceiling", boot),
        psnr_round_trip=_mean(records, "psnr_round_trip", boot),
        nll=boot(_average, nll),
        nll_sd=boot(lambda x: x.std(-1, correction=0), nll),
        z=boot(lambda x: null.z_score(x).mean(-1), nll),
        w1=boot(lambda x: functional.earth_movers_distance(x, null), nll),
        shift=boot(lambda x: functional.paired_shift(x[..., OWN], x[..., VANILLA]).mean(-1), [paired]),
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


def _resolution(paired: Paired, goal: float) -> tuple[float | None, int | None]:
    """What the sets resolve, from how much the shifts of their images scatter, and how many images the goal takes."""
    shifts = [x[:, OWN] - x[:, VANILLA] for x in (paired.concept, paired.reference)]
    if min(map(len, shifts)) < 2 or not any(shift.any() for shift in shifts):
        return None, None
    (concept, n), (reference, m) = ((float(shift.std()), len(shift)) for shift in shifts)
    return resolvable(concept, n, reference, m), images_to_resolve(goal, concept, reference)


def _reach_change(comparison: Comparison, row: int, boot: Bootstrap) -> Estimate | None:
    pairs = zip(comparison.concept[row], comparison.concept[comparison.vanilla], strict=True)
    changes = [a.reach - b.reach for a, b in pairs if a.reach is not None and b.reach is not None]
    return boot(_average, [torch.tensor(changes, dtype=torch.float64)]) if changes else None


def _likelihood(comparison: Comparison, row: int, boot: Bootstrap) -> Estimate | None:
    """Forgetting in terms of the latents' own likelihood."""
    shifts = []
    for sets in (comparison.concept, comparison.reference):
        pairs = zip(sets[row], sets[comparison.vanilla], strict=True)
        values = [
            vanilla.log_likelihood - own.log_likelihood
            for own, vanilla in pairs
            if own.log_likelihood is not None and vanilla.log_likelihood is not None
        ]
        shifts.append(torch.tensor(values, dtype=torch.float64))
    if not all(len(shift) for shift in shifts):
        return None
    return boot(lambda e, r: e.mean(-1) - r.mean(-1), shifts)


def _inverter(run: Run, boot: Bootstrap) -> InverterStatistics:
    known = run.of("known")
    biases = _present(known, "nll_bias")
    # Guided inversions converge less often, and say nothing about seeds found under the own prompt. Flagged records
    # count: an inversion that failed is news about the inverter.
    own = [record for record in run.records if record.conditioning is None and record.evaluations is not None]
    residuals = _present(own, "residual")
    return InverterStatistics(
        known=len(known),
        nll_bias=_mean(known, "nll_bias", boot),
        worst_bias=max(map(abs, biases), default=None),
        seed_error=_mean(known, "seed_error", boot),
        inversions=len(own),
        unmeasured=sum(map(unmeasured, own)),
        converged=converged_share(own),
        evaluations=_mean(own, "evaluations", boot),
        worst_residual=max(residuals, default=None),
    )


def _average(values: Tensor) -> Tensor:
    return values.mean(-1)


def _present(records: Iterable[Record], name: str) -> list[float]:
    values = (getattr(record, name) for record in records)
    return [float(value) for value in values if value is not None]


def _values(records: Iterable[Record], name: str) -> Tensor:
    return torch.tensor(_present(records, name), dtype=torch.float64)


def _mean(records: Iterable[Record], name: str, boot: Bootstrap) -> Estimate | None:
    values = _values(records, name)
    return boot(_average, [values]) if len(values) else None


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


def _change(own: Mapping[str, float], vanilla: Mapping[str, float], boot: Bootstrap) -> Estimate | None:
    differences = [own[key] - vanilla[key] for key in own if key in vanilla]
    return boot(_average, [torch.tensor(differences, dtype=torch.float64)]) if differences else None
