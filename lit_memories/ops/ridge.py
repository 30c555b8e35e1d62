r"""Closed-form edits of linear maps: the algebra of UCE, RECE and MACE.

Rows are vectors: a prompt embedding :math:`c` is a row, a matrix :math:`W` maps it to :math:`cW^T`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def edit_map(
    concepts: Tensor,
    guides: Tensor,
    preserved: Tensor,
    lamb: float = 0.5,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
) -> Tensor:
    r"""The one linear map E on embeddings that unified concept editing amounts to.

    UCE (Gandikota et al. 2024, eq. 3) minimises, for each key and value matrix,

    .. math:: s_e \sum_i \lVert W c_i - W_0 g_i \rVert^2 + s_p \sum_j \lVert W c_j - W_0 c_j \rVert^2
        + \lambda \lVert W - W_0 \rVert^2

    Its solution is :math:`W_0 E` with the same

    .. math:: E = I + s_e \sum_i (g_i - c_i) c_i^T M^{-1}, \quad
        M = \lambda I + s_e \sum_i c_i c_i^T + s_p \sum_j c_j c_j^T

    for all matrices: an edited network on embeddings :math:`c` is the original one on :math:`E c`.

    Args:
        concepts: vectors c_i to edit (n, width).
        guides: vectors g_i to put in their place (n, width).
        preserved: vectors c_j to leave alone (m, width); m may be 0.
        lamb: weight of staying near the original, above 0.
        erase_scale: s_e.
        preserve_scale: s_p.

    Returns:
        E (width, width) in float64.

    Raises:
        ValueError: if a weight is out of range.

    Example:
        >>> e = 10 * torch.eye(3)  # the first becomes the second, the third stays
        >>> edit_map(e[:1], e[1:2], e[2:]).abs().round(decimals=1)
        tensor([[0., 0., 0.],
                [1., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)
    """
    if lamb <= 0 or erase_scale < 0 or preserve_scale < 0:
        raise ValueError(
            f"lamb ({lamb}) must be above 0, erase_scale ({erase_scale}) and preserve_scale ({preserve_scale}) not "
            "below"
        )
    c, g, p = concepts.double(), guides.double(), preserved.double()
    identity = torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
    gram = lamb * identity + erase_scale * c.T @ c + preserve_scale * p.T @ p
    moved = erase_scale * (g - c).T @ c
    return identity + torch.cholesky_solve(moved.T, torch.linalg.cholesky(gram)).T


def fused(
    tuned: Sequence[Tensor],
    refined: Tensor,
    original: Tensor,
    words: Sequence[Tensor],
    preserved: Tensor,
    lamb: float,
    preserve_scale: float = 0.0,
) -> Tensor:
    r"""One matrix that does what each of some tuned ones does on vectors of its own, and stays what it was elsewhere.

    MACE's fusion (Lu et al. 2024, eq. 7 and 8) of an adapter a concept t: the minimum of

    .. math:: \sum_t \sum_i \lVert (W - W_t) c_{ti} \rVert^2 + s \sum_j \lVert (W - W_0) p_j \rVert^2
        + \lambda \lVert W - W_r \rVert^2

    Args:
        tuned: W_t (out, width), the refined matrix with the adapter of a concept, by concept.
        refined: W_r, of the same shape.
        original: W_0, of the same shape.
        words: c_ti (n, width), by concept.
        preserved: p_j (m, width); m may be 0.
        lamb: above 0.
        preserve_scale: s, 0 or more.

    Returns:
        W (out, width) in float64.

    Raises:
        ValueError: if a weight is out of range.
    """
    if lamb <= 0 or preserve_scale < 0:
        raise ValueError(f"lamb ({lamb}) must be above 0, preserve_scale ({preserve_scale}) not below")
    p, start = preserved.double(), refined.double()
    kept = preserve_scale * p.T @ p
    gram = kept + lamb * torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    wanted = original.double() @ kept + lamb * start
    for matrix, vectors in zip(tuned, words, strict=True):
        concept = vectors.double().T @ vectors.double()
        gram, wanted = gram + concept, wanted + matrix.double() @ concept
    return torch.cholesky_solve(wanted.T, torch.linalg.cholesky(gram)).T


def adversarial_embeddings(
    concepts: Tensor, edited: Sequence[Tensor], original: Sequence[Tensor], lamb: float
) -> Tensor:
    r"""Embeddings that edited matrices map to what the original ones made of `concepts`.

    RECE (Gong et al. 2024, eq. 7): :math:`c' = (\lambda I + \sum_k W_k^T W_k)^{-1} \sum_k W_k^T W_{0,k} c`. For small
    :math:`\lambda` this is the inverse of `edit_map`, applied to c.

    Args:
        concepts: embeddings c (n, width).
        edited: matrices W_k (out_k, width).
        original: matrices W_{0,k} of the same shapes.
        lamb: weight of a small c', above 0.

    Returns:
        Embeddings c' (n, width) in float64.

    Raises:
        ValueError: if `lamb` is not above 0.
    """
    if lamb <= 0:
        raise ValueError(f"lamb must be above 0, got {lamb}")
    width = concepts.shape[1]
    gram = lamb * torch.eye(width, dtype=torch.float64, device=concepts.device)
    mixed = torch.zeros_like(gram)
    for new, old in zip(edited, original, strict=True):
        gram = gram + new.double().T @ new.double()
        mixed = mixed + new.double().T @ old.double()
    return torch.cholesky_solve(mixed @ concepts.double().T, torch.linalg.cholesky(gram)).T
