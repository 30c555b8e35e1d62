"""Which of a GPU's kernels an audit may take: those that compute as exactly as it says, and the same every time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Within the context convolutions are as exact as matrix products are asked to be, and repeat to the bit.

    By default torch rounds the factors of a convolution on a GPU to TensorFloat-32, 10 bits, though not those of a
    matrix product. Here both follow `torch.set_float32_matmul_precision`, which is one of the audit's settings. And
    cuDNN chooses kernels neither by a race between them nor among those that add up in a random order.
    """
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=False,
        deterministic=True,
        allow_tf32=torch.get_float32_matmul_precision() != "highest",
    ):
        yield
