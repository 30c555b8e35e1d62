"""When memory does not suffice: one line that says what to try, and what is safe."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SIGNS = "can't allocate memory", "out of memory", "ALLOC_FAILED"
"""What torch says where it has no class of error for it: on a CPU, and from some libraries of a GPU."""


@contextmanager
def enough_memory(block_size: int, image_size: tuple[int, int], folder: Path) -> Iterator[None]:
    """Within the context a device or machine that runs out of memory ends in one line.

    Args:
        block_size: rows of a network call, which bound the memory that is needed.
        image_size: (height, width) in pixels.
        folder: the run folder.

    Raises:
        OSError: if memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(sign in str(error) for sign in SIGNS):
            raise
        way = (
            f"try --model.block_size {block_size // 2}, in another run folder, as results depend on it"
            if block_size > 1
            else "no smaller block exists: try --trainer.precision bf16-mixed, in another run folder"
        )
        height, width = image_size
        raise OSError(
            f"out of memory at block_size {block_size} and images of {height} x {width} pixels: {way} (a smaller "
            f"batch_size would save little); the records in {folder} are safe"
        ) from error
