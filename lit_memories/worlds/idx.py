"""Pictures in IDX files, the format of MNIST and of the data sets that took its place."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
from PIL import Image

from lit_memories.data.unpacked import rows_cache

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
NAMES = {"train": "train", "test": "t10k"}
"""What files of a split begin with."""
IMAGES, LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
MOST = 1 << 30
"""Bytes of a file that are read, unpacked."""


def held(folder: Path) -> bool:
    """Whether a folder holds such files."""
    return (folder / IMAGES.format(NAMES["train"])).is_file()


def open_idx(folder: Path, split: str) -> datasets.Dataset:
    """Columns ``image`` and ``label`` (a number) of a split, train or test.

    Raises:
        FileNotFoundError: if the folder has no such split.
        ValueError: if its files are damaged.
    """
    files = [folder / name.format(NAMES.get(split, split)) for name in (IMAGES, LABELS)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no split {split!r} in {folder}: there is no {file.name}")
    read_both(*files)  # the library would say of what is wrong only that something is
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return datasets.Dataset.from_generator(
        _rows,
        features=kinds,
        cache_dir=rows_cache(),
        gen_kwargs={"images": str(files[0]), "labels": str(files[1])},
        fingerprint=datasets.fingerprint.Hasher.hash(stamps),
    )


def read_idx(file: Path, dimensions: int) -> Bytes:
    """The bytes of a gzipped IDX file, as an array.

    Raises:
        ValueError: if it is no such file of so many dimensions, is cut off, or is too large.
    """
    try:
        with gzip.open(file, "rb") as stream:
            content = stream.read(MOST + 1)
    except (OSError, EOFError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    start = 4 + 4 * dimensions
    if len(content) > MOST or len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{file} is no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{file} is damaged: it says that it holds {' x '.join(map(str, shape))} bytes, and does not")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_both(images: Path, labels: Path) -> tuple[Bytes, Bytes]:
    """Pictures (n, height, width) and their labels (n,).

    Raises:
        ValueError: if a file is damaged, or there are more of one than of the other.
    """
    pictures, numbers = read_idx(images, 3), read_idx(labels, 1)
    if len(pictures) != len(numbers):
        raise ValueError(f"{images} has {len(pictures)} pictures, and {labels} {len(numbers)} labels")
    return pictures, numbers


def _rows(images: str, labels: str) -> Iterator[dict[str, Any]]:
    pictures, numbers = read_both(Path(images), Path(labels))
    for picture, number in zip(pictures, numbers, strict=True):
        yield {"image": Image.fromarray(picture), "label": int(number)}
