"""Data sets on this machine: a folder or zip archive of pictures, parquet tables, tar archives."""

import glob
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from lit_memories.data.folders import METADATA, Folder, Pictures, Zip, chosen_split, pictures_of
from lit_memories.data.shards import (
    Row,
    bounded,
    columns_of_archives,
    columns_of_tables,
    kinds,
    rows_of_archives,
    rows_of_tables,
)
from lit_memories.data.unpacked import rows_cache
from lit_memories.images import PICTURES

Rows: TypeAlias = datasets.Dataset | datasets.IterableDataset
KINDS = {".parquet": "parquet tables", ".tar": "tar archives", ".zip": "zip archives"}
"""Files with rows, by the end of their names."""
IMAGE = datasets.Image(decode=False)
CAPTIONS = (
    "; put a .txt beside each picture, list them in metadata.csv (file_name,caption), or give all one with `text`"
)
"""How a folder of pictures comes to have captions."""


class ColumnError(ValueError):
    """A data set has not the columns that are asked for, or they hold other things."""


def find(path: str) -> list[Path]:
    """What a path names on this machine: itself if there is such a file or folder, else what it is a pattern of.

    Folders that are there are taken at their word: of ``a[1]/*.tar`` the star alone is a pattern if there is an
    ``a[1]``.
    """
    if "://" in path:
        return []
    place = at_home(path)
    if place.exists():
        return [place]
    there = next((folder for folder in place.parents if folder.is_dir()), Path())
    pattern = glob.escape(str(there)) + "/" + str(place.relative_to(there))
    return [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207


def at_home(path: str) -> Path:
    """A path as it stands if it begins with something that is there, a folder ``~x`` say; else with home for ``~``."""
    given = Path(path)
    if not path.startswith("~") or Path(given.parts[0]).exists():
        return given
    try:
        return given.expanduser()
    except RuntimeError:  # nobody's home
        return given


def open_local(found: list[Path], split: str, wanted: Collection[str], image: str | None, lazily: bool) -> Rows:
    """Open what `find` has found.

    Args:
        found: one folder, or files of one kind.
        split: which split of a folder; files have one only.
        wanted: columns to read; all others are left alone.
        image: which of them holds pictures; None if none does.
        lazily: read rows as they are asked for, instead of all into the cache first.

    Raises:
        ValueError: if it is nothing of the kind; `ColumnError` if a column is missing, or holds other things.
        OSError: if it cannot be read.
    """
    if len(found) == 1 and found[0].is_dir():
        folder = Folder(found[0])
        shards = {kind: [name for name in folder.names if name.lower().endswith(kind)] for kind in KINDS}
        kind = next((kind for kind, names in shards.items() if names), None)
        tables = any(name.rpartition("/")[2] in METADATA for name in folder.names)
        if tables or any(Path(name).suffix.lower() in PICTURES for name in folder.names):
            return _as_rows(pictures_of(folder, split), wanted, image)
        if kind is None:
            raise ValueError(f"it holds no pictures, nor {', '.join(KINDS.values())}")
        chosen = chosen_split(shards[kind], split, by_name=True)
        found, split = [found[0] / name for name in shards[kind] if name in chosen], "train"
    endings = {file.suffix.lower() for file in found}
    if len(endings) != 1 or not endings <= KINDS.keys() or not all(file.is_file() for file in found):
        raise ValueError(f"it is neither a folder of pictures nor one of: {', '.join(KINDS.values())}")
    ending = endings.pop()
    columns_of, rows = READERS[ending]
    features = columns_of(found)
    check_columns(features, wanted)
    check_kinds(features, wanted, image)
    kept = datasets.Features({name: features[name] for name in features if name in wanted})
    columns = kinds(kept) if ending == ".tar" else tuple(kept)
    return _generated(rows, kept, lazily, {"files": [str(file) for file in found], "columns": columns})


def check_columns(features: Collection[str], wanted: Collection[str], advice: str = "") -> None:
    """Refuse a data set that lacks a column.

    Args:
        features: the columns that it has.
        wanted: those that it must have.
        advice: how it comes to have them.

    Raises:
        ColumnError: naming the first that it lacks, and those that there are.
    """
    if missing := sorted(set(wanted) - set(features)):
        raise ColumnError(f"has no column {missing[0]!r}: it has {', '.join(map(str, features))}{advice}")


def check_kinds(features: Mapping[str, Any], wanted: Collection[str], image: str | None) -> None:
    """Refuse columns that hold other things than pictures, texts, numbers and labels, before a value is read.

    Whoever made a table says of what kind its columns are. Of a kind of picture or sound, a value is a place, which
    the library would look up when a caption is asked for: on this machine, or at an address.

    Args:
        features: kinds of the columns, as `datasets` has them.
        wanted: columns that are read.
        image: which of them holds pictures.

    Raises:
        ColumnError: naming the first such column.
    """
    for name in sorted(wanted):
        kind = features[name]
        if name == image:
            if _of_lists(kind):
                raise ColumnError(f"has lists of pictures in column {name!r}: a row needs one")
            if not _may_be_pictures(kind):
                raise ColumnError(f"has no pictures in column {name!r}, but {_named(kind)}")
        elif not isinstance(_of_lists(kind) or kind, datasets.Value | datasets.ClassLabel):
            raise ColumnError(f"has neither texts, numbers nor labels in column {name!r}, but {_named(kind)}")


def _of_lists(kind: Any) -> Any:
    """What lists of a column hold; None if it holds no lists."""
    if isinstance(kind, list):
        return kind[0]
    return kind.feature if isinstance(kind, datasets.List | datasets.LargeList) else None


def _may_be_pictures(kind: Any) -> bool:
    if isinstance(kind, dict):
        return kind.keys() == {"bytes", "path"}
    plain = isinstance(kind, datasets.Value) and kind.dtype.removeprefix("large_") in {"binary", "string"}
    return plain or isinstance(kind, datasets.Image)


def _named(kind: Any) -> str:
    if isinstance(kind, datasets.Value):
        return kind.dtype
    return "rows of their own" if isinstance(kind, dict) else type(_of_lists(kind) or kind).__name__


def _generated(rows: Any, features: datasets.Features, lazily: bool, arguments: dict[str, Any]) -> Rows:
    if lazily:
        return datasets.IterableDataset.from_generator(rows, features=features, gen_kwargs=arguments)
    stamps = tuple((Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in arguments["files"])
    fingerprint = datasets.fingerprint.Hasher.hash([arguments, stamps])
    return datasets.Dataset.from_generator(
        rows, features=features, cache_dir=rows_cache(), gen_kwargs=arguments, fingerprint=fingerprint
    )


def _as_rows(found: Pictures, wanted: Collection[str], image: str | None) -> datasets.Dataset:
    """Pictures that stay where they are."""
    check_columns(["image", *found.columns], wanted, CAPTIONS)
    known = [found.tree.picture(name) if name in found.tree.known else None for name in found.names]
    rows = datasets.Dataset.from_dict({"image": known}, features=datasets.Features({"image": IMAGE}))
    for name, values in found.columns.items():
        if name in wanted:
            rows = rows.add_column(name, values)
    check_kinds(rows.features, wanted, image)
    return rows


def columns_of_zips(files: Sequence[Path]) -> datasets.Features:
    """Columns of zip archives of pictures, by the first."""
    columns = pictures_of(Zip(files[0]), "train").columns
    return datasets.Features({"image": IMAGE} | dict(datasets.Dataset.from_dict(columns).features))


def rows_of_zips(files: Sequence[str], columns: Collection[str]) -> Iterator[Row]:
    """Rows of zip archives of pictures, in order."""
    for file in files:
        rows = ({name: row.get(name) for name in columns} for row in pictures_of(Zip(Path(file)), "train").rows())
        yield from bounded(rows, Path(file).name, Path(file).stat().st_size)


READERS: dict[str, tuple[Callable[[Sequence[Path]], datasets.Features], Callable[..., Iterator[Row]]]] = {
    ".parquet": (columns_of_tables, rows_of_tables),
    ".tar": (columns_of_archives, rows_of_archives),
    ".zip": (columns_of_zips, rows_of_zips),
}
"""What says which columns files have, and what gives their rows, by the end of their names."""
