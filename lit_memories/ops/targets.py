"""What an eraser's prediction is pulled towards."""

from torch import Tensor


def negate(base: Tensor, concept: Tensor, empty: Tensor, eta: float) -> Tensor:
    r"""ESD's negatively guided target :math:`\epsilon - \eta(\epsilon_c - \epsilon_\emptyset)`.

    Gandikota et al. 2023, eq. 7, in the paper's form, where :math:`\epsilon = \epsilon_\emptyset`: the official 2025
    code's default of 2 is ``eta = 1`` here.

    Args:
        base: the teacher's prediction to start from (n, c, h, w): for the empty prompt, or for a wider one.
        concept: its prediction for the concept (n, c, h, w).
        empty: its prediction for the empty prompt (n, c, h, w).
        eta: strength; 0 is `base`.

    Example:
        >>> import torch
        >>> empty, concept = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0])
        >>> negate(empty, concept, empty, 1.0)  # as far on the other side as the concept is on one
        tensor([-1.,  1.])
    """
    return base - eta * (concept - empty)


def match(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error to a target that gets no gradient."""
    return (predicted - target.detach()).square().mean()
