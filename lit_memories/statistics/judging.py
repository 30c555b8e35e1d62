"""How often a judge is wrong, on pictures of which it is known, or nearly, what they show."""

from dataclasses import dataclass, replace

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.probes.judging import Judging
from lit_memories.probes.samples import Samples
from lit_memories.records import SetName
from lit_memories.runs import Run
from lit_memories.statistics.pairing import Comparison


@dataclass(frozen=True)
class JudgeErrors:
    """How often the judge of some runs is wrong.

    Args:
        missed: false negatives: share of the concept's pictures in which it does not see it.
        alarms: false positives: share of reference pictures in which it sees it.
        missed_in_vanilla: share of vanilla's samples under the concept's prompts in which it does not see it; vanilla
            may have failed to draw it. None where there are none.
        alarms_in_vanilla: share of vanilla's samples under other prompts in which it sees it.
    """

    missed: Estimate
    alarms: Estimate
    missed_in_vanilla: Estimate | None
    alarms_in_vanilla: Estimate | None


def judge_errors(comparison: Comparison) -> JudgeErrors | None:
    """The errors of the runs' judge; None if no run was asked for them.

    The pictures are the same for all models, so that the first run that was asked is as good as any.

    Args:
        comparison: runs that may be compared.
    """
    vanilla = comparison.runs[comparison.vanilla]
    for run in comparison.runs:
        shown, alarms = _rate(run, "concept", Judging.name), _rate(run, "reference", Judging.name)
        if shown is not None and alarms is not None:
            drawn = _rate(vanilla, "prompted", Samples.name)
            return JudgeErrors(
                missed=_rest(shown),
                alarms=alarms,
                missed_in_vanilla=None if drawn is None else _rest(drawn),
                alarms_in_vanilla=_rate(vanilla, "retained", Samples.name),
            )
    return None


def _rate(run: Run, of: SetName, probe: str) -> Estimate | None:
    """The share of a set's pictures in which the judge sees the concept."""
    path = f"{probe}.shows_concept"
    values = [(record.number(path) or 0.0) > 0.5 for record in run.holding(of, path).values()]
    return wilson_interval(sum(values), len(values)) if values else None


def _rest(rate: Estimate) -> Estimate:
    return replace(rate, value=1 - rate.value, low=1 - rate.high, high=1 - rate.low)
