r"""Probabilities over a vocabulary: the nearest ones to any vector, and tokens drawn from them that can be improved."""

import torch
from torch import Generator, Tensor


def onto_simplex(vectors: Tensor) -> Tensor:
    r"""The nearest points of the probability simplex, :math:`\arg\min_w \lVert w - v \rVert` with w >= 0 that sum to 1.

    They are :math:`\max(v - \theta, 0)`, where theta follows from the largest elements in closed form (Held, Wolfe &
    Crowder 1974; Duchi et al. 2008, fig. 1).

    Args:
        vectors: (..., k). A row with an element that is not finite becomes NaN.

    Returns:
        Points (..., k).

    Example:
        >>> onto_simplex(torch.tensor([0.5, 0.75, -3.0]))
        tensor([0.3750, 0.6250, 0.0000])
    """
    vectors = vectors - vectors.amax(-1, keepdim=True)  # no point depends on it, and sums are of small numbers
    ordered = vectors.sort(-1, descending=True).values
    counts = torch.arange(1, vectors.shape[-1] + 1, device=vectors.device, dtype=vectors.dtype)
    thresholds = (ordered.cumsum(-1) - 1) / counts
    support = (ordered > thresholds).sum(-1, keepdim=True).clamp_min(1)
    return (vectors - thresholds.gather(-1, support - 1)).clamp_min(0)


def drawn(shares: Tensor, uniform: Tensor) -> Tensor:
    """Positions (...) drawn by their shares (..., k): the first at which their sum exceeds a number of [0, 1) (...)."""
    sums = shares.cumsum(-1)
    return (sums <= uniform[..., None] * sums[..., -1:]).sum(-1).clamp_max(shares.shape[-1] - 1)


def straight_through(shares: Tensor, table: Tensor, chosen: Tensor) -> Tensor:
    """Vectors of the chosen tokens, whose gradients are those of the table's mean under the shares.

    Bengio et al. 2013, arXiv:1308.3432, section 4: the choice is seen, and its derivative taken to be the identity.

    Args:
        shares: of the tokens (n, k, vocabulary).
        table: their vectors (vocabulary, width).
        chosen: tokens (n, k).

    Returns:
        Vectors (n, k, width), to the bit rows of the table.
    """
    mean = torch.stack([row @ table for row in shares])  # a row at a time: its company must not change its rounding
    return table[chosen] + (mean - mean.detach())


def gumbel_shares(
    logits: Tensor, count: int, generator: Generator, temperature: float, top_k: int | None = None
) -> Tensor:
    r"""Shares drawn by the Gumbel-softmax trick, so that the draw has a derivative.

    Jang et al. 2017, arXiv:1611.01144, eq. 2:

    .. math:: w = \operatorname{softmax}((l + g) / \tau), \quad g_i = -\log(-\log u_i)

    Args:
        logits: l (k,).
        count: how many draws.
        generator: of u, on the CPU.
        temperature: tau, above 0.
        top_k: keep so many of the largest shares, made to sum to 1; None for the largest alone as a 1, whose derivative
            is that of w (straight through).

    Returns:
        Shares (count, k).
    """
    uniform = torch.rand(count, len(logits), generator=generator).clamp_(1e-10, 1 - 1e-7).to(logits)
    shares = ((logits - (-uniform.log()).log()) / temperature).softmax(-1)
    if top_k is None:
        whole = torch.nn.functional.one_hot(shares.argmax(-1), len(logits)).to(shares)
        return whole + (shares - shares.detach())
    least = shares.topk(min(top_k, len(logits)), -1).values[..., -1:]
    kept = shares * (shares >= least)
    return kept / kept.sum(-1, keepdim=True)
