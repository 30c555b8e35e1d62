"""Evaluation in blocks of one fixed size, so that a sample's result does not depend on its neighbours.

Libraries choose their kernels by batch size, and different kernels round differently. If every call has the same
number of rows, a row's result is the same to the bit wherever it stands and whatever stands beside it.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def in_blocks(function: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
    """Apply `function` to blocks of exactly `size` rows; the last is filled up by repeating its last row.

    Args:
        function: maps tensors (size, ...) to a tensor (size, ...), row by row.
        size: rows a call.
        *tensors: each (n, ...), n at least 1.

    Returns:
        The results (n, ...).

    Example:
        >>> in_blocks(lambda x: x * len(x), 2, torch.ones(3))
        tensor([2., 2., 2.])
    """
    results = []
    for blocks in zip(*(tensor.split(size) for tensor in tensors), strict=True):
        rows = len(blocks[0])
        padded = [torch.cat([block, block[-1:].expand(size - rows, *block.shape[1:])]) for block in blocks]
        results.append(function(*padded)[:rows])
    return torch.cat(results)
