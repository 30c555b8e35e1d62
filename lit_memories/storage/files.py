"""Files: written whole or not at all, and read as if a stranger had made them."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EINVAL, EIO
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints
from uuid import uuid4

from safetensors import SafetensorError

from lit_memories.storage.unfinished import clear, room

DEPTH_LIMIT = 32
"""Lists and objects of JSON within each other."""
T = TypeVar("T")


class WriteError(OSError):
    """Something that cannot be written, in one line: what, why, and what to do."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}; free the disk or the folder, or choose another one"


@contextmanager
def whole(file: Path, within: Path | None = None) -> Iterator[Path]:
    """A path to write to; when the context ends, what was written takes the place of `file`, and is on the disk.

    Killed at any moment, or without power, a program leaves the old file or the new one under the name, and never a
    half. The path is of this process alone, so that several may write the same file. The file's mode is that of any
    other that the user makes.

    Args:
        file: to write; missing folders are made.
        within: the program's own folder that it is in, out of which no link may lead; None for the file's.

    Raises:
        ValueError: if a link leads out, or what is in the file's place is none; nothing is written then.
        WriteError: if it cannot be written; the old file is untouched then, and nothing else is left.
    """
    check_place(file, within)
    with _explained(file), room(file) as made:
        part = made / file.name
        yield part
        part.chmod(made.stat().st_mode & 0o666)  # some libraries make files for their owner alone
        sync(part)
        part.replace(file)
        sync(file.parent)


def write(file: Path, content: str | bytes, within: Path | None = None) -> None:
    """Write a file, text in UTF-8; see `whole`."""
    with whole(file, within) as part:
        part.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to; when the context ends, its files take their places in `folder`, and are on the disk.

    Files of other names stay where they are. None of the new files ever stands beside an old one that it replaces, and
    those in folders within come before those that list them.

    Args:
        folder: a missing one is made.

    Raises:
        ValueError: if a link leads out of the folder, or what is in a file's place is none; all is as before then.
        WriteError: if it cannot be written.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder)
        with room(folder / folder.resolve().name) as made:
            yield made
            files = [file.relative_to(made) for file in made.rglob("*") if file.is_file()]
            for name in files:
                check_place(folder / name, folder)
                (made / name).chmod(made.stat().st_mode & 0o666)
                sync(made / name)
            for name in files:
                (folder / name).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: (-len(name.parts), name)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).replace(folder / name)
            for parent in {(folder / name).parent for name in files}:
                sync(parent)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno or EIO, error.strerror or str(error), str(path)) from error
    except SafetensorError as error:  # which tells of a full disk in words of its own
        raise WriteError(EIO, str(error), str(path)) from error


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != EINVAL:  # some network file systems have no such thing for folders
            raise
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Make a folder, clear it of what was left unfinished, and prove that it can be written, before long work.

    Raises:
        WriteError: if it cannot.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder)
        with room(folder / "probe") as made:
            (made / "probe").write_bytes(b"0")


def keep(folder: Path, save: Callable[[Path], None]) -> None:
    """Save what took long to make: to its folder, or, if that fails, to one for temporary files.

    Args:
        folder: where it belongs.
        save: writes it to a folder.

    Raises:
        OSError: if it cannot be saved where it belongs; says where it is instead.
    """
    try:
        save(folder)
    except (OSError, ValueError) as error:
        for parent in (*_temporary(), Path("/dev/shm")):  # noqa: S108 - memory, for a disk that is full
            place = parent / f"{folder.resolve().name}-{uuid4().hex[:8]}"
            try:
                save(place)
            except OSError:
                shutil.rmtree(place, ignore_errors=True)
            else:
                raise OSError(f"{error}; what was made is kept in {place}: move it from there") from error
        raise OSError(f"{error}; folders for temporary files are full too, so that it is lost") from error


def _temporary() -> list[Path]:
    try:
        return [Path(gettempdir())]
    except FileNotFoundError:  # it looks for one that can be written
        return []


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


def check_place(file: Path, within: Path | None = None) -> None:
    """Refuse to write where a link leads out of a folder, or where a pipe or a device is.

    Args:
        file: to write.
        within: the program's own folder that it is in; None for the file's.

    Raises:
        ValueError: naming what is in the way.
    """
    folder = file.parent if within is None else within
    root = folder.resolve()
    for count in range(len(file.relative_to(folder).parts)):
        _check_own(file if count == 0 else file.parents[count - 1], root)


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
