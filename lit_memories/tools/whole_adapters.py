"""Adapters that are not two factors beside a layer, DoRA and LoHa: what they make of the layer's whole weight."""

from collections.abc import Mapping

import torch
from torch import Tensor

MAGNITUDE = "magnitude"
"""DoRA's lengths, among a layer's factors."""
PRODUCTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
"""LoHa's factors: two pairs, each (out, r) and (r, in)."""


def rescaled(weight: Tensor, magnitude: Tensor) -> Tensor:
    r"""DoRA (Liu et al. 2024): :math:`m \, V / \lVert V \rVert` with :math:`V = W + \Delta`.

    Args:
        weight: V (out, in, ...).
        magnitude: m, a number an output (out,) or (out, 1, ...), as peft has it; or an input (1, in, ...), as LyCORIS
            and OneTrainer have it by default. Its shape says which.

    Raises:
        ValueError: if it has neither shape.

    Example:
        >>> rescaled(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([10.0, 1.0])).tolist()
        [[6.0, 8.0], [0.0, 1.0]]
    """
    outputs = (len(weight), *[1] * (weight.ndim - 1))
    inputs = (1, weight.shape[1], *outputs[2:])
    shape = outputs if magnitude.ndim == 1 else tuple(magnitude.shape)
    if shape not in (outputs, inputs) or magnitude.numel() != max(shape):
        raise ValueError(f"lengths of DoRA {tuple(magnitude.shape)} are neither {outputs} nor {inputs}")
    rows = weight if shape == outputs else weight.transpose(0, 1)
    return magnitude.reshape(shape) * weight / rows.flatten(1).norm(dim=1).reshape(shape)


def hadamard(factors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    r"""LoHa (Hyeon-Woo et al. 2022), without its strength: :math:`(A_1 B_1) \odot (A_2 B_2)`.

    Args:
        factors: by `PRODUCTS`.
        shape: of the layer's weight.

    Raises:
        ValueError: if one is missing, or they do not fit.
    """
    if missing := [name for name in PRODUCTS if name not in factors]:
        raise ValueError(f"{missing[0]} of LoHa is missing")
    pairs = [factors[name].float() for name in PRODUCTS]
    rank, inputs = len(pairs[1]), shape[1:].numel()
    wanted = [(shape[0], rank), (rank, inputs)] * 2
    if (found := [tuple(factor.shape) for factor in pairs]) != wanted:
        raise ValueError(f"factors of LoHa are {found}, the base asks for {wanted}")
    return ((pairs[0] @ pairs[1]) * (pairs[2] @ pairs[3])).reshape(shape)
