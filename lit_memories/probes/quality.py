"""How well a sample was inverted, and whether it counts."""

import math

import torch
from torch import Tensor

from lit_memories.inverters.base import Inversion, Inverter
from lit_memories.metrics.functional import psnr
from lit_memories.probes.base import Column
from lit_memories.records import finite

DIVERGED = 0.1
"""Relative residual above which an inversion is not counted, as its seed does not belong to its image, unless the
inverter is a faithful one."""


def sound_psnr(images: Tensor, target: Tensor) -> Tensor:
    """PSNR (n,), NaN where a picture is not finite."""
    sound = (images + target).flatten(1).isfinite().all(1)
    return psnr(images.nan_to_num(), target.nan_to_num()).where(sound, torch.nan)


def quality(inverter: Inverter, inversion: Inversion) -> tuple[dict[str, Column], list[str | None]]:
    """How well each sample was inverted, and why it must not be counted, if so.

    Where the residual was not measured there is none, and no flag for it: the report says that nothing is known. What a
    faithful inverter finds counts with any residual that is a number, as it does in official code.
    """
    inversion, measured = inversion.cpu(), inversion.measured
    residuals = inversion.residual.tolist()
    kept = [not measured or r <= DIVERGED or (inverter.faithful and math.isfinite(r)) for r in residuals]
    found: dict[str, Column] = {
        "residual": [finite(residual) for residual in residuals],
        "evaluations": inversion.evaluations.int().tolist(),
        "converged": inversion.converged.bool().tolist() if measured else [None] * len(residuals),
    }
    return found, [None if sound else "diverged" for sound in kept]
