"""Rows of files that hold many pictures, parquet tables and tar archives: a few at a time, and none of any size."""

import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from lit_memories.images import PICTURES
from lit_memories.storage.plain import parse_json

LARGEST = 2**28
"""Bytes of a picture in a file, or of all files of a sample, at most: 256 MiB."""
RATIO = 100
"""How much larger than its file may be what it unpacks to, if that is larger than `LARGEST`."""
MOST_VALUES = 2**24
"""Of a column in a group of rows; a thousand rows with five captions each have five thousand."""
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
        ValueError: if a table lacks a column, or unpacks to far more than it could honestly hold.
    """
    for file in map(Path, files):
        with file.open("rb") as source:
            yield from rows_of_table(source, file.name, file.stat().st_size, columns)


def rows_of_table(source: Any, name: str, size: int, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Rows of one parquet table, of lists no more than the first entry.

    Args:
        source: its file, open.
        name: of the file, for messages.
        size: of the file, in bytes.
        columns: to read; None reads all that hold texts, numbers or lists.

    Raises:
        ValueError: as for `rows_of_tables`.
    """
    with pq.ParquetFile(source) as table:
        schema = table.schema_arrow
        if columns is None:
            columns = [column for column in schema.names if not pa.types.is_struct(schema.field(column).type)]
        if missing := sorted(set(columns) - set(schema.names)):
            raise ValueError(f"{name} has no column {missing[0]!r}, which others have")
        _check_claims(table, name, size)
        paths = [table.schema.column(i).path for i in range(len(table.schema))]
    lists = {column for column in schema.names if _is_list(schema.field(column).type)}
    # What lists repeat by a dictionary is left there: otherwise a row could take any memory.
    coded = [path for path in paths if path.partition(".")[0] in lists]
    with pq.ParquetFile(source, read_dictionary=coded) as table:
        yield from bounded(_rows(table.iter_batches(1, columns=list(columns), use_threads=False), name), name, size)


def _rows(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[Row]:
    for batch in batches:
        if batch.nbytes > LARGEST:
            raise ValueError(f"{name} has a row of more than {LARGEST // 2**20} MiB")
        yield {column: _cell(batch[column][0]) for column in batch.schema.names}


def bounded(rows: Iterable[Row], name: str, size: int) -> Iterator[Row]:
    """Rows of a file, as long as they are not far more than it could honestly hold.

    Raises:
        ValueError: as soon as they are.
    """
    most, total = max(LARGEST, RATIO * size), 0
    for row in rows:
        total += _weight(row)
        if total > most:
            raise ValueError(f"{name} unpacks to more than {most / 2**30:.2g} GiB: write its pictures as JPEG or PNG")
        yield row


def _weight(value: Any) -> int:
    """Bytes of a row's value, about."""
    if isinstance(value, dict | list):
        return sum(map(_weight, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, bytes | str) else 8


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _cell(value: pa.Scalar) -> Any:
    """A value of a table; of a list the first entry, as a list."""
    if _is_list(value.type) and value.is_valid:
        return value.values[:1].to_pylist()
    return value.as_py()


def _check_claims(table: pq.ParquetFile, name: str, size: int) -> None:
    """Refuse what would be unpacked to far more than files of pictures are, before it is."""
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.total_uncompressed_size > max(LARGEST, RATIO * size) or chunk.num_values > MOST_VALUES:
                raise ValueError(
                    f"{name} would unpack to {chunk.num_values} values in {chunk.total_uncompressed_size / 2**30:.2g} "
                    f"GiB: write its pictures as JPEG or PNG, in smaller groups of rows"
                )


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
        held = 0
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isfile() or member.issparse():  # holes would cost what the archive has not
                    continue
                parent, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key = f"{parent}/{stem}"
                if sample and sample["__key__"] != key:
                    yield sample
                    sample, held = {}, 0
                sample.setdefault("__key__", key)
                held += member.size
                opened = archive.extractfile(member) if held <= LARGEST else None
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
            if not isinstance(value, dict):  # which could pass for a picture
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
