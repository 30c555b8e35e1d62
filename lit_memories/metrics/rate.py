"""What shows in images: how often the concept does, and how faithful they are."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_memories.metrics.base import IntervalMetric, named
from lit_memories.metrics.bootstrap import wilson_interval
from lit_memories.metrics.functional import psnr


class ConceptRate(Metric):
    """Share of images in which a judge sees the concept.

    `compute` returns ``value``, ``low``, ``high``: the rate and Wilson's interval, see `wilson_interval`.

    Args:
        level: confidence of the interval.
        kwargs: torchmetrics' own options.

    Example:
        >>> metric = ConceptRate()
        >>> metric.update(torch.tensor([True, False, False, False]))
        >>> {name: round(float(number), 2) for name, number in metric.compute().items()}
        {'value': 0.25, 'low': 0.05, 'high': 0.7}
    """

    is_differentiable = False
    full_state_update = False
    successes: Tensor
    total: Tensor

    def __init__(self, level: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = level
        self.add_state("successes", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, shows: Tensor) -> None:
        """Add cases.

        Args:
            shows: 1 or True where the image shows the concept, else 0 (n,).

        Raises:
            ValueError: if there are other values.
        """
        if not bool(((shows == 0) | (shows == 1)).all()):
            raise ValueError("shows must be 0 or 1: threshold scores first and leave flagged samples out")
        self.successes += int(shows.sum())
        self.total += shows.numel()

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if there are no cases.
        """
        return named(wilson_interval(int(self.successes), int(self.total), self.level))


class MeanPSNR(IntervalMetric):
    """Mean over images of their peak signal-to-noise ratio, in dB, each at most 100, see `psnr`.

    `compute` returns ``value``, ``low``, ``high``.

    Args:
        kwargs: see `IntervalMetric`.

    Example:
        >>> target = torch.zeros(2, 3, 8, 8)
        >>> metric = MeanPSNR(draws=1000)
        >>> metric.update(torch.stack([target[0] + 0.01, target[1] + 0.1]), target)
        >>> metric.compute()["value"]
        tensor(30.0000, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(columns=1, **kwargs)

    def update(self, images: Tensor, target: Tensor) -> None:
        """Add images and their originals, in [0, 1] (n, c, h, w).

        Raises:
            ValueError: if shapes differ or values leave [0, 1].
        """
        self._append(psnr=psnr(images, target))

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if there are no images.
        """
        return self._mean(self._cases()[:, 0])
