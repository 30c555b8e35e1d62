"""Forgetting under other conditionings: pairing, the correction, and what is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import Model, change_records, load_records, world, write

from lit_memories.report import report
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.summary import summarise


def add(folder: Path, label: str, shift: float, sets: tuple[str, ...] = ("concept", "reference")) -> None:
    """Records of the same images under a conditioning, the concept's `shift` nats higher than under the own prompt."""
    records = [r for r in load_records(folder) if r["set"] in sets and "conditioning" not in r]
    extra = [
        record
        | {"key": f"{record['key']}/{label}", "conditioning": label}
        | {"nll": record["nll"] + (shift if record["set"] == "concept" else 0)}
        for record in records
    ]
    with (folder / "records.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in extra)


def entries(runs: list[Path]) -> dict[str, dict[str, Any]]:
    summary = summarise(compare(runs), draws=400)
    return {run.name: {entry.label: entry for entry in run.leading.conditionings} for run in summary.runs}


def test_forgetting_under_another_conditioning_is_its_own(tmp_path: Path) -> None:
    runs = world(tmp_path)
    for folder in runs:
        add(folder, "empty", {"relabel": -100.0, "never-knew": 0.0}.get(folder.name, 0.0))
    found = entries(runs)
    assert set(found["relabel"]) == {"own", "empty"}
    assert found["relabel"]["own"].forgetting.value == pytest.approx(100.5, abs=1e-6)
    assert found["relabel"]["empty"].forgetting.value == pytest.approx(0.5, abs=1e-6)
    assert found["relabel"]["own"].fraction.value == pytest.approx(100.5 / 94, abs=1e-6)
    assert found["relabel"]["own"].p < 0.01
    assert found["relabel"]["empty"].p > 0.5
    assert found["vanilla"]["empty"].forgetting.value == 0
    assert found["vanilla"]["empty"].p == 1


def test_the_correction_grows_with_the_number_of_conditionings(tmp_path: Path) -> None:
    runs = [write(tmp_path, Model("v", "vanilla")), write(tmp_path, Model("e", "erased", 6, 0, noise=14))]
    alone = entries(runs)["e"]["own"].p
    for folder in runs:
        for label in ("empty", "own@3", "anchor"):
            add(folder, label, 0.0)
    assert 0 < alone < 0.3
    assert entries(runs)["e"]["own"].p == pytest.approx(min(1, 4 * alone))


def test_reference_images_without_records_of_it_stand_for_themselves(tmp_path: Path) -> None:
    runs = world(tmp_path)
    for folder in runs:
        add(folder, "anchor", 0.0, sets=("concept",))
    found = entries(runs)["ESD"]
    assert found["anchor"].forgetting.value == pytest.approx(found["own"].forgetting.value)


def test_only_what_all_runs_have_is_compared(tmp_path: Path) -> None:
    runs = world(tmp_path)
    add(runs[0], "empty", 0.0)
    assert all(set(found) == {"own"} for found in entries(runs).values())


def test_other_statistics_do_not_see_conditioned_records(tmp_path: Path) -> None:
    runs = world(tmp_path)
    plain = summarise(compare(runs), draws=200)
    for folder in runs:
        add(folder, "empty", 500.0)
    assert summarise(compare(runs), draws=200).runs[1].pairing == plain.runs[1].pairing
    for before, after in zip(plain.runs, summarise(compare(runs), draws=200).runs, strict=True):
        assert (before.forgetting, before.used) == (after.forgetting, after.used)
        assert before.leading.sets == after.leading.sets


def test_the_report_shows_them(tmp_path: Path) -> None:
    runs = world(tmp_path)
    for folder in runs:
        add(folder, "own@3", 0.0)
        change_records(folder, lambda r: r | {"typicality": {"ks": [0.1, 0.01], "combined": [0.01, 0.01]}})
        likelihood = {"log_likelihood": -1000.0, "likelihood_gap": 0.01}
        change_records(
            folder, lambda r, values=likelihood: r | (values if r["set"] in ("concept", "reference") else {})
        )
        change_records(folder, lambda r: r | ({"likelihood_gap": 1.5} if r["key"] == "concept1" else {}))
        change_records(folder, lambda r: r | ({"reach": 40.0} if r["set"] == "concept" else {}))
    report(runs, tmp_path / "out", draws=100)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (esd,) = (run for run in results["runs"] if run["name"] == "ESD")
    numbers = {name: probe["numbers"] for name, probe in esd["probes"].items()}
    assert [entry["label"] for entry in numbers["seed"]["nll"]["conditionings"]] == ["own", "own@3"]
    assert numbers["typicality"]["combined"]["sets"]["concept"]["value"]["value"] == 1
    assert numbers["likelihood"]["log_likelihood"]["forgetting"]["value"] == 0
    assert any(note.startswith("ESD: log p(x) of 1 of ") for note in results["notes"])
    assert numbers["reach"]["reach"]["sets"]["concept"]["value"]["value"] == 40
    assert numbers["seed"]["nll"]["resolution"]["least"] > 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "own@3" in html
    assert "reach (concept), degrees" in html
    conditionings = (tmp_path / "out" / "tables" / "conditionings.csv").read_text()
    assert conditionings.startswith("model,forgetting_seeds_own,")
    assert (tmp_path / "out" / "tables" / "probe_typicality.csv").is_file()


def test_a_plain_report_has_no_empty_tables(tmp_path: Path) -> None:
    report(world(tmp_path), tmp_path / "out", draws=50)
    assert not (tmp_path / "out" / "tables" / "conditionings.csv").exists()
    assert "atypical" not in (tmp_path / "out" / "report.html").read_text()
