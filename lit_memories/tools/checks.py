"""What every converter asks of tensors, and how it names them."""

import re
from collections.abc import Collection, Iterable, Sequence

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from lit_memories.erasure import FLOATS
from lit_memories.storage.weights import WeightFile

NETWORK = re.compile(r"(?:^|[._])(?:(?:down|up)_blocks|mid_block|(?:input|output)_blocks|middle_block)[._]")
FAMILIES = {
    "FLUX": re.compile(r"(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks)[._]"),
    "Stable Diffusion 3": re.compile(
        r"(?:^|[._])joint_(?:transformer_)?blocks[._]|^(?:lora_)?(?:transformer[._])?transformer_blocks[._]\d+[._]attn2[._]"
    ),
}
"""What names of layers are like in transformers, and whose they are."""
TRANSFORMER = re.compile(r"^(?:transformer|lora_transformer)[._]")
BLOCK = re.compile(r"((?:single_transformer|transformer|double|single|joint)_blocks)[._](\d+)[._]")
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
    return any(NETWORK.search(key) or _family(key) for key in keys)


def misfit(strange: Sequence[str], network: nn.Module, encoders: Collection[str]) -> str:
    """Why a base has nothing for some names, as far as they tell.

    Args:
        strange: the names, at least one.
        network: the base's.
        encoders: names of the base's text encoders.
    """
    flux = isinstance(network, FluxTransformer2DModel)
    base = "a U-Net" if isinstance(network, UNet2DConditionModel) else "FLUX" if flux else "Stable Diffusion 3"
    if base != "a U-Net" and (found := [key for key in strange if NETWORK.search(key)]):
        return f"it is for a U-Net, and the base is a transformer, {base}: {some(found)}"
    if base == "a U-Net" and (found := [key for key in strange if _family(key)]):
        return f"it is for a transformer, as Flux and Stable Diffusion 3 have, and the base is a U-Net: {some(found)}"
    if found := [key for key in strange if _family(key) in FAMILIES.keys() - {base}]:
        return f"it is for {_family(found[0])}, and the base is {base}: {some(found)}"
    for key in strange:
        part = ENCODER.search(key)
        number = part and ("2" if flux and part[1] else part[1] or part[2])  # kohya's third is T5, FLUX's second
        if number and (name := f"text_encoder_{number}") not in encoders:
            return f"it is for a model with a {name}, and the base has {' and '.join(encoders)} alone: {key}"
        if (block := BLOCK.search(key)) and base != "a U-Net":
            name = "single_transformer_blocks" if block[1].startswith("single") else "transformer_blocks"
            if int(block[2]) >= (count := len(list(network.get_submodule(name).children()))):
                return f"it is for another transformer, for the base has {count} blocks of its kind: {key}"
    return f"the base has nothing for {some(strange)}"


def _family(key: str) -> str | None:
    """Whose transformer a layer's name is of; of some transformer if it says no more."""
    found = next((whose for whose, names in FAMILIES.items() if names.search(key)), None)
    return found or ("a transformer" if TRANSFORMER.search(key) else None)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "no tensors") + more
