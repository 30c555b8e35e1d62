"""Where in a picture a concept is, by where cross-attention looks for its words."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_memories.ops.attention import strides


def grid(places: int, shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of a layer with so many places, in a network on latents of a height and width.

    Raises:
        ValueError: if they are no whole part of the latents' sides.

    Example:
        >>> grid(64, (16, 16))
        (8, 8)
    """
    height, width = shape
    stride = round((height * width / places) ** 0.5)
    if (height // stride) * (width // stride) != places:
        raise ValueError(f"{places} places are no grid in latents of {height} by {width}")
    return height // stride, width // stride


def check_stride(network: nn.Module, stride: int) -> None:
    """Refuse a resolution that no cross-attention of a network has, before anything is computed.

    Args:
        network: a U-Net.
        stride: latents' side over that of the layers that are to be asked.

    Raises:
        ValueError: if it has none so coarse; says which there are.
    """
    if stride not in (known := sorted(set(strides(network).values()))):
        raise ValueError(_missing(stride, known))


def attention_mask(
    layers: Sequence[Tensor], marks: Tensor, shape: Sequence[int], stride: int, threshold: float
) -> Tensor:
    """1 where attention to marked tokens is high, else 0.

    A mean over the layers of one resolution, heads and marked tokens, brought to [0, 1] in each picture; as in Receler,
    which has it from MasaCtrl. Where it is the same everywhere, the whole picture counts.

    Args:
        layers: attention (n, heads, places, tokens) of each layer.
        marks: 1 at the tokens that name the concept, else 0 (n, tokens), at least one in each row.
        shape: height and width of the latents.
        stride: latents' side over that of the layers that are asked.
        threshold: of the mask, in [0, 1].

    Returns:
        Masks (n, 1, height / stride, width / stride).

    Raises:
        ValueError: if no layer has that resolution, or a row marks no token.
    """
    if not marks.any(1).all():
        raise ValueError("a prompt without a token of the concept has no mask")
    sides = (shape[0] // stride, shape[1] // stride)
    chosen = [layer for layer in layers if layer.shape[2] == sides[0] * sides[1]]
    if not chosen:
        found = sorted({round((shape[0] * shape[1] / layer.shape[2]) ** 0.5) for layer in layers})
        raise ValueError(_missing(stride, found))
    shares = (torch.stack(chosen).mean((0, 2)) * marks[:, None]).sum(2) / marks.sum(1, keepdim=True)
    low, high = shares.amin(1, keepdim=True), shares.amax(1, keepdim=True)
    level = torch.where(high > low, (shares - low) / (high - low), 1.0)
    return (level >= threshold).to(shares).unflatten(1, sides)[:, None]


def _missing(stride: int, known: Sequence[int]) -> str:
    return f"no cross-attention is {stride} times coarser than latents: mask_stride may be one of {known}"


def resized(mask: Tensor, places: int, shape: Sequence[int]) -> Tensor:
    """A mask (n, 1, h, w) at a layer's own places (n, places), by the nearest.

    Args:
        mask: in any resolution.
        places: how many the layer has.
        shape: height and width of the latents.
    """
    return functional.interpolate(mask, grid(places, shape)).flatten(1)


def attention_norms(layers: Sequence[Tensor], marks: Tensor, mask: Tensor | None, shape: Sequence[int]) -> Tensor:
    r"""MACE's loss: attention to marked tokens within a mask, :math:`\sum_l \lVert A^l \odot m \rVert_2`.

    Norms are over samples, heads, places and tokens, one a layer.

    Args:
        layers: attention (n, heads, places, tokens) of each layer.
        marks: 1 at the tokens that name the concept, else 0 (n, tokens).
        mask: 1 where the concept is (n, 1, h, w); the whole picture if None.
        shape: height and width of the latents.
    """
    norms = []
    for layer in layers:
        chosen = layer * marks[:, None, None]
        if mask is not None:
            chosen = chosen * resized(mask, layer.shape[2], shape)[:, None, :, None]
        norms.append(chosen.square().sum().clamp(min=1e-20).sqrt())  # a layer that looks nowhere has a gradient of 0
    return torch.stack(norms).sum()


def outside(added: Sequence[Tensor], mask: Tensor, shape: Sequence[int]) -> Tensor:
    r"""Receler's concept-localised regularisation: the mean square of what layers are added outside the mask.

    .. math:: \frac{1}{L} \sum_l \frac{\sum_p (1 - m_p) \lVert a^l_p \rVert^2 / w_l}{\sum_p (1 - m_p)}

    with :math:`w_l` the layer's width; a layer whose places are all inside the mask adds nothing.

    Args:
        added: what each layer is added (n, places, width).
        mask: 1 where the concept is (n, 1, h, w).
        shape: height and width of the latents.
    """
    terms = []
    for one in added:
        free = 1 - resized(mask, one.shape[1], shape)
        terms.append((one.square().mean(2) * free).sum() / free.sum().clamp(min=1))
    return torch.stack(terms).mean()
