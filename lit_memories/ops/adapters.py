"""Low-rank adapters beside a network's layers, which a strength a sample switches on and off."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from lit_memories.ops.attachment import Attachment

DOWN, UP = "lora_down", "lora_up"
"""Last part of the factors' names, after the layer's own."""
_JOINT = ("JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock")
"""Blocks in which text and picture attend together, as diffusers calls them."""


def attention_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every Linear and Conv2d inside the blocks that attend: what SPM adapts, 192 layers in SD 1.4.

    Of a U-Net those are its attention blocks, of a transformer all blocks, 337 layers in SD 3.5 medium and 418 in
    FLUX.1-dev; the layers of their norms, by which the timestep comes in, are left out as a U-Net's time projections
    are.

    Raises:
        ValueError: if there are none.
    """
    blocks = {
        name for name, module in network.named_modules() if type(module).__name__ in ("Transformer2DModel", *_JOINT)
    }
    layers: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        block = next((block for block in blocks if name.startswith(f"{block}.")), None)
        if block is None or name.removeprefix(f"{block}.").startswith("norm"):
            continue
        if isinstance(module, nn.Linear | nn.Conv2d):
            layers[name] = module
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention blocks to adapt")
    return layers


def projections(network: nn.Module) -> dict[str, nn.Module]:
    """Queries, keys, values and ways out of all attention of a U-Net: what adapters of peft mostly stand beside.

    Raises:
        ValueError: if there are none.
    """
    ends = tuple(
        f".{attention}.{part}" for attention in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")
    )
    layers = {name: module for name, module in network.named_modules() if name.endswith(ends)}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention layers (attn1, attn2) to adapt")
    return layers


class Adapter(Attachment):
    r"""Rank-r factors beside some layers of a network: :math:`y = Wx + \gamma\, U D x`.

    The network is hooked, not changed: its weights and their names stay, and with strength 0 its output is the original
    to the bit.

    Args:
        network: the network.
        factors: D (r, in) and U (out, r), or for convolutions D (r, in, kh, kw) and U (out, r, 1, 1), under the
            layer's name and ``.lora_down`` or ``.lora_up``.

    Raises:
        ValueError: if a factor fits no layer of the network.
    """

    parts, last = (DOWN, UP), (UP,)
    remedy = "merge it by --model.diffusion.gated false"

    def __init__(self, network: nn.Module, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = sorted({name.rsplit(".", 1)[0] for name in factors})
        layers = dict(network.named_modules())
        for name in self.names:
            _check(name, layers.get(name), factors)
        self.down = nn.ParameterList([factors[f"{name}.{DOWN}"] for name in self.names])
        self.up = nn.ParameterList([factors[f"{name}.{UP}"] for name in self.names])
        for index, name in enumerate(self.names):
            layers[name].register_forward_hook(self._hook(index))

    @classmethod
    def fresh(cls, network: nn.Module, rank: int, generator: Generator) -> Self:
        """One beside every layer of a network's attention that does nothing yet."""
        return cls(network, initial_factors(attention_layers(network), rank, generator))

    def _hook(self, index: int) -> Any:
        def add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if self.silent else output + self.scale(output) * self._apply_factors(layer, args[0], index)

        return add

    def _apply_factors(self, layer: nn.Module, inputs: Tensor, index: int) -> Tensor:
        down, up = self.down[index], self.up[index]
        if isinstance(layer, nn.Conv2d):
            inner = functional.conv2d(inputs, down.to(inputs.dtype), None, layer.stride, layer.padding)
            return functional.conv2d(inner, up.to(inputs.dtype))
        return functional.linear(functional.linear(inputs, down.to(inputs.dtype)), up.to(inputs.dtype))

    def factors(self) -> dict[str, nn.Parameter]:
        """The factors under their names, layer by layer."""
        named: dict[str, nn.Parameter] = {}
        for index, name in enumerate(self.names):
            named |= {f"{name}.{DOWN}": self.down[index], f"{name}.{UP}": self.up[index]}
        return named


def _check(name: str, layer: nn.Module | None, factors: Mapping[str, Tensor]) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ValueError(f"the adapter has factors for {name}, which the network has no such layer for")
    down, up = factors.get(f"{name}.{DOWN}"), factors.get(f"{name}.{UP}")
    if down is None or up is None:
        raise ValueError(f"the adapter has only one of the two factors of {name}")
    wanted = factor_shapes(layer.weight.shape, down.shape[0])
    if (tuple(down.shape), tuple(up.shape)) != wanted:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise ValueError(f"adapter factors {shapes} do not fit {name}: expected {wanted}")


def factor_shapes(weight: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of D and U beside a weight of that shape.

    Example:
        >>> factor_shapes((8, 4, 3, 3), 2)
        ((2, 4, 3, 3), (8, 2, 1, 1))
    """
    return (rank, *weight[1:]), (weight[0], rank, *[1] * (len(weight) - 2))


def initial_factors(layers: Mapping[str, nn.Module], rank: int, generator: Generator) -> dict[str, Tensor]:
    """Factors of an adapter that does nothing yet: D uniform as in a fresh layer (He et al. 2015), U zero.

    They are stored in float32 at least, whatever their layers are stored in, as small steps vanish in less.
    """
    factors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weight = layer.weight
        if not isinstance(weight, Tensor):
            raise TypeError(f"{name} has no weight")
        bound, (down, up) = 1 / math.sqrt(weight[0].numel()), factor_shapes(weight.shape, rank)
        drawn = (torch.rand(down, generator=generator) * 2 - 1) * bound
        zeros = torch.zeros(up, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
        factors |= {f"{name}.{DOWN}": drawn.to(weight.device), f"{name}.{UP}": zeros}
    return factors


def merged(weight: Tensor, down: Tensor, up: Tensor, strength: float = 1.0) -> Tensor:
    """A layer's weight with its adapter worked in: for one strength, the same function.

    Example:
        >>> down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]])
        >>> merged(torch.eye(2), down, up, strength=0.5)
        tensor([[1.5000, 1.0000],
                [0.0000, 1.0000]])
    """
    return weight + strength * torch.einsum("or,r...->o...", up.flatten(1), down).to(weight.dtype)


def merged_weights(factors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the layers that an adapter acts on, with it worked in.

    Args:
        factors: of the adapter, by the names of their layers in the model.
        state: the model's tensors by name.

    Raises:
        ValueError: if one is missing, or does not fit.
    """
    tensors = {}
    for layer in sorted({name.rsplit(".", 1)[0] for name in factors}):
        weight, down, up = (
            source.get(name)
            for source, name in ((state, f"{layer}.weight"), (factors, f"{layer}.{DOWN}"), (factors, f"{layer}.{UP}"))
        )
        if weight is None or down is None or up is None:
            raise ValueError(f"erasure does not fit: adapter factors or weights of {layer} are missing")
        if (up.shape[0], *down.shape[1:]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            raise ValueError(f"erasure does not fit: adapter of {layer} is for another size than {tuple(weight.shape)}")
        exact = merged(weight.float(), down.to(weight.device).float(), up.to(weight.device).float())
        tensors[f"{layer}.weight"] = exact.to(weight.dtype)
    return tensors


def gate(
    embeds: Tensor, concept_embeds: Tensor, tokens: Sequence[set[int]], concept_tokens: Sequence[set[int]]
) -> Tensor:
    r"""Strength of an adapter for prompts: how near they are to what it erases (SPM's facilitated transport).

    :math:`\gamma(p) = \max_c \max(\cos(\tau(p), \tau(c)), |t_p \cap t_c| / |t_c|)` (Lyu et al. 2024, eq. 10, as
    released), with cosines of the flattened embeddings.

    Args:
        embeds: embeddings of the prompts (n, tokens, width).
        concept_embeds: embeddings of the erased prompts (m, tokens, width).
        tokens: the prompts' tokens without markers, n sets.
        concept_tokens: those of the erased prompts, m sets.

    Returns:
        Strengths (n,) in [0, 1].

    Example:
        >>> prompts, erased = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
        >>> gate(prompts, erased, [{1}, {2, 3}], [{2, 4}])  # by its embedding; by one of two tokens
        tensor([1.0000, 0.5000])
    """
    a, b = (functional.normalize(x.flatten(1), dim=1) for x in (embeds, concept_embeds))
    shared = [[len(p & c) / max(1, len(c)) for c in concept_tokens] for p in tokens]
    return torch.maximum(a @ b.T, torch.tensor(shared).to(a)).amax(1).clamp(0, 1)
