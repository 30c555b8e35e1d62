"""Gradients: where inference has none, and two made into one, as forgetting and retaining share a step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Gradients = Sequence[Tensor]
"""A gradient, a tensor for each parameter."""


def inner(a: Gradients, b: Gradients) -> Tensor:
    """Inner product of two gradients over all parameters."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def add(a: Gradients, b: Gradients, weight: Tensor | float) -> list[Tensor]:
    """The sum ``a + weight * b``."""
    return [x + weight * y for x, y in zip(a, b, strict=True)]


def adaptive_weight(retain: Gradients, forget: Gradients, eta: float) -> Tensor:
    r"""EraseDiff's weight of the forgetting gradient, :math:`\lambda = \max(0, \eta - \cos(g_r, g_f))`.

    Wu et al. 2024, arXiv:2401.05779, with the normalised form of BOME (Liu et al. 2022): forgetting is pushed only as
    far as retaining does not do it already.

    Args:
        retain: gradient of the retain loss.
        forget: gradient of the forget loss.
        eta: how much of it there is to be at least, 0 or more.

    Returns:
        A scalar, 0 to ``1 + eta``.

    Example:
        >>> x, y = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]
        >>> [round(float(adaptive_weight(x, g, 0.1)), 6) for g in (y, x, [-x[0]])]
        [0.1, 0.0, 1.1]
    """
    norms = inner(retain, retain).sqrt() * inner(forget, forget).sqrt()
    cosine = inner(retain, forget) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return (eta - cosine).clamp_min(0)


def project(retain: Gradients, forget: Gradients, margin: float = 0.0) -> list[Tensor]:
    r"""The gradient nearest to `retain` that does not work against `forget`.

    The closed form of gradient episodic memory's quadratic programme for one constraint (Lopez-Paz & Ranzato 2017,
    eq. 11, as Scissorhands uses it): :math:`g_r + v g_f` with :math:`v = \max(m, -\langle g_r, g_f\rangle / \lVert g_f
    \rVert^2)`, so that :math:`\langle g, g_f \rangle \ge 0`.

    Args:
        retain: gradient of the retain loss.
        forget: gradient of the forget loss.
        margin: m, the least share of the forgetting gradient, 0 or more; the programme itself has 0.

    Example:
        >>> project([torch.tensor([1.0, -2.0])], [torch.tensor([0.0, 1.0])])
        [tensor([1., 0.])]
    """
    square = inner(forget, forget)
    needed = -inner(retain, forget) / square.clamp_min(torch.finfo(square.dtype).tiny)
    return add(retain, forget, needed.clamp_min(margin))


@contextmanager
def gradients() -> Iterator[None]:
    """Within the context tensors that are made can be differentiated, also in an audit; no context to yield out of.

    Tensors from outside it are to be cloned within before anything is differentiated through them.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
