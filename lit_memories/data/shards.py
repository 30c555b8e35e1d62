"""Rows of files that hold many pictures, parquet tables and tar archives: a few at a time, and none of any size."""

import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow.parquet as pq

from lit_memories.images import PICTURES
from lit_memories.storage.files import parse_json

BATCH = 8
"""Rows of a table that are in memory at once."""
LARGEST = 2**28
"""Bytes of a picture in a file, at most: 256 MiB."""
RATIO = 1000
"""How much larger than its file a column may be that is larger than `LARGEST`."""
SNIFFED = 100
"""Samples of an archive that say which columns it has."""
TEXTS = frozenset({"txt", "text", "caption"})

Row = dict[str, Any]


def columns_of_tables(files: Sequence[Path]) -> datasets.Features:
    """Columns of parquet tables, by the first."""
    with pq.ParquetFile(files[0]) as table:
        return datasets.Features.from_arrow_schema(table.schema_arrow)


def rows_of_tables(files: Sequence[str], columns: Collection[str]) -> Iterator[Row]:
    """Rows of parquet tables, in order; a table is opened when its first row is asked for.

    Raises:
        ValueError: if a table lacks a column, claims to hold far more than it could, or has larger rows than pictures.
    """
    for file in map(Path, files):
        with pq.ParquetFile(file) as table:
            if missing := sorted(set(columns) - set(table.schema_arrow.names)):
                raise ValueError(f"{file.name} has no column {missing[0]!r}, which others have")
            _check_claims(table, file)
            for batch in table.iter_batches(BATCH, columns=list(columns), use_threads=False):
                if batch.nbytes > BATCH * LARGEST:
                    raise ValueError(f"{file.name} holds pictures of more than {LARGEST // 2**20} MiB")
                yield from batch.to_pylist()


def _check_claims(table: pq.ParquetFile, file: Path) -> None:
    """Refuse what would be unpacked to far more than files of pictures are, before it is."""
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.total_uncompressed_size > max(LARGEST, RATIO * file.stat().st_size):
                raise ValueError(f"{file.name} would unpack to {chunk.total_uncompressed_size / 2**30:.1f} GiB")


def columns_of_archives(files: Sequence[Path]) -> datasets.Features:
    """Columns of tar archives, by the first samples of the first: files of one name but for its ending are a sample.

    Each ending is a column, and each entry of a sample's JSON; ``image`` is the sample's picture whatever its ending,
    and ``caption`` its text.

    Raises:
        ValueError: if there is no sample.
    """
    found: dict[str, Any] = {}
    for number, sample in enumerate(_samples(files[:1])):
        if number == SNIFFED:
            break
        for name, value in sample.items():
            if found.get(name) is None:
                found[name] = value
    if not found:
        raise ValueError(f"{files[0].name} holds no samples")
    return datasets.Features({name: _feature(value) for name, value in found.items()})


def rows_of_archives(files: Sequence[str], columns: Mapping[str, str]) -> Iterator[Row]:
    """Samples of tar archives, in order; what a sample lacks is None.

    Args:
        files: the archives.
        columns: the kind of each column that is wanted: ``image``, or the name of its type.
    """
    for sample in _samples([Path(file) for file in files]):
        yield {name: _as(kind, sample.get(name)) for name, kind in columns.items()}


def kinds(features: datasets.Features) -> dict[str, str]:
    """What `rows_of_archives` is to be told of columns."""
    return {name: "image" if isinstance(kind, datasets.Image) else str(kind.dtype) for name, kind in features.items()}


def _samples(files: Sequence[Path]) -> Iterator[Row]:
    for file in files:
        sample: Row = {}
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                parent, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key = f"{parent}/{stem}"
                if sample and sample["__key__"] != key:
                    yield sample
                    sample = {}
                sample.setdefault("__key__", key)
                opened = archive.extractfile(member) if member.size <= LARGEST else None
                if opened is not None:
                    _add(sample, ending.lower(), member.name, opened.read())
        if sample:
            yield sample


def _add(sample: Row, ending: str, name: str, content: bytes) -> None:
    """Put one file of a sample under its columns."""
    if f".{ending.rpartition('.')[2]}" in PICTURES:
        sample[ending] = {"bytes": content, "path": PurePosixPath(name).name}
        sample.setdefault("image", sample[ending])
    elif ending in TEXTS:
        sample[ending] = content.decode(errors="replace").strip()
        sample.setdefault("caption", sample[ending])
    elif ending == "cls" and re.fullmatch(rb"\s*\d{1,18}\s*", content):
        sample[ending] = int(content)
    elif ending == "json":
        try:
            values = parse_json(content.decode())
        except ValueError:
            return
        for column, value in values.items() if isinstance(values, dict) else ():
            sample.setdefault(column, value)


def _feature(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return datasets.Image(decode=False)
    kind = {bool: "bool", int: "int64", float: "float64"}.get(type(value), "string")
    return datasets.Value(kind)


def _as(kind: str, value: Any) -> Any:
    """A value as its column's type, None where it is of another."""
    if isinstance(value, list):  # of several captions the first
        value = value[0] if value else None
    if kind == "image":
        return value if isinstance(value, dict) else None
    if kind == "string":
        return None if value is None or isinstance(value, dict) else str(value)
    wanted = {"bool": bool, "int64": int, "float64": float}[kind]
    return wanted(value) if isinstance(value, bool | int | float) and abs(value) < 2**53 else None
