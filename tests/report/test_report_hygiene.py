"""What the measurement can resolve: sample size, convergence where it was not measured, guidance, precision."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import Model, altered, change_records, load_records, save_lines, world, write

from lit_memories.metrics.inference import images_to_resolve
from lit_memories.report import report
from lit_memories.report.hygiene import precision_sentences, resolution_sentence
from lit_memories.report.verdict import judge
from lit_memories.statistics.criteria import categorise
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.quantities import RunStatistics, Summary
from lit_memories.statistics.summary import summarise


def summary_of(runs: list[Path]) -> Summary:
    return summarise(compare(runs), draws=100)


def find(summary: Summary, name: str) -> RunStatistics:
    return next(run for run in summary.runs if run.name == name)


def test_sample_size_advice_refers_to_the_control(runs: list[Path]) -> None:
    summary = summary_of(runs)
    esd = find(summary, "ESD")
    assert esd.leading.resolution.goal == pytest.approx(9.4)
    needed = esd.leading.resolution.images
    assert needed > 24
    (text,) = resolution_sentence(summary, esd)
    assert text.startswith("With these 24 + 24 images a forgetting of ")
    assert f"to resolve 9.4 nats, a tenth of the control's forgetting, {needed} images each are needed" in text
    assert text in judge(summary)[1].sentences
    assert resolution_sentence(summary, summary.vanilla) == []


def test_sample_size_advice_without_a_control(runs: list[Path]) -> None:
    summary = summary_of([run for run in runs if run.name != "never-knew"])
    esd = find(summary, "ESD")
    assert esd.leading.resolution.goal == 5
    assert "to resolve 5.0 nats " in resolution_sentence(summary, esd)[0]
    enough = altered(esd, resolution=replace(esd.leading.resolution, least=4.0))
    assert resolution_sentence(summary, enough)[0].endswith("which is enough for 5.0 nats.")


def test_images_needed_follow_from_the_scatter(tmp_path: Path) -> None:
    runs = [write(tmp_path, Model("v", "vanilla")), write(tmp_path, Model("e", noise=10))]
    comparison = compare(runs)
    import torch

    sds = [
        float(
            torch.tensor(
                [
                    a.number("seed.nll") - b.number("seed.nll")
                    for a, b in zip(*comparison.shared([1, 0], name, "seed.nll"), strict=True)
                ]
            )
            .double()
            .std()
        )
        for name in ("concept", "reference")
    ]
    assert summary_of(runs).runs[1].leading.resolution.images == images_to_resolve(5.0, *sds)


def guided(folder: Path) -> None:
    """Add records under guidance of which none converged."""
    extra = [
        record | {"key": f"{record['key']}/own@3", "conditioning": "own@3", "converged": False, "residual": 0.05}
        for record in load_records(folder)
        if record["set"] in ("concept", "reference")
    ]
    save_lines(folder, load_records(folder) + extra)


def test_guided_inversions_do_not_count_against_the_others(tmp_path: Path) -> None:
    runs = world(tmp_path)
    before = judge(summary_of(runs))[1].category
    for folder in runs:
        guided(folder)
    summary = summary_of(runs)
    esd = find(summary, "ESD")
    assert esd.inverter.converged.value == 1
    assert esd.inverter.worst_residual == pytest.approx(2e-4)
    assert [entry.converged.value for entry in esd.leading.conditionings] == [1, 0]
    assert judge(summary)[1].category == before != "not trustworthy"
    report(runs, tmp_path / "out", draws=50)
    head = (tmp_path / "out" / "tables" / "conditionings.csv").read_text().splitlines()[0]
    assert "converged_seeds_own," in head
    assert "converged_seeds_own_at_3," in head


def without_residual(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "residual"} | (
        {"converged": False} if "evaluations" in record else {}
    )


def test_unmeasured_residuals_are_said_and_do_not_count_as_failures(tmp_path: Path) -> None:
    runs = world(tmp_path)
    for folder in runs:
        change_records(folder, without_residual)
    summary = summary_of(runs)
    esd = find(summary, "ESD")
    assert (esd.inverter.inversions, esd.inverter.unmeasured) == (54, 54)
    assert esd.inverter.converged is esd.inverter.worst_residual is None
    verdict = judge(summary)[1]
    assert verdict.category == "remembers", "known seeds vouch for the inverter"
    assert "residual was not measured in vanilla, ESD, never-knew" in verdict.paragraph()
    report(runs, tmp_path / "out", draws=20)


def test_without_residuals_and_known_seeds_nothing_is_trusted(tmp_path: Path) -> None:
    runs = world(tmp_path)
    for folder in runs:
        change_records(folder, lambda record: None if record["set"] == "known" else without_residual(record))
    summary = summary_of(runs)
    assert categorise(summary, summary.runs[1]) == "not trustworthy"
    assert "nothing vouches for these seeds" in judge(summary)[1].paragraph()


def test_precision_and_what_it_does_to_known_seeds(tmp_path: Path) -> None:
    runs = [write(tmp_path, Model("v", "vanilla", bias=0.1, info={"precision": "bf16-mixed"}))]
    runs.append(write(tmp_path, Model("e", bias=2, info={"precision": "32-true"})))
    first, second = precision_sentences(summary_of(runs))
    assert first.startswith("Precision 32-true: 6 known seeds of e come back with an NLL bias of 2.00 nats [")
    assert second.startswith("Precision bf16-mixed: 6 known seeds of v come back with an NLL bias of 0.10 nats [")
    report(runs, tmp_path / "out", draws=20)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["precision"][1].startswith(
        "Precision bf16-mixed"
    )
    assert "Precision bf16-mixed: 6 known seeds" in (tmp_path / "out" / "report.html").read_text()


def test_cut_prompts_are_said(tmp_path: Path) -> None:
    data = {name: {"source": "x", "rows": 24, "unreadable": [], "cut": 2} for name in ("concept", "reference")}
    runs = [write(tmp_path, Model("v", "vanilla", info={"data": data})), write(tmp_path, Model("e"))]
    (note,) = (note for note in compare(runs).notes if "window" in note)
    assert note.startswith("4 samples have prompts longer than the text encoder's window")


def test_needle_or_basin(tmp_path: Path) -> None:
    runs = world(tmp_path)
    for folder in runs:
        reach = 30.0 if folder.name == "ESD" else 75.0
        change_records(folder, lambda r, reach=reach: r | ({"reach": reach} if r["set"] == "concept" else {}))
        more = [
            {"key": f"u{i}", "set": "unprompted", "index": i, "prompt": "", "shows_concept": float(i < 3)}
            for i in range(24)
        ]
        save_lines(folder, load_records(folder) + more)
    esd = find(summary_of(runs), "ESD")
    assert (esd.value("reach.reach", "concept").value, esd.change("reach.reach", "concept").value) == (30, -45)
    assert esd.unprompted.value == pytest.approx(3 / 24)
    report(runs, tmp_path / "out", draws=20)
    assert "reach_concept" in (tmp_path / "out" / "tables" / "probe_reach.csv").read_text()
    assert "unprompted" in (tmp_path / "out" / "tables" / "probe_samples.csv").read_text()
