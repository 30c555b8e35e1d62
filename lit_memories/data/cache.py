"""What is made once and kept: files of tensors, whole or not at all."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_memories.storage.tensors import read_notes, read_tensors, write_tensors
from lit_memories.storage.unfinished import clear

NAME = "name"
"""Where a file's header has its name."""


def cached(file: Path, names: Collection[str], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from a file of the cache; made and kept there if it is not there yet, damaged, or another file.

    A file knows its name, so that one that was exchanged for another is made anew.

    A cache that cannot be written, as it is full or of others, is warned of: a run needs none.

    Args:
        file: of the cache, named by all that its tensors depend on.
        names: of the tensors.
        make: gives the tensors; a killed run leaves no half a file.

    Returns:
        The tensors on the CPU, as they are in the file.
    """
    try:
        kept = read_tensors(file) if read_notes(file).get(NAME) == file.stem else {}
    except (OSError, ValueError):
        kept = {}
    finite = all(bool(tensor.isfinite().all()) for tensor in kept.values() if tensor.is_floating_point())
    if kept.keys() != set(names) or not finite:
        kept = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
        try:
            clear(file.parent)
            write_tensors(file, kept, {NAME: file.stem})
        except OSError as error:
            rank_zero_warn(f"{file.parent} cannot keep what was made for it, which is made again next time: {error}")
    return kept
