"""Files: written whole or not at all, and read as if a stranger had made them."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints
from uuid import uuid4

DEPTH_LIMIT = 32
"""Lists and objects of JSON within each other."""
PART = ".part"
"""How the names of unfinished files end."""


T = TypeVar("T")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to; when the context ends, what was written takes the place of `file`, and is on the disk.

    Killed at any moment, or without power, a program leaves the old file or the new one under the name, and never a
    half. The path is of this process alone, so that several may write the same file.

    Raises:
        OSError: if it cannot be written; the old file is untouched then, and nothing else is left.
    """
    part = file.with_name(f"{file.name}.{uuid4().hex[:8]}{PART}")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode & 0o777)  # some libraries make files anew, for their owner alone
        sync(part)
        part.replace(file)
        sync(file.parent)
    except Exception:
        part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such thing for folders
            raise
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Prove that a folder can be made and written, before long work whose result belongs there.

    Raises:
        OSError: if it cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / ".probe") as part:
        part.write_bytes(b"0")
    (folder / ".probe").unlink(missing_ok=True)  # another node may do the same at the same time


def parse(cls: type[T], text: str) -> T:
    """An instance of a dataclass from JSON, every value of the type it is declared with.

    Args:
        cls: dataclass whose fields are plain values: unions, lists, dicts and literals of them.
        text: a JSON object. It has neither NaN nor infinity, nests at most `DEPTH_LIMIT` deep and is valid Unicode.

    Raises:
        ValueError: saying what is wrong.
    """
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__} where an object with named fields is expected")
    hints = _hints(cast("Any", cls))
    if unknown := sorted(values.keys() - hints):
        raise ValueError(f"unknown fields {unknown}")
    fitted = {}
    for name, value in values.items():
        try:
            fitted[name] = _fit(value, hints[name])
        except ValueError:
            raise ValueError(f"{name} cannot be {_short(value)}") from None
    try:
        return cls(**fitted)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


def parse_json(text: str) -> Any:
    """Plain values from JSON; see `parse`.

    Raises:
        ValueError: saying what is wrong.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        _check_plain(value, DEPTH_LIMIT)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return value


def check_inside(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse links that lead out of a folder: in one that others made they would show or change files of the reader.

    Args:
        folder: may be a link itself.
        names: files and folders in it that matter.

    Raises:
        ValueError: naming the first such link, or what is neither file nor folder.
    """
    root = folder.resolve()
    for name in names:
        walk = os.walk(folder / name)
        entries = (Path(parent, entry) for parent, folders, files in walk for entry in (*folders, *files))
        for path in (folder / name, *entries):
            _check_own(path, root)


def _check_own(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise ValueError(f"{path} leads out of its folder, to {path.readlink()}: copy what belongs there, or remove it")
    if (path.exists() or path.is_symlink()) and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is neither a file nor a folder: remove it")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fit(value: Any, hint: Any) -> Any:
    """The value, if it is of a type; whole numbers become float where that is asked for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _fit_union(value, arguments)
    if origin is Literal:
        if value in arguments:
            return value
    elif origin is dict and isinstance(value, dict):
        return {name: _fit(entry, arguments[1]) for name, entry in value.items()}
    elif origin is list and isinstance(value, list):
        return [_fit(entry, arguments[0]) for entry in value]
    elif hint is float and type(value) is int:
        return _finite(value)
    elif type(value) is hint and (hint is not int or abs(value) < 2**63):
        return value
    raise ValueError


def _fit_union(value: Any, hints: tuple[Any, ...]) -> Any:
    if value is None and NoneType in hints:
        return None
    for hint in hints:
        try:
            return _fit(value, hint)
        except ValueError:
            continue
    raise ValueError


def _finite(number: str | int) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{_short(number)} is no finite number")
    return value


def _check_plain(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError("it nests too deep")
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text; the error is a ValueError
    elif isinstance(value, list):
        for entry in value:
            _check_plain(entry, depth - 1)
    elif isinstance(value, dict):
        for name, entry in value.items():
            name.encode()
            _check_plain(entry, depth - 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
