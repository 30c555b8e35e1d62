"""Whether numbers are as accurate as they look: inversions that met their tolerance, levels near enough together."""

from collections.abc import Iterable, Mapping

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.records import Record, Run

GAP = 0.1
"""`Record.likelihood_gap` above which log p(x) may be wrong by any amount (docs/audit.md)."""


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


def accuracy_notes(run: Run) -> list[str]:
    """What of a run counts although its accuracy is in doubt, in sentences."""
    return [*_kept(run), *_steep(run)]


def _kept(run: Run) -> list[str]:
    """Inversions that did not converge, where the inverter is a faithful one; others flag the worst of theirs."""
    inverter = run.info.settings.get("inverter")
    if not isinstance(inverter, Mapping) or inverter.get("faithful") is not True:
        return []
    counted = [r for r in run.records if r.flag is None and r.converged is not None and not unmeasured(r)]
    failed = [r.residual for r in counted if not r.converged and r.residual is not None]
    if not failed:
        return []
    return [
        f"{run.info.name}: {len(failed)} of the {len(counted)} inversions that count did not converge (worst residual "
        f"{max(failed):.2g}); the faithful inverter keeps what it finds, as the official code does."
    ]


def _steep(run: Run) -> list[str]:
    """Images whose log p(x) was integrated over levels too far apart for it."""
    gaps = [r.likelihood_gap for r in run.records if r.flag is None and r.likelihood_gap is not None]
    large = sum(gap > GAP for gap in gaps)
    if not large:
        return []
    return [
        f"{run.info.name}: log p(x) of {large} of {len(gaps)} images was integrated over levels too far apart for it "
        f"(likelihood_gap above {GAP:g}) and may be wrong by any amount."
    ]
