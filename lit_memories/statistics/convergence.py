"""Whether numbers are as accurate as they look: inversions that met their tolerance, levels near enough together."""

from collections.abc import Iterable, Mapping
from typing import Any

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.records import Record
from lit_memories.runs import Run

INVERTING = "seed", "known", "memories"
"""Probes that rest on an inversion."""
GAP = 0.1
"""The probe ``likelihood``'s gap above which log p(x) may be wrong by any amount (docs/audit.md)."""


def inversion_of(record: Record) -> dict[str, Any] | None:
    """What is known of a sample's inversion; None if it was not inverted."""
    answers = (record.probes[probe] for probe in INVERTING if probe in record.probes)
    return next((answer for answer in answers if answer.get("evaluations") is not None), None)


def unmeasured(record: Record) -> bool:
    """Whether a sample was inverted without measuring the residual; nothing says then whether it converged."""
    found = inversion_of(record)
    return found is not None and found.get("residual") is None and found.get("flag") is None


def converged_share(records: Iterable[Record]) -> Estimate | None:
    """Share of inversions in which every step met the tolerance, flagged ones included: a failure is news about these.

    Returns:
        None if nobody knows of any.
    """
    met = [
        bool(found["converged"])
        for record in records
        if (found := inversion_of(record)) is not None and found.get("converged") is not None and not unmeasured(record)
    ]
    return wilson_interval(sum(met), len(met)) if met else None


def accuracy_notes(run: Run) -> list[str]:
    """What of a run counts although its accuracy is in doubt, in sentences."""
    return [*_kept(run), *_steep(run)]


def _kept(run: Run) -> list[str]:
    """Inversions that did not converge, where the inverter is a faithful one; others flag the worst of theirs."""
    inverters = [asked.settings.get("inverter") for name, asked in run.info.asked.items() if name in INVERTING]
    if not any(isinstance(one, Mapping) and one.get("faithful") is True for one in inverters):
        return []
    found = [inversion_of(record) for record in run.records if not unmeasured(record)]
    counted = [one for one in found if one and one.get("flag") is None and one.get("converged") is not None]
    failed = [one["residual"] for one in counted if not one["converged"] and one.get("residual") is not None]
    if not failed:
        return []
    return [
        f"{run.info.name}: {len(failed)} of the {len(counted)} inversions that count did not converge (worst residual "
        f"{max(failed):.2g}); the faithful inverter keeps what it finds, as the official code does."
    ]


def _steep(run: Run) -> list[str]:
    """Images whose log p(x) was integrated over levels too far apart for it."""
    gaps = [record.number("likelihood.gap") for record in run.records if record.counts("likelihood")]
    large = sum(gap is not None and gap > GAP for gap in gaps)
    if not large:
        return []
    return [
        f"{run.info.name}: log p(x) of {large} of {len(gaps)} images was integrated over levels too far apart for it "
        f"(gap above {GAP:g}) and may be wrong by any amount."
    ]
