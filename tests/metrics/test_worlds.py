"""The design of benchmarks/worlds.py, and the scale that is made of its lines: planted curves are found again."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_models_are_rows_of_latin_squares_that_differ_between_seeds() -> None:
    from worlds_models import CONCEPTS, DOSES, World

    squares = [[tuple(World(seed, number).doses.values()) for number in range(7)] for seed in range(3)]
    for square in squares:
        assert all(len(set(row)) == len(CONCEPTS) for row in square), "no two concepts at one rung"
        for column in zip(*square, strict=True):
            assert Counter(column) == Counter(DOSES), "every concept at every rung once"
    assert len({tuple(square) for square in squares}) == 3


def lines(folder: Path, seeds: int, noise: float = 0.03, missing: bool = False) -> Path:
    """Models whose numbers fall with the logarithm of the dose, by surprise exactest and by seeds hardly."""
    from worlds_models import CONCEPTS, World

    draw, found = random.Random(0), []  # noqa: S311
    for seed in range(seeds):
        for number in range(7 - (missing and seed == seeds - 1)):
            doses = World(seed, number).doses
            shown = {name: 500 if dose is None else dose for name, dose in doses.items()}
            line: dict[str, Any] = {"seed": seed, "number": number, "shown": shown, "concepts": {}}
            line |= {"world": {"vae": "v"}, "marks": dict.fromkeys(("denoising", "samples", "seed"), "m")}
            for name in CONCEPTS:
                left = 1 - math.log1p(shown[name]) / math.log1p(500)
                line["concepts"][name] = _asked(draw, left, noise) | {"denoising_error": 0.05 + 0.02 * left}
            found.append(json.dumps(line))
    file = folder / "lines.jsonl"
    file.write_text("\n".join(found) + "\n")
    return file


def _asked(draw: random.Random, left: float, noise: float) -> dict[str, Any]:
    sets: dict[str, Any] = {}
    scatters = {
        "denoising.surprise": noise,
        "denoising.surprise_empty": 3 * noise,
        "seed.nll": 12 * noise,
        "seed.psnr": 0,
    }
    own = {path: left + draw.gauss(0, scatter) for path, scatter in scatters.items()}
    for side in ("concept", "reference"):
        sets[side] = {
            path: [1000 + 20 * i + 300 * (side == "concept") * value + draw.gauss(0, 3) for i in range(12)]
            for path, value in own.items()
        }
    rate = [float(draw.random() > left) for _ in range(16)]
    sets["prompted"] = {"samples.shows_concept": rate, "samples.probability": rate}
    return sets


def test_a_scale_finds_doses_of_trainings_it_never_saw(tmp_path: Path) -> None:
    import worlds_scale

    out, figure, scale = tmp_path / "worlds.md", tmp_path / "worlds.png", tmp_path / "scale.json"
    worlds_scale.main(lines(tmp_path, 3), out, figure, scale)
    from lit_memories.statistics.exposure import read_scale

    found = read_scale(scale)
    assert found.best == "denoising.surprise", "the number with the least scatter"
    curve = found.curve("denoising.surprise", "castle")
    truth = [1 - math.log1p(dose) / math.log1p(500) for dose in (0, 1, 4, 16, 64, 256, 500)]
    assert curve is not None
    assert curve.readings.tolist() == pytest.approx(truth, abs=0.08)
    rows = [line.split(" | ") for line in out.read_text().splitlines() if "own curve | chosen by" in line]
    errors = {row[0].removeprefix("| "): float(row[4]) for row in rows}
    assert errors["by surprise"] < 0.6 < errors["by the NLL of seeds"]
    covered = [float(row[-2]) for row in rows]
    assert min(covered) >= 85
    assert figure.read_bytes().startswith(b"\x89PNG")
    section = out.read_text().split("## Between trainings")[1]
    told = next(line.split(" | ") for line in section.splitlines() if line.startswith("| by surprise | chosen by"))
    assert told[-1].startswith("1.00, 1.00"), "the same picture, whatever the training"


def test_between_trainings_false_alarms_are_those_of_the_trainings(tmp_path: Path) -> None:
    """Trainings that differ by nothing but pictures are rarely told apart, others nearly always."""
    from worlds_between import alarms, parts, told

    few = {}
    for noise in (0.0, 0.2):
        models = [json.loads(line) for line in lines(tmp_path, 3, noise).read_text().splitlines()]
        few[noise] = alarms(models, ["umbrella", "anchor", "castle"], "denoising.surprise", range(7)).value
        assert min(told(models, ["anchor"], "denoising.surprise").paired) > 0.9
        scatter = parts(models, "castle", "denoising.surprise", 3).trainings ** 0.5
        assert (scatter < 0.02) if noise == 0 else (scatter > 0.04)
    assert few[0.0] < 0.15
    assert few[0.2] > 0.8


@pytest.mark.slow
def test_one_training_makes_the_curve_of_any_object_only(tmp_path: Path) -> None:
    import worlds_scale

    from lit_memories.statistics.exposure import read_scale

    scale = tmp_path / "scale.json"
    worlds_scale.main(lines(tmp_path, 2, missing=True), tmp_path / "w.md", tmp_path / "w.png", scale)
    assert all(set(concepts) == {"*"} for concepts in read_scale(scale).curves.values())
    assert "7 models, training seeds 0," in (tmp_path / "w.md").read_text(), "a seed with a gap is left out"


def test_a_sweep_without_a_whole_ladder_says_so(tmp_path: Path) -> None:
    import worlds_scale

    with pytest.raises(ValueError, match="no training seed has all its models yet"):
        worlds_scale.main(lines(tmp_path, 1, missing=True), tmp_path / "w.md", tmp_path / "w.png", tmp_path / "s.json")


@pytest.mark.slow
def test_readings_that_rise_with_the_dose_are_said(tmp_path: Path) -> None:
    import worlds_scale

    file = lines(tmp_path, 2, noise=0.01)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["shown"]["anchor"] == 64:
            asked = row["concepts"]["anchor"]["concept"]
            asked["denoising.surprise"] = [value + 300 for value in asked["denoising.surprise"]]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    worlds_scale.main(file, tmp_path / "w.md", tmp_path / "w.png", tmp_path / "s.json")
    assert "- by surprise, anchor: beyond scatter at 64 pictures" in (tmp_path / "w.md").read_text()
