"""What others call the parts of a model: wrappers around names, and CompVis' names of a U-Net's."""

import re
from collections.abc import Iterable

from lit_memories.storage.weights import OUTER

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What DistributedDataParallel, torch.compile and FSDP put into names, anywhere: no part of a model is called so."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
BLOCK = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def unwrapped(key: str) -> str:
    """A name without wrappers anywhere, and without what stands before names of a U-Net.

    Example:
        >>> unwrapped("module.unet.down_blocks.0._orig_mod.resnets.0.conv1.weight")
        'down_blocks.0.resnets.0.conv1.weight'
    """
    parts = [part for part in key.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] in OUTER:
        parts = parts[1:]
    return ".".join(parts)


def compvis_names(names: Iterable[str], layers_per_block: int) -> dict[str, str]:
    """What CompVis calls the tensors of a U-Net, or its layers, that diffusers calls by `names`.

    CompVis counts the blocks of each half in a row, `layers_per_block` + 1 a level.

    Args:
        names: diffusers' names, all of the U-Net: whether there is attention decides where an upsampler stands.
        layers_per_block: of the U-Net.
    """
    names = list(names)
    blocks = [match for match in map(BLOCK.match, names) if match]
    attending = {match[2] for match in blocks if match[1] == "up" and match[3] == "attentions"}
    found = {}
    for name in names:
        module = next((end for end in ENDS if name == end or name.startswith(f"{end}.")), None)
        if module is not None:
            found[name] = ENDS[module] + name.removeprefix(module)
        elif match := BLOCK.fullmatch(name):
            found[name] = _block(match, layers_per_block + 1, match[2] in attending)
    return found


def _block(match: re.Match[str], each: int, attends: bool) -> str:
    """What CompVis calls something in a block."""
    side, level, kind, number, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if kind == "resnets":
        part, dot, leaf = rest.partition(".")
        rest = RESNET.get(part, part) + dot + leaf
    if side == "mid":
        return f"middle_block.{2 * number if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{each * (level + 1)}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":  # after the attention, where there is one
        return f"output_blocks.{each * level + each - 1}.{2 if attends else 1}.{rest}"
    place = f"input_blocks.{each * level + number + 1}" if side == "down" else f"output_blocks.{each * level + number}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{rest}"
