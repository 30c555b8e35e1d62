r"""Great circles between a seed and independent noise: how far one may walk before the picture is another.

A seed of d elements lies within a few units of the sphere of radius :math:`\sqrt d`, and independent noise is at a
right angle to it, within :math:`1 / \sqrt d`. The straight line between them passes through the sphere's inside, where
no seed is ever drawn; the great circle (Shoemake 1985) does not.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def rotate(seeds: Tensor, directions: Tensor, angles: Tensor) -> Tensor:
    r"""Seeds turned by angles towards noise.

    .. math:: z(\theta) = \left(\frac{\lVert e \rVert}{\lVert z \rVert}\right)^{2\theta/\pi}
        \left(\cos\theta\, z + \sin\theta\, \lVert z \rVert \frac{e_\perp}{\lVert e_\perp \rVert}\right)

    with :math:`e_\perp` the part of the noise e that is orthogonal to z, so that :math:`\theta` is the angle between z
    and z(θ). The norm goes from that of the seed to that of the noise as the angle goes from 0 to :math:`\pi/2`,
    geometrically: it lies between the two, hence every point is as typical as the less typical end, and the last one is
    an ordinary draw of the prior (in a direction orthogonal to z, as nearly all are) whatever the norm of the seed was.
    If z and e come from the prior, the direction of z(θ) is uniform, as the prior's is. A kept norm would carry an
    unlikely seed's norm all the way, and what is seen at the end would not be the prior's own rate.

    Args:
        seeds: z (n, c, h, w); at angle 0 they come back as they are.
        directions: e, independent noise (n, c, h, w).
        angles: in radians, 0 to pi / 2 (k,), the same for all seeds.

    Returns:
        Seeds (n, k, c, h, w), of the type of `seeds`.

    Raises:
        ValueError: if shapes do not fit, an angle is out of range, or a seed and its noise span no plane.

    Example:
        >>> e1, e2 = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 3.0]])
        >>> rotate(e1.reshape(1, 2, 1, 1), e2.reshape(1, 2, 1, 1), torch.tensor([0.0, math.pi / 2])).flatten(2)
        tensor([[[ 3.0000e+00,  0.0000e+00],
                 [-1.3823e-07,  3.1623e+00]]])
    """
    if seeds.ndim != 4 or seeds.shape != directions.shape or angles.ndim != 1:
        shapes = f"{tuple(seeds.shape)}, {tuple(directions.shape)} and {tuple(angles.shape)}"
        raise ValueError(f"seeds and directions must share a shape (n, c, h, w), angles be (k,), got {shapes}")
    if not bool(((angles >= 0) & (angles <= math.pi / 2 + 1e-6)).all()):
        raise ValueError(f"angles must be in [0, pi / 2], got {angles.tolist()}")
    precise = torch.promote_types(seeds.dtype, torch.float32)
    z, e = (x.to(precise).flatten(1) for x in (seeds, directions))
    norm, other = z.norm(dim=1, keepdim=True), e.norm(dim=1, keepdim=True)
    across = e - (e * z).sum(1, keepdim=True) / norm.square() * z
    height = across.norm(dim=1, keepdim=True)
    if not bool((height > 1e-6 * other).all()):
        raise ValueError("a seed and its direction must span a plane: one is zero, not finite, or along the other")
    tangent, theta = across / height * norm, angles.to(z)[None, :, None]
    turned = theta.cos() * z[:, None] + theta.sin() * tangent[:, None]
    scaled = (other / norm)[:, None] ** (2 * theta / math.pi) * turned
    return scaled.to(seeds.dtype).unflatten(2, seeds.shape[1:])


@dataclass(frozen=True)
class Crossing:
    """Where curves fall below a level.

    Args:
        angle: of the crossing (...), in the unit of the angles; at an end of the range if it lies beyond.
        censored: (...), int: 0 where the crossing was seen; -1 where the curve is below from the start, so that the
            crossing is at most `angle`; 1 where it never falls below, so that it is more than `angle`.
    """

    angle: Tensor
    censored: Tensor


def crossing(angles: Tensor, probabilities: Tensor, level: float = 0.5) -> Crossing:
    """Angle at which a probability first falls below a level, interpolated linearly.

    The first time counts where noise in the probabilities makes a curve cross more than once.

    Args:
        angles: increasing (k,), k at least 1.
        probabilities: in [0, 1], at these angles (..., k).
        level: a probability.

    Raises:
        ValueError: if shapes do not fit, angles do not increase or a probability is none.

    Example:
        >>> curves = torch.tensor([[1.0, 0.8, 0.2], [0.3, 0.1, 0.0], [1.0, 0.9, 0.7]])
        >>> found = crossing(torch.tensor([0.0, 1.0, 2.0]), curves)
        >>> found.angle, found.censored
        (tensor([1.5000, 0.0000, 2.0000]), tensor([ 0, -1,  1]))
    """
    if angles.ndim != 1 or len(angles) == 0 or probabilities.shape[-1:] != angles.shape:
        shapes = f"{tuple(angles.shape)} and {tuple(probabilities.shape)}"
        raise ValueError(f"angles must be (k,) and probabilities (..., k), got {shapes}")
    if not bool((angles.diff() > 0).all()):
        raise ValueError(f"angles must increase, got {angles.tolist()}")
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError("probabilities must be in [0, 1]: leave out those that are not known")
    probabilities = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    below = probabilities < level
    never, first = ~below.any(-1), below.int().argmax(-1)  # argmax takes the first of the largest
    right = first.clamp(min=1).clamp(max=len(angles) - 1)
    left = (right - 1).clamp(min=0)
    high, low = (probabilities.gather(-1, node[..., None])[..., 0] for node in (left, right))
    # Never 0 / 0 where it is used: a curve that falls below has a fall there.
    share = (high - level) / (high - low).clamp(min=torch.finfo(probabilities.dtype).tiny)
    inside = angles[left] + share * (angles[right] - angles[left])
    censored = never.long() - (below[..., 0]).long()
    angle = torch.where(censored == 0, inside, torch.where(never, angles[-1], angles[0]))
    return Crossing(angle, censored)
