"""What the metrics have in common: a table of cases as state, and an interval around every number."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_memories.metrics.bootstrap import Estimate, Statistic, bootstrap, sort_rows
from lit_memories.metrics.checks import as_float64, as_set
from lit_memories.metrics.intervals import mean_interval


class IntervalMetric(Metric):
    """A metric over cases whose `compute` returns numbers with their intervals.

    Convention of all metrics here: `compute` returns a dict of float64 scalars, ``value``, ``low`` and ``high`` for the
    metric's own number and, where there are others, ``NAME``, ``NAME_low`` and ``NAME_high``. Intervals are bootstraps
    over cases (see `bootstrap`), NaN where there is a single case. Neither batches, nor their order, nor the number of
    processes changes a result. Prefer `update` to calling the metric, which bootstraps every batch.

    Args:
        columns: numbers a case has.
        draws: resamples of the bootstrap.
        level: confidence of the intervals.
        seed: of the resampling.
        kwargs: torchmetrics' own options.
    """

    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, columns: int, draws: int = 10_000, level: float = 0.95, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns, self.draws, self.level, self.seed = columns, draws, level, seed
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Float64, always: a process without cases joins the gather with an empty tensor of this type."""
        return torch.float64

    def _append(self, **columns: Tensor) -> None:
        """Add one case a row; flat, since a process without cases has no second dimension to agree on."""
        sizes = {name: tuple(column.shape) for name, column in columns.items()}
        if len(set(sizes.values())) > 1 or any(column.ndim != 1 for column in columns.values()):
            raise ValueError(f"expected one number a case, (n,) each, got {sizes}")
        if next(iter(columns.values())).numel():
            self.rows.append(torch.stack([as_set(column, name) for name, column in columns.items()], 1).flatten())

    def _cases(self) -> Tensor:
        """All cases (n, columns), sorted, on the CPU."""
        empty = torch.zeros(0, dtype=torch.float64)
        flat = as_float64(dim_zero_cat(self.rows) if len(self.rows) else empty).cpu()
        if flat.numel() == 0:
            raise ValueError(f"{type(self).__name__} has no cases: call update before compute")
        return sort_rows(flat.reshape(-1, self.columns))

    def _bootstrap(self, statistic: Statistic, samples: Sequence[Tensor], name: str = "value") -> dict[str, Tensor]:
        estimate = bootstrap(statistic, samples, self.draws, self.level, self.seed)
        return named(estimate, name)

    def _mean(self, values: Tensor, others: Tensor | None = None, name: str = "value") -> dict[str, Tensor]:
        return named(mean_interval(values, others, self.level), name)


def named(estimate: Estimate, name: str = "value") -> dict[str, Tensor]:
    """An estimate as entries of a metric's result.

    Example:
        >>> list(named(Estimate(1.0, 0.0, 2.0), "damage"))
        ['damage', 'damage_low', 'damage_high']
    """
    prefix = "" if name == "value" else f"{name}_"
    values = {name: estimate.value, f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}


def split_by_concept(cases: Tensor) -> tuple[Tensor, Tensor]:
    """Cases of E and of R, told apart by the first column, which is taken off.

    Raises:
        ValueError: if either is empty.

    Example:
        >>> split_by_concept(torch.tensor([[1.0, 7.0], [0.0, 8.0]]))
        (tensor([[7.]]), tensor([[8.]]))
    """
    is_concept = cases[:, 0] != 0
    sets = cases[is_concept, 1:], cases[~is_concept, 1:]
    for name, rows in zip(("concept", "reference"), sets, strict=True):
        if len(rows) == 0:
            raise ValueError(f"the {name} set is empty: all {len(cases)} cases have the other is_concept")
    return sets
