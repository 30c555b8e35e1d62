"""The quickstart's way through its folder: taken up after a kill, and never with another concept's erasure."""

from pathlib import Path
from typing import Any

import pytest
import torch
from killed import Killed, killed_at

import lit_memories.report
from lit_memories.erasure import Erasure, Provenance
from lit_memories.runs import RunInfo
from lit_memories.tools import quickstart as module
from lit_memories.tools.quickstart import SMALL, quickstart


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that a quickstart runs; of them ``fit`` leaves an erasure."""
    commands: list[str] = []

    def run(command: str, recipe: Path, *options: str) -> None:
        commands.append(command)
        given = dict(option.removeprefix("--").split("=", 1) for option in options)
        if command == "fit":
            erase(Path(given["trainer.default_root_dir"]), Path(given["model.concept"]).stem)

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(lit_memories.report, "report", lambda runs, out: commands.append("report"))
    return commands


def erase(folder: Path, concept: str, **settings: Any) -> None:
    provenance = Provenance("ESD", {"name": concept}, "base", None, "f", SMALL | settings, 90, 0, {})
    Erasure({"unet.x": torch.ones(2)}, provenance).save(folder)


WHOLE = ["fit", *["predict"] * 4, "report"]


def test_what_is_there_is_not_made_again(called: list[str], tmp_path: Path) -> None:
    quickstart(tmp_path)
    assert called == WHOLE
    quickstart(tmp_path)
    assert called[len(WHOLE) :] == WHOLE[1:]


def test_it_goes_on_wherever_it_was_killed(called: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two files of the erasure: it is either there, whole, or made again."""
    seen = set()

    for number in range(1, 60):
        out = tmp_path / str(number)
        try:
            with killed_at(number, monkeypatch):
                quickstart(out)
            break
        except Killed:
            seen.add(frozenset(file.name for file in (out / "erasure").glob("*") if file.is_file()))
        called.clear()
        quickstart(out)
        assert called in (WHOLE, WHOLE[1:])
        assert Erasure.load(out / "erasure").provenance.concept["name"] == "umbrella"
    assert {len(names) for names in seen} == {0, 1, 2}, "before, and between any two of the three files"


def test_weights_without_provenance_are_made_again(called: list[str], tmp_path: Path) -> None:
    """Earlier releases left them when they were killed."""
    erase(tmp_path / "erasure", "umbrella")
    (tmp_path / "erasure" / "erasure.json").unlink()
    quickstart(tmp_path)
    assert called == WHOLE


@pytest.mark.parametrize(
    ("there", "wanted", "settings"),
    [("umbrella", "striped", {}), ("striped", "umbrella", {}), ("umbrella", "umbrella", {"batch_size": 8})],
)
def test_another_erasure_is_not_taken(
    there: str, wanted: str, settings: dict[str, Any], called: list[str], tmp_path: Path
) -> None:
    erase(tmp_path / "erasure", there, **settings)
    with pytest.raises(ValueError, match=r"holds another erasure \(.*choose another folder with --out"):
        quickstart(tmp_path, wanted)
    assert called == []


def test_audits_for_another_concept_are_found_before_anything_is_erased(called: list[str], tmp_path: Path) -> None:
    RunInfo("vanilla", "vanilla", "umbrella", {}, "h", {"fingerprint": "f"}, 4, {}, {}).save(tmp_path / "vanilla")
    with pytest.raises(ValueError, match="vanilla holds an audit for umbrella: choose another folder with --out"):
        quickstart(tmp_path, "striped")
    assert called == []


def test_nothing_is_written_to_a_linked_folder(called: list[str], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "erasure").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of its folder"):
        quickstart(tmp_path / "out")
    assert called == []
