"""Models no larger than their weights: a configuration of a kilobyte could ask for any number of layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from lit_memories.storage.weights import weight_names

SLACK = 4
"""How many tensors may be made of one in a file: of attention's queries, keys and values that stand together three."""
SPARE = 1 << 16
"""Tensors, and numbers in them, that a small model may have besides, such as positions that no file holds."""

LARGEST = 10**12, 1 << 16
"""Numbers and tensors of the largest model of which an outline is made."""


class OversizeError(ValueError):
    """A configuration describes a model that is larger than its weights."""


@contextmanager
def bounded(config: Path, files: Sequence[Path]) -> Iterator[None]:
    """A context in which models are made that their weights fill; others are given up before they take the memory.

    A number takes a byte of a file at least, and every tensor has a name there.

    Args:
        config: the file or folder that describes the model, for the message.
        files: with its weights.

    Raises:
        OversizeError: as soon as more is made than the files can hold.
        ValueError: if a file is damaged.
    """
    numbers = SPARE + sum(file.stat().st_size for file in files)
    tensors = SPARE // 64 + SLACK * sum(len(weight_names(file)) for file in files)
    with _limited(
        numbers,
        tensors,
        f"the weights in {files[0]} do not fill the model that {config} describes, which is larger than the "
        "file: copy both from the model they were made of",
    ):
        yield


@contextmanager
def within_reason(config: Path) -> Iterator[None]:
    """A context in which models are made without weights to compare them with, if they are no larger than any is.

    Args:
        config: the file that describes the model, for the message.

    Raises:
        OversizeError: as soon as more is made than any model has.
    """
    with _limited(*LARGEST, f"{config} describes a model that is larger than any: copy it from the model it is of"):
        yield


@contextmanager
def _limited(numbers: int, tensors: int, otherwise: str) -> Iterator[None]:
    made = {"numbers": 0, "tensors": 0}

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        made["numbers"] += tensor.numel()
        made["tensors"] += 1
        if made["numbers"] > numbers or made["tensors"] > tensors:
            raise OversizeError(otherwise)

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
