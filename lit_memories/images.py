"""Between pictures and tensors: images are float tensors (n, 3, h, w) in [0, 1]."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image as (3, h, w) in [0, 1]; other modes become RGB first."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def to_pil(image: Tensor) -> Image.Image:
    """An image (3, h, w) in [0, 1] as 8-bit PIL, clamped and rounded."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def grid(images: Tensor, columns: int = 8, gap: int = 2) -> Image.Image:
    """Images (n, 3, h, w) side by side, row by row."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(to_pil(image), (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write `grid` as a PNG, making the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(images, columns).save(path)
