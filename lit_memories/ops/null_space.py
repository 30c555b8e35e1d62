r"""Edits of linear maps within the null space of what they are to leave alone: the algebra of SPEED.

Rows are vectors, as in `lit_memories.ops.ridge`.
"""

import torch
from torch import Tensor


def null_space(kept: Tensor, threshold: float) -> Tensor:
    r"""Directions in which vectors hardly reach: of small eigenvalue in :math:`\frac{1}{n} \sum_j c_j c_j^T`.

    Args:
        kept: vectors c_j (n, width).
        threshold: eigenvalues below it count as none, above 0; in units of the vectors, squared.

    Returns:
        An orthonormal basis (width, k), float64; k may be 0.
    """
    values, directions = torch.linalg.eigh(kept.double().T @ kept.double() / len(kept))
    return directions[:, values < threshold]


def without(basis: Tensor, vectors: Tensor) -> Tensor:
    """The part of a space that is orthogonal to vectors.

    Args:
        basis: orthonormal (width, k).
        vectors: (m, width).

    Returns:
        An orthonormal basis (width, at most k).
    """
    inside = vectors.to(basis) @ basis
    _, sizes, directions = torch.linalg.svd(inside, full_matrices=True)
    rank = int((sizes > torch.finfo(sizes.dtype).eps * 1e3 * vectors.norm()).sum())
    return basis @ directions[rank:].T


def null_edit_map(
    concepts: Tensor,
    guides: Tensor,
    basis: Tensor,
    invariant: Tensor,
    prompts: int = 1,
    retain_scale: float = 1.0,
    lamb: float = 0.0,
) -> Tensor:
    r"""The map E on embeddings that moves concepts to their guides, within a space and not invariant vectors.

    SPEED (Li et al. 2026, arXiv:2503.07392) asks of the edit :math:`\Delta P` of a matrix W, P the projection
    on the null space of what is retained,

    .. math:: \min_\Delta \frac{1}{p} \sum_i \lVert (W + \Delta P) c_i - W g_i \rVert^2 + r \lVert \Delta P \rVert^2
        \quad \text{with} \quad \Delta P c_k = 0

    for the invariant vectors :math:`c_k`. The published solution, with multipliers, is the ridge regression within the
    part of the space that is orthogonal to them: with its basis U it is :math:`W E`,

    .. math:: E = I + G U (U^T B U + r I)^{-1} U^T, \quad
        B = \frac{1}{p} \sum_i c_i c_i^T, \quad G = \frac{1}{p} \sum_i (g_i - c_i) c_i^T.

    The official code's ``lamb`` above 0 softens the condition to a penalty :math:`\lVert \Delta P c_k \rVert^2 /
    \lambda`, which adds :math:`\sum_k c_k c_k^T / \lambda` to B within the whole space.

    Args:
        concepts: vectors c_i (n, width).
        guides: vectors g_i (n, width).
        basis: of the space, orthonormal (width, k).
        invariant: vectors c_k (m, width); m may be 0.
        prompts: p, how many prompts the vectors are of.
        retain_scale: r, above 0.
        lamb: how far invariant vectors may move; 0 for not at all.

    Returns:
        E (width, width) in float64.

    Raises:
        ValueError: if no direction is left.
    """
    c, g, k = concepts.double(), guides.double(), invariant.double()
    u = basis.double() if lamb else without(basis.double(), k)
    if not u.shape[1]:
        raise ValueError("no direction is left to edit")
    inside, still = c @ u, k @ u
    gram = inside.T @ inside / prompts + retain_scale * torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    if lamb:
        gram = gram + still.T @ still / lamb
    moved = (g - c).T @ inside / prompts
    identity = torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
    return identity + torch.cholesky_solve(moved.T, torch.linalg.cholesky(gram)).T @ u.T
