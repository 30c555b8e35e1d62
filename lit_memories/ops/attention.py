"""Looking into cross-attention, and closing its escape hatch, with hooks that leave the network as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_memories.ops.joint_attention import joint_attentions, recorded_joint_attention


def cross_attentions(network: nn.Module) -> dict[str, Any]:
    """The cross-attention layers (``attn2``) of a U-Net by name.

    Raises:
        ValueError: if there are none.
    """
    found = {name: module for name, module in network.named_modules() if name.rsplit(".", 1)[-1] == "attn2"}
    if not found:
        raise ValueError(f"{type(network).__name__} has no cross-attention (attn2) layers")
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
