"""What every converter asks of tensors, and how it names them."""

import re
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from lit_memories.erasure import FLOATS
from lit_memories.storage.weights import WeightFile

NETWORK = re.compile(r"(?:^|[._])(?:(?:down|up)_blocks|mid_block|(?:input|output)_blocks|middle_block)[._]")
TRANSFORMER = re.compile(
    r"(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks|joint_blocks|joint_transformer_blocks)[._]"
    r"|^(?:transformer|lora_transformer)[._]"
)
ENCODER = re.compile(r"^(?:lora_te([23])|text_encoder_([23]))(?:[._]|$)")
"""What names of layers are like in networks of diffusion models, and in text encoders beside the first."""


def check_sound(file: WeightFile, name: str, tensor: Tensor) -> None:
    """Refuse what is no weight, and NaN and infinity.

    Raises:
        ValueError: naming it.
    """
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{file.path} holds no weight for {name} but {kind}, {tensor.layout}, on {tensor.device}")
    if not tensor.isfinite().all():
        raise ValueError(f"{file.path} holds NaN or infinity in {name}: training diverged, or the file is damaged")


def check_whole(file: WeightFile, found: Collection[str], names: Iterable[str]) -> None:
    """Refuse a file that lacks tensors of the base.

    Raises:
        ValueError: naming them.
    """
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{file.path} is for another base, or incomplete: it lacks {some(missing)}")


def is_network(keys: Sequence[str]) -> bool:
    """Whether names are those of a diffusion model's network, though of another one."""
    return any(NETWORK.search(key) or TRANSFORMER.search(key) for key in keys)


def misfit(strange: Sequence[str], encoders: Collection[str]) -> str:
    """Why a base has nothing for some names, as far as they tell.

    Args:
        strange: the names, at least one.
        encoders: names of the base's text encoders.
    """
    if found := [key for key in strange if TRANSFORMER.search(key)]:
        return f"it is for a transformer, as Flux and Stable Diffusion 3 have, and the base is a U-Net: {some(found)}"
    for key in strange:
        part = ENCODER.search(key)
        if part and (name := f"text_encoder_{part[1] or part[2]}") not in encoders:
            return f"it is for a model with a {name}, and the base has {' and '.join(encoders)} alone: {key}"
    return f"the base has nothing for {some(strange)}"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "no tensors") + more
