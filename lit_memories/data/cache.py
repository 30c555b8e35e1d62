"""Files of a cache: whole or not at all."""

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lit_memories.storage.files import read_tensors, whole


def save_whole(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write safetensors; a killed run leaves no half a file under the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)


def load_whole(file: Path, names: Collection[str]) -> dict[str, Tensor] | None:
    """What `save_whole` wrote; None if there is nothing yet, or what is there is damaged and has to be made again.

    Args:
        file: of the cache.
        names: of the tensors that make sense of it.
    """
    try:
        tensors = read_tensors(file)
    except (FileNotFoundError, ValueError):
        return None
    return tensors if tensors.keys() == set(names) else None
