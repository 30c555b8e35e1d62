"""What an attack found on one model is tried on another, and written down for others."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from attack_helpers import Attacked

from lit_memories.cli import main
from lit_memories.records import artefact_path
from lit_memories.runs import Run, read_run
from lit_memories.storage.tensors import read_tensors, write_tensors

SHOUT = '--model.probes=[{"class_path": "attack_helpers.Shout", "init_args": {"guidance_scale": 3.0}}]'


def replayed(run: Path, attack: str = "shout", limit: int | None = None) -> str:
    options = {"run": str(run), "attack": attack, "guidance_scale": 3.0, "limit": limit}
    probe = {"class_path": "lit_memories.attacks.replay.Replay", "init_args": options}
    return f"--model.probes={json.dumps([probe])}"


@pytest.fixture(scope="module")
def shouted(attacked: Attacked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shouted") / "run"
    main(attacked("plain", folder, SHOUT, least=0.5))
    return folder


def seen(run: Run, name: str) -> list[tuple[float, float]]:
    return [(r.probes[name]["success"], r.probes[name]["probability"]) for r in run.records if name in r.probes]


def test_on_the_model_it_was_found_on_it_draws_the_same_pictures(
    shouted: Path, attacked: Attacked, tmp_path: Path, tiny_control: Path
) -> None:
    main(attacked("plain", tmp_path / "same", replayed(shouted), least=0.5))
    same = read_run(tmp_path / "same")
    assert seen(same, "replay") == seen(read_run(shouted), "shout")
    assert [r.probes["replay"]["prompt"] for r in same.records] == [r.prompt.upper() for r in same.records]
    main(attacked("plain", tmp_path / "other", replayed(shouted), f"--model.diffusion.base={tiny_control}", least=0.5))
    assert seen(read_run(tmp_path / "other"), "replay") != seen(same, "replay"), "another model draws others"


def test_what_was_found_is_its_setting_and_not_where_it_lies(shouted: Path, attacked: Attacked, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(shouted)
    runs = []
    for number, place in enumerate((shouted, moved)):
        main(attacked("plain", tmp_path / str(number), replayed(place)))
        runs.append(read_run(tmp_path / str(number)).info.probes["replay"]["settings"])
    assert runs[0] == runs[1]


def test_other_pictures_than_were_attacked_are_refused(shouted: Path, attacked: Attacked, tmp_path: Path) -> None:
    few = tmp_path / "few"
    main(attacked("plain", few, SHOUT, "--data.concept_images.limit=2"))
    with pytest.raises(SystemExit) as stop:
        main(attacked("plain", tmp_path / "run", replayed(few)))
    assert f"{few} holds nothing of shout for 2 of these pictures" in str(stop.value)
    main(attacked("plain", tmp_path / "run", replayed(few, limit=2)))
    assert len(seen(read_run(tmp_path / "run"), "replay")) == 2


def test_what_left_nothing_or_was_not_asked_is_refused_at_once(
    shouted: Path, attacked: Attacked, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    main(attacked("plain", plain))
    for attack, run, message in (
        ("plain", plain, "holds neither prompts nor seeds of an attack 'plain'"),
        ("shouts", shouted, "was not asked 'shouts'; attacks that it was asked: shout"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(attacked("plain", tmp_path / "run", replayed(run, attack)))
        assert message in str(stop.value)


def test_findings_are_a_data_set_with_a_card(shouted: Path, tmp_path: Path) -> None:
    out = tmp_path / "findings"
    main(["findings", str(shouted), "--out", str(out)])
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    run = read_run(shouted)
    assert len(rows) == 5
    tensors = read_tensors(out / "artefacts.safetensors")
    for row, record in zip(rows, run.records, strict=True):
        assert (row["attack"], row["prompt"], row["found"]) == ("shout", record.prompt, record.prompt.upper())
        assert row["success"] == record.probes["shout"]["success"]
        (name,) = row["artefacts"]
        made = read_tensors(artefact_path(shouted, "shout", record.key))["seed"]
        assert torch.equal(tensors[name], made)
    card = (out / "README.md").read_text()
    assert "| shout | " in card
    assert str(tmp_path) not in card
    main(["findings", str(shouted), "--out", str(out)])  # replaces its own


def test_findings_replace_nothing_of_others_and_need_an_attack(
    shouted: Path, attacked: Attacked, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    for run, out, message in (
        (shouted, tmp_path / "mine", "mine holds notes.txt, and no findings: choose another OUT"),
        (tmp_path / "nothing", tmp_path / "out", "nothing"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["findings", str(run), "--out", str(out)])
        assert message in str(stop.value)
        assert "\n" not in str(stop.value)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_tokens_are_replayed_themselves_and_not_the_words_they_give(
    attacked: Attacked, tmp_path: Path, tiny_control: Path
) -> None:
    main(attacked("unlearn_diff_atk", tmp_path / "found", least=0.5))
    found = read_run(tmp_path / "found")
    main(attacked("plain", tmp_path / "same", replayed(tmp_path / "found", "unlearn_diff_atk"), least=0.5))
    same = {r.key: r.probes["replay"] for r in read_run(tmp_path / "same").records if "replay" in r.probes}
    first = [r for r in found.of("concept", "unlearn_diff_atk") if r.value("unlearn_diff_atk.looks") == 1]
    assert first, "whose picture is drawn from the first noise, as a replay's is"
    for record in first:
        assert same[record.key]["probability"] == pytest.approx(record.value("unlearn_diff_atk.probability"), abs=1e-6)
    for record in found.of("concept", "unlearn_diff_atk"):
        file = artefact_path(tmp_path / "found", "unlearn_diff_atk", record.key)
        made = read_tensors(file)
        write_tensors(file, made | {"prompt_ids": made["prompt_ids"] + 10**6})
    with pytest.raises(SystemExit) as stop:
        main(attacked("plain", tmp_path / "other", replayed(tmp_path / "found", "unlearn_diff_atk")))
    assert "holds prompts of unlearn_diff_atk that are no tokens of this model" in str(stop.value)


def test_a_learnt_word_cannot_be_replayed(attacked: Attacked, tmp_path: Path) -> None:
    main(attacked("textual_inversion", tmp_path / "found"))
    with pytest.raises(SystemExit) as stop:
        main(attacked("plain", tmp_path / "run", replayed(tmp_path / "found", "textual_inversion")))
    assert "holds neither prompts nor seeds of an attack 'textual_inversion'" in str(stop.value)


def test_findings_of_an_unfinished_audit_and_over_others_are_refused(
    shouted: Path, attacked: Attacked, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(shouted, run)
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text("".join(lines[:2]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/findings.jsonl").write_text("my own\n")
    for runs, message in (
        ([run], "run holds 2 of 5 answers of shout for the concept set"),
        ([shouted, shouted], "the same audit is named twice"),
        ([shouted], "mine holds findings.jsonl, and no findings: choose another OUT"),
    ):
        out = tmp_path / ("mine" if "mine" in message else "out")
        with pytest.raises(SystemExit) as stop:
            main(["findings", *map(str, runs), "--out", str(out)])
        assert message in str(stop.value)
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "mine/findings.jsonl").read_text() == "my own\n"
