"""Folders of pictures with captions, as audits read them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Generator


def noise_pictures(folder: Path, sets: dict[str, Sequence[str]], side: int) -> Path:
    """A folder each, by name, with a square picture of noise for each caption; returns the folder that holds them."""
    for seed, (name, captions) in enumerate(sets.items()):
        (folder / name).mkdir()
        count = len(captions)
        pixels = torch.randint(256, (count, 8, 8, 3), generator=Generator().manual_seed(seed), dtype=torch.uint8)
        for number in range(count):
            Image.fromarray(pixels[number].numpy()).resize((side, side)).save(folder / name / f"{number}.png")
        rows = [{"file_name": f"{i}.png", "caption": caption} for i, caption in enumerate(captions)]
        (folder / name / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
