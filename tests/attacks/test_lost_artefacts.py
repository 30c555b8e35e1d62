"""What an attack left behind is made anew where it was lost or damaged, and said to be."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_helpers import Attacked

from lit_memories.cli import main
from lit_memories.records import ARTEFACTS
from lit_memories.runs import read_run


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)


@pytest.fixture(scope="module")
def finished(attacked: Attacked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an attack that leaves artefacts."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    main(attacked("image_prompt", folder))
    return folder


@pytest.mark.parametrize("harm", [Path.unlink, _flip, lambda file: file.write_bytes(file.read_bytes()[:50])])
def test_an_artefact_is_made_anew(
    harm: Callable[[Path], None], finished: Path, attacked: Attacked, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    files = sorted((run / ARTEFACTS / "image_prompt").iterdir())
    before = [file.read_bytes() for file in files]
    for file in files[1:3]:
        harm(file)
    with pytest.warns(UserWarning, match="2 artefacts of image_prompt in .* are lost or damaged, and are made anew"):
        main(attacked("image_prompt", run))
    assert [file.read_bytes() for file in files] == before
    assert (run / "records.jsonl").read_bytes() == (finished / "records.jsonl").read_bytes()
    assert read_run(run).info.complete


def test_what_is_whole_is_not_asked_again(
    finished: Path, attacked: Attacked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    main(attacked("image_prompt", tmp_path / "run", "--trainer.callbacks=[]"))
    assert not (tmp_path / "run/parts").exists()
    files = [file.stat().st_mtime_ns for file in sorted((tmp_path / "run" / ARTEFACTS).rglob("*.safetensors"))]
    assert files == [file.stat().st_mtime_ns for file in sorted((finished / ARTEFACTS).rglob("*.safetensors"))]
