"""Forgetting under other prompts and other guidance: a method may forget under one and remember under another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.inference import holm, permutation_test
from lit_memories.records import Record
from lit_memories.report.convergence import converged_share
from lit_memories.report.pairing import Comparison, common

OWN = "own"
"""Label of what every audit does: each image under its own prompt, at the audit's guidance."""


@dataclass(frozen=True)
class Conditioned:
    """What one run forgot under one conditioning.

    Args:
        label: of the conditioning.
        images: of E that enter, the same in every run.
        forgetting: shift of E less shift of R, nats.
        fraction: forgetting in units of the control's under the same conditioning; None without one whose own
            forgetting is distinguishable from none there.
        p: of the permutation test that E and R moved alike, corrected for all conditionings of the run (Holm).
        converged: share of the inversions under this conditioning that met the tolerance; guidance makes it fall.
    """

    label: str
    images: int
    forgetting: Estimate
    fraction: Estimate | None
    p: float
    converged: Estimate | None


def conditioned(
    comparison: Comparison, boot: Callable[..., Estimate], draws: int, seed: int
) -> list[tuple[Conditioned, ...]]:
    """Forgetting of each run under every conditioning that all runs have, the own prompt first.

    Args:
        comparison: paired runs.
        boot: the report's bootstrap.
        draws: permutations of the test.
        seed: of the permutations.
    """
    found = []
    for label in labels(comparison):
        if (shifts := _shifts(comparison, label)) is None:
            continue
        concept, reference = shifts
        control = _usable_control(comparison, boot, concept, reference)
        found.append(
            [
                Conditioned(
                    label=label,
                    images=concept.shape[1],
                    forgetting=_forgetting(boot, concept[row], reference[row]),
                    fraction=None if control is None else _fraction(boot, concept, reference, row, control),
                    p=permutation_test(concept[row], reference[row], draws, seed).p_value,
                    converged=converged_share(_inverted(comparison, row, label)),
                )
                for row in range(len(comparison.runs))
            ]
        )
    return [_corrected(entries) for entries in zip(*found, strict=True)]


def _corrected(entries: Sequence[Conditioned]) -> tuple[Conditioned, ...]:
    """A run's entries with p-values that hold for all of them together."""
    corrected = holm(torch.tensor([entry.p for entry in entries])).tolist()
    return tuple(replace(entry, p=p) for entry, p in zip(entries, corrected, strict=True))


def labels(comparison: Comparison) -> list[str]:
    """Conditionings that every run has records of, the own prompt first."""
    shared = set.intersection(*(set(run.conditionings) for run in comparison.runs))
    return [OWN, *sorted(shared)]


def _inverted(comparison: Comparison, row: int, label: str) -> list[Record]:
    """What a run inverted under a conditioning, flagged records included."""
    conditioning = None if label == OWN else label
    return [record for record in comparison.runs[row].records if record.conditioning == conditioning]


def _shifts(comparison: Comparison, label: str) -> tuple[Tensor, Tensor] | None:
    """NLL less vanilla's of E and R, each (runs, images); None if no image is usable in every run."""
    conditioning = None if label == OWN else label
    concept = common(comparison.runs, "concept", conditioning)
    # Where a conditioning changes nothing for reference images they have no records of it: it is their own.
    reference = common(comparison.runs, "reference", conditioning)
    if not reference[0]:
        reference = common(comparison.runs, "reference")
    if not concept[0] or not reference[0]:
        return None
    tables = [
        torch.tensor([[record.nll for record in records] for records in rows], dtype=torch.float64)
        for rows in (concept, reference)
    ]
    return tables[0] - tables[0][comparison.vanilla], tables[1] - tables[1][comparison.vanilla]


def _forgetting(boot: Callable[..., Estimate], concept: Tensor, reference: Tensor) -> Estimate:
    return boot(lambda e, r: e.mean(-1) - r.mean(-1), [concept, reference])


def _usable_control(
    comparison: Comparison, boot: Callable[..., Estimate], concept: Tensor, reference: Tensor
) -> int | None:
    """Row of the control, if its own forgetting is distinguishable from none under this conditioning."""
    row = comparison.control
    if row is None:
        return None
    own = _forgetting(boot, concept[row], reference[row])
    return None if own.low <= 0 <= own.high else row


def _fraction(boot: Callable[..., Estimate], concept: Tensor, reference: Tensor, row: int, control: int) -> Estimate:
    def ratio(e: Tensor, r: Tensor) -> Tensor:
        difference = e.mean(-2) - r.mean(-2)
        return difference[..., 0] / difference[..., 1]

    return boot(ratio, [concept[[row, control]].T, reference[[row, control]].T])
