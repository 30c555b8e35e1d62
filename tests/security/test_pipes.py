"""A pipe or a device in the place of a file is refused in one line: to read it may never end."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_memories.audit.place import check_place
from lit_memories.cli import main
from lit_memories.erasure import Erasure
from lit_memories.lock import lock
from lit_memories.records import LOCK, RUN_FILE
from lit_memories.storage.configs import read_config
from lit_memories.storage.files import WriteError, check_writable
from lit_memories.storage.tensors import read_tensors
from lit_memories.storage.weights import check_checkpoint, read_weights

pytestmark = pytest.mark.timeout(60)
Refused = Callable[..., str]
ENDLESS = "is neither a file nor a folder but a pipe or a device: name a file"


@pytest.fixture(params=["pipe", "/dev/zero"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What has no end, or waits for its beginning."""
    if request.param == "pipe":
        os.mkfifo(tmp_path / "pipe")
        return tmp_path / "pipe"
    return Path(request.param)


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "{}", "{weights}", "{out}"),
        ("convert", "{weights}", "{}", "{out}"),
        ("export", "{weights}", "{}", "{out}"),
        ("push", "{}", "me/erased"),
    ],
)
def test_commands_do_not_wait(
    arguments: tuple[str, ...], endless: Path, tiny: Path, refused: Refused, tmp_path: Path
) -> None:
    weights = next((tiny / "unet").glob("*.safetensors"))
    given = [part.format(endless, weights=weights, out=tmp_path / "out") for part in arguments]
    assert f"{endless} {ENDLESS}" in refused(*given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("read", [read_weights, read_tensors, read_config])
def test_readers_do_not_wait(read: Callable[[Path], object], endless: Path) -> None:
    with pytest.raises(ValueError, match=ENDLESS):
        read(endless)
    with pytest.raises(FileNotFoundError, match="is no file: name a checkpoint"):
        check_checkpoint(endless)


def test_a_folder_is_not_made_of_a_device(tiny: Path, refused: Refused, tmp_path: Path) -> None:
    for place in (Path("/dev/null"), tmp_path / "file" / "run"):
        (tmp_path / "file").touch()
        for check in (check_place, check_writable):
            with pytest.raises(WriteError, match="it is no folder; free the disk or the folder, or choose"):
                check(place)
    recipe = Path(__file__).parents[2] / "recipes/pictograms/erase/esd.yaml"
    options = "--trainer.callbacks=[]", "--trainer.default_root_dir=/dev/null"
    assert "/dev/null: it is no folder" in refused(
        "fit", f"--config={recipe}", f"--model.diffusion.base={tiny}", *options
    )


def test_a_lock_is_a_file_of_this_program(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(ValueError, match="lock is neither a file nor a folder: remove it"):
        lock(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).write_text("my keys")
    with pytest.raises(ValueError, match="lock is not of this program, which would replace it: move it"):
        lock(tmp_path)
    assert (tmp_path / LOCK).read_text() == "my keys"


def test_status_does_not_wait_for_a_lock_either(tmp_path: Path, refused: Refused) -> None:
    os.mkfifo(tmp_path / LOCK)
    assert "lock is neither a file nor a folder: remove it" in refused("status", str(tmp_path))


def test_an_empty_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).touch()
    for command in ("status", "report"):
        with pytest.raises(SystemExit, match=r"run\.json is damaged or of another version: it is empty; restore it"):
            main([command, str(tmp_path)])


def test_a_file_is_no_erasure(tiny: Path) -> None:
    with pytest.raises(ValueError, match="is a file: pass the folder of an erasure"):
        Erasure.load(tiny / "model_index.json")
