"""Samples of many models on one sheet."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Generator

from lit_memories.diffusion import Diffusion
from lit_memories.images import grid


def sheet(shown: Mapping[str, tuple[str, Path | None]], prompts: Sequence[str], file: Path) -> None:
    """A row of samples a model, under the same prompts and from the same seeds in every row.

    Args:
        shown: base and erasure, by what stands before the row.
        prompts: one a column.
        file: the picture.
    """
    rows = []
    for name, (path, erasure) in shown.items():
        diffusion = Diffusion(path, erasure)
        seeds = diffusion.draw_seeds([Generator().manual_seed(i) for i in range(len(prompts))])
        rows.append((name, grid(diffusion.generate(list(prompts), seeds, 20, 3.0), columns=len(prompts))))
    height, margin = rows[0][1].height + 2, 84
    whole = Image.new("RGB", (rows[0][1].width + margin, height * len(rows)), "white")
    for number, (name, row) in enumerate(rows):
        whole.paste(row, (margin, number * height))
        ImageDraw.Draw(whole).text((4, number * height + height // 2 - 6), name, fill="black")
    file.parent.mkdir(parents=True, exist_ok=True)
    whole.save(file)
