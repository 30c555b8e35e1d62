"""Which weights matter for some data: gradients summed over batches, and the largest of them as a mask."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


def summed_gradients(
    losses: Iterable[Tensor], parameters: Mapping[str, Tensor], absolute: bool = False
) -> dict[str, Tensor]:
    r"""Gradients of losses, added up.

    Args:
        losses: scalars, computed one after the other as they are asked for.
        parameters: with respect to which.
        absolute: add :math:`|g_b|` of each loss (SNIP, as Scissorhands uses it) instead of :math:`g_b` (the gradient of
            the whole set, as SalUn does).

    Returns:
        A tensor for each parameter; zeros where no loss depends on it.

    Example:
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> summed_gradients((3 * w.sum(), -2 * w.sum()), {"w": w})
        {'w': tensor([1.])}
        >>> summed_gradients((3 * w.sum(), -2 * w.sum()), {"w": w}, absolute=True)
        {'w': tensor([5.])}
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.abs() if absolute else gradient
    return total


def largest(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Masks of the elements with the largest scores, by one threshold over all tensors.

    Args:
        scores: non-negative, any shapes.
        ratio: share of all elements to mark, in (0, 1].

    Returns:
        Boolean masks of the scores' shapes. Elements equal to the threshold are marked; a score of 0 never is.

    Raises:
        ValueError: if `ratio` is out of range.

    Example:
        >>> largest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 0.0])}, 0.5)
        {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"the share of weights must be in (0, 1], got {ratio}")
    flat = torch.cat([score.flatten() for score in scores.values()])
    marked = max(1, round(ratio * len(flat)))
    threshold = flat.kthvalue(len(flat) - marked + 1).values
    return {name: (score >= threshold) & (score > 0) for name, score in scores.items()}


def smallest(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Masks of the elements with the smallest scores: all that `largest` leaves; `ratio` in [0, 1).

    Example:
        >>> smallest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 0.0])}, 0.5)
        {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    return {name: ~mask for name, mask in largest(scores, 1 - ratio).items()}


def common(masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What all of some masks mark, at least one of them."""
    return {name: torch.stack([mask[name] for mask in masks]).all(0) for name in masks[0]}
