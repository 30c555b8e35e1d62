"""How well a sample was inverted, and whether its record counts."""

import math
from typing import Any

import torch
from torch import Tensor

from lit_memories.inverters.base import Inversion, Inverter
from lit_memories.metrics.functional import psnr
from lit_memories.records import finite

DIVERGED = 0.1
"""Relative residual above which an inversion is not counted, as its seed does not belong to its image, unless the
inverter is a faithful one."""


def sound_psnr(images: Tensor, target: Tensor) -> Tensor:
    """PSNR (n,), NaN where a picture is not finite."""
    sound = (images + target).flatten(1).isfinite().all(1)
    return psnr(images.nan_to_num(), target.nan_to_num()).where(sound, torch.nan)


def quality(inverter: Inverter, inversion: Inversion, row: int, sound: bool) -> dict[str, Any]:
    """How well a row was inverted, and why its record must not be counted, if so; `sound` if all else is finite.

    Where the residual was not measured there is none, and no flag for it: the report says that nothing is known. What a
    faithful inverter finds counts with any residual that is a number, as it does in official code.
    """
    residual, measured = float(inversion.residual[row]), inversion.measured
    kept = not measured or residual <= DIVERGED or (inverter.faithful and math.isfinite(residual))
    return {
        "residual": finite(residual),
        "evaluations": int(inversion.evaluations[row]),
        "converged": bool(inversion.converged[row]) if measured else None,
        "flag": "not finite" if not sound else None if kept else "diverged",
    }
