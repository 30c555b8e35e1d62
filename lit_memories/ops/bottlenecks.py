"""Bottlenecks behind cross-attention: what Receler's erasers are, and no weight of a network can hold."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from lit_memories.ops.attachment import Attachment
from lit_memories.ops.attention import cross_attentions

PARTS = ("eraser.down.weight", "eraser.down.bias", "eraser.up.weight", "eraser.up.bias")
"""Last part of the tensors' names, after the layer's own."""


class Bottlenecks(Attachment):
    r"""A bottleneck behind each cross-attention of a U-Net: :math:`y + \gamma\, (U\, \mathrm{gelu}(D y + d) + u)`.

    Args:
        network: the network.
        factors: D (r, width), d (r,), U (width, r) and u (width,) for each layer, under its name and one of `PARTS`.

    Raises:
        ValueError: if one is missing, fits no layer, or the network has no cross-attention.
    """

    parts, last = PARTS, PARTS[2:]
    remedy = "what it adds is no linear map, and cannot be worked into weights"

    def __init__(self, network: nn.Module, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers = cross_attentions(network)
        self.names = sorted({_layer(name) for name in factors})
        for name in self.names:
            _check(name, layers.get(name), factors)
        self.tensors = nn.ParameterList([factors[f"{name}.{part}"] for name in self.names for part in PARTS])
        self._recorded: dict[str, Tensor] | None = None
        for index, name in enumerate(self.names):
            layers[name].register_forward_hook(self._hook(index))

    @classmethod
    def fresh(cls, network: nn.Module, rank: int, generator: Generator) -> Self:
        """One behind every cross-attention that does nothing yet."""
        return cls(network, initial_bottlenecks(cross_attentions(network), rank, generator))

    def _hook(self, index: int) -> Any:
        def add(_layer: nn.Module, _args: object, output: Tensor) -> Tensor:
            if self.silent:
                return output
            down, down_bias, up, up_bias = (self.tensors[4 * index + part].to(output.dtype) for part in range(4))
            inner = functional.gelu(functional.linear(output, down, down_bias))
            added = self.scale(output) * functional.linear(inner, up, up_bias)
            if self._recorded is not None:
                self._recorded[self.names[index]] = added
            return output + added

        return add

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Tensor]]:
        """Within the context, what the last call of the network was added, (n, places, width) by layer."""
        self._recorded = {}
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def factors(self) -> dict[str, nn.Parameter]:
        """The tensors under their names, layer by layer."""
        names = [f"{name}.{part}" for name in self.names for part in PARTS]
        return dict(zip(names, self.tensors, strict=True))


def initial_bottlenecks(layers: Mapping[str, Any], rank: int, generator: Generator) -> dict[str, Tensor]:
    """Bottlenecks that do nothing yet: down uniform as in a fresh layer (He et al. 2015), up zero; in float32 at least.

    Args:
        layers: cross-attentions by name.
        rank: width of the bottleneck.
        generator: of what is drawn.
    """
    factors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weight = layer.to_out[0].weight
        width, like = weight.shape[0], torch.zeros((), dtype=torch.promote_types(weight.dtype, torch.float32))
        bound = 1 / math.sqrt(width)
        down, bias = ((torch.rand(shape, generator=generator) * 2 - 1) * bound for shape in ((rank, width), (rank,)))
        made = (down, bias, torch.zeros(width, rank), torch.zeros(width))
        factors |= {
            f"{name}.{part}": tensor.to(like).to(weight.device) for part, tensor in zip(PARTS, made, strict=True)
        }
    return factors


def _layer(name: str) -> str:
    return name.split(".eraser.")[0]


def _check(name: str, layer: Any, factors: Mapping[str, Tensor]) -> None:
    if layer is None:
        raise ValueError(f"the erasure has a bottleneck for {name}, where the network has no cross-attention")
    found = [factors.get(f"{name}.{part}") for part in PARTS]
    if any(tensor is None for tensor in found):
        raise ValueError(f"the bottleneck of {name} is not whole: it must have {', '.join(PARTS)}")
    width = layer.to_out[0].weight.shape[0]
    shapes = [tuple(tensor.shape) for tensor in found if tensor is not None]
    rank = shapes[1][0] if shapes[1] else 0
    if shapes != [(rank, width), (rank,), (width, rank), (width,)]:
        raise ValueError(f"bottleneck tensors {shapes} do not fit {name}, which is {width} wide")
