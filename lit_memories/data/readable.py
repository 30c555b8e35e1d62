"""Which pictures of a set can be read, and what is said of the others."""

from collections.abc import Iterator
from typing import Any, cast

import datasets
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, UnidentifiedImageError

from lit_memories.data.sources import Resize, read_picture
from lit_memories.storage.hub import redact


def readable(
    rows: datasets.Dataset, name: str, size: tuple[int, int], resize: Resize = "crop", left_out: list[str] | None = None
) -> Iterator[tuple[int, str, Image.Image]]:
    """Number, caption and picture of every row whose picture can be read.

    At the end it warns, once, of those that cannot, with the first reason, and of pictures of one colour.

    Args:
        rows: columns ``image`` and ``caption``, of a source.
        name: of the set, for the warnings.
        size: (height, width) to which pictures come.
        resize: how; see `read_picture`.
        left_out: takes the names of those that cannot be read.
    """
    names: list[str] = [] if left_out is None else left_out
    reason, plain = "", 0
    for number, row in enumerate(rows):
        try:
            picture = read_picture(row["image"], size, resize)
        except Exception as error:  # Pillow raises nearly anything on damaged files, SyntaxError and struct.error too
            names.append(redact((row["image"] or {}).get("path") or f"row {number}"))
            reason = reason or f"{names[-1]} ({_why(error)})"
            continue
        plain += all(low == high for low, high in cast("Any", picture.getextrema()))
        yield number, row["caption"], picture
    if names:
        rank_zero_warn(f"{len(names)} of {len(rows)} pictures of the {name} set cannot be read, such as {reason}")
    if plain:
        rank_zero_warn(
            f"{plain} of {len(rows)} pictures of the {name} set are all one colour: are they the right ones?"
        )


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture"
    return redact((str(error).strip() or type(error).__name__).splitlines()[0])
