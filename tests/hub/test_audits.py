"""Audits on the hub: records there and back to the bit, and nothing of a repository but records is fetched."""

import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub

import lit_memories
from lit_memories import shared_runs
from lit_memories.cli import main
from lit_memories.leaderboard import leaderboard
from lit_memories.runs import RunInfo, read_run
from lit_memories.seeds import write_seeds
from lit_memories.shared_runs import FILES, from_hub, push_to_hub, read_runs
from lit_memories.storage.tensors import write_tensors

sys.path.append(str(Path(__file__).parents[1] / "report"))
from synthetic_runs import Model, write

pytestmark = pytest.mark.timeout(120)
MINE = "hf_abcdefghijklmnopqrstuvwxyz0123"
MODELS = (
    Model("vanilla", "vanilla", surprise=0.0),
    Model("never-knew", "control", 91, noise=4, prompted=0, surprise=320.0, surprise_empty=300.0),
    Model("ESD", "erased", noise=4, prompted=0, surprise=20.0, surprise_empty=10.0),
)


@pytest.fixture
def folders(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs with pictures and seeds in a folder of a report, of somebody who may write to the hub."""
    assert hub
    monkeypatch.setenv("HF_TOKEN", MINE)
    made = [write(tmp_path / "mine", model, count=8, pictures=1) for model in MODELS]
    for folder in made:
        keys = [record.key for record in read_run(folder).records if record.set in ("concept", "reference", "known")]
        (folder / "parts").mkdir()
        write_tensors(folder / "parts" / "seeds-0.safetensors", {key: torch.ones(4) for key in keys})
        write_seeds(folder, keys, [folder / "parts" / "seeds-0.safetensors"], f"f-{folder.name}")
        shutil.rmtree(folder / "parts")
    (tmp_path / "mine" / "report.html").write_text("<script>alert(1)</script>")
    (tmp_path / "mine" / "results.json").write_text("{}")
    return made


def test_a_report_s_runs_go_to_the_hub_and_come_back(folders: list[Path], hub: FakeHub, tmp_path: Path) -> None:
    commit = push_to_hub(tmp_path / "mine", "me/audits", license_id="cc-by-4.0", commit_message="first")
    files = hub.files("me/audits", revision=commit)
    names = {f"{name}/{file}" for name in ("vanilla", "never-knew", "ESD")
             for file in ("run.json", "records.jsonl", "seeds.safetensors")}  # fmt: skip
    assert set(files) - {".gitattributes", "README.md"} == names, "neither pictures nor the report"
    for name in names:
        assert files[name] == (tmp_path / "mine" / name).read_bytes()
    card = files["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "lit-memories leaderboard me/audits --out DIR" in card
    assert "| ESD | erased | star | – | shapes |" in card
    found = from_hub("me/audits")
    own = [read_run(folder) for folder in sorted(folders)]
    assert [(run.info, run.records, run.seeds) for run in found] == [(run.info, run.records, run.seeds) for run in own]
    assert [str(run.folder) for run in found] == [f"me/audits@{commit[:7]}/{folder.name}" for folder in sorted(folders)]
    assert [run.gaps for run in found] == [[], [], []]
    assert lit_memories.read_runs("me/audits")[0].info == own[0].info


def test_a_page_of_what_lies_here_and_there(
    folders: list[Path], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single run stands at the top of its repository; without a connection the cache has it."""
    main(["push", str(folders[2]), "me/esd-audit"])
    commit = hub.repos["model", "me/esd-audit"].refs["main"]
    assert capsys.readouterr().out.strip() == f"{hub.url}/me/esd-audit at {commit}"
    assert "records.jsonl" in hub.files("me/esd-audit")
    shutil.rmtree(folders[2])
    here = list(map(str, folders[:2]))
    leaderboard([*here, "me/esd-audit"], tmp_path / "out", draws=20)
    (board,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["boards"]
    (row,) = board["rows"]
    assert (row["name"], row["verdict"], row["folder"]) == ("ESD", "remembers", f"me/esd-audit@{commit[:7]}")
    assert f"me/esd-audit@{commit[:7]}" in (tmp_path / "out" / "leaderboard.html").read_text()
    before = read_runs("me/esd-audit")
    hub.stop()
    again = read_runs(f"me/esd-audit@{commit}")
    assert [run.records for run in again] == [run.records for run in before]


def test_a_card_that_somebody_wrote_stays(folders: list[Path], hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text("---\ntags: []\n---\nMine.")
    hub.add("me/audits", tmp_path / "theirs")
    with pytest.warns(UserWarning, match="it stays"):
        push_to_hub(folders[0], "me/audits")
    assert hub.files("me/audits")["README.md"].decode().endswith("Mine.")


# --- what is not sent ------------------------------------------------------------------------------------------------


def test_what_is_unfinished_or_tells_a_secret_is_not_sent(folders: list[Path], hub: FakeHub, tmp_path: Path) -> None:
    info = RunInfo.load(folders[2])
    replace(info, complete=False).save(folders[2])
    with pytest.raises(SystemExit, match=r"ESD is unfinished, it holds its audit did not come to its end"):
        main(["push", str(tmp_path / "mine"), "me/audits"])
    replace(info, versions={"key": MINE}).save(folders[2])
    with pytest.raises(ValueError, match=r"ESD/run\.json holds what looks like a token"):
        push_to_hub(tmp_path / "mine", "me/audits")
    replace(info, versions={}).save(folders[2])
    folders[2].rename(folders[2].parent / "ESD 2")
    with pytest.raises(ValueError, match=r"ESD 2 cannot be sent: rename the folder"):
        push_to_hub(tmp_path / "mine", "me/audits")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no run"):
        push_to_hub(tmp_path / "none", "me/audits")
    assert not hub.asked("audits")


def test_links_out_of_a_run_are_not_followed(folders: list[Path], hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    (folders[0] / "cost.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="leads out of its folder"):
        push_to_hub(folders[0], "me/audits")
    assert not hub.asked("audits")


# --- what is not believed --------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(folders: list[Path], tmp_path: Path) -> Path:
    """A run as a stranger may have published it."""
    return Path(shutil.copytree(folders[2], tmp_path / "theirs"))


def test_nothing_but_records_is_fetched(theirs: Path, hub: FakeHub) -> None:
    """No page, no picture, no pickle, no script, and no folder within a folder."""
    (theirs / "report.html").write_text("<script>alert(1)</script>")
    (theirs / "seeds.pt").write_bytes(pickle.dumps({}))
    (theirs / "evil.py").write_text("raise SystemExit")
    shutil.copytree(theirs, theirs / "a" / "b", ignore=shutil.ignore_patterns("a"))
    hub.add("lab/audit", theirs)
    (run,) = from_hub("lab/audit")
    assert len(run.records) == 38
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert fetched == {"run.json", "records.jsonl", "seeds.safetensors"}


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("run.json", True), ("a/records.jsonl", True), ("a/seeds/0f.safetensors", True), ("seeds/00.safetensors", True),
        ("../run.json", False), ("a/../run.json", False), ("/run.json", False), ("a/b/run.json", False),
        (".git/run.json", False), ("a/seeds/x.safetensors", False), ("seeds.pt", False), ("run.json\n", False),
        ("a/report.html", False), ("a/results.json", False), ("a/images/x.png", False), ("config.yaml", False),
    ],
)  # fmt: skip
def test_which_files_of_a_repository_are_records(file: str, wanted: bool) -> None:
    assert bool(FILES.fullmatch(file)) == wanted


def test_damage_is_told_with_the_repository_s_name(theirs: Path, hub: FakeHub) -> None:
    lines = (theirs / "records.jsonl").read_text().splitlines(keepends=True)
    (theirs / "records.jsonl").write_text(lines[0].replace("concept", "../../x") + "".join(lines[1:]))
    commit = hub.add("lab/audit", theirs)
    with pytest.raises(ValueError, match=rf"lab/audit@{commit[:7]}/records.jsonl:1: not a record"):
        from_hub("lab/audit")
    (theirs / "records.jsonl").write_text("".join(lines))
    (theirs / "seeds.safetensors").write_bytes(pickle.dumps({"a": 1}))
    hub.add("lab/audit", theirs)
    (run,) = from_hub("lab/audit")
    assert run.seeds == frozenset(), "a pickle holds no seed, and is not opened as one"


def test_a_repository_without_audits_and_one_that_broke_off(theirs: Path, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    hub.add("lab/other", tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"lab/other on the hub, commit .*: it holds no audit"):
        read_runs("lab/other")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a model on the hub"):
        read_runs("lab/nothing")
    (theirs / "run.json").unlink()
    (theirs / "b").mkdir()
    shutil.copy(theirs / "records.jsonl", theirs / "b")
    (theirs / "c").mkdir()
    (theirs / "c" / "run.json").write_text("{}")
    hub.add("lab/audit", theirs)
    with pytest.raises(FileNotFoundError, match=r"it has records and no run\.json"):
        from_hub("lab/audit")


def test_sizes_are_looked_at_before_and_after(theirs: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("lab/audit", theirs)
    repo = hub.repos["model", "lab/audit"]
    repo.claimed["run.json"] = 1 << 40
    with pytest.raises(ValueError, match=r"lab/audit: run\.json has 1099511627776 bytes, more than"):
        from_hub("lab/audit")
    assert not any("/resolve/" in request.path for request in hub.requests), "before anything is fetched"
    repo.claimed = dict.fromkeys(("run.json", "records.jsonl", "seeds.safetensors"), 1)
    monkeypatch.setitem(shared_runs.LARGEST, ".jsonl", 100)
    with pytest.raises(ValueError, match=r"records\.jsonl has \d+ bytes, more than 100"):
        from_hub("lab/audit")
    monkeypatch.setitem(shared_runs.LARGEST, ".jsonl", 1 << 30)
    monkeypatch.setattr(shared_runs, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes, more than 1000"):
        from_hub("lab/audit")
    monkeypatch.setattr(shared_runs, "MOST_BYTES", 1 << 33)
    monkeypatch.setattr(shared_runs, "MOST_RUNS", 0)
    with pytest.raises(ValueError, match="holds 1 runs, more than 0"):
        from_hub("lab/audit")


def test_no_token_is_in_what_is_written(folders: list[Path], hub: FakeHub, tmp_path: Path) -> None:
    push_to_hub(tmp_path / "mine", "me/audits")
    assert any(request.token == MINE for request in hub.requests)
    assert not any(MINE.encode() in content for content in hub.files("me/audits").values())
    assert os.environ["HF_TOKEN"] == MINE
