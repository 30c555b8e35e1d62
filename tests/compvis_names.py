"""What CompVis calls the tensors of a U-Net."""

import re

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
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def compvis_name(name: str) -> str:
    """What CompVis calls a tensor of diffusers' U-Net: written out here, so that the library's map is tested."""
    module, leaf = name.rsplit(".", 1)
    if module in ENDS:
        return f"{ENDS[module]}.{leaf}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, layer, rest = match[1], int(match[2]), match[3]
        block = "middle_block." + ("1" if kind == "attentions" else str(2 * layer))
    else:
        match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
        assert match, name
        side, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{leaf}"
        if kind == "upsamplers":  # after the attention, where there is one
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.conv.{leaf}"
        place = f"input_blocks.{3 * level + layer + 1}" if side == "down" else f"output_blocks.{3 * level + layer}"
        block = f"{place}.{1 if kind == 'attentions' else 0}"
    if kind == "resnets":
        part, leaf = rest.split(".")
        rest = f"{RESNET[part]}.{leaf}"
    return f"{block}.{rest}"
