"""A world of any labelled data set: its labels are the facts, and a template makes captions of them."""

import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import datasets
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from lit_memories.data.opening import open_rows
from lit_memories.data.sources import Resize, read_picture
from lit_memories.images import FORMATS
from lit_memories.storage.hub import redact
from lit_memories.worlds.base import SPLITS, Grammar, World, features
from lit_memories.worlds.idx import held, open_idx

SHUFFLED_BY = 0
"""Seed by which a training split is shuffled before some of it is held out: many data sets are sorted by label."""
KINDS = ("string", "large_string")


class LabelledImages(World):
    """Pictures of a data set of the hub, or of this machine, with a column or more of labels.

    A data set without a split of some name in `SPLITS` gives up the last `held_out` rows of its training split for it,
    after that was shuffled.

    Args:
        path: as of `ImageSource`: hub id, folder or files; or a folder of IDX files such as MNIST's.
        factors: what its pictures differ in, each the name of a column of class labels, texts or numbers.
        caption: what a picture is told by, with factors in braces: ``a photo of a {kind}``.
        shorter: captions that leave something open, ``{kind}``.
        image_size: of a side of its pictures, in pixels; a multiple of 16.
        name: one word for it.
        values: by factor, words for its values, in the order of the class labels' numbers; the data set's own, if they
            are class labels or texts, where there are none.
        image: column of pictures.
        splits: names of the data set's own splits, by those in `SPLITS`.
        held_out: rows of a split that the data set has not.
        resize: how pictures come to their size.
        local: folder or files that are read in the place of `path` if they are there.
        config: configuration of a hub id.
        revision: git revision of a hub id.

    Raises:
        ValueError: if size, name or splits cannot be.
    """

    def __init__(
        self,
        path: str,
        factors: dict[str, str],
        caption: str,
        image_size: int,
        name: str,
        shorter: list[str] | None = None,
        values: dict[str, list[str]] | None = None,
        image: str = "image",
        splits: dict[str, str] | None = None,
        held_out: int = 1000,
        resize: Resize = "crop",
        local: str | None = None,
        config: str | None = None,
        revision: str | None = None,
    ) -> None:
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16, got {image_size}")
        if not name.isidentifier():
            raise ValueError(f"name must be one word, got {name!r}")
        if strange := sorted({*(splits or {})} - {*SPLITS}):
            raise ValueError(f"splits has {strange[0]!r}: it may name {', '.join(SPLITS)}")
        if not factors or held_out < 1:
            raise ValueError("factors must name a column of labels at least, and held_out be 1 or more")
        if strange := sorted({*(values or {})} - {*factors}):
            raise ValueError(f"values has {strange[0]!r}, which is no factor: there are {', '.join(factors)}")
        self.name, self.image_size, self.columns = name, image_size, factors
        self.path, self.config, self.revision = path, config, revision
        if local is not None and Path(local).exists():
            self.path, self.config, self.revision = local, None, None
        self.caption, self.shorter, self.values = caption, tuple(shorter or ()), values or {}
        self.image, self.splits, self.held_out = image, {"train": "train", **(splits or {})}, held_out
        self.resize: Resize = resize
        self._opened: dict[str, datasets.Dataset] = {}

    @cached_property
    def grammar(self) -> Grammar:
        """The factors, with their values in the data set's order, and the captions.

        Raises:
            FileNotFoundError: if values are the data set's, and it cannot be read.
            ValueError: if labels are no texts and have no names, if there is one only, or captions do not fit them.
        """
        named = {factor: self.values.get(factor) or self._named(factor) for factor in self.columns}
        for factor, values in named.items():
            if len(set(values)) != len(values):
                raise ValueError(f"values of {factor} must differ, got {', '.join(values)}")
        return Grammar({factor: tuple(values) for factor, values in named.items()}, self.caption, self.shorter)

    def rows(self, split: str, size: int | None = None) -> datasets.Dataset:
        """The first rows of a split: one of `SPLITS`; any other name is that of pictures that no model saw, ``test``.

        Raises:
            FileNotFoundError: if the data set cannot be read.
            ValueError: if there are fewer rows, a label has no name, or a picture cannot be read.
        """
        split = split if split in SPLITS else "test"
        found = self._split(split)
        if size is not None and size > len(found):
            raise ValueError(f"the split {split!r} of {redact(self.path)} has {len(found)} rows, not {size}")
        rows = found if size is None else found.select(range(size))
        columns, grammar = [self.image, *dict.fromkeys(self.columns.values())], self.grammar
        numbers = {column: self._numbers(found, factor) for factor, column in self.columns.items()}
        arguments = {"image": self.image, "columns": self.columns, "numbers": numbers, "size": self.image_size}
        made = rows.select_columns(columns).map(
            _row,
            with_indices=True,
            fn_kwargs={
                **arguments,
                "resize": self.resize,
                "factors": dict(grammar.factors),
                "caption": grammar.caption,
            },
            remove_columns=columns,
            features=datasets.Features({**features(grammar.factors), "sized": datasets.Value("string")}),
        )
        if len(sizes := sorted(made.unique("sized"))) > 1:
            rank_zero_warn(
                f"pictures of {redact(self.path)} are of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}: all "
                f"come to {self.image_size} x {self.image_size}, {self.resize}"
            )
        return made.remove_columns("sized")

    def _split(self, split: str) -> datasets.Dataset:
        """A split as the data set has it, or what is held out of the training split for it."""
        if split in self.splits and split != "train":
            return self._open(self.splits[split])
        rows = self._open(self.splits["train"]).shuffle(seed=SHUFFLED_BY)
        missing = [name for name in SPLITS if name not in self.splits]
        left = len(rows) - self.held_out * len(missing)
        if left < 1:
            raise ValueError(
                f"{redact(self.path)} has {len(rows)} rows to train on, too few to hold out {self.held_out} for "
                f"{' and '.join(missing)} each: lower held_out, or say which splits it has"
            )
        if split == "train":
            return rows.select(range(left))
        start = left + self.held_out * missing.index(split)
        return rows.select(range(start, start + self.held_out))

    def _open(self, split: str) -> datasets.Dataset:
        if split not in self._opened:
            if held(Path(self.path)):
                rows = open_idx(Path(self.path), split)
            else:
                wanted = {self.image, *self.columns.values()}
                found = open_rows(self.path, self.config, split, self.revision, False, wanted, self.image).rows
                rows = cast(datasets.Dataset, found)  # nothing was streamed
            self._opened[split] = rows.cast_column(self.image, datasets.Image(decode=False))
        return self._opened[split]

    def _named(self, factor: str) -> list[str]:
        """The names that a data set has for a factor's values itself."""
        rows, column = self._open(self.splits["train"]), self.columns[factor]
        kind = rows.features[column]
        if isinstance(kind, datasets.ClassLabel):
            return list(kind.names)
        if isinstance(kind, datasets.Value) and kind.dtype in KINDS:
            return sorted(value for value in rows.unique(column) if value is not None)
        raise ValueError(
            f"column {column!r} of {redact(self.path)} holds no texts, but {getattr(kind, 'dtype', kind)}: "
            f"say what its numbers stand for with values: {{{factor}: [name of 0, name of 1, …]}}"
        )

    def _numbers(self, rows: datasets.Dataset, factor: str) -> dict[Any, int]:
        """The number of a factor's value by what stands in its column."""
        column, count = self.columns[factor], len(self.grammar.factors[factor])
        kind = rows.features[column]
        if isinstance(kind, datasets.Value) and kind.dtype in KINDS:
            texts = self._named(factor)
            if len(texts) != count:
                raise ValueError(f"values names {count} of the {len(texts)} labels in column {column!r}")
            return {text: number for number, text in enumerate(texts)}
        if isinstance(kind, datasets.ClassLabel) and len(kind.names) != count:
            raise ValueError(f"values names {count} of the {len(kind.names)} labels in column {column!r}")
        return {number: number for number in range(count)}


def _row(
    row: Mapping[str, Any],
    place: int,
    image: str,
    columns: Mapping[str, str],
    numbers: Mapping[str, Mapping[Any, int]],
    size: int,
    resize: Resize,
    factors: Mapping[str, tuple[str, ...]],
    caption: str,
) -> dict[str, Any]:
    """A row of a world from one of a data set."""
    labels = {}
    for factor, column in columns.items():
        number = numbers[column].get(row[column])
        if number is None:
            raise ValueError(
                f"{row[column]!r} in column {column!r} of row {place} is none of the {len(factors[factor])} labels"
            )
        labels[factor] = number
    named = {factor: factors[factor][number] for factor, number in labels.items()}
    try:
        picture = read_picture(row[image], (size, size), resize)
        held_as = row[image]["path"] if row[image]["bytes"] is None else io.BytesIO(row[image]["bytes"])
        with Image.open(held_as, formats=FORMATS) as opened:
            original = f"{opened.width} x {opened.height}"
    except Exception as error:  # Pillow's on damaged files are of nearly any kind
        raise ValueError(f"the picture of row {place} cannot be read: {error}") from error
    return {"image": picture, "caption": caption.format(**named), "sized": original, **labels}
