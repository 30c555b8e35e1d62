"""An output that cannot be written is found at once, and not after hours of work."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_memories.data.audit import AuditData
from lit_memories.diffusion import Diffusion
from lit_memories.storage import files

PICTOGRAMS = Path(__file__).parents[2] / "recipes/pictograms"
Refused = Callable[..., str]


@pytest.fixture(params=["a file in the way", "read-only"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A run folder that cannot be written, and why; the superuser is only stopped by a file system."""
    if request.param == "read-only":

        def read_only(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "write_bytes", read_only)
        monkeypatch.setattr(Path, "write_text", read_only)
        return tmp_path / "run", "Read-only file system"
    (tmp_path / "run").write_text("in the way")
    return tmp_path / "run", "it is no folder"


@pytest.fixture(autouse=True)
def _no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("long work began")

    monkeypatch.setattr(AuditData, "setup", forbidden)
    monkeypatch.setattr(Diffusion, "predict", forbidden)


def test_by_an_audit(unwritable: tuple[Path, str], tiny: Path, tiny_classifier: Path, refused: Refused) -> None:
    folder, reason = unwritable
    message = refused(
        "predict", f"--config={PICTOGRAMS / 'audit/umbrella.yaml'}", f"--model.diffusion.base={tiny}",
        f"--model.judge.classifier={tiny_classifier}", "--trainer.callbacks=[]", f"--trainer.default_root_dir={folder}",
    )  # fmt: skip
    assert f"{folder}: {reason}" in message


def test_by_an_eraser(tiny: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").write_text("in the way")
    message = refused(
        "fit", f"--config={PICTOGRAMS / 'erase/esd.yaml'}", f"--model.diffusion.base={tiny}", "--trainer.callbacks=[]",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert str(tmp_path / "run") in message


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
