"""Forgetting under other prompts and other guidance: a method may forget under one and remember under another."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.inference import holm, permutation_test
from lit_memories.records import Record, SetName
from lit_memories.report.pairing import Comparison

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
    """

    label: str
    images: int
    forgetting: Estimate
    fraction: Estimate | None
    p: float


def conditioned(
    comparison: Comparison, row: int, boot: Callable[..., Estimate], draws: int, seed: int
) -> tuple[Conditioned, ...]:
    """Forgetting of one run under every conditioning that all runs have, the own prompt first.

    Args:
        comparison: paired runs.
        row: of the run.
        boot: the report's bootstrap.
        draws: permutations of the test.
        seed: of the permutations.
    """
    found = []
    for label in labels(comparison):
        shifts = _shifts(comparison, label)
        if shifts is None:
            continue
        concept, reference = shifts
        both = None if comparison.control is None else [row, comparison.control]
        found.append(
            Conditioned(
                label=label,
                images=concept.shape[1],
                forgetting=_forgetting(boot, concept[row], reference[row]),
                fraction=None if both is None else _fraction(boot, concept[both], reference[both]),
                p=permutation_test(concept[row], reference[row], draws, seed).p_value,
            )
        )
    corrected = holm(torch.tensor([entry.p for entry in found])).tolist()
    return tuple(replace(entry, p=p) for entry, p in zip(found, corrected, strict=True))


def labels(comparison: Comparison) -> list[str]:
    """Conditionings that every run has records of, the own prompt first."""
    shared = set.intersection(*(set(run.conditionings) for run in comparison.runs))
    return [OWN, *sorted(shared)]


def _shifts(comparison: Comparison, label: str) -> tuple[Tensor, Tensor] | None:
    """NLL less vanilla's of E and R, each (runs, images); None if no image is usable in every run."""
    concept = _paired(comparison, "concept", label)
    # Where a conditioning changes nothing for reference images they have no records of it: it is their own.
    reference = _paired(comparison, "reference", label) or _paired(comparison, "reference", OWN)
    if not concept or not reference:
        return None
    tables = [
        torch.tensor([[record.nll for record in records] for records in rows], dtype=torch.float64)
        for rows in (concept, reference)
    ]
    return tables[0] - tables[0][comparison.vanilla], tables[1] - tables[1][comparison.vanilla]


def _paired(comparison: Comparison, name: SetName, label: str) -> list[list[Record]]:
    """The records of a set under a conditioning, a list for each run, image by image; empty if none is in all."""
    wanted = None if label == OWN else label
    tables = [{r.key: r for r in run.of(name, wanted) if r.nll is not None} for run in comparison.runs]
    keys = [key for key in tables[0] if all(key in table for table in tables)]
    return [[table[key] for key in keys] for table in tables] if keys else []


def _forgetting(boot: Callable[..., Estimate], concept: Tensor, reference: Tensor) -> Estimate:
    return boot(lambda e, r: e.mean(-1) - r.mean(-1), [concept, reference])


def _fraction(boot: Callable[..., Estimate], concept: Tensor, reference: Tensor) -> Estimate | None:
    own = _forgetting(boot, concept[1], reference[1])
    if own.low <= 0 <= own.high:
        return None

    def ratio(e: Tensor, r: Tensor) -> Tensor:
        difference = e.mean(-2) - r.mean(-2)
        return difference[..., 0] / difference[..., 1]

    return boot(ratio, [concept.T, reference.T])
