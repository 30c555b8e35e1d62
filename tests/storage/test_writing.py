"""The one way to write a file: whole, through no link, with the user's mode, and cleared of what kills left."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import Killed, killed_at
from safetensors import SafetensorError
from safetensors.torch import save_file

from lit_memories.storage import files, unfinished
from lit_memories.storage.files import WriteError, check_inside, check_writable, keep, whole, whole_folder, write
from lit_memories.storage.unfinished import HOUR, clear


@pytest.fixture
def umask() -> Iterator[int]:
    """Files are for their owner's group, too, and for nobody else."""
    before = os.umask(0o027)
    yield 0o640
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(folder: Path, content: str, *files: str) -> None:
    with whole_folder(folder) as part:
        for name in files:
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(content)


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_files_have_the_mode_of_any_other_of_the_users(tmp_path: Path, umask: int) -> None:
    """Whatever library wrote them: safetensors makes them for their owner alone."""
    with whole(tmp_path / "weights") as part:
        save_file({"x": torch.ones(3)}, part)
    with whole_folder(tmp_path / "model") as part:
        (part / "unet").mkdir()
        save_file({"x": torch.ones(3)}, part / "unet" / "weights")
    write(tmp_path / "text", "ü")
    assert (tmp_path / "text").read_bytes() == "ü".encode()
    assert {mode(tmp_path / name) for name in ("weights", "model/unet/weights", "text")} == {umask}


def test_no_file_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    for place in (folder, outside):
        place.mkdir()
    (outside / "precious").write_text("mine")
    (folder / "file").symlink_to(outside / "precious")
    (folder / "new").symlink_to(outside / "new")
    (folder / "figures").symlink_to(outside)
    for name in ("file", "new", "figures/one.png"):
        with pytest.raises(ValueError, match="leads out of its folder"):
            write(folder / name, "x", folder)
    with pytest.raises(ValueError, match="leads out of its folder"):
        fill(folder, "x", "other", "file")
    assert names(outside) == ["precious"]
    assert (outside / "precious").read_text() == "mine"
    assert names(folder) == ["figures", "file", "new"], "all is as it was"


def test_nothing_is_written_to_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        write(tmp_path / "pipe", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=r"cannot write .*folder: Is a directory"):
        write(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder", "pipe"]


@pytest.mark.parametrize("look", range(1, 5))
def test_what_is_taken_away_while_it_is_looked_at_is_not_in_the_way(
    look: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader looks through a run folder while a merge takes its parts away, after any of the reader's looks."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "records-0.jsonl").write_text("")
    looks: list[Path] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def looked(path: Any, *arguments: Any, **options: Any) -> Any:
            try:
                return real(path, *arguments, **options)
            finally:
                if "parts" in str(path):
                    looks.append(path)
                    if len(looks) == look:
                        shutil.rmtree(tmp_path / "parts")

        return looked

    for name in ("stat", "lstat", "scandir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    check_inside(tmp_path, ("parts",))
    monkeypatch.undo()
    assert len(looks) >= min(look, 3)


@pytest.mark.parametrize("target", ["nothing", "parts/pipe"])
def test_links_to_nothing_and_to_pipes_are_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    os.mkfifo(tmp_path / "parts" / "pipe")
    (tmp_path / "link").symlink_to(target)
    for name in ("link", "parts"):
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            check_inside(tmp_path, (name,))
    check_inside(tmp_path, ("missing", "missing/file"))


def test_a_link_within_the_folder_is_replaced_and_the_folder_may_be_one_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "kept").write_text("old")
    (tmp_path / "real" / "file").symlink_to("kept")
    write(tmp_path / "link" / "file", "new", tmp_path / "link")
    with whole_folder(tmp_path / "link") as part:
        (part / "other").write_text("new")
    assert [(tmp_path / "real" / name).read_text() for name in ("kept", "file", "other")] == ["old", "new", "new"]
    assert not (tmp_path / "real" / "file").is_symlink()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("I/O error")])
def test_what_cannot_be_written_is_named_and_the_old_file_stays(error: Exception, tmp_path: Path) -> None:
    write(tmp_path / "file", "old")

    def half(context: Callable[[Path], Any], path: Path) -> None:
        with context(path) as part:
            (part / "file" if part.is_dir() else part).write_text("half")
            raise error

    with pytest.raises(WriteError) as stop:
        half(whole, tmp_path / "file")
    reason = getattr(error, "strerror", None) or str(error)
    assert str(stop.value).startswith(f"cannot write {tmp_path / 'file'}: {reason}; free the disk")
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(WriteError, match=f"cannot write {tmp_path}: "):
        half(whole_folder, tmp_path)
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_replaced_is_never_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any operation on the disk, it holds files of one kind alone, and whole it is at the end."""

    model = "unet/weights", "a", "index"
    seen = set()

    for number in range(1, 40):
        folder = tmp_path / str(number)
        fill(folder, "old", *model)
        (folder / "other").write_text("other")
        try:
            with killed_at(number, monkeypatch):
                fill(folder, "new", *model)
            break
        except Killed:
            pass
        found = {name: (folder / name).read_text() for name in model if (folder / name).is_file()}
        assert len(set(found.values())) <= 1, f"{found} after operation {number}"
        seen.add(len(found))
        fill(folder, "new", *model)
        assert names(folder) == ["a", "index", "other", "unet", "unet/weights"]
    assert seen == {0, 1, 2, 3}
    assert number > 10


WRITER = """
import os, signal, sys
from pathlib import Path
from lit_memories.storage.files import whole
with whole(Path(sys.argv[1])) as part:
    part.write_text("half")
    (part.parent / ".tmpAbCdEf").write_text("half of a library's own")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        clear(tmp_path)
        assert len(names(tmp_path)) == 3, "it is still being written"
        process.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == 3
    with whole(tmp_path / "other") as part:
        part.write_text("whole")
        check_writable(tmp_path)
    assert names(tmp_path) == ["other"]


def test_files_of_others_are_not_cleared(tmp_path: Path) -> None:
    """Earlier releases and safetensors left files where folders are now; browsers and mail programs leave their own."""
    old = time.time() - HOUR - 60
    for name in ("run.json.0a1b2c3d.part", ".tmpAbCdEf", ".tmp123456", "film.mp4.part", ".tmpfile-of-mine"):
        (tmp_path / name).write_text("half")
        if name != ".tmp123456":
            os.utime(tmp_path / name, (old, old))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (tmp_path / "x.0a1b2c3d.part").symlink_to(outside)
    clear(tmp_path)
    assert names(tmp_path) == [".tmp123456", ".tmpfile-of-mine", "film.mp4.part"]
    assert names(outside) == ["precious"]
    clear(tmp_path / "missing")


def test_a_folder_that_is_cleared_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, cleared = unfinished._lock, list[bool]()

    def late(descriptor: int, wait: bool) -> bool:
        if wait and not cleared:
            cleared.append(True)
            clear(tmp_path)
        return lock(descriptor, wait)

    monkeypatch.setattr(unfinished, "_lock", late)
    write(tmp_path / "file", "x")
    assert cleared
    assert names(tmp_path) == ["file"]


def test_what_took_long_is_kept_elsewhere_if_its_folder_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tried = tmp_path / "made", []
    monkeypatch.setattr(files, "gettempdir", lambda: str(tmp_path / "temporary"))

    def save(folder: Path, full: Callable[[Path], bool] = lambda folder: folder == made) -> None:
        tried.append(folder)
        with whole_folder(folder) as part:
            (part / "weights").write_text("dear")
            if full(folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=f"cannot write {made}: No space left on device.* is kept in") as stop:
        keep(made, save)
    assert str(tried[-1]) in str(stop.value)
    assert (tried[-1] / "weights").read_text() == "dear"
    assert tried[-1].is_relative_to(tmp_path / "temporary")
    with pytest.raises(OSError, match=f"cannot write {made}: .*it is lost"):
        keep(made, lambda folder: save(folder, lambda folder: True))
    assert not any(folder.exists() and [*folder.iterdir()] for folder in tried[1:] if folder != tried[1])
    keep(tmp_path / "well", save)
    assert (tmp_path / "well" / "weights").read_text() == "dear"
