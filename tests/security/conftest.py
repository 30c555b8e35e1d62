"""What an attacker would send, harmless: payloads that leave a marker file if they ever run."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_memories.cli import main


class Payload:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that a payload makes."""
    return tmp_path / "executed"


def plain(file: Path, content: Any) -> None:
    file.write_bytes(pickle.dumps(content))


def archive(file: Path, content: Any) -> None:
    torch.save(content, file)


def old_torch(file: Path, content: Any) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def nested(file: Path, content: Any) -> None:
    torch.save({"state_dict": {"deep": [{"deeper": content}]}, "epoch": 1}, file)


def compressed(file: Path, content: Any) -> None:
    """A torch archive packed again, as torch never does."""
    torch.save(content, file)
    with zipfile.ZipFile(file) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)


DISGUISES = {"plain": plain, "archive": archive, "old": old_torch, "nested": nested, "compressed": compressed}
Disguise = Callable[[Path, Any], None]


@pytest.fixture(params=DISGUISES.values(), ids=DISGUISES.keys())
def pickled(request: pytest.FixtureRequest, marker: Path) -> Callable[[Path], Path]:
    """Writes a pickle with a payload beside a tensor, in one of several disguises; proven to be armed."""

    def write(file: Path) -> Path:
        request.param(file, {"conv_in.bias": torch.ones(8), "config": Payload(marker)})
        return file

    return write


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with an error of one line, without a traceback; gives the line."""

    def run(*argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        said = capsys.readouterr().err
        line = stop.value.code if isinstance(stop.value.code, str) else said.strip().splitlines()[-1]
        assert stop.value.code not in (0, None)
        assert "\n" not in line
        assert "Traceback" not in said
        return line

    return run
