"""Where images and captions come from: any Hugging Face data set."""

import io
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets.utils.file_utils import xopen
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageOps

from lit_memories.data.local import Rows
from lit_memories.data.opening import cannot_open, open_rows
from lit_memories.images import FORMATS, to_rgb
from lit_memories.storage.files import whole, whole_folder
from lit_memories.storage.hub import redact

SHUFFLE_WINDOW = 1000
"""Rows of a stream that are shuffled among one another."""
MOST_PIXELS = 50_000_000
"""Of a picture that is read; a larger one would take a gigabyte and more while it is."""
LONGEST_CAPTION = 2**16
"""Letters of a caption."""
Resize = Literal["crop", "squeeze"]
"""How pictures come to a model's size: the shorter side scaled and the middle taken, or the aspect ratio given up."""


class Source(ABC):
    """Rows with an image and a caption."""

    @abstractmethod
    def describe(self) -> str:
        """One line for reports."""

    @abstractmethod
    def load(self) -> datasets.Dataset:
        """Open the rows as columns ``image`` (undecoded) and ``caption``."""

    def details(self) -> dict[str, Any]:
        """What ``run.json`` says of the rows besides, once they are loaded; nothing here."""
        return {}


@dataclass
class ImageSource(Source):
    """A Hugging Face data set with an image column and a caption column.

    Captions may be of any column: of one with lists, such as COCO's five, the first of each is taken, as officially; of
    one with class labels, their names. Of a folder or archive of pictures nothing but pictures and captions is read.

    Args:
        path: hub id; folder of images with ``metadata.csv``, ``.jsonl`` or ``.parquet``, or with a ``.txt`` or
            ``.caption`` beside each; folder of parquet files, of tar shards (webdataset) or of zip archives of images;
            or such files, ``shards/*.parquet``.
        split: which split to read, of folders one called so; of a path that names files there is one only.
        image: name of the image column; of tar shards ``image`` is the picture whatever its ending.
        caption: name of the caption column, of tar shards ``caption`` for their texts; or a text with columns in it,
            ``a photo of a {label}``, label being the name of the folder if nothing else says it; or a text of two words
            and more, which is the caption of every picture; `text` may be a single word.
        where: keep only rows with these column values.
        limit: keep only the first rows, in the data set's order or the shuffled one; None for all.
        revision: git revision of a hub id; ``refs/convert/parquet`` is the hub's own parquet copy, in which data sets
            can be read that are a script.
        name: configuration of a hub id, or a folder in the one at `path`.
        shuffle_seed: shuffle the rows before `limit`; None leaves them in order. Of a stream the shards are shuffled,
            and then the rows within a window of 1000, so that at least as many are read.
        streaming: read only as far as `limit` asks for, instead of the whole set into the cache first.
        text: the caption of every picture, be it a single word, in the place of `caption`.

    Raises:
        ValueError: if a stream has no limit, or the caption is no such text.
    """

    path: str
    split: str = "train"
    image: str = "image"
    caption: str = "caption"
    where: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    revision: str | None = None
    name: str | None = None
    shuffle_seed: int | None = None
    streaming: bool = False
    text: str | None = None

    def __post_init__(self) -> None:
        self._commit: str | None = None
        self._columns = _columns_of(self.caption) if self.text is None else []
        if self.text is not None and not 0 < len(self.text.strip()) <= LONGEST_CAPTION:
            raise ValueError(f"text must be a caption of 1 to {LONGEST_CAPTION} letters, got {self.text[:40]!r}")
        if self.streaming and self.limit is None:
            raise ValueError(
                f"streaming {redact(self.path)} needs a limit: without one all of it would be held in memory"
            )

    def describe(self) -> str:
        """One line for reports."""
        place = (
            redact(self.path) + (f" {self.name}" if self.name else "") + (f"@{self.revision}" if self.revision else "")
        )
        chosen = [f"{name}={value}" for name, value in self.where.items()]
        shuffled = [] if self.shuffle_seed is None else [f"shuffled by {self.shuffle_seed}"]
        return redact(" ".join([place, f"[{self.split}]", *chosen, *shuffled]))

    def details(self) -> dict[str, Any]:
        """The commit that was read, if it was the hub's."""
        return {} if self._commit is None else {"commit": self._commit}

    def load(self) -> datasets.Dataset:
        """Open the rows as columns ``image`` (undecoded) and ``caption``.

        Raises:
            FileNotFoundError: if there is no such data set, or it cannot be read.
            ValueError: if a named column is missing, or no row is left, or a row names a file instead of holding it.
        """
        found = open_rows(
            self.path,
            self.name,
            self.split,
            self.revision,
            self.streaming,
            {self.image, *self._columns, *self.where},
            self.image,
            first=self.limit is not None and self.shuffle_seed is None,
        )
        self._commit, in_files = found.commit, found.by_path
        opened = found.rows.cast_column(self.image, datasets.Image(decode=False))
        labels = {name: _label(opened.features[name], value) for name, value in self.where.items()}
        if labels:
            names = list(labels)
            opened = opened.filter(
                lambda *values: all(value == labels[name] for name, value in zip(names, values, strict=True)),
                input_columns=names,
            )
        rows = self._first(opened.select_columns(list(dict.fromkeys([self.image, *self._columns]))), in_files)
        if not in_files:
            _check_held(rows, self.image, self.describe())
        if len(rows) == 0:
            raise ValueError(f"no rows left in {self.describe()}: check `where` and `limit`")
        captions = self._captions(rows)
        rows = rows.select_columns([self.image])
        rows = rows if self.image == "image" else rows.rename_column(self.image, "image")
        return rows.add_column("caption", captions)

    def _first(self, opened: Rows, in_files: bool) -> datasets.Dataset:
        """The rows asked for, shuffled if asked for; those of a stream with the bytes of their images."""
        if isinstance(opened, datasets.Dataset):
            rows = opened if self.shuffle_seed is None else opened.shuffle(seed=self.shuffle_seed)
            return rows if self.limit is None else rows.select(range(min(self.limit, len(rows))))
        if self.shuffle_seed is not None:
            opened = opened.shuffle(seed=self.shuffle_seed, buffer_size=SHUFFLE_WINDOW, max_buffer_input_shards=1)
        features = opened.features
        try:
            read = list(islice(opened, self.limit))  # `take` reads a row more than it gives, of the next shard perhaps
            if in_files:
                read = [{**row, self.image: _with_bytes(row[self.image])} for row in read]
        except Exception as error:  # as in `open_rows`
            raise cannot_open(self.path, self.split, error) from error
        columns = {name: [row[name] for row in read] for name in features}  # `from_list` makes no columns of no rows
        return datasets.Dataset.from_dict(columns, features=features)

    def _captions(self, rows: datasets.Dataset) -> list[str]:
        if not self._columns:
            return [(self.text or self.caption).strip()] * len(rows)
        columns = [_readable(rows.features[name], rows[name]) for name in self._columns]
        plain, captions = self.caption in self._columns, []
        for number, values in enumerate(zip(*columns, strict=True)):
            if None in values or (plain and not isinstance(values[0], str)):
                raise ValueError(f"row {number} of {self.describe()} has no caption: {values[0]!r} in {self.caption!r}")
            if any(isinstance(value, str) and len(value) > LONGEST_CAPTION for value in values):
                raise ValueError(
                    f"row {number} of {self.describe()} has a caption of more than {LONGEST_CAPTION} letters"
                )
            named = dict(zip(self._columns, values, strict=True))
            captions.append(values[0] if plain else self.caption.format(**named))
        if blank := sum(not caption.strip() for caption in captions):
            rank_zero_warn(
                f"{blank} of {len(captions)} captions of {self.describe()} are blank, which is no prompt at all"
            )
        return captions


def read_picture(image: Mapping[str, Any] | None, size: tuple[int, int], resize: Resize = "crop") -> Image.Image:
    """An undecoded image of a data set as an RGB picture of a model's size.

    It is turned as its EXIF data say, and comes to 8-bit RGB as `to_rgb` says. Resizing is bicubic.

    Args:
        image: its ``bytes``, or its ``path``; at most `MOST_PIXELS`, which is seen before it is decoded. None is of a
            row that has no picture.
        size: (height, width).
        resize: what to do with pictures of another size: scale until they fill it and take the middle (``crop``), or
            scale each side by a factor of its own, as the audit's official code does (``squeeze``).

    Raises:
        Exception: nearly any, SyntaxError and struct.error among them: Pillow's on damaged files.
    """
    if image is None:
        raise ValueError("the row has none")
    source = io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]
    with Image.open(source, formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than {MOST_PIXELS:,}")
        picture = to_rgb(ImageOps.exif_transpose(opened))
    shape = size[1], size[0]
    if picture.size == shape:
        return picture
    if resize == "squeeze":
        return picture.resize(shape, Image.Resampling.BICUBIC)
    return ImageOps.fit(picture, shape, Image.Resampling.BICUBIC)


def save_images(rows: datasets.Dataset, path: Path) -> None:
    """Write a data set as parquet (if `path` ends so) or as an image folder with ``metadata.jsonl``.

    Args:
        rows: columns ``image`` and ``caption``, and any others.
        path: parquet file or folder to make.
    """
    if path.suffix == ".parquet":
        with whole(path) as part:
            rows.to_parquet(part)
        return
    names = [f"{i:06d}.png" for i in range(len(rows))]
    table = rows.remove_columns("image").add_column("file_name", names)
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):  # JSON has no labels: write their names
            table = table.remove_columns(name).add_column(name, feature.int2str(list(table[name])))
    with whole_folder(path) as part:
        for name, row in zip(names, rows, strict=True):
            row["image"].save(part / name)
        table.to_json(part / "metadata.jsonl")


def _check_held(rows: datasets.Dataset, image: str, where: str) -> None:
    """Refuse pictures that rows name instead of holding: whoever wrote them could name any file of the reader's."""
    for part in rows.data[image].chunks:
        held, named = part.field("bytes").is_valid().to_numpy(False), part.field("path").is_valid().to_numpy(False)
        if (named & ~held).any():
            raise ValueError(f"{where} names pictures by path instead of holding them: open it as a folder of images")


def _columns_of(caption: str) -> list[str]:
    """The columns a caption is made of; none if it is the same for all."""
    if "{" not in caption:
        return [] if len(caption.split()) > 1 else [caption]
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(caption) if name is not None]
    except ValueError:
        names = []
    if not names or any(not name or set(name) & set(".[]") for name in names):
        raise ValueError(
            f"caption {caption!r} must be a column, or a text with columns in it: 'a photo of a {{label}}'"
        )
    return list(dict.fromkeys(names))


def _readable(feature: Any, values: Sequence[Any]) -> list[Any]:
    """A column's values as captions need them: labels by name, of lists the first."""
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    return [(value[0] if value else None) if isinstance(value, list) else value for value in values]


def _with_bytes(image: Mapping[str, Any]) -> dict[str, Any]:
    """An undecoded image that no longer needs the place it came from."""
    if image["bytes"] is not None:
        return dict(image)
    with xopen(image["path"], "rb") as file:
        return {"bytes": file.read(), "path": image["path"]}


def _label(feature: Any, value: Any) -> Any:
    """A class label's number, so that `where` may name it."""
    return feature.str2int(value) if isinstance(feature, datasets.ClassLabel) and isinstance(value, str) else value
