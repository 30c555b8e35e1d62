"""Input checks shared by the metrics: what enters a statistic is a non-empty, finite set in float64."""

import torch
from torch import Tensor


def as_float64(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where the device has no float64 (Apple's).

    Example:
        >>> as_float64(torch.tensor([True, False]))
        tensor([1., 0.], dtype=torch.float64)
    """
    if values.device.type == "mps":
        values = values.cpu()
    return values.to(torch.float64)


def as_set(values: Tensor, name: str) -> Tensor:
    """A set of samples, the last dimension, in float64.

    Args:
        values: one number a sample (..., n).
        name: how an error calls the set.

    Raises:
        ValueError: if the set is empty or has values that are not finite.

    Example:
        >>> as_set(torch.tensor([1, 2]), "concept set")
        tensor([1., 2.], dtype=torch.float64)
    """
    values = as_float64(values)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"the {name} is empty: a statistic needs one sample or more, got shape {tuple(values.shape)}")
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"the {name} has {bad} non-finite of {values.numel()} values: leave those samples out")
    return values


def as_pair(values: Tensor, baseline: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Two sets measured on the same samples, in the same order.

    Args:
        values: one number a sample (..., n).
        baseline: the other number of the same samples (..., n).
        name: how an error calls the set.

    Raises:
        ValueError: if they differ in length, or either is no set (see `as_set`).

    Example:
        >>> as_pair(torch.ones(2), torch.ones(3), "concept set")
        Traceback (most recent call last):
        ...
        ValueError: the concept set cannot be paired: 2 and 3 values; give one of each per sample
    """
    values, baseline = as_set(values, name), as_set(baseline, name)
    count, other = values.shape[-1], baseline.shape[-1]
    if count != other:
        raise ValueError(f"the {name} cannot be paired: {count} and {other} values; give one of each per sample")
    return values, baseline
