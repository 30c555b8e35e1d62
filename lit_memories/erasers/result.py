"""Whether what a method leaves behind is an erasure, looked at before it is saved."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_memories.ops.sound import check_weights

STILL = 1e-6
"""Relative change of a prediction that is no more than its rounding."""


def check_result(
    tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor], before: Tensor, after: Tensor, concept: str
) -> None:
    """Refuse a training that diverged, changed nothing, or changed nothing that the concept's predictions show.

    Args:
        tensors: what was trained, by name.
        originals: the same before.
        before: what the model predicted for the concept's prompts then.
        after: what it predicts now.
        concept: its name.

    Raises:
        ValueError: saying what to do.
    """
    check_weights(tensors)
    if all(torch.equal(originals[name].cpu(), tensor.cpu()) for name, tensor in tensors.items()):
        raise ValueError("training changed nothing, so nothing is saved: look at lr, steps and trainer limits")
    if not after.isfinite().all():
        raise ValueError(f"training diverged: the model predicts NaN or infinity for {concept}; lower lr")
    if (after - before).norm() <= STILL * before.norm():
        raise ValueError(
            f"nothing was erased, so nothing is saved: what the model predicts for {concept} is what it was, but for "
            "rounding; look at lr, steps, and the method's own weights"
        )
