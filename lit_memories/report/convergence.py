"""Whether inversions met their tolerance, and of which nobody knows."""

from collections.abc import Iterable

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.records import Record


def unmeasured(record: Record) -> bool:
    """Whether a sample was inverted without measuring the residual; nothing says then whether it converged."""
    return record.evaluations is not None and record.residual is None and record.flag is None


def converged_share(records: Iterable[Record]) -> Estimate | None:
    """Share of inversions in which every step met the tolerance, flagged ones included: a failure is news about these.

    Returns:
        None if nobody knows of any.
    """
    met = [record.converged for record in records if record.converged is not None and not unmeasured(record)]
    return wilson_interval(sum(met), len(met)) if met else None
