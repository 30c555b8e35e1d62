"""Whether the concept's seeds moved, when other seeds did not."""

from typing import Any

import torch
from torch import Tensor

from lit_memories.metrics.base import IntervalMetric, named, split_by_concept
from lit_memories.metrics.functional import paired_shift
from lit_memories.metrics.intervals import ratio_interval


class Forgetting(IntervalMetric):
    """Forgetting of a concept against the vanilla model, paired by image, see `forgetting`.

    `compute` returns ``value``, ``low``, ``high`` (forgetting, nats), ``damage``, ``damage_low``, ``damage_high`` (the
    shift of R, nats) and, with a control, ``fraction``, ``fraction_low``, ``fraction_high`` (see
    `forgetting_fraction`, with `ratio_interval`).

    Args:
        with_control: whether cases come with the NLL under a control that never saw the concept.
        kwargs: see `IntervalMetric`.

    Example:
        >>> import torch
        >>> vanilla = torch.tensor([10.0, 12.0, 20.0, 21.0])
        >>> shift = torch.tensor([80.0, 70.0, 1.0, 3.0])
        >>> metric = Forgetting(draws=1000)
        >>> metric.update(vanilla + shift, vanilla, torch.tensor([True, True, False, False]))
        >>> result = metric.compute()
        >>> result["value"], result["damage"]
        (tensor(73., dtype=torch.float64), tensor(2., dtype=torch.float64))
    """

    def __init__(self, with_control: bool = False, **kwargs: Any) -> None:
        super().__init__(columns=4 if with_control else 3, **kwargs)
        self.with_control = with_control

    def update(self, nll: Tensor, vanilla_nll: Tensor, is_concept: Tensor, control_nll: Tensor | None = None) -> None:
        """Add cases.

        Args:
            nll: under the model (n,).
            vanilla_nll: of the same images under the vanilla model (n,).
            is_concept: whether the case is of E, not of R (n,).
            control_nll: of the same images under the control (n,); if and only if the metric is `with_control`.

        Raises:
            ValueError: if lengths differ, one is not finite, or the control is missing or not expected.
        """
        if self.with_control != (control_nll is not None):
            raise ValueError(f"with_control is {self.with_control}: control_nll must be given exactly if it is True")
        control = {} if control_nll is None else {"control_nll": control_nll}
        self._append(is_concept=is_concept, nll=nll, vanilla_nll=vanilla_nll, **control)

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if E or R is empty.
        """
        concept, reference = split_by_concept(self._cases())
        moved = [paired_shift(cases[:, 0], cases[:, 1]) for cases in (concept, reference)]
        result = self._mean(moved[0], moved[1]) | self._mean(moved[1], name="damage")
        if self.with_control:
            unit = [paired_shift(cases[:, 2], cases[:, 1]) for cases in (concept, reference)]
            pairs = [torch.stack(columns, 1) for columns in zip(moved, unit, strict=True)]
            result |= named(ratio_interval(pairs[0], pairs[1], self.level), "fraction")
        return result
