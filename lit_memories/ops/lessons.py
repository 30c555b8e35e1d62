"""Teaching a network while leaving it as it is: it computes with other weights within a context, and keeps its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Generator, Tensor, nn

from lit_memories.ops.adapters import DOWN, UP, attention_layers, initial_factors, merged

Weights: TypeAlias = Mapping[str, Tensor]
"""Tensors by the names of parameters of a network."""

HALF = torch.float16, torch.bfloat16


@contextmanager
def computing_with(network: nn.Module, weights: Weights) -> Iterator[None]:
    """Within the context a network computes with other tensors in place of some of its parameters.

    The parameters are set aside and come back: nothing is written to them. Gradients flow to the tensors.

    Args:
        network: the network.
        weights: what it is to compute with.
    """
    torch.clear_autocast_cache()  # it holds rounded weights by parameter
    places = [(network.get_submodule(name.rpartition(".")[0])._parameters, name.rpartition(".")[2]) for name in weights]
    own = [parameters[leaf] for parameters, leaf in places]
    try:
        for (parameters, leaf), tensor in zip(places, weights.values(), strict=True):
            parameters[leaf] = tensor  # type: ignore[assignment]
        yield
    finally:
        for (parameters, leaf), parameter in zip(places, own, strict=True):
            parameters[leaf] = parameter
        torch.clear_autocast_cache()


def check_teachable(network: nn.Module, rank: int | None) -> None:
    """Refuse a network that a `Learner` cannot teach.

    Raises:
        ValueError: if all weights are to be taught and are stored in half precision, the network is compiled, or
            factors would be larger than what they stand beside.
    """
    if any(module._compiled_call_impl is not None for module in network.modules()):
        raise ValueError("a compiled network cannot be taught: leave the model's speed.compile out")
    if rank is None and any(parameter.dtype in HALF for parameter in network.parameters()):
        raise ValueError(
            "a network stored in half precision cannot be taught in all its weights: load it with the model's "
            "torch_dtype float32, or teach it by factors, with a rank"
        )
    if rank is not None:
        weights = [layer.get_parameter("weight") for layer in attention_layers(network).values()]
        if rank > (most := max(min(weight.shape[:2]) for weight in weights)):
            raise ValueError(f"factors of rank {rank} are larger than the layers they stand beside, of rank {most}")


class Learner:
    """What of a network is taught: all weights, or factors beside those of its attention (LoRA).

    Args:
        network: that is taught, and stays as it is.
        rank: of the factors; None teaches all weights.
        generator: draws the factors.

    Raises:
        ValueError: as `check_teachable`.
    """

    def __init__(self, network: nn.Module, rank: int | None, generator: Generator) -> None:
        self.network, self.rank = network, rank
        check_teachable(network, rank)
        if rank is None:
            start = {name: parameter.detach() for name, parameter in network.named_parameters()}
        else:
            factors = initial_factors(attention_layers(network), rank, generator)
            start = {name: factor.float() for name, factor in factors.items()}
        self.taught = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}

    def weights(self, taught: Weights) -> dict[str, Tensor]:
        """What the network computes with: tensors of the kind of `taught` worked into its own."""
        if self.rank is None:
            return dict(taught)
        names = sorted({name.rpartition(".")[0] for name in taught})
        own = dict(self.network.named_parameters())
        return {
            f"{name}.weight": merged(own[f"{name}.weight"], taught[f"{name}.{DOWN}"], taught[f"{name}.{UP}"])
            for name in names
        }

    def course(self, loss: Callable[[int], Tensor], lr: float, marks: Sequence[int]) -> list[dict[str, Tensor]]:
        """Teach by Adam, and keep what was taught after some steps, in the host's memory.

        Args:
            loss: of a step, counted from 0, by the network as it computes then.
            lr: learning rate.
            marks: after how many steps to keep it, growing; teaching ends with the last.
        """
        optimizer = torch.optim.Adam(self.taught.values(), lr=lr)
        kept = []
        for step in range(marks[-1] + 1):
            if step in marks:
                kept.append({name: tensor.detach().to("cpu", copy=True) for name, tensor in self.taught.items()})
            if step == marks[-1]:
                break
            with computing_with(self.network, self.weights(self.taught)):
                value = loss(step)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return kept
