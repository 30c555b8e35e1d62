"""The torchmetrics an audit carries, and the same numbers computed from its records."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_memories.metrics import EarthMoversDistance, Null, RelativeDistance, relative_distance
from lit_memories.metrics.base import IntervalMetric
from lit_memories.metrics.functional import DistanceForm, distance
from lit_memories.records import Record, SetName

FORMS: tuple[DistanceForm, ...] = ("w1", "w2_squared")


class _Mean(IntervalMetric):
    """A mean that neither the order of the cases nor the number of processes changes, not even in its last digit."""

    def __init__(self) -> None:
        super().__init__(columns=1)

    def update(self, values: Tensor) -> None:
        self._append(values=values)

    def compute(self) -> Tensor:
        return self._cases()[:, 0].mean()


class AuditMetrics(nn.Module):
    """PSNR, NLL, earth mover's and relative distance of a run, reduced across processes by torchmetrics.

    Args:
        dimension: number of elements of a seed.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        # No interval is asked for here, so one resample is enough.
        options: dict[str, Any] = {"dimension": dimension, "draws": 1}
        names = [f"{quantity}_{name}" for quantity in ("psnr", "nll") for name in ("concept", "reference")]
        self.means = _collect({name: _Mean() for name in names})
        self.distances = _collect({form: EarthMoversDistance(form=form, **options) for form in FORMS})
        self.relative = _collect({form: RelativeDistance(form=form, **options) for form in FORMS})

    def update(self, records: Sequence[Record]) -> None:
        """Add records; those that may not be counted are passed over."""
        for name in ("concept", "reference"):
            nll, psnr = _values(records, name)
            if len(nll) == 0:
                continue
            self.means[f"nll_{name}"].update(nll)
            self.means[f"psnr_{name}"].update(psnr)
            for form in FORMS:
                self.relative[form].update(nll, torch.full(nll.shape, name == "concept"))
                if name == "concept":
                    self.distances[form].update(nll)

    def compute(self) -> dict[str, float]:
        """All numbers by name."""
        results = {name: float(self.means[name].compute()) for name in map(str, self.means)}
        results |= {f"distance_{form}": float(self.distances[form].compute()["value"]) for form in FORMS}
        return results | {f"relative_{form}": float(self.relative[form].compute()["value"]) for form in FORMS}


def _collect(metrics: dict[str, Metric]) -> MetricCollection:
    return MetricCollection(dict(metrics), compute_groups=False)


def from_records(records: Sequence[Record], dimension: int) -> dict[str, float]:
    """The numbers of `AuditMetrics` as pure functions of records; what it must agree with.

    Raises:
        ValueError: if concept or reference set has no countable record.
    """
    null = Null(dimension)
    sets = {name: _values(records, name) for name in ("concept", "reference")}
    results = {f"psnr_{name}": float(psnr.mean()) for name, (_, psnr) in sets.items()}
    results |= {f"nll_{name}": float(nll.mean()) for name, (nll, _) in sets.items()}
    (concept, _), (reference, _) = sets["concept"], sets["reference"]
    results |= {f"distance_{form}": float(distance(form)(concept, null)) for form in FORMS}
    return results | {f"relative_{form}": float(relative_distance(concept, reference, null, form)) for form in FORMS}


def _values(records: Sequence[Record], name: SetName | str) -> tuple[Tensor, Tensor]:
    chosen = [r for r in records if (r.set, r.conditioning) == (name, None) and r.counts("seed")]
    nll = torch.tensor([record.number("seed.nll") for record in chosen], dtype=torch.float64)
    return nll, torch.tensor([record.number("seed.psnr") for record in chosen], dtype=torch.float64)
