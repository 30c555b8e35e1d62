"""Files of a cache: whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_whole(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write safetensors; a killed run leaves no half a file under the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")  # two runs may share the cache
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    part.replace(file)
