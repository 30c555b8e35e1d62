"""How often the judge is wrong, beside every rate that it gives."""

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.report.formats import Column, number, percent
from lit_memories.statistics.quantities import Summary


def judge_columns(summary: Summary) -> tuple[Column, ...]:
    """What stands beside a rate: the judge's false negatives and positives, the same in every row; none if unknown."""
    errors = summary.judge
    if errors is None:
        return ()
    return (
        Column("judge_missed", "judge misses, %", lambda _: errors.missed, digits=0, percent=True),
        Column("judge_alarms", "judge's false alarms, %", lambda _: errors.alarms, digits=0, percent=True),
    )


def judge_sentences(summary: Summary) -> list[str]:
    """How far the judge's rates can be relied on; nothing where that was not measured."""
    errors = summary.judge
    if errors is None:
        return []
    text = (
        f"The judge misses the concept in {_share(errors.missed)} of {errors.missed.count} pictures of "
        f"it, and sees it in {_share(errors.alarms)} of {errors.alarms.count} others"
    )
    drawn = [
        f"{verb} {_share(rate)} of {rate.count} under {what} prompts"
        for verb, what, rate in (
            ("misses it in", "the concept's", errors.missed_in_vanilla),
            ("sees it in", "other", errors.alarms_in_vanilla),
        )
        if rate is not None
    ]
    return [f"{text}; of vanilla's samples it {' and '.join(drawn)}." if drawn else f"{text}."]


def _share(rate: Estimate) -> str:
    return number(percent(rate), "%", 0)
