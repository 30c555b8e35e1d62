"""The pictogram world as files."""

from pathlib import Path

from lit_memories.data.sources import save_images
from lit_memories.terminal import said
from lit_memories.worlds import pictograms


def draw(out: Path, split: str = "train", size: int = 1000) -> None:
    """Write pictures of the pictogram world with captions and factors.

    Args:
        out: parquet file, or folder for an image folder.
        split: which split; rows are a function of split and index alone.
        size: how many rows.

    Raises:
        ValueError: if there is something at that place already, or no row is asked for.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    held = out.iterdir() if out.is_dir() else [out]  # what is a link or a pipe is named by who would write
    if any((part.is_file() or part.is_dir()) and not part.is_symlink() for part in held):
        raise ValueError(f"{out} is there already: choose another OUT, or remove it")
    save_images(pictograms.build(split, size), out)
    print(said(f"{size} pictures of the split {split} are in {out}, with their captions"))  # noqa: T201
