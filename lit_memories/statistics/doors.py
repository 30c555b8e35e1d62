"""What attacks bring back, less what plain draws and a model that never knew show of it: records to numbers."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from lit_memories.attacks import ATTACKS
from lit_memories.attacks.base import MEASURED, P_VALUE, is_attack
from lit_memories.attacks.plain import Plain
from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.intervals import paired_rate_interval
from lit_memories.runs import Run
from lit_memories.settings import differences
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.pairing import Comparison

LEVEL = 0.95
LONGEST = 200
"""Letters that are told of settings that differ: they are anybody's."""
TYPICAL = 0.5, 0.1, 0.05, 0.01, 0.001, 0.0
"""How typical found seeds have to be, at least, in the table of success by it; 0 takes all."""


class Tried(NamedTuple):
    """What an attack came to on one sample: whether it succeeded, what it spent, how many pictures were judged.

    And the p-value of the seed that it found, if it seeks any.
    """

    success: bool
    evaluations: int
    looks: int
    p_value: float | None = None


@dataclass(frozen=True)
class Typical:
    """What an attack that seeks seeds comes to where a seed that is less typical of the prior is no success.

    Args:
        least: p-value that the seed of a success has at least.
        success: share of samples with one.
        over_never_knew: the same less that on the control, as for `Door`.
    """

    least: float
    success: Estimate
    over_never_knew: Estimate | None


@dataclass(frozen=True)
class Door:
    """What one attack came to on one model, on the samples that vanilla has as well, if it was attacked.

    Args:
        attack: its name.
        threat: what an attacker has to have; None of an attack that is not this package's.
        success: share of samples on which it brings the concept back.
        over_never_knew: success less that on the control, paired by sample; None for the control, where there is none
            that was attacked alike, or where both share no sample.
        corrected: the same at the level that makes all attacks on this model hold together (Bonferroni).
        over_plain: success less that of one picture under the plain prompt, paired by sample; None for plain draws
            themselves, or where there are none with the same guidance.
        over_draws: the same, less that of as many plain draws as the attack had pictures judged.
        looks: pictures of a sample that it had judged, at most.
        draws: how many of as many plain draws there are; fewer than `looks` make `over_draws` too large. None without.
        evaluations: median of network evaluations of the samples that it succeeded on; None if there is none.
        curve: ``evaluations``, growing, and the ``share`` of samples that had shown the concept by then.
        typical: success by how typical the seed is, for each of `TYPICAL`; empty of attacks that seek no seeds.
        lacks: what is missing to tell a memory from what was taught or is luck, in sentences.
    """

    attack: str
    threat: str | None
    success: Estimate
    over_never_knew: Estimate | None
    corrected: Estimate | None
    over_plain: Estimate | None
    over_draws: Estimate | None
    looks: int
    draws: int | None
    evaluations: float | None
    curve: dict[str, list[float]]
    typical: tuple[Typical, ...]
    lacks: tuple[str, ...]


def doors(comparison: Comparison, row: int) -> dict[str, Door]:
    """What the attacks on a run came to, by name.

    Args:
        comparison: runs that may be compared.
        row: of the run.
    """
    tried = {name: found for name in _attacks(comparison.runs[row]) if (found := _tried(comparison, row, name))}
    return {name: _door(comparison, row, name, tried) for name in tried}


def door_notes(comparison: Comparison) -> list[str]:
    """Which attacks on which runs differ in their settings from those on the control, a line each."""
    found = (_differ(comparison, row, name) for row, run in enumerate(comparison.runs) for name in _attacks(run))
    return [line for line in found if line]


def best_gain(comparison: Comparison, row: int, names: Sequence[str], level: float = LEVEL) -> Estimate | None:
    """The most that any of some attacks gains over the model that never knew, whichever it is.

    Its interval is that of the largest of several gains, each with an interval by which all hold together.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        names: of the attacks.
        level: confidence of the interval.

    Returns:
        None if no attack was put to the control with the same samples.
    """
    found = []
    for name in names:
        own = _tried(comparison, row, name)
        control, _ = _beside_control(comparison, row, name, own)
        against = [(own[key].success, control[key].success) for key in own if key in control]
        found.append(_gain(against, 1 - (1 - level) / len(names)))
    gains = [gain for gain in found if gain is not None]
    if not gains:
        return None
    best = max(gains, key=lambda gain: gain.value)
    ends = max(gain.low for gain in gains), max(gain.high for gain in gains)
    return Estimate(best.value, *ends, level, best.count)


def _attacks(run: Run) -> list[str]:
    """Names of the attacks that a run was put to, this package's or not, by what they measure."""
    asked = asked_of(run.info)
    return [name for name, probe in asked.items() if is_attack(probe)]


def _tried(comparison: Comparison, row: int, name: str) -> dict[str, Tried]:
    """By key, the samples of a run that an attack was tried on, of those that vanilla holds too if it holds any."""
    run, vanilla = comparison.runs[row], comparison.runs[comparison.vanilla]
    usual = vanilla.holding("concept", f"{name}.success")
    found = {}
    for key, record in run.holding("concept", f"{name}.success").items():
        success, evaluations, looks = (record.number(f"{name}.{number}") for number in MEASURED)
        if success is not None and evaluations is not None and looks is not None and (not usual or key in usual):
            found[key] = Tried(success > 0.5, int(evaluations), int(looks), record.number(f"{name}.{P_VALUE}"))
    return found


def _door(comparison: Comparison, row: int, name: str, every: Mapping[str, Mapping[str, Tried]]) -> Door:
    own = every[name]
    looks = max(one.looks for one in own.values())
    control, no_control = _beside_control(comparison, row, name, own)
    plain, no_plain = _beside_plain(comparison.runs[row], name, every)
    shared = [(own[key], plain[key]) for key in own if key in plain]
    draws = min([looks, *(other.looks for _, other in shared if not other.success)]) if shared else None
    fewer = () if draws is None or draws == looks else (_fewer(looks, draws),)
    wins = sorted(one.evaluations for one in own.values() if one.success)
    costs = sorted({one.evaluations for one in own.values()})
    against = [(own[key].success, control[key].success) for key in own if key in control]
    return Door(
        attack=name,
        threat=ATTACKS[name].threat if name in ATTACKS else None,
        success=wilson_interval(len(wins), len(own), LEVEL),
        over_never_knew=_gain(against),
        corrected=_gain(against, 1 - (1 - LEVEL) / len(every)),
        over_plain=_gain((one.success, other.success and other.looks <= 1) for one, other in shared),
        over_draws=_gain((one.success, other.success and other.looks <= looks) for one, other in shared),
        looks=looks,
        draws=draws,
        evaluations=float(median(wins)) if wins else None,
        curve={
            "evaluations": [float(cost) for cost in costs],
            "share": [bisect_right(wins, cost) / len(own) for cost in costs],
        },
        typical=_typical(own, control),
        lacks=(*no_control, *no_plain, *fewer),
    )


def _typical(own: Mapping[str, Tried], control: Mapping[str, Tried]) -> tuple[Typical, ...]:
    """Success by how typical the seeds are; nothing if one has no p-value."""
    if any(one.p_value is None for one in (*own.values(), *control.values())):
        return ()

    def wins(one: Tried, least: float) -> bool:
        return one.success and (one.p_value or 0.0) >= least

    def at(least: float) -> Typical:
        won = {key: wins(one, least) for key, one in own.items()}
        against = [(won[key], wins(control[key], least)) for key in own if key in control]
        return Typical(least, wilson_interval(sum(won.values()), len(own), LEVEL), _gain(against))

    return tuple(at(least) for least in TYPICAL)


def _gain(pairs: Iterable[tuple[bool, bool]], level: float = LEVEL) -> Estimate | None:
    """Tango's interval of the difference of two successes on the same samples; None without any."""
    pairs = list(pairs)
    gained, lost = sum(one and not other for one, other in pairs), sum(other and not one for one, other in pairs)
    return paired_rate_interval(gained, lost, len(pairs), level) if pairs else None


def _beside_control(
    comparison: Comparison, row: int, name: str, own: Mapping[str, Tried]
) -> tuple[Mapping[str, Tried], tuple[str, ...]]:
    """What the same attack came to on the control, and what is to be said if there is nothing to compare with."""
    taught = "so it may have taught the model what it shows"
    if comparison.control is None:
        return {}, (f"It was put to no model that never knew, {taught}.",)
    if row == comparison.control:
        return {}, ()
    if line := _differ(comparison, row, name):
        return {}, (line,)
    control = comparison.runs[comparison.control]
    found = _tried(comparison, comparison.control, name) if name in _attacks(control) else {}
    if not own.keys() & found.keys():
        return {}, (f"It was not put to {control.info.name} with the same samples, {taught}.",)
    return found, ()


def _differ(comparison: Comparison, row: int, name: str) -> str | None:
    """The line that names in which settings an attack on a run and on the control differ; None if in none."""
    if comparison.control in (None, row):
        return None
    run, control = comparison.runs[row], comparison.runs[comparison.control or 0]
    asked, others = run.info.asked, control.info.asked
    if name not in others or not (found := differences(asked[name].settings, others[name].settings)):
        return None
    told = "; ".join(found)
    told = told if len(told) <= LONGEST else told[: LONGEST - 1] + "…"
    pair = f"{run.info.name} and on {control.info.name}"
    return f"The attack {name} on {pair} cannot be compared, its settings differ: {told}."


def _beside_plain(
    run: Run, name: str, every: Mapping[str, Mapping[str, Tried]]
) -> tuple[Mapping[str, Tried], tuple[str, ...]]:
    """Plain draws from the same model, and what is to be said if there are none to compare with."""
    if name == Plain.name:
        return {}, ()
    plain, unknown = every.get(Plain.name, {}), "so how much of its success is luck is not known"
    if not plain.keys() & every[name].keys():
        return {}, (f"No plain draws were made of the same samples, {unknown}.",)
    asked = run.info.asked
    scales = [asked[one].settings.get("guidance_scale") for one in (name, Plain.name)]
    if None not in scales and scales[0] != scales[1]:
        return {}, (f"Plain draws were made with another guidance scale, {unknown}.",)
    return plain, ()


def _fewer(looks: int, draws: int) -> str:
    return (
        f"It had up to {looks} pictures of a sample judged, and there are {draws} plain draws: what more of them would "
        "have come to is not taken off."
    )
