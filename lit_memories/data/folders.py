"""Folders and zip archives of pictures, with captions in tables or texts beside them; nothing else in them is heeded.

No library looks at such a folder, as it would follow what it finds there: addresses and paths in a README, scripts.
"""

import io
import lzma
import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
from lightning.pytorch.utilities import rank_zero_warn

from lit_memories.data.shards import LARGEST, Row, rows_of_table
from lit_memories.images import PICTURES
from lit_memories.storage.plain import parse_json

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TEXTS = (".txt", ".caption")
"""Endings of captions beside their pictures."""
LONGEST_TEXT = 2**20
"""Bytes of such a file that are read."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""How folders of a split are called."""


class Tree(ABC):
    """Files by name, as a folder or an archive has them.

    Args:
        names: of the files, with slashes between folders.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = sorted(names)

    @cached_property
    def known(self) -> frozenset[str]:
        """The names, to look one up."""
        return frozenset(self.names)

    @abstractmethod
    def read(self, name: str, limit: int = LARGEST) -> bytes:
        """What a file holds, but for what is beyond a limit."""

    def picture(self, name: str) -> dict[str, Any]:
        """A picture as a row has it, undecoded."""
        return {"bytes": self.read(name), "path": _printable(name)}


class Folder(Tree):
    """The regular files of a folder and of the folders in it, but for hidden ones.

    Args:
        root: the folder.

    Raises:
        ValueError: if a link leads out of it. Links into the blobs of the hub's own cache do not.
    """

    def __init__(self, root: Path) -> None:
        self.root, names = root, []
        inside = [root.resolve()] + ([root.resolve().parents[1] / "blobs"] if root.parent.name == "snapshots" else [])
        for place, folders, files in os.walk(root, onerror=_refuse):
            folders[:] = sorted(folder for folder in folders if not folder.startswith((".", "__")))
            for name in [*files, *folders]:
                path = Path(place, name)
                if name.startswith(".") or (name in folders and not path.is_symlink()):
                    continue
                if path.is_symlink() and not any(path.resolve().is_relative_to(part) for part in inside):
                    raise ValueError(
                        f"{_printable(str(path.relative_to(root)))} is a link that leads out of the folder: put a copy "
                        "in its place"
                    )
                if path.exists() and stat.S_ISREG(path.stat().st_mode):
                    names.append(path.relative_to(root).as_posix())
        super().__init__(names)

    def read(self, name: str, limit: int = LARGEST) -> bytes:
        """What a file holds, but for what is beyond a limit."""
        with (self.root / name).open("rb") as file:
            return file.read(limit)

    def picture(self, name: str) -> dict[str, Any]:
        """A picture as a row has it: its path, or what it holds where its name is no text."""
        path = str(self.root / name)
        try:
            path.encode()
        except UnicodeEncodeError:
            return super().picture(name)
        return {"bytes": None, "path": path}


def _refuse(error: OSError) -> None:
    """Of a folder that cannot be listed, pictures would be missing without a word."""
    raise error


class Zip(Tree):
    """The files of a zip archive, which stays open.

    Args:
        file: the archive.
    """

    def __init__(self, file: Path) -> None:
        self.archive = zipfile.ZipFile(file)
        names = [entry.filename for entry in self.archive.infolist() if not entry.is_dir()]
        super().__init__([name for name in names if not any(part.startswith((".", "__")) for part in name.split("/"))])

    def read(self, name: str, limit: int = LARGEST) -> bytes:
        """What a file holds, but for what is beyond a limit."""
        with self.archive.open(name) as file:
            return file.read(limit)

    def picture(self, name: str) -> dict[str, Any]:
        """A picture as a row has it; one that is damaged, or has a password, has no bytes."""
        try:
            return super().picture(name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError):
            return {"bytes": b"", "path": _printable(name)}


@dataclass(frozen=True)
class Pictures:
    """Pictures of a split and what stands beside them.

    Args:
        tree: where they are.
        names: of the files, in order.
        columns: other columns, of as many values.
    """

    tree: Tree
    names: list[str]
    columns: dict[str, list[Any]]

    def rows(self) -> Iterator[Row]:
        """Rows with what the pictures hold."""
        for number, name in enumerate(self.names):
            others = {column: values[number] for column, values in self.columns.items()}
            yield {"image": self.tree.picture(name) if name in self.tree.known else None, **others}


def pictures_of(tree: Tree, split: str) -> Pictures:
    """The pictures of a split: those that tables of metadata name, in their order, or all, in the order of their names.

    Without a table, a text of a picture's name is its ``caption``, and the folder that it is in its ``label``.

    Args:
        tree: the files.
        split: which split; where no folder is called like one, all is ``train``.

    Raises:
        ValueError: if a table is damaged or names what is outside of its folder, or the split has no picture.
    """
    tables = [name for name in tree.names if PurePosixPath(name).name in METADATA]
    listed: dict[str, str] = {}
    if tables:
        found: list[tuple[str, Row]] = []
        for table in tables:
            for row in _table(tree, table):
                name = _within(table, row)
                if listed.setdefault(name, table) != table:
                    raise ValueError(f"{_printable(name)} stands in {listed[name]} and in {table}: keep one of them")
                found.append((name, row))
    else:
        names = [name for name in tree.names if PurePosixPath(name).suffix.lower() in PICTURES]
        found = [(name, _beside(tree, name)) for name in names]
    chosen = chosen_split([name for name, _ in found], split)
    if tables and (more := _unlisted(tree, listed, split)):
        rank_zero_warn(
            f"{len(more)} pictures that {tables[0]} does not list are left out, such as {_printable(more[0])}"
        )
    rows = [(name, row) for name, row in found if name in chosen]
    columns = dict.fromkeys(column for _, row in rows for column in row if column != "file_name")
    values = {column: [row.get(column) for _, row in rows] for column in columns}
    return Pictures(tree, [name for name, _ in rows], {name: _of_one_type(column) for name, column in values.items()})


def _unlisted(tree: Tree, listed: Collection[str], split: str) -> list[str]:
    """Pictures of a split that no table names."""
    pictures = (name for name in tree.names if PurePosixPath(name).suffix.lower() in PICTURES and name not in listed)
    return [name for name in pictures if (_split_of(name, by_name=False) or "train") == _canonical(split)]


def chosen_split(names: Sequence[str], split: str, by_name: bool = False) -> frozenset[str]:
    """Those of files that belong to a split.

    Args:
        names: of the files.
        split: which split.
        by_name: whether the beginnings of the files' own names say it too, and not only folders.

    Raises:
        ValueError: if there is none, naming the splits that there are.
    """
    splits = {name: _split_of(name, by_name) for name in names}
    there = {found for found in splits.values() if found is not None}
    found = {name for name, one in splits.items() if (one or "train") == _canonical(split)}
    if not found:
        listed = ", ".join(sorted(there | ({"train"} if None in splits.values() else set()))) or "none"
        raise ValueError(f"it has no split {split!r} with pictures; it has: {listed}")
    return frozenset(found)


def _canonical(split: str) -> str:
    return next((name for name, others in SPLITS.items() if split.lower() in others), split)


def _split_of(name: str, by_name: bool) -> str | None:
    *folders, file = name.lower().split("/")
    words = folders + ([file.replace("_", "-").replace(".", "-").split("-")[0]] if by_name else [])
    return next((split for word in words for split, others in SPLITS.items() if word in others), None)


def _within(table: str, row: Mapping[str, Any]) -> str:
    """The file that a row of a table names."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{table} has a row without a file_name")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "://" in name:
        raise ValueError(f"{table} names {_printable(name)!r}, which is not in its folder")
    return str(PurePosixPath(table).parent / path)


def _table(tree: Tree, name: str) -> list[Row]:
    content, ending = tree.read(name), PurePosixPath(name).suffix
    try:
        if len(content) == LARGEST:
            raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
        if ending == ".parquet":
            return list(rows_of_table(io.BytesIO(content), name, len(content)))
        text = content.decode("utf-8-sig")
        if ending == ".csv":
            options = pyarrow.csv.ParseOptions(newlines_in_values=True)
            return pyarrow.csv.read_csv(io.BytesIO(text.encode()), parse_options=options).to_pylist()
        rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not text in UTF-8: save it as such") from None
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name} is damaged: {str(error).splitlines()[0]}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name} is damaged: a line is no object")
    return rows


def _beside(tree: Tree, name: str) -> Row:
    """What stands beside a picture that no table names."""
    path = PurePosixPath(name)
    row: Row = {}
    texts = [text for text in (str(path.with_suffix(ending)) for ending in TEXTS) if text in tree.known]
    if texts:
        row["caption"] = tree.read(texts[0], LONGEST_TEXT).decode(errors="replace").strip()
    folders = [folder for folder in path.parts[:-1] if _split_of(f"{folder}/x", by_name=False) is None]
    if folders:
        row["label"] = _printable(folders[-1])
    return row


def _of_one_type(values: list[Any]) -> list[Any]:
    try:
        pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return [None if value is None else _printable(str(value)) for value in values]
    return values


def _printable(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
