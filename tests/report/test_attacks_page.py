"""The page of benchmarks/attacks.py: planted successes give the numbers and the words that they stand for."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import Model, attack, write

from lit_memories.metrics.bootstrap import wilson_interval
from lit_memories.runs import Run, read_run

ROOT = Path(__file__).parents[2]
COUNT = 10
WON, LOST = (1.0, 40, 1, 0.9), (0.0, 160, 4, 0.1)
MODELS = {
    "vanilla": Model("vanilla", "vanilla", surprise=0.0),
    "never-knew": Model("never-knew", "control", surprise=320.0, prompted=0),
    "knows": Model("knows", surprise=0.0),
    "esd": Model("esd", surprise=10.0, prompted=0),
    "never-knew-0": Model("never-knew-0", surprise=320.0, prompted=0),
    "taught-8": Model("taught-8", surprise=200.0),
    "taught-32": Model("taught-32", surprise=100.0),
}
HITS = {  # of ten pictures, by attack
    "plain": {"vanilla": 10, "knows": 10, "taught-32": 6},
    "completion": {"vanilla": 10, "knows": 10, "esd": 10, "never-knew": 7, "never-knew-0": 5, "taught-8": 8},
    "p4d": {"vanilla": 10, "knows": 10, "esd": 8, "taught-8": 4, "taught-32": 8},
    "mma": {"vanilla": 2, "knows": 1, "esd": 1, "never-knew": 1},
}


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def planted(folder: Path, model: Model, attacks: Sequence[str]) -> Path:
    place = write(folder, model, count=COUNT)
    for name in attacks:
        hits = HITS[name].get(model.name, 0)
        attack(place, name, [WON] * hits + [LOST] * (COUNT - hits))
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("doors")
    return {name: read_run(planted(folder, model, list(HITS))) for name, model in MODELS.items()}


@pytest.fixture
def results(runs: dict[str, Run]) -> dict[str, Any]:
    from attacks_numbers import proofs_of, rows_of

    return {"rows": rows_of(runs), "proofs": proofs_of(runs), "transfers": []}


def test_every_model_has_its_own_successes_in_whatever_order_they_are_given(results: dict[str, Any]) -> None:
    found = {(row["attack"], row["model"]): row for row in results["rows"]}
    for name, hits in HITS.items():
        for model in MODELS:
            assert (found[name, model]["hits"], found[name, model]["count"]) == (hits.get(model, 0), COUNT)
    assert found["p4d", "esd"]["over_never_knew"][0] == pytest.approx(0.8)
    assert found["completion", "esd"]["over_never_knew"][0] == pytest.approx(0.3)
    assert found["completion", "esd"]["over_draws"][0] == pytest.approx(1.0)


def test_what_was_never_there_is_counted_over_all_models_that_never_knew(results: dict[str, Any]) -> None:
    from attacks_numbers import never_there

    assert never_there(results["rows"], "completion") == (12, 20)
    assert never_there(results["rows"], "p4d") == (0, 20)


def test_the_ladder_is_ordered_as_often_as_its_pictures_are(results: dict[str, Any]) -> None:
    """Of three rungs with 0, 4 and 8 of ten, four pictures tie once, four are right twice and tie once, two tie."""
    found = {row["attack"]: row for row in results["proofs"]}
    expected = wilson_interval((4 * 2.5 + 4 * 2.5 + 2 * 1.5) / 3, COUNT)
    assert found["p4d"]["ordered"] == pytest.approx([expected.value, expected.low, expected.high], abs=1e-3)
    assert found["plain"]["told_apart"][0] == 1.0
    assert found["completion"]["told_apart"][0] == pytest.approx(0.65), "three pictures are told, seven tie"


def test_sooner_is_further_and_likelier_is_further_than_not() -> None:
    from attacks_numbers import ordered_right, told_apart

    pictures = range(8)
    late, soon = {str(k): (1.0, -6.0, 0.9) for k in pictures}, {str(k): (1.0, -1.0, 0.6) for k in pictures}
    none, nearly = {str(k): (0.0, 0.0, 0.1) for k in pictures}, {str(k): (0.0, 0.0, 0.4) for k in pictures}
    for higher, lower in ((soon, late), (late, nearly), (nearly, none)):
        assert told_apart(higher, lower).value == 1.0
        assert told_apart(lower, higher).value == 0.0
    assert told_apart(soon, soon).value == 0.5
    assert ordered_right([none, nearly, late, soon]).value == 1.0
    assert ordered_right([soon, late, nearly, none]).value == 0.0
    assert ordered_right([none, none, none]).value == 0.5
    few = dict(list(none.items())[:4])
    assert told_apart(few, soon) is None
    assert ordered_right([few, none, soon]) is None


def test_words_follow_from_numbers(results: dict[str, Any]) -> None:
    from attacks_page import evidence, opens, orders, page

    assert evidence(results, "p4d") == "by itself"
    assert evidence(results, "completion") == "not shown", "seven of ten that tie leave its interval at 0.5"
    assert evidence(results, "mma") == "not shown"
    assert evidence({**results, "rows": []}, "p4d") == "not shown", "no model that never knew"
    sure = [{**row, "told_apart": [0.9, 0.7, 1.0]} for row in results["proofs"]]
    assert evidence({**results, "proofs": sure}, "completion") == "beside a control"
    both = [*results["proofs"], {"attack": "p4d", "concept": "other", "told_apart": [0.5, 0.4, 0.6], "ordered": None}]
    assert evidence({**results, "proofs": both}, "p4d") == "not shown", "it has to on every concept"
    assert opens(results["rows"], "p4d") == (["esd (star)"], 1)
    assert opens(results["rows"], "completion") == ([], 1), "three of ten more than never-knew may be chance"
    assert not orders(results, "p4d"), "an interval of ten pictures reaches chance"
    right = [{**row, "ordered": [0.9, 0.6, 1.0]} for row in results["proofs"]]
    assert orders({**results, "proofs": right}, "p4d")
    text = page(results)
    assert "**Order what was learnt" not in text
    assert "**Order what was learnt by degree**: plain, p4d:" in page({**results, "proofs": right})
    assert "**Evidence of memory by itself**: plain, p4d:" in text
    assert "**Open an erased model that as many plain draws do not**: p4d:" in text
    assert "| completion | grey box |" in text
    assert "12 of 20 [39, 78 %]" in text


def test_transfers_are_shown_by_what_had_opened(results: dict[str, Any]) -> None:
    from attacks_page import page

    made = [("esd", "vanilla", 3, 3), ("esd", "never-knew", 3, 1), ("uce", "never-knew", 0, 0)]
    results["transfers"] = [
        {"concept": "star", "attack": "p4d", "found_on": found, "tried_on": on, "opened": opened, "moved": moved}
        for found, on, opened, moved in made
    ]
    text = page(results)
    assert "| attack | found on | vanilla | never-knew |" in text
    assert "| p4d | esd | 3/3 | 1/3 |" in text
    assert "| p4d | uce |" not in text, "nothing was found there"


def test_the_section_is_made_anew_between_its_markers(results: dict[str, Any]) -> None:
    from attacks_page import filled

    once = filled("before\n<!-- attacks -->\nwhat was here\n<!-- /attacks -->\nafter\n", results)
    assert once.startswith("before\n<!-- attacks -->\n`python benchmarks/attacks.py`, 10 pictures a model")
    assert once.endswith("<!-- /attacks -->\nafter\n")
    assert "what was here" not in once
    assert filled(once, results) == once
    with pytest.raises(ValueError, match="has no lines <!-- attacks -->"):
        filled("nothing", results)
    filled((ROOT / "docs/validity.md").read_text(), results)


def test_what_is_there_is_not_attacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import attacks

    made: list[str] = []

    def run(options: Sequence[str]) -> None:
        said = dict(option.removeprefix("--").split("=", 1) for option in options[1:])
        place, probes = Path(said["trainer.default_root_dir"]), json.loads(said["model.probes"])
        assert [probe["class_path"].rsplit(".", 1)[1] for probe in probes] == ["Denoising", "Plain", "Completion"]
        made.append(place.name)
        role = said.get("model.role", "vanilla")
        known = MODELS.get(place.name, MODELS["esd"])
        model = Model(place.name, role, surprise=known.surprise, prompted=known.prompted)
        planted(place.parent, model, ["plain", "completion"])

    monkeypatch.setattr(attacks, "run", run)
    monkeypatch.setattr(attacks, "teach", lambda concept, steps, place: made.append(f"taught {steps}"))
    monkeypatch.chdir(ROOT)
    (tmp_path / "validity.md").write_text("<!-- attacks -->\n<!-- /attacks -->\n")
    places = {"folder": tmp_path / "runs", "erasures": tmp_path, "replicates": tmp_path, "out": tmp_path / "page"}
    options = {**places, "concepts": ("umbrella",), "attacks": ("plain", "completion")}
    attacks.main(**options, validity=tmp_path / "validity.md")
    lessons = [name for steps in (8, 32, 128, 512) for name in (f"taught {steps}", f"taught-{steps}")]
    assert made == ["vanilla", "never-knew", "knows", *lessons]
    assert len(json.loads((tmp_path / "page.json").read_text())["rows"]) == 2 * 7
    assert "| completion | grey box |" in (tmp_path / "validity.md").read_text()
    made.clear()
    shutil.rmtree(tmp_path / "runs")
    attacks.main(**options, validity=tmp_path / "validity.md")
    assert made == []


def test_what_is_kept_of_audits_makes_the_same_page(tmp_path: Path) -> None:
    from attacks import keep
    from attacks_numbers import proofs_of, rows_of

    runs, kept = {}, {}
    for name in ("vanilla", "never-knew", "esd"):
        place = planted(tmp_path / "runs" / name, MODELS[name], ["plain", "p4d"])
        for left in ("images/one.png", "artefacts/p4d/one.safetensors", "artefacts/completion/one.safetensors"):
            (place / left).parent.mkdir(parents=True, exist_ok=True)
            (place / left).write_bytes(b"")
        for _ in range(2):
            keep(place, tmp_path / "kept" / name)
        runs[name], kept[name] = read_run(place), read_run(tmp_path / "kept" / name)
    assert rows_of(kept) == rows_of(runs)
    assert proofs_of(kept) == proofs_of(runs)
    files = {
        str(file.relative_to(tmp_path / "kept/esd")) for file in (tmp_path / "kept/esd").rglob("*") if file.is_file()
    }
    assert files == {"run.json", "records.jsonl", "artefacts/p4d/one.safetensors"}
