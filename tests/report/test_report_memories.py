"""Image-level runs in a report: alone, beside concept-level ones, vanilla against erased."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from synthetic_runs import Model, line, save_lines, world, write

from lit_memories.metrics.bootstrap import wilson_interval
from lit_memories.records import image_path
from lit_memories.report import report
from lit_memories.runs import RunInfo, read_run
from lit_memories.statistics.image_level import compare_memories, is_image_level

QUERIES, SUPPORTS, SHAPE = 2, 3, (4, 2, 2)


def image_run(root: Path, name: str, role: str = "erased", shift: float = 0.0, **info: Any) -> Path:
    """An image-level run whose memories' NLL are `shift` above those of others; seeds lie in own directions."""
    folder = root / f"memories-{name.replace('/', '-')}"
    folder.mkdir(parents=True)
    values: dict[str, Any] = {
        "name": name, "role": role, "concept": "star", "settings": {"audit": "ImageAudit"}, "settings_hash": "abc",
        "model": {}, "dimension": 16, "data": {"memory": {"source": "x", "rows": QUERIES, "unreadable": []}},
        "versions": {}, "complete": True,
    }  # fmt: skip
    RunInfo(**(values | info)).save(folder)
    records, seeds = [], {}
    for query in range(QUERIES):
        base = torch.zeros(SHAPE)
        base[0, 0, 0] = 2
        for number, (of, support) in enumerate(
            [("own", None), ("repeat", None), *(("memory", k) for k in range(SUPPORTS))]
        ):
            key = f"{of}-{query}-{support}"
            seeds[key] = base.clone()
            if of != "own":
                seeds[key].view(-1)[number] = 0.1 if of == "repeat" else 1.0 + shift / 10
            stages = {"psnr_support": 40.0, "psnr_decoder": 42.0} if of == "memory" else {}
            records.append(
                line(
                    key, of, query, "a red star", nll=20.0 + (shift if of == "memory" else 0),
                    **({} if support is None else {"support": support}),
                    psnr=30.0 + query, psnr_ceiling=39.0, psnr_round_trip=90.0, residual=1e-4, evaluations=60,
                    converged=True, shows_concept=1.0, **stages,
                )
            )  # fmt: skip
            ending = "" if support is None else f"-{support:04d}"
            file = image_path(folder, of, query, f"regenerated{ending}")
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (200, 60, 60)).save(file)
    save_lines(folder, records)
    save_file(seeds, folder / "seeds.safetensors")
    return folder


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_models_are_compared_query_by_query(tmp_path: Path) -> None:
    runs = [read_run(image_run(tmp_path, "esd", shift=5)), read_run(image_run(tmp_path, "vanilla", "vanilla"))]
    vanilla, esd = compare_memories(runs)
    assert (vanilla.name, esd.name, esd.count) == ("vanilla", "esd", QUERIES * SUPPORTS)
    assert esd.stages.nll_shift.value == 5
    assert vanilla.stages.nll_shift.value == 0
    assert esd.euclidean.to_own.value == pytest.approx(1.5)
    assert esd.euclidean.to_own_shift.value == pytest.approx(0.5)
    assert esd.euclidean.repeat.value == pytest.approx(0.1)
    assert esd.stages.psnr_support.value == 40
    assert esd.stages.psnr.value == 30.5
    assert esd.stages.converged.value == 1
    assert esd.stages.seen == wilson_interval(QUERIES, QUERIES), "memories of one query are one case"
    (alone,) = compare_memories(runs[:1])
    assert alone.stages.nll_shift is alone.cosine.to_own_shift is None


def test_both_kinds_of_audit_in_one_report(tmp_path: Path) -> None:
    runs = world(tmp_path, count=6)
    images = [image_run(tmp_path, "vanilla", "vanilla"), image_run(tmp_path, "ESD", shift=3)]
    report([images[1], *runs, images[0]], tmp_path / "out")
    found = results(tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["vanilla", "ESD", "relabel", "never-knew", "random"]
    assert [run["name"] for run in found["memories"]["runs"]] == ["vanilla", "ESD"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Many memories of one image" in html
    assert html.count("<img") == 5
    names = {file.name for file in (tmp_path / "out" / "tables").iterdir()}
    assert {"main.csv", "memories.csv", "memories.tex", "stages.csv", "stages.tex"} <= names
    report(runs, tmp_path / "out", draws=20)
    assert not list((tmp_path / "out" / "figures").glob("memories-*")), "of an earlier report"
    assert results(tmp_path / "out")["memories"] is None


def test_image_level_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>[red]"
    report([image_run(tmp_path, evil)], tmp_path / "out", draws=20)
    printed = capsys.readouterr().out
    assert evil in printed
    assert "Note: Intervals are over queries; with 2 of them" in printed
    found = results(tmp_path / "out")
    assert (found["runs"], found["vanilla"], found["settings"]) == ([], None, None)
    (run,) = found["memories"]["runs"]
    assert run["queries"][0]["supports"] == [0, 1, 2]
    assert run["euclidean"]["independent"] == pytest.approx(32**0.5)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in html
    assert "takes concept-level audits, which were not given" in html
    assert (tmp_path / "out" / "figures" / "memories-1.png").is_file()


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    one = image_run(tmp_path, "esd")
    other = image_run(tmp_path, "uce", settings={"audit": "ImageAudit", "reencode": True})
    with pytest.raises(ValueError, match="settings differ: reencode"):
        report([one, other], tmp_path / "out")
    with pytest.raises(ValueError, match="their concepts are 'moon' and 'star'"):
        report([one, write(tmp_path, Model("v", "vanilla", info={"concept": "moon"}))], tmp_path / "out")
    twice = [image_run(tmp_path, "v1", "vanilla"), image_run(tmp_path, "v2", "vanilla")]
    with pytest.raises(ValueError, match="two runs are of the vanilla model"):
        report(twice, tmp_path / "out")


def test_a_run_without_memories_says_what_to_run(tmp_path: Path) -> None:
    run = image_run(tmp_path, "esd")
    (run / "seeds.safetensors").unlink()
    assert is_image_level(read_run(run))
    with pytest.raises(ValueError, match="holds no memories of an image: run the same audit again"):
        report([run], tmp_path / "out")
