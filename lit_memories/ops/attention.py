"""Looking into cross-attention, and closing its escape hatch, with hooks that leave the network as it is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_memories.ops.joint_attention import joint_attentions, recorded_joint_attention

BLOCK = re.compile(r"(down_blocks|up_blocks)\.\d+|mid_block")
"""Names of a U-Net's blocks."""
ORDER = ("down_blocks", "mid_block", "up_blocks")
"""In which they are run."""


def cross_attentions(network: nn.Module) -> dict[str, Any]:
    """The cross-attention layers (``attn2``) of a U-Net by name.

    Raises:
        ValueError: if there are none.
    """
    found = {name: module for name, module in network.named_modules() if name.rsplit(".", 1)[-1] == "attn2"}
    if not found:
        raise ValueError(f"{type(network).__name__} has no cross-attention (attn2) layers")
    return found


def strides(network: nn.Module) -> dict[str, int]:
    """How many times coarser than latents each cross-attention layer (``attn2``) of a U-Net is, by name.

    By the blocks before it that halve, or double, their input's sides; without a call of the network.

    Raises:
        ValueError: if there are none.
    """
    layers, stride = cross_attentions(network), 1
    found: dict[str, int] = {}
    blocks = {name: block for name, block in network.named_modules() if BLOCK.fullmatch(name)}
    for name, block in sorted(blocks.items(), key=lambda pair: ORDER.index(pair[0].split(".")[0])):
        found |= {layer: stride for layer in layers if layer.startswith(f"{name}.")}
        stride *= 2 if getattr(block, "downsamplers", None) else 1
        stride //= 2 if getattr(block, "upsamplers", None) else 1
    return found


@contextmanager
def recorded_attention(network: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, each call of the network appends its cross-attention probabilities, a layer at a time.

    They are computed again from the layers' own queries and keys, so that fast attention kernels, which never hold
    them, can stay; gradients flow through both. Of a transformer it is `recorded_joint_attention`.

    Yields:
        A list that receives a tensor (n, heads, pixels, tokens) for each layer in the order of their calls.
    """
    if joint_attentions(network):
        with recorded_joint_attention(network) as probabilities:
            yield probabilities
        return
    probabilities = []
    queries: dict[str, Tensor] = {}
    hooks = []
    for name, layer in cross_attentions(network).items():

        def keep(_module: nn.Module, _args: object, output: Tensor, name: str = name) -> None:
            queries[name] = output

        def attend(_module: nn.Module, _args: object, keys: Tensor, name: str = name, heads: int = layer.heads) -> None:
            q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries.pop(name), keys))
            probabilities.append((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1))

        hooks += [layer.to_q.register_forward_hook(keep), layer.to_k.register_forward_hook(attend)]
    try:
        yield probabilities
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def detached_first_token(network: nn.Module) -> Iterator[None]:
    """Within the context, the first token's keys and values give no gradient to the cross-attention's matrices.

    The first token begins every prompt: what is learnt on it touches all of them (Kumari et al. 2023, inherited from
    custom diffusion).
    """

    def detach(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)

    hooks = [
        projection.register_forward_hook(detach)
        for layer in cross_attentions(network).values()
        for projection in (layer.to_k, layer.to_v)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
