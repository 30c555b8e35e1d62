"""The adversary inside a training step: a few steps of Adam on a vector, leaving all else alone."""

from collections.abc import Callable

import torch
from torch import Tensor


def minimise(
    loss: Callable[[Tensor, int], Tensor], start: Tensor, steps: int, lr: float, faithful: bool = False
) -> Tensor:
    """Run Adam on one tensor; no parameter of a network gets a gradient.

    Args:
        loss: maps the tensor and the step's number to a scalar.
        start: where to begin; not changed.
        steps: how many steps, 0 or more.
        lr: learning rate.
        faithful: as AdvUnlearn's official code does it: gradients pile up from step to step, and what is returned is
            the tensor before the last update.

    Returns:
        The tensor after the steps, detached.
    """
    found = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([found], lr=lr)
    before, piled = found.detach().clone(), torch.zeros_like(found)
    with torch.enable_grad():
        for step in range(steps):
            (gradient,) = torch.autograd.grad(loss(found, step), [found])
            piled = piled + gradient if faithful else gradient
            found.grad = piled.clone()
            before = found.detach().clone()
            optimizer.step()
    return before if faithful else found.detach()
