"""Files: written whole or not at all, in folders out of which no link leads."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, EIO, ENOTDIR
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from tempfile import gettempdir
from uuid import uuid4

from safetensors import SafetensorError

from lit_memories.storage.unfinished import clear, room


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
        WriteError: if it cannot, or something else is in its place.
    """
    check_folder_place(folder)
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


def check_regular(file: Path) -> None:
    """Refuse to read what has no end, or may have none: a pipe or a device in the place of a file.

    Args:
        file: which need not be there; a folder passes.

    Raises:
        ValueError: naming it.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = file.stat().st_mode
        if not (S_ISREG(mode) or S_ISDIR(mode)):
            raise ValueError(f"{file} is neither a file nor a folder but a pipe or a device: name a file")


def check_folder_place(folder: Path) -> None:
    """Refuse to take for a folder what is none.

    Args:
        folder: which need not be there.

    Raises:
        WriteError: naming what is in its place, or in that of a folder above.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.exists() and not there.is_dir():
        raise WriteError(ENOTDIR, "it is no folder", str(there))


def _check_own(path: Path, root: Path) -> None:
    """One look at what stands there, as others may take it away meanwhile: a merge does so with the parts it merged."""
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if S_ISLNK(mode):
            if not path.resolve().is_relative_to(root):
                place = path.readlink()
                raise ValueError(f"{path} leads out of its folder, to {place}: copy what belongs there, or remove it")
            mode = path.stat().st_mode if path.exists() else mode
        if not (S_ISREG(mode) or S_ISDIR(mode)):
            raise ValueError(f"{path} is neither a file nor a folder: remove it")
