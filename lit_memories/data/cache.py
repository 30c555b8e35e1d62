"""What is made once and kept: files of tensors, whole or not at all."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import Tensor

from lit_memories.storage.files import check_writable
from lit_memories.storage.tensors import read_tensors, write_tensors


def cached(file: Path, names: Collection[str], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from a file of the cache; made and kept there if it is not there yet, damaged, or of other tensors.

    Args:
        file: of the cache, named by all that its tensors depend on.
        names: of the tensors.
        make: gives the tensors; a killed run leaves no half a file.

    Returns:
        The tensors on the CPU, as they are in the file.
    """
    try:
        kept = read_tensors(file)
    except (FileNotFoundError, ValueError):
        kept = {}
    if kept.keys() != set(names):
        check_writable(file.parent)
        kept = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
        write_tensors(file, kept)
    return kept
