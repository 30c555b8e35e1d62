"""Where images and captions come from: any Hugging Face data set, or the pictogram world."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from lit_memories.data import pictograms


class Source(ABC):
    """Rows with an image and a caption."""

    @abstractmethod
    def describe(self) -> str:
        """One line for reports."""

    @abstractmethod
    def load(self) -> datasets.Dataset:
        """Open the rows as columns ``image`` (undecoded) and ``caption``."""


@dataclass
class ImageSource(Source):
    """A Hugging Face data set with an image column and a caption column.

    Args:
        path: hub id, folder of images with ``metadata.csv`` or ``metadata.jsonl``, or parquet file.
        split: which split to read.
        image: name of the image column.
        caption: name of the caption column.
        where: keep only rows with these column values.
        limit: keep only the first rows, in the data set's order; None for all.
        revision: git revision of a hub id.
    """

    path: str
    split: str = "train"
    image: str = "image"
    caption: str = "caption"
    where: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    revision: str | None = None

    def describe(self) -> str:
        """One line for reports."""
        chosen = " ".join(f"{name}={value}" for name, value in self.where.items())
        return f"{self.path} [{self.split}] {chosen}".strip()

    def load(self) -> datasets.Dataset:
        """Open the rows as columns ``image`` (undecoded) and ``caption``.

        Raises:
            FileNotFoundError: if there is no such data set.
            ValueError: if a named column is missing, or no row is left.
        """
        rows = _require_columns(self._open(), {self.image, self.caption, *self.where}, self.path)
        rows = rows.cast_column(self.image, datasets.Image(decode=False))
        labels = {name: _label(rows.features[name], value) for name, value in self.where.items()}
        if labels:
            names = list(labels)
            rows = rows.filter(
                lambda *values: all(value == labels[name] for name, value in zip(names, values, strict=True)),
                input_columns=names,
            )
        rows = rows.select_columns([self.image, self.caption])
        rows = rows.rename_columns({self.image: "image", self.caption: "caption"} if self._renames() else {})
        if self.limit is not None:
            rows = rows.select(range(min(self.limit, len(rows))))
        if len(rows) == 0:
            raise ValueError(f"no rows left in {self.describe()}: check `where` and `limit`")
        for number, caption in enumerate(rows["caption"]):
            if not isinstance(caption, str):
                raise ValueError(f"row {number} of {self.describe()} has no caption: {caption!r} in {self.caption!r}")
        return rows

    def _renames(self) -> bool:
        return (self.image, self.caption) != ("image", "caption")

    def _open(self) -> datasets.Dataset:
        try:
            if Path(self.path).suffix == ".parquet":
                if not Path(self.path).is_file():
                    raise FileNotFoundError("no such file")
                return datasets.load_dataset("parquet", data_files=self.path, split="train")
            return datasets.load_dataset(self.path, split=self.split, revision=self.revision)
        except (FileNotFoundError, ConnectionError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(f"cannot open data set {self.path!r} (split {self.split!r}): {reason}") from error


@dataclass
class PictogramSource(Source):
    """Rows of the pictogram world, drawn on the spot.

    Args:
        split: which split; audits use ``test``, which no model was trained on.
        size: rows drawn before the filters.
        keep: keep only pictures with these factor values.
        withhold: leave out pictures that show any of these.
        limit: keep only the first rows; None for all.
    """

    split: str = "test"
    size: int = 2000
    keep: dict[str, str] = field(default_factory=dict)
    withhold: list[dict[str, str]] = field(default_factory=list)
    limit: int | None = None

    def describe(self) -> str:
        """One line for reports."""
        chosen = [f"{name}={value}" for name, value in self.keep.items()]
        without = [f"not {name}={value}" for factors in self.withhold for name, value in factors.items()]
        return " ".join(["pictograms", f"[{self.split}]", *chosen, *without])

    def load(self) -> datasets.Dataset:
        """Draw the rows as columns ``image`` (undecoded) and ``caption``.

        Raises:
            ValueError: if no row is left.
        """
        rows = pictograms.build(self.split, self.size, withhold=self.withhold, keep=self.keep, limit=self.limit)
        if len(rows) == 0:
            raise ValueError(f"no rows left in {self.describe()}: check `keep`, `withhold` and `size`")
        return rows.select_columns(["image", "caption"]).cast_column("image", datasets.Image(decode=False))


def read_picture(image: Mapping[str, Any], size: tuple[int, int]) -> Image.Image:
    """An undecoded image of a data set as an RGB picture of a model's size.

    Args:
        image: its ``bytes``, or its ``path``.
        size: (height, width); other sizes are resized (plain bicubic, aspect ratio not kept, as officially).

    Raises:
        Exception: nearly any, SyntaxError and struct.error among them: Pillow's on damaged files.
    """
    with Image.open(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]) as opened:
        picture = opened.convert("RGB")
    height, width = size
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BICUBIC)


def save_images(rows: datasets.Dataset, path: Path) -> None:
    """Write a data set as parquet (if `path` ends so) or as an image folder with ``metadata.jsonl``.

    Args:
        rows: columns ``image`` and ``caption``, and any others.
        path: parquet file or folder to make.
    """
    if path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    names = [f"{i:06d}.png" for i in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        row["image"].save(path / name)
    table = rows.remove_columns("image").add_column("file_name", names)
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):  # JSON has no labels: write their names
            table = table.remove_columns(name).add_column(name, feature.int2str(list(table[name])))
    table.to_json(path / "metadata.jsonl")


def _require_columns(rows: datasets.Dataset, wanted: set[str], where: str) -> datasets.Dataset:
    if missing := sorted(wanted - set(rows.column_names)):
        raise ValueError(f"{where} has no column {missing[0]!r}: it has {', '.join(rows.column_names)}")
    return rows


def _label(feature: Any, value: Any) -> Any:
    """A class label's number, so that `where` may name it."""
    return feature.str2int(value) if isinstance(feature, datasets.ClassLabel) and isinstance(value, str) else value


def describe_rows(source: Source, used: int, unreadable: list[str], repeated: int) -> Mapping[str, Any]:
    """What ``run.json`` says of one set."""
    return {"source": source.describe(), "rows": used, "unreadable": unreadable, "repeated": repeated}
