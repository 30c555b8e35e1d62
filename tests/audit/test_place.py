"""The folder of an audit: what is somebody else's is refused before anything is loaded, and stays as it is."""

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_memories import recipes
from lit_memories.audit.base import Audit
from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.place import check_place
from lit_memories.concept import Concept
from lit_memories.costs import read_cost, write_cost
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.records import PARTS, RECORDS_FILE, RUN_FILE, SEEDS_FILE, STALE

sys.path.append(str(Path(__file__).parent))
from cli_errors import refused

Arguments = Callable[..., list[str]]
FOREIGN = {
    "parts/notes.txt": "mine",
    "parts": "a file of mine",
    "stale/notes.txt": "mine",
    "config.yaml": "a: 1\n",
    "records.jsonl": '{"song": "Help!"}\n',
    "seeds.safetensors": "grains",
    "seeds/wheat": "grains",
    "images/holidays.png": "mine",
    "cost.json": "{}",
    "run.json": "",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_somebody_elses_is_not_replaced(
    name: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded."""

    def begun(*_: object) -> None:
        raise AssertionError("libraries were set up")

    monkeypatch.setattr(recipes, "quiet_libraries", begun)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(FOREIGN[name])
    message = refused(arguments(tmp_path))
    assert str(tmp_path / name.split("/")[0]) in message
    assert "choose another folder with --trainer.default_root_dir" in message or "remove it and run" in message
    assert (tmp_path / name).read_text() == FOREIGN[name]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


@pytest.mark.parametrize("name", ["erasure.json", "erasure.safetensors"])
def test_an_erasure_is_refused_whatever_is_left_of_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="holds an erasure: choose another folder"):
        check_place(tmp_path)


def test_what_an_audit_left_at_any_moment_is_its_own(undisturbed: Path, tmp_path: Path) -> None:
    """Killed before its first record, robbed of its run file, with things set aside or half written."""
    started = tmp_path / "started"
    started.mkdir()
    check_place(started)
    shutil.copy(undisturbed / "config.yaml", started)
    (started / "images").mkdir()
    (started / "lock").write_text("process 1 on elsewhere\n")
    check_place(started)
    run = shutil.copytree(undisturbed, tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    for part in (f"{PARTS}/records-0.jsonl", f"{PARTS}/seeds-0a.safetensors", f"{STALE}/{PARTS}/cost-1.json"):
        (run / part).parent.mkdir(parents=True, exist_ok=True)
        (run / part).write_text("")
    (run / PARTS / "records-0.jsonl.0a1b2c3d.part").mkdir()
    check_place(run)
    (run / RUN_FILE).unlink()
    check_place(run)
    (run / RECORDS_FILE).unlink()
    (run / SEEDS_FILE).write_text("damaged")
    (run / "config.yaml").write_text("of an earlier release")
    check_place(run)


def test_a_changed_cost_is_named(tmp_path: Path) -> None:
    write_cost(tmp_path, {"denoising": {"evaluations": 36.0}})
    assert read_cost(tmp_path) == {"denoising": {"evaluations": 36.0}}
    file = tmp_path / "cost.json"
    file.write_text(file.read_text().replace("36.0", "96.0"))
    with pytest.raises(ValueError, match=r"cost\.json is damaged: it was changed after it was written; it can be"):
        read_cost(tmp_path)


def test_an_erasure_of_another_concept_is_said(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Audit, "prepare_data", lambda self: None)
    audit = ConceptAudit(diffusion, FixedPoint(), Concept("umbrella", "object", ["an umbrella"]))
    for name, told in (("umbrella", False), ("striped", True)):
        erased = SimpleNamespace(provenance=SimpleNamespace(concept={"name": name}))
        monkeypatch.setattr(diffusion, "erasure", erased)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            audit.prepare_data()
        lines = [str(entry.message) for entry in caught]
        assert (
            any("the erasure is of 'striped', and this audit asks about 'umbrella'" in line for line in lines) == told
        )
