"""Opens data sets of any layout: a hub id, a folder, parquet files, tar shards; whole, or as a stream."""

from pathlib import Path
from typing import Any, TypeAlias

import datasets
from datasets.packaged_modules.cache.cache import Cache

Rows: TypeAlias = datasets.Dataset | datasets.IterableDataset

FILES = {".parquet": "parquet", ".tar": "webdataset"}
"""What files are, by the end of their names."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
PARQUET_COPY = "refs/convert/parquet"
"""The revision at which the hub has its own parquet copy of a data set, each configuration in a folder of its name."""


def open_rows(
    path: str, name: str | None, split: str, revision: str | None, streaming: bool
) -> tuple[Rows, str | None]:
    """Open a data set, and say at which commit of the hub it was.

    Args:
        path: hub id; folder of images with metadata, of parquet or of tar files; or such files, with ``*`` for many.
        name: configuration of a hub id.
        split: which split to read; files named by `path` have only one.
        revision: git revision of a hub id.
        streaming: read rows as they are asked for, instead of all into the cache first.

    Raises:
        FileNotFoundError: if there is no such data set, split or configuration, or it cannot be reached or read.
    """
    kind = FILES.get(Path(path).suffix)
    try:
        if kind is not None:
            split, options = "train", {"path": kind, "data_files": path}
        else:
            options = _folder_or_hub(path, name, revision)
        builder = datasets.load_dataset_builder(**options)
        commit = builder.hash if builder.repo_id else None
        if isinstance(builder, Cache) and revision not in (None, commit):  # what the library takes if the hub fails it
            raise FileNotFoundError(
                f"the hub does not give revision {revision!r}, and what is in the cache is {commit}"
            )
        if streaming:
            if hasattr(builder.config, "decode_num_threads"):
                builder.config.decode_num_threads = 0  # rows are wanted undecoded, and no more of them than asked for
            return builder.as_streaming_dataset(split=split), commit
        builder.download_and_prepare()
        return builder.as_dataset(split=split), commit
    except Exception as error:  # the HTTP client's own errors are of another package in every version
        raise cannot_open(path, split, error) from error


def cannot_open(path: str, split: str, error: Exception) -> FileNotFoundError:
    """The one line that says why a data set cannot be read."""
    reason = _no_text(Path(path)) or (str(error).strip() or type(error).__name__).splitlines()[0]
    if "scripts are no longer supported" in reason:
        reason += f"; the hub's own parquet copy may be there with revision: {PARQUET_COPY}"
    return FileNotFoundError(f"cannot open data set {path!r} (split {split!r}): {reason}")


def _no_text(folder: Path) -> str | None:
    """Which file of captions in a folder is not text in UTF-8, as the library does not say; None if none is."""
    for file in (folder / name for name in METADATA if not name.endswith(".parquet")):
        try:
            if file.is_file():
                file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return f"{file.name} is not text in UTF-8: save it as such"
    return None


def _folder_or_hub(path: str, name: str | None, revision: str | None) -> dict[str, Any]:
    if any((Path(path) / file).is_file() for file in METADATA):  # whatever other files lie beside them
        return {"path": "imagefolder", "data_dir": path}
    if revision == PARQUET_COPY:
        return {"path": path, "data_dir": name, "revision": revision}
    return {"path": path, "name": name, "revision": revision}
