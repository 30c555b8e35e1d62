"""An erased model for everybody else's tools."""

from pathlib import Path

from lit_memories.diffusion import Diffusion


def export(base: str, erasure: Path, out: Path, revision: str | None = None) -> None:
    """Write a base model with an erasure applied as a full pipeline that plain diffusers loads.

    An adapter is worked into the weights at full strength: a pipeline has no place for a prompt's gate.

    Args:
        base: hub id or folder of the base model.
        erasure: folder of the erasure.
        out: folder to write.
        revision: git revision of a hub id.
    """
    Diffusion(base, erasure, revision, gated=False).pipeline().save_pretrained(out)
