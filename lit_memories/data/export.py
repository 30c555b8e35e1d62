"""The pictogram world as files."""

from pathlib import Path

from lit_memories.data import pictograms
from lit_memories.data.sources import save_images


def draw(out: Path, split: str = "train", size: int = 1000) -> None:
    """Write pictures of the pictogram world with captions and factors.

    Args:
        out: parquet file, or folder for an image folder.
        split: which split; rows are a function of split and index alone.
        size: how many rows.
    """
    save_images(pictograms.build(split, size), out)
