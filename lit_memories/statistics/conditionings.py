"""Forgetting under other prompts and other guidance: a method may forget under one and remember under another."""

from dataclasses import dataclass, replace

import torch

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.inference import holm
from lit_memories.statistics.chance import Chance
from lit_memories.statistics.convergence import INVERTING, converged_share
from lit_memories.statistics.pairing import Comparison
from lit_memories.statistics.shifts import Shifts, shifts

OWN = "own"
"""Label of what every audit does: each image under its own prompt, at the audit's guidance."""


@dataclass(frozen=True)
class Conditioned:
    """What one run forgot under one conditioning, by one number.

    Args:
        label: of the conditioning.
        images: of E that enter.
        forgetting: shift of E less shift of R.
        fraction: forgetting in units of the control's under the same conditioning; None without a control that has it.
        p: of the permutation test that E and R moved alike, corrected for all conditionings of the run (Holm).
        converged: share of the inversions under this conditioning that met the tolerance; guidance makes it fall. None
            for numbers that rest on no inversion.
    """

    label: str
    images: int
    forgetting: Estimate
    fraction: Estimate | None
    p: float
    converged: Estimate | None


def conditioned(comparison: Comparison, row: int, path: str, sign: int, chance: Chance) -> tuple[Conditioned, ...]:
    """Forgetting of a run under every conditioning that it and vanilla have, the own prompt first.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        path: of the number.
        sign: 1 if it grows as a model forgets, else -1.
        chance: of the tests.
    """
    entries, probe = [], path.partition(".")[0]
    for label, moved in conditioned_shifts(comparison, row, path, sign).items():
        conditioning = None if label == OWN else label
        records = [r for r in comparison.runs[row].records if r.conditioning == conditioning]
        entries.append(
            Conditioned(
                label=label,
                images=len(moved.concept),
                forgetting=moved.forgetting,
                fraction=moved.fraction,
                p=chance.p_value(moved.concept, moved.reference),
                converged=converged_share(records) if probe in INVERTING else None,
            )
        )
    corrected = holm(torch.tensor([entry.p for entry in entries])).tolist()
    return tuple(replace(entry, p=p) for entry, p in zip(entries, corrected, strict=True))


def conditioned_shifts(comparison: Comparison, row: int, path: str, sign: int) -> dict[str, Shifts]:
    """How a number moved under each conditioning that a run and vanilla have images in common of, the own one first."""
    found = {
        label: shifts(comparison, row, path, sign, None if label == OWN else label)
        for label in labels(comparison, row, path.partition(".")[0])
    }
    return {label: moved for label, moved in found.items() if moved is not None}


def labels(comparison: Comparison, row: int, probe: str) -> list[str]:
    """Conditionings under which a run and vanilla were asked a probe, the own prompt first."""
    own, vanilla = (
        {r.conditioning for r in comparison.runs[which].records if r.conditioning is not None and probe in r.probes}
        for which in (row, comparison.vanilla)
    )
    return [OWN, *sorted(own & vanilla)]
