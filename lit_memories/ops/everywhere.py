"""A small tensor that is wanted wherever the model is."""

import torch
from torch import Tensor


class Everywhere:
    """A tensor, copied once to every device it is asked for on: a copy a call would have the host wait for a GPU.

    Args:
        tensor: what it holds, which is not to be changed.

    Example:
        >>> Everywhere(torch.ones(2)).on(torch.device("cpu"))
        tensor([1., 1.])
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copies = {tensor.device: tensor}

    def on(self, device: torch.device) -> Tensor:
        """The tensor there."""
        if device not in self._copies:
            with torch.inference_mode(False):  # a copy made within it could take part in no gradient
                self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device]
