"""A disk that is full ends every command in one line that names the folder, and takes nothing that was made."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lit_memories.cli import main
from lit_memories.data.cache import cached
from lit_memories.erasure import Erasure
from lit_memories.storage import files

Refused = Callable[..., str]
Commands = dict[str, Callable[[Path], list[str]]]


class Disk:
    """Fails, for paths that match, at an operation and from then on; counts those before."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.fails_at, self.folder, self.pattern = 0, 0, Path("/"), ""
        sync = files.sync

        def flush(path: Path) -> None:
            if path.is_relative_to(self.folder) and re.search(self.pattern, str(path)):
                self.count += 1
                if 0 < self.fails_at <= self.count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(path)

        patch.setattr(files, "sync", flush)

    def fill(self, folder: Path, fails_at: int = 1, pattern: str = "") -> None:
        """Let it be full from an operation on, counted from now."""
        self.count, self.fails_at, self.folder, self.pattern = 0, fails_at, folder, pattern


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    """A disk of which folders can be filled; the one for temporary files is another."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(files, "gettempdir", lambda: str(tmp_path / "temporary"))
    return Disk(monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("predict", marks=pytest.mark.slow),
        "report",
        "convert",
        "export",
        "generate",
        "draw",
        "draw-parquet",
        "measure",
    ],
)
def test_every_command_names_the_folder(
    command: str, commands: Commands, disk: Disk, refused: Refused, tmp_path: Path
) -> None:
    """At its first write, at its last, and at one between."""
    disk.fill(tmp_path / "well", 0)
    main(commands[command](tmp_path / "well"))
    for operation in sorted({1, disk.count // 2 or 1, disk.count}):
        out = tmp_path / str(operation)
        disk.fill(out, operation)
        line = refused(*commands[command](out))
        assert str(out) in line
        assert "No space left on device" in line
        assert not list(out.rglob("*.part")), "nothing is left unfinished"


@pytest.mark.parametrize(("command", "file"), [("fit", "erasure.safetensors"), ("pretrain", "config.json")])
def test_a_training_is_not_lost(
    command: str, file: str, commands: Commands, disk: Disk, refused: Refused, tmp_path: Path
) -> None:
    """Full from the checkpoint on: the checkpoint is missing, and the weights are where there is space."""
    main(commands[command](tmp_path / "well"))
    out = tmp_path / "out"
    disk.fill(out, pattern=f"ckpt|{file}")
    line = refused(*commands[command](out))
    assert f"cannot write {out}: No space left on device" in line
    (kept,) = (tmp_path / "temporary").iterdir()
    assert str(kept) in line
    assert (kept / file).read_bytes() == (tmp_path / "well" / file).read_bytes()
    assert not list(out.rglob("*.ckpt"))
    assert not (out / file).exists()


def test_what_is_no_result_ends_no_training(commands: Commands, disk: Disk, refused: Refused, tmp_path: Path) -> None:
    """A checkpoint that cannot be written is warned of; what the training cost is written when the erasure is safe."""
    out = tmp_path / "out"
    disk.fill(out, pattern=r"ckpt$")
    with pytest.warns(UserWarning, match=r"cannot write .*ckpt: No space left on device.*training goes on"):
        main(commands["fit"](out))
    first = Erasure.load(out)
    disk.fill(out, pattern=r"cost\.json$")
    assert f"cannot write {out / 'cost.json'}: No space left" in refused(*commands["fit"](out))
    again = Erasure.load(out)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_a_cache_that_is_full_is_no_reason_to_stop(disk: Disk, tmp_path: Path) -> None:
    disk.fill(tmp_path)
    with pytest.warns(UserWarning, match=r"cannot keep what was made for it.*No space left on device"):
        made = cached(tmp_path / "cache" / "x.safetensors", ["x"], lambda: {"x": torch.ones(2)})
    assert torch.equal(made["x"], torch.ones(2))
    assert not list((tmp_path / "cache").iterdir())
