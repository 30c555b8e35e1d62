"""Gated low-rank maps behind cross-attention: what GLoCE puts there, and no weight of a network can hold."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_memories.ops.attachment import Attachment
from lit_memories.ops.attention import cross_attentions

PARTS = (
    "gate.basis", "gate.mean", "gate.centre", "gate.slope", "gate.below", "away.down", "away.mean", "to.up", "to.mean"
)  # fmt: skip
"""Last part of the tensors' names, after the layer's own."""
METRIC = "gate.metric"
"""That of a tensor that may be there besides."""
ALWAYS = 1e4
"""A timestep above all: a gate may open at any."""


class GatedMaps(Attachment):
    r"""Behind the way out of each cross-attention of a U-Net, at every place the map of the concept that is there.

    .. math:: y' = y + g(y)\, [\beta + U D\, (y - \mu) - y], \qquad
        g(y) = \sigma\Big(k\, \Big(\Big\lVert B^\top \frac{S (y - \nu)}{\lVert S (y - \nu) \rVert} \Big\rVert^2
        - c\Big)\Big)

    Of several concepts the one acts whose gate g is widest open. A gate of slope k = 0 is shut, as is every gate from
    the timestep ``gate.below`` on, nearer to noise.

    Args:
        network: the network.
        factors: for each layer, under its name and one of `PARTS`, of n concepts: B (n, width, p), :math:`\nu`
            (n, width), c, k and the timestep (n,), D (n, q, width), :math:`\mu` (n, width), U (n, width, q) and
            :math:`\beta` (n, width); under `METRIC` the symmetric S (n, width, width), if it is not the identity.

    Raises:
        ValueError: if one is missing, fits no layer, or the network has no cross-attention.
    """

    parts, last = (*PARTS, METRIC), ("gate.slope",)
    remedy = "what it adds depends on what is there, and cannot be worked into weights"

    def __init__(self, network: nn.Module, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers = ways_out(network)
        self.names = sorted({_layer(name) for name in factors})
        for name in self.names:
            _check(name, layers.get(name), factors)
        self.parts_of = [[part for part in self.parts if f"{name}.{part}" in factors] for name in self.names]
        self.tensors = nn.ModuleList(
            nn.ParameterList([factors[f"{name}.{part}"] for part in there])
            for name, there in zip(self.names, self.parts_of, strict=True)
        )
        self._timesteps: Tensor | None = None
        network.register_forward_pre_hook(self._see, with_kwargs=True)
        for index, name in enumerate(self.names):
            layers[name].register_forward_hook(self._hook(index))

    @classmethod
    def fresh(cls, network: nn.Module, concepts: int, gate_rank: int, map_rank: int, metric: bool = False) -> Self:
        """Some behind every cross-attention that do nothing yet."""
        return cls(network, shut_maps(ways_out(network), concepts, gate_rank, map_rank, metric))

    def _see(self, _network: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Remember, for this call of the network, at which timesteps (n,) its samples are."""
        self._timesteps = torch.as_tensor(args[1] if len(args) > 1 else options["timestep"])

    def _hook(self, index: int) -> Any:
        def act(_layer: nn.Module, _args: object, output: Tensor) -> Tensor:
            if self.silent or self._timesteps is None:
                return output
            parts: dict[str, Tensor] = dict(zip(self.parts_of[index], self._tensors(index), strict=True))
            timesteps = self._timesteps.to(output.device).expand(len(output))
            return output + self.scale(output) * change(output, parts, timesteps)

        return act

    def factors(self) -> dict[str, nn.Parameter]:
        """The tensors under their names, layer by layer."""
        return {
            f"{name}.{part}": tensor
            for index, name in enumerate(self.names)
            for part, tensor in zip(self.parts_of[index], self._tensors(index), strict=True)
        }

    def _tensors(self, index: int) -> list[nn.Parameter]:
        return list(self.tensors[index].parameters(recurse=False))


def ways_out(network: nn.Module) -> dict[str, nn.Linear]:
    """The last linear layer of each cross-attention of a U-Net by name, 16 in Stable Diffusion 1.4.

    Raises:
        ValueError: if there are none.
    """
    return {f"{name}.to_out.0": layer.to_out[0] for name, layer in cross_attentions(network).items()}


@contextmanager
def recorded_outputs(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context, what each of `ways_out` gave in the last call of the network, (n, places, width) by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_layer: nn.Module, _args: object, output: Tensor) -> None:
            found[name] = output

        return hook

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in ways_out(network).items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def change(outputs: Tensor, parts: Mapping[str, Tensor], timesteps: Tensor) -> Tensor:
    """What gated maps add (n, places, width) to a layer's outputs (n, places, width).

    Args:
        outputs: of the layer.
        parts: of the maps, by `PARTS`.
        timesteps: of the samples (n,).
    """
    parts = {name: part.to(outputs.dtype) if name != "gate.below" else part for name, part in parts.items()}
    widest, mapped = torch.zeros_like(outputs[..., :1]), outputs
    for n in range(len(parts["gate.slope"])):
        slope = parts["gate.slope"][n]
        metric = parts[METRIC][n] if METRIC in parts else None
        nearness = score(outputs, parts["gate.mean"][n], parts["gate.basis"][n], metric)
        gate = torch.sigmoid(slope * (nearness - parts["gate.centre"][n]))[..., None]
        open_ = (slope != 0) & (timesteps < parts["gate.below"][n])
        gate = torch.where(open_[:, None, None], gate, 0)
        inner = (outputs - parts["away.mean"][n]) @ parts["away.down"][n].T
        mine = parts["to.mean"][n] + inner @ parts["to.up"][n].T
        mapped, widest = torch.where(gate > widest, mine, mapped), torch.maximum(gate, widest)
    return widest * (mapped - outputs)


def score(vectors: Tensor, mean: Tensor, basis: Tensor, metric: Tensor | None = None) -> Tensor:
    """The share (...,) of vectors' (..., width) squared distance from a mean that lies in a basis (width, rank).

    Args:
        vectors: at any places.
        mean: (width,).
        basis: orthonormal.
        metric: a symmetric map (width, width) of differences before; the identity if None.

    Example:
        >>> score(torch.tensor([[4.0, 4.0], [1.0, 2.0]]), torch.tensor([1.0, 0.0]), torch.tensor([[1.0], [0.0]]))
        tensor([0.3600, 0.0000])
    """
    apart = vectors - mean if metric is None else (vectors - mean) @ metric
    return (functional.normalize(apart, dim=-1) @ basis).square().sum(-1)


def shut_maps(
    layers: Mapping[str, nn.Linear], concepts: int, gate_rank: int, map_rank: int, metric: bool = False
) -> dict[str, Tensor]:
    """Gated maps of some concepts that do nothing yet, as all slopes are 0; in float32 at least.

    Args:
        layers: ways out of cross-attention by name.
        concepts: how many.
        gate_rank: columns of B.
        map_rank: columns of U.
        metric: whether they have an S.
    """
    factors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        width, dtype = layer.weight.shape[0], torch.promote_types(layer.weight.dtype, torch.float32)
        for part, shape in shapes(concepts, width, gate_rank, map_rank, metric).items():
            value = ALWAYS if part == "gate.below" else 0.0
            factors[f"{name}.{part}"] = torch.full(shape, value, dtype=dtype, device=layer.weight.device)
    return factors


def shapes(concepts: int, width: int, gate_rank: int, map_rank: int, metric: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of gated maps' tensors, by `PARTS` and `METRIC`."""
    n = concepts
    sizes: Sequence[tuple[int, ...]] = (
        (n, width, gate_rank), (n, width), (n,), (n,), (n,), (n, map_rank, width), (n, width), (n, width, map_rank),
        (n, width),
    )  # fmt: skip
    return dict(zip(PARTS, sizes, strict=True)) | ({METRIC: (n, width, width)} if metric else {})


def _layer(name: str) -> str:
    return next((name.removesuffix(f".{part}") for part in GatedMaps.parts if name.endswith(f".{part}")), name)


def _check(name: str, layer: nn.Linear | None, factors: Mapping[str, Tensor]) -> None:
    if layer is None:
        raise ValueError(f"the erasure has a gated map for {name}, where the network has no way out of cross-attention")
    found = {part: factors[f"{name}.{part}"] for part in GatedMaps.parts if f"{name}.{part}" in factors}
    if any(part not in found for part in PARTS):
        raise ValueError(f"the gated map of {name} is not whole: it must have {', '.join(PARTS)}")
    sizes, width = {part: tuple(tensor.shape) for part, tensor in found.items()}, layer.weight.shape[0]
    gate_rank, map_rank = (shape[-1] if shape else 0 for shape in (sizes["gate.basis"], sizes["to.up"]))
    concepts = sizes["gate.mean"][0] if sizes["gate.mean"] else 0
    if sizes != shapes(concepts, width, gate_rank, map_rank, METRIC in found):
        raise ValueError(f"gated map tensors {sizes} do not fit {name}, which is {width} wide")
