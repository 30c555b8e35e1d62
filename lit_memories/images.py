"""Between pictures and tensors: images are float tensors (n, 3, h, w) in [0, 1]."""

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

PICTURES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".avif",
        ".jp2",
    }
)
"""Endings of the names of pictures, as far as they are read."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What those files may be, whatever their names: for none is another program run, as for PostScript."""


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB, on white where it is transparent.

    Grey values of more than 8 bits are scaled: 16-bit ones by their range; integers of 32 bits by the smallest of the
    ranges 0..255, 0..65535 and 0..2147483647 that holds them; floating point from 0..1, or 0..255 if one is above 1.
    Pillow would cut them off at 255. CIE L*a*b* is taken to sRGB.

    Raises:
        ValueError: if values lie outside of these ranges, or are no numbers.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(image), image.mode)).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB")) or image
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def _scaled(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of more than 8 bits (h, w) in 8."""
    low, high = float(values.min()), float(values.max())
    ranges = {"F": (1, 255), "I": (255, 65535, 2**31 - 1)}.get(mode, (65535,))
    fitting = [limit for limit in ranges if low >= 0 and high <= limit]
    if not fitting:
        raise ValueError(
            f"its values, {low:g} to {high:g}, lie in no range of pictures: 0 to {' or '.join(map(str, ranges))}"
        )
    return (values.astype(np.float64) * (255 / fitting[0])).round().astype(np.uint8)


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image as (3, h, w) in [0, 1]; other modes become RGB first, see `to_rgb`."""
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).float() / 255


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
