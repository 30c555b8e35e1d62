"""Whether a training makes anything that is of use: its losses and its weights are numbers, and of a usual size."""

from collections.abc import Mapping

import torch
from torch import Tensor

LARGEST = 65504.0
"""The largest number of half precision, in which weights are stored and loaded; those of a network are below a few
hundred."""
LOOK_EVERY = 25
"""Steps from one look at the loss to the next."""


def check_losses(logged: Mapping[str, Tensor], step: int) -> None:
    """Stop a training whose loss is no number: all that follows is in vain.

    Args:
        logged: values by name; those of the training begin with ``train/``.
        step: how many steps were made.

    Raises:
        ValueError: naming the first one.
    """
    names = [name for name in logged if name.startswith("train/")]
    if names and not (sound := torch.stack([logged[name].detach().float() for name in names]).isfinite()).all():
        bad = names[int(sound.int().argmin())]
        raise ValueError(
            f"training diverged: {bad} is {float(logged[bad])} after step {step}; lower lr, or the option that "
            "multiplies the loss, such as eta"
        )


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that nothing can be reckoned with.

    Raises:
        ValueError: naming the first tensor with NaN, infinity, or a number beyond `LARGEST`.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"training diverged: {name} holds NaN or infinity; lower the learning rate")
        if tensor.numel() and (most := float(tensor.abs().max())) > LARGEST:
            raise ValueError(f"training diverged: {name} holds {most:.3g}, no weight is so large; lower lr")
