"""What an audit may be computed in: mixed precision is the U-Net's alone, and has its price."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

NETWORK_DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What the U-Net computes in by autocast, for each precision a trainer may have."""
COARSE = 2e-3
"""Relative residual that a U-Net in bfloat16 can meet at 20 steps and more (docs/results/precision.md)."""


def network_dtype(trainer: Any) -> torch.dtype | None:
    """What the U-Net computes in by autocast; None for the type of its weights."""
    return NETWORK_DTYPES[str(trainer.precision)]


def check_precision(trainer: Any) -> None:
    """Refuse a precision that would round latents or weights.

    Raises:
        ValueError: for any but ``32-true`` and the mixed ones.
    """
    precision = str(trainer.precision)
    if precision not in NETWORK_DTYPES:
        raise ValueError(
            f"an audit cannot be made in precision {precision}, which would store latents in it: choose "
            f"--trainer.precision {', '.join(NETWORK_DTYPES)}; the model's torch_dtype stores weights in few bits"
        )


def warn_of_tolerance(inverter: object, *dtypes: torch.dtype | None) -> None:
    """Warn if an inverter seeks what a network that computes in bfloat16 cannot give."""
    tolerance = getattr(inverter, "tolerance", COARSE)
    if torch.bfloat16 in dtypes and tolerance < COARSE:
        rank_zero_warn(
            f"a network in bfloat16 does not let {type(inverter).__name__} meet a residual of {tolerance:g}: "
            f"set --model.inverter.tolerance {COARSE:g} to save evaluations that are in vain"
        )
