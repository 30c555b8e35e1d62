"""An adversary's descent: steps of Adam on one tensor, leaving all else alone."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lit_memories.ops.gradients import gradients


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


class Descent:
    """Adam on one tensor, taken up again as often as is wanted; no parameter of a network gets a gradient.

    Nothing mixes rows of the tensor if the loss is a sum over them, as Adam moves each element by its own gradient.

    Args:
        start: where to begin; not changed.
        lr: learning rate.
        weight_decay: share of the tensor that a step takes away, in units of `lr` (AdamW, Loshchilov & Hutter 2019).
        project: brings the tensor back to where it may be, after each step.
        decoupled: whether the decay is taken from the tensor; if not, it is added to the gradient, as Adam has it.
    """

    def __init__(
        self,
        start: Tensor,
        lr: float,
        weight_decay: float = 0.0,
        project: Callable[[Tensor], Tensor] | None = None,
        decoupled: bool = True,
    ) -> None:
        with torch.inference_mode(False):
            self.found = start.detach().clone().requires_grad_(True)
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        self.optimizer = kind([self.found], lr=lr, weight_decay=weight_decay)
        self.project, self.taken = project, 0

    def state_dict(self) -> dict[str, Any]:
        """Where it is, for a checkpoint."""
        return {"found": self.found.detach(), "optimizer": self.optimizer.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where a descent of the same options was.

        Args:
            state: what `state_dict` gave.
        """
        with torch.no_grad():
            self.found.copy_(state["found"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.taken = state["taken"]

    def run(self, loss: Callable[[Tensor, int], Tensor], steps: int) -> Tensor:
        """Take steps, and give the tensor after them, detached.

        Args:
            loss: maps the tensor and the step's number, counted over all runs, to a scalar.
            steps: how many, 0 or more.
        """
        with gradients():
            for _ in range(steps):
                (self.found.grad,) = torch.autograd.grad(loss(self.found, self.taken), [self.found])
                self.optimizer.step()
                self.taken += 1
                if self.project is not None:
                    with torch.no_grad():
                        self.found.copy_(self.project(self.found))
        return self.found.detach().clone()
