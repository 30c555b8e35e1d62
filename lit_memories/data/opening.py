"""Opens data sets of any layout: a hub id, a folder, parquet files, tar shards; whole, or as a stream."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.cache.cache import Cache

from lit_memories.data.local import ColumnError, Rows, check_columns, check_kinds, find, open_local
from lit_memories.data.unpacked import rows_cache
from lit_memories.storage.hub import redact

FILES = {".parquet": "parquet", ".tar": "webdataset"}
"""What files are, by the end of their names."""
PARQUET_COPY = "refs/convert/parquet"
"""The revision at which the hub has its own parquet copy of a data set, each configuration in a folder of its name."""


@dataclass(frozen=True)
class Opened:
    """A data set that is open.

    Args:
        rows: whole, or as they are asked for.
        commit: of the hub, if it is the hub's.
        by_path: whether its rows name pictures of its own folder instead of holding them.
    """

    rows: Rows
    commit: str | None = None
    by_path: bool = False


def open_rows(
    path: str,
    name: str | None,
    split: str,
    revision: str | None,
    streaming: bool,
    wanted: Collection[str],
    image: str | None = None,
    first: bool = False,
) -> Opened:
    """Open a data set.

    Args:
        path: hub id; folder of images, of parquet or of tar files; or such files, with ``*`` for many; or an address of
            such files.
        name: configuration of a hub id, or a folder in the one that is named.
        split: which split to read; files named by `path` have only one.
        revision: git revision of a hub id.
        streaming: read rows as they are asked for, instead of all into the cache first.
        wanted: the columns that are needed.
        image: which of them holds pictures; None if none does.
        first: whether the first rows are wanted only, so that files of this machine need not be read to their ends.

    Raises:
        FileNotFoundError: if there is no such data set, split or configuration, or it cannot be reached or read.
        ValueError: if a column is missing or holds other things, or files of this machine are given a revision.
    """
    found = find(path)
    if not found and (path.startswith(("/", ".", "~")) or "\\" in path or path.count("/") > 1) and "://" not in path:
        where = f"cannot open data set {redact(path)!r} (split {split!r})"
        raise FileNotFoundError(f"{where}: there is no such folder or file on this machine")
    if found and revision is not None:
        raise ValueError(f"{redact(path)} is on this machine, where nothing has a revision: leave out {revision!r}")
    try:
        if found and name is not None:
            if not (found[0] / name).is_dir():
                raise FileNotFoundError(f"it has no folder {name!r}: leave the name out")
            found = [found[0] / name]
        if found:
            rows = open_local(found, split, wanted, image, streaming or first)
            return Opened(rows, by_path=found[0].is_dir() and isinstance(rows, datasets.Dataset))
        rows, commit, by_path = _open_elsewhere(path, name, split, revision, streaming)
        if rows.column_names is None:
            raise ColumnError("does not say which columns it has before it is read: leave streaming off")
        check_columns(rows.column_names, wanted)
        check_kinds(rows.features, wanted, image)
    except ColumnError as error:
        raise ValueError(f"{redact(path)} {error}") from None
    except Exception as error:  # the HTTP client's own errors are of another package in every version
        raise cannot_open(path, split, error) from error
    return Opened(rows.select_columns(list(wanted)), commit, by_path)


def _open_elsewhere(
    path: str, name: str | None, split: str, revision: str | None, streaming: bool
) -> tuple[Rows, str | None, bool]:
    """Open a data set of the hub, or files at an address."""
    options: dict[str, Any]
    kind = FILES.get(Path(urlsplit(path).path if "://" in path else path).suffix)
    if kind is not None:
        split, options = "train", {"path": kind, "data_files": path}
    elif "://" in path:
        raise FileNotFoundError(f"an address names files: {' or '.join(f'*{ending}' for ending in FILES)}")
    elif revision == PARQUET_COPY:
        options = {"path": path, "data_dir": name, "revision": revision}
    else:
        options = {"path": path, "name": name, "revision": revision}
    builder = datasets.load_dataset_builder(**options, cache_dir=rows_cache())
    commit = builder.hash if builder.repo_id else None
    if isinstance(builder, Cache) and revision not in (None, commit):  # what the library takes if the hub fails it
        raise FileNotFoundError(f"the hub does not give revision {revision!r}, and what is in the cache is {commit}")
    _check_own(builder, path)
    if streaming:
        if hasattr(builder.config, "decode_num_threads"):
            builder.config.decode_num_threads = 0  # rows are wanted undecoded, and no more of them than asked for
        rows: Rows = builder.as_streaming_dataset(split=split)
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
    return rows, commit, rows.builder_name == "imagefolder"


def _check_own(builder: datasets.DatasetBuilder, path: str) -> None:
    """Refuse a repository whose card names files elsewhere: on this machine, or at other addresses."""
    if not builder.repo_id:
        return
    own = f"hf://datasets/{builder.repo_id}@"
    for files in (builder.config.data_files or {}).values():
        if strange := [file for file in files if not str(file).startswith(own)]:
            raise ValueError(f"its card names files that are not its own, such as {redact(str(strange[0]))}")


def cannot_open(path: str, split: str, error: Exception) -> FileNotFoundError:
    """The one line that says why a data set cannot be read."""
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:  # which says no more than that
        error = cast("Exception", error.__cause__)
    reason = redact((str(error).strip() or type(error).__name__).splitlines()[0])
    if "scripts are no longer supported" in reason:
        reason += f"; the hub's own parquet copy may be there with revision: {PARQUET_COPY}"
    if "://" not in path and not find(path):
        reason += "; no folder or file here is called so either"
    return FileNotFoundError(f"cannot open data set {redact(path)!r} (split {split!r}): {reason}")
