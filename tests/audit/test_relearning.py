"""Relearning: one lesson for every model and every way of asking, and a model that is what it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_errors import refused

import lit_memories.audit.base
from lit_memories.cli import main
from lit_memories.probes import Relearning
from lit_memories.runs import Run, read_run

Arguments = Callable[..., list[str]]
SHORT = {"lesson": 2, "steps": 3, "batch_size": 2, "levels": 3, "guidance_scale": 1.0, "lr": 0.01}
FEW = "--data.known=0", "--data.prompted=0"


def asked(**options: Any) -> str:
    probes = [
        {"class_path": "Denoising", "init_args": {"levels": 3}},
        {"class_path": "Relearning", "init_args": {**SHORT, **options}},
    ]
    return f"--model.probes={json.dumps(probes)}"


@pytest.fixture(scope="module")
def taught(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relearning") / "run"
    main(arguments(folder, *FEW, asked()))
    return folder


def answers(run: Run) -> dict[tuple[str, int], dict[str, Any]]:
    return {(r.set, r.index): dict(r.probes["relearning"]) for r in run.records if "relearning" in r.probes}


def test_the_others_are_asked_and_the_course_begins_where_the_model_stands(taught: Path) -> None:
    run = read_run(taught)
    assert run.info.complete
    found = answers(run)
    assert sorted(found) == [*(("concept", i) for i in (2, 3)), *(("reference", i) for i in (2, 3, 4))]
    for record in run.records:
        if (record.set, record.index) in found:
            answer = found[record.set, record.index]
            assert answer["curve"][0] == record.number("denoising.surprise"), "before the lesson, to the bit"
            assert len(answer["curve"]) == len(Relearning(steps=3).looks) == 4
            assert answer["area"] == pytest.approx(sum(answer["curve"]) / 4)
            assert answer["after"] == answer["curve"][-1] != answer["curve"][0]
            assert ("shown" in answer) == (record.set == "concept")
            if record.set == "concept":
                assert answer["shown"] == answer["shows"][-1]
                assert len(answer["shows"]) == 4
    assert run.info.probes["relearning"]["settings"]["taught"].keys() == {"concept", "reference"}


def test_neither_batches_nor_a_restart_nor_what_else_is_asked_changes_it(
    taught: Path, arguments: Arguments, tmp_path: Path
) -> None:
    main(arguments(tmp_path / "batches", *FEW, asked(), batch_size=16))
    assert answers(read_run(tmp_path / "batches")) == answers(read_run(taught))
    half = tmp_path / "half"
    main(arguments(half, *FEW, asked(limit=3)))
    assert len(answers(read_run(half))) == 2
    main(arguments(half, *FEW, asked()))
    assert answers(read_run(half)) == answers(read_run(taught))


def test_the_model_is_what_it_was(arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all weights too; at the end, in the middle of the audit, where another probe would be asked."""
    seen: list[tuple[str, str]] = []
    audit = lit_memories.audit.base.Audit.on_predict_epoch_end

    def end(self: Any) -> None:
        seen.append((str(self.info.fingerprint), self.diffusion.weights_fingerprint()))
        audit(self)

    monkeypatch.setattr(lit_memories.audit.base.Audit, "on_predict_epoch_end", end)
    main(arguments(tmp_path / "all", *FEW, asked(rank=None, lr=0.01)))
    assert len(seen) == 1
    assert seen[0][0] == seen[0][1]
    curves = [answer["curve"] for answer in answers(read_run(tmp_path / "all")).values()]
    assert all(curve[-1] != curve[0] for curve in curves)


def test_a_lesson_that_leaves_nothing_to_ask_about_is_one_line(arguments: Arguments, tmp_path: Path) -> None:
    message = refused(arguments(tmp_path / "run", *FEW, asked(lesson=4)))
    assert "a lesson takes 4 pictures of the concept set and asks about the others, and it has 4" in message
    assert not (tmp_path / "run" / "run.json").exists()


def test_another_lesson_is_another_setting(taught: Path, arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(taught, run)
    message = refused(arguments(run, *FEW, asked(lesson=1)))
    assert "numbers of the probe relearning with other settings (lesson: 2 | 1" in message
    assert answers(read_run(run)) == answers(read_run(taught))


def test_a_model_in_half_precision_is_taught_by_factors_only(arguments: Arguments, tmp_path: Path) -> None:
    half = "--model.diffusion.torch_dtype=bfloat16"
    message = refused(arguments(tmp_path / "run", *FEW, half, asked(rank=None)))
    assert "half precision cannot be taught in all its weights" in message
    main(arguments(tmp_path / "run", *FEW, half, asked(lr=0.1)))
    curves = [answer["curve"] for answer in answers(read_run(tmp_path / "run")).values()]
    assert all(torch.tensor(curve).isfinite().all() for curve in curves)


WRONG = {"lesson": 0, "steps": 0, "rank": 0, "levels": 1, "lr": 0.0, "limit": 8, "batch_size": 10**6}


@pytest.mark.parametrize("option", [{name: value} for name, value in WRONG.items()])
def test_numbers_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|must lie between"):
        Relearning(**option)
