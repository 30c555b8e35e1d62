"""Records to numbers. The mathematics is that of `lit_memories.metrics`; here is only what goes into it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate, bootstrap_counts, wilson_interval
from lit_memories.metrics.intervals import mean_interval
from lit_memories.metrics.null import Null
from lit_memories.metrics.resampled import ResampledNLL
from lit_memories.metrics.wasserstein import DistanceForm
from lit_memories.records import SETS, Record
from lit_memories.runs import Run
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.chance import Chance
from lit_memories.statistics.convergence import converged_share, inversion_of, unmeasured
from lit_memories.statistics.doors import door_notes, doors
from lit_memories.statistics.judging import judge_errors
from lit_memories.statistics.numbers import number_statistics, tested
from lit_memories.statistics.pairing import PAIRED, Comparison, unreadable
from lit_memories.statistics.profiles import profile
from lit_memories.statistics.quantities import Guarded, InverterStatistics, PaperStatistics, RunStatistics, Summary
from lit_memories.statistics.utility import set_distances, utility_notes


def _silent(stage: str) -> None:
    """Nobody waits."""


def summarise(
    comparison: Comparison, draws: int = 10_000, seed: int = 0, begin: Callable[[str], None] = _silent
) -> Summary:
    """Compute every statistic of every run.

    Args:
        comparison: runs that may be compared.
        draws: resamples of the bootstrap, and relabellings of tests.
        seed: of both; the same for every statistic.
        begin: is told which stage begins.
    """
    info = comparison.runs[0].info
    null = Null(info.dimension)
    control = comparison.control
    settings = {name: asked.settings for name, asked in info.asked.items()}
    chance = Chance(draws, seed)
    begin("tests")
    chance.prepare(
        pair
        for row, run in enumerate(comparison.runs)
        for probe in asked_of(run.info).values()
        for number in probe.numbers
        for pair in tested(comparison, row, probe, number)
    )
    runs = []
    for row, run in enumerate(comparison.runs):
        begin(f"bootstraps and placebos of {run.info.name}")
        runs.append(_run(comparison, row, null, chance))
    return Summary(
        concept_name=info.concept,
        runs=tuple(runs),
        headline=comparison.headline,
        control=None if control is None else comparison.runs[control].info.name,
        dimension=info.dimension,
        null_mean=null.mean,
        null_sd=null.sd,
        guidance_scale=_guidance(settings.get("seed", {})),
        inverter=_inverter_name(settings.get("seed", {})),
        notes=(
            *comparison.notes,
            *door_notes(comparison),
            *utility_notes(comparison, {run.name: run.utility for run in runs}),
        ),
        base=info.model.get("base"),
        judge=judge_errors(comparison),
    )


def _guidance(settings: Mapping[str, Any]) -> float | None:
    value = settings.get("guidance_scale")
    return float(value) if isinstance(value, int | float) else None


def _inverter_name(settings: Mapping[str, Any]) -> str | None:
    value = settings.get("inverter")
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("class_path", "name", "class") if key in value), None)
    return value.rsplit(".", 1)[-1] if isinstance(value, str) else None


def _run(comparison: Comparison, row: int, null: Null, chance: Chance) -> RunStatistics:
    run = comparison.runs[row]
    asked = asked_of(run.info)
    headline = comparison.headline
    numbers = {
        probe.path(number): found
        for probe in asked.values()
        for number in probe.numbers
        if (found := number_statistics(comparison, row, probe, number, chance)) is not None
    }
    used = {name: comparison.used(row, name, headline) for name in PAIRED}
    flags = Counter(
        f"{probe}: {flag}" for r in run.records for probe in r.probes if (flag := r.flag(probe)) is not None
    )
    return RunStatistics(
        name=run.info.name,
        role=run.info.role,
        headline=headline,
        asked=asked,
        numbers=numbers,
        paper=_paper(comparison, row, null, chance),
        retained_by_factor=_by_factor(run),
        inverter=_inverter(run),
        precision=run.info.precision,
        pairing={name: comparison.pairing(row, name, headline) for name in PAIRED},
        records={name: sum(record.set == name for record in run.records) for name in SETS},
        used={**{name: _counted(run, name) for name in SETS}, **{name: len(used[name]) for name in PAIRED}},
        flags=dict(sorted(flags.items())),
        unreadable=unreadable(run.info),
        cost={name: dict(entry) for name, entry in run.cost.items()},
        profile=profile(comparison, row),
        doors=doors(comparison, row),
        guard=_guard(run, comparison.runs[0]),
        utility=set_distances(comparison, row, chance.seed),
    )


def _guard(run: Run, vanilla: Run) -> Guarded | None:
    """What ``run.json`` says of a guard, which a stranger may have written."""
    found = run.info.model.get("guard")
    if not isinstance(found, dict):
        return None
    own = {name: value for name, value in found.items() if name not in ("name", "acts_on")}
    acts_on = "prompts" if found.get("acts_on") == "prompts" else "guidance"
    weights = run.info.model.get("weights")
    return Guarded(str(found.get("name")), own, acts_on, weights is not None and weights == vanilla.info.fingerprint)


def _counted(run: Run, name: str) -> int:
    """Records of a set of which any answer counts."""
    return sum(
        record.set == name and record.conditioning is None and any(map(record.counts, record.probes))
        for record in run.records
    )


def _paper(comparison: Comparison, row: int, null: Null, chance: Chance) -> PaperStatistics | None:
    concept, reference = (_numbers(comparison.used(row, name, "seed.nll"), "seed.nll") for name in PAIRED)
    if not len(concept) or not len(reference):
        return None
    boot = partial(bootstrap_counts, draws=chance.draws, seed=chance.seed)
    e, r = (ResampledNLL(nll, null) for nll in (concept, reference))

    def alone(nll: ResampledNLL) -> list[Estimate]:
        return boot(lambda counts: torch.stack([nll.sd(counts), nll.distance(counts)], 1), [nll.count])

    def relative(drawn: Tensor, others: Tensor) -> Tensor:
        return torch.stack([e.distance(drawn, form) / r.distance(others, form) for form in get_args(DistanceForm)], 1)

    (sd_concept, w1_concept), (sd_reference, w1_reference) = alone(e), alone(r)
    by_form = dict(zip(get_args(DistanceForm), boot(relative, [e.count, r.count]), strict=True))
    return PaperStatistics(
        z_concept=mean_interval(null.z_score(concept)),
        z_reference=mean_interval(null.z_score(reference)),
        nll_sd_concept=sd_concept,
        nll_sd_reference=sd_reference,
        w1_concept=w1_concept,
        w1_reference=w1_reference,
        relative_distance=by_form["w1"],
        relative_distance_w2_squared=by_form["w2_squared"],
    )


def _inverter(run: Run) -> InverterStatistics:
    known = run.of("known", "known")
    biases = _numbers(known, "known.nll_bias")
    # Guided inversions converge less often, and say nothing about seeds found under the own prompt. Flagged records
    # count: an inversion that failed is news about the inverter.
    own = [record for record in run.records if record.conditioning is None and inversion_of(record) is not None]
    answers = [answer for record in own if (answer := inversion_of(record)) is not None]
    residuals = [answer["residual"] for answer in answers if answer.get("residual") is not None]
    evaluations = torch.tensor([float(answer["evaluations"]) for answer in answers], dtype=torch.float64)
    return InverterStatistics(
        known=len(known),
        nll_bias=_mean(biases),
        worst_bias=float(biases.abs().max()) if len(biases) else None,
        seed_error=_mean(_numbers(known, "known.seed_error")),
        inversions=len(own),
        unmeasured=sum(map(unmeasured, own)),
        converged=converged_share(own),
        evaluations=_mean(evaluations),
        worst_residual=max(residuals, default=None),
    )


def _numbers(records: Iterable[Record], path: str) -> Tensor:
    values = (record.number(path) for record in records)
    return torch.tensor([value for value in values if value is not None], dtype=torch.float64)


def _mean(values: Tensor) -> Estimate | None:
    return mean_interval(values) if len(values) else None


def _by_factor(run: Run) -> dict[str, Estimate]:
    judged = [found for r in run.of("retained", "samples") if isinstance(found := r.value("samples.correct"), dict)]
    rates = {}
    for factor in sorted({factor for correct in judged for factor in correct}):
        hits = [bool(correct[factor]) for correct in judged if factor in correct]
        rates[factor] = wilson_interval(sum(hits), len(hits))
    return rates
