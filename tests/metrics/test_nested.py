"""Erasures within trainings, asked about the same pictures: intervals that hold, where scatter is from, the sweep."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.metrics.crossed import crossed

ROOT = Path(__file__).parents[2]
ERASURES = (3, 1, 1)
"""Of each training, as in benchmarks/replicates.py."""
PICTURES = 24
SIDES = "concept", "reference"


def design(sd: tuple[float, float, float, float], generator: Generator) -> list[Tensor]:
    """Readings around 0, a table (erasures, pictures) a training; `sd` of training, erasure, picture and the rest."""
    training, erasure, picture, rest = sd

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared, found = picture * normal(1, PICTURES), []
    for count in ERASURES:
        own = training * normal(1, 1) + erasure * normal(count, 1)
        found.append(own + shared + rest * normal(count, PICTURES))
    return found


def bootstrapped(tables: list[Tensor], generator: Generator, draws: int = 200) -> tuple[float, float]:
    """The hierarchical bootstrap's interval: trainings, of these erasures, and pictures drawn again."""
    means = []
    for _ in range(draws):
        pictures = torch.randint(PICTURES, (PICTURES,), generator=generator)
        trainings = torch.randint(len(tables), (len(tables),), generator=generator).tolist()
        drawn = [tables[t][torch.randint(len(tables[t]), (len(tables[t]),), generator=generator)] for t in trainings]
        means.append(float(torch.stack([table[:, pictures].mean() for table in drawn]).mean()))
    ends = torch.tensor(means, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def interval(tables: list[Tensor]) -> tuple[float, float]:
    found = crossed(torch.stack([table.mean(0) for table in tables])).interval()
    return found.low, found.high


DESIGNS = [(1, 1, 1, 1), (2, 0.5, 1, 1), (0.3, 1, 2, 1), (0, 1, 1, 2), (0, 0, 1, 1)]


@pytest.mark.parametrize("sd", DESIGNS)
def test_intervals_hold_over_trainings_erasures_and_pictures(sd: tuple[float, float, float, float]) -> None:
    generator = Generator().manual_seed(0)
    found = [interval(design(sd, generator)) for _ in range(400)]
    assert sum(low <= 0 <= high for low, high in found) / 400 >= 0.93


@pytest.mark.slow
def test_a_hierarchical_bootstrap_of_three_trainings_does_not() -> None:
    """The figures that benchmarks/replicates_page.py quotes."""
    from replicates_page import BOOTSTRAPS, HELD

    generator, shares = Generator().manual_seed(1), []
    for sd in DESIGNS:
        hits = [0, 0]
        for _ in range(300):
            tables = design(sd, generator)
            for number, (low, high) in enumerate((bootstrapped(tables, generator), interval(tables))):
                hits[number] += low <= 0 <= high
        shares.append([hit / 300 for hit in hits])
    assert [f"{100 * min(x):.0f} to {100 * max(x):.0f} %" for x in zip(*shares, strict=True)] == [BOOTSTRAPS, HELD]


TRUE = {"weak": 0.1, "strong": 0.9, "stronger": 1.1}
UNIT = 300.0


def lines(folder: Path, trainings: int = 3, sd: tuple[float, float] = (0.02, 0.1), missing: bool = False) -> Path:
    """Lines of three methods of known fraction, whose trainings and erasures scatter by `sd` of the scale."""
    draw = random.Random(0)  # noqa: S311
    found: list[dict[str, Any]] = []
    for concept in ("umbrella", "castle"):
        for training in range(trainings):
            pictures = {side: [draw.gauss(1500, 100) for _ in range(24)] for side in SIDES}
            found.append(_line(draw, concept, training, "vanilla", 0, pictures, 0.0))
            found.append(_line(draw, concept, training, "never-knew", 0, pictures, 1.0))
            for method, fraction in TRUE.items():
                level = fraction + draw.gauss(0, sd[0])
                for seed in range(3 if training == 0 else 1):
                    own = level + draw.gauss(0, sd[1])
                    found.append(_line(draw, concept, training, method, seed, pictures, own))
    if missing:
        found = [line for line in found if (line["concept"], line["model"]) != ("castle", "strong")]
    file = folder / "replicates.jsonl"
    file.write_text("\n".join(map(json.dumps, found)) + "\n")
    return file


def _line(
    draw: random.Random, concept: str, training: int, model: str, seed: int, pictures: Any, fraction: float
) -> dict[str, Any]:
    damage = 10.0 * (model not in {"vanilla", "never-knew"})
    moved = {"concept": UNIT * fraction + damage, "reference": damage}
    numbers: dict[str, Any] = {
        side: {"denoising.surprise": [x + moved[side] + draw.gauss(0, 5) for x in pictures[side]]} for side in SIDES
    }
    numbers |= {"prompted": {"samples.shows_concept": [0.0] * 24}, "retained": {"samples.met": [1.0] * 24}}
    line = {"training": training, "concept": concept, "model": model, "seed": seed, "numbers": numbers}
    if training == seed == 0:
        line["relearning"] = {
            side: {"relearning.curve": [[x + moved[side] * share for share in (1, 0.5)] for x in pictures[side][8:]]}
            for side in SIDES
        }
    return line


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)


def test_planted_fractions_and_their_scatter_are_found(tmp_path: Path) -> None:
    from replicates_numbers import Replicates

    found = Replicates(lines(tmp_path))
    for method, true in TRUE.items():
        one, overall = found.fraction("umbrella", method), found.overall(method)
        assert one is not None
        assert overall is not None
        assert one.low <= true <= one.high
        assert overall.value == pytest.approx(true, abs=0.12)
        assert overall.count == one.count == 3
        assert found.damage("umbrella", method).value == pytest.approx(10, abs=3)
        parts = found.parts(method)
        assert 0.03 < parts.erasures < 0.2
        assert parts.pictures < 0.02
        saved = found.savings("umbrella", method)
        assert saved is not None
        assert saved.value == pytest.approx(1 - true, abs=0.35)
    assert list(found.ranks()) == list(TRUE)
    assert found.agreement("weak", "strong") == (6, 6)
    weak, strong, stronger = found.ranks().values()
    assert weak[1:] == (1, 1), "far from the others"
    assert (strong[1], stronger[2]) == (2, 3)


def test_a_ratio_is_the_difference_of_its_cases_and_varies_as_they_do() -> None:
    from replicates_numbers import in_units

    generator = Generator().manual_seed(3)
    found, told = [], []
    for _ in range(400):
        control = [x + 5 * torch.randn(24, generator=generator, dtype=torch.float64) for x in (20.0, 0.0)]
        own = [0.5 * x + torch.randn(24, generator=generator, dtype=torch.float64) for x in control]
        e, r = in_units((own[0], own[1]), (control[0], control[1]))
        ratio = (own[0].mean() - own[1].mean()) / (control[0].mean() - control[1].mean())
        assert float(e.mean() - r.mean()) == pytest.approx(float(ratio))
        found.append(float(ratio))
        told.append(float(e.var() / 24 + r.var() / 24))
    spread = torch.tensor(found, dtype=torch.float64)
    assert spread.mean() == pytest.approx(0.5, abs=0.01)
    assert sum(told) / 400 == pytest.approx(float(spread.var()), rel=0.25)


def test_one_training_has_no_interval_and_a_missing_method_no_fraction(tmp_path: Path) -> None:
    from replicates_numbers import Replicates
    from replicates_page import section

    file = lines(tmp_path, trainings=1, missing=True)
    found = Replicates(file)
    one = found.fraction("umbrella", "weak")
    assert one is not None
    assert math.isnan(one.low)
    assert found.fraction("castle", "strong") is None
    assert found.concepts == ["umbrella"], "what not every method has erased is told of none"
    said = section(file)
    assert "nan" not in said
    assert "| strong | 0." in said
    assert section(tmp_path / "nothing.jsonl") == ""


def test_the_page_says_what_is_stable(tmp_path: Path) -> None:
    from replicates_page import section

    said = section(lines(tmp_path))
    assert "30 erased models" in said
    assert "castle was held back" in said
    assert "stand in the same order for every concept and training" in said
    assert "nan" not in said


def test_a_sweep_that_is_interrupted_goes_on_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import replicates

    made: list[str] = []
    asked: list[str] = []

    def grown(name: str, seed: int, start: Path, folder: Path, *_: Any, **__: Any) -> Path:
        return folder / "models" / name

    def train(arguments: list[str]) -> None:
        place = Path(next(x for x in arguments if x.startswith("--trainer.default_root_dir=")).split("=", 1)[1])
        made.append(place.name)
        place.mkdir(parents=True)
        if len(made) == 2:
            (place / "half").touch()
            raise KeyboardInterrupt
        (place / replicates.COST_FILE).write_text('{"evaluations": 1, "seconds": 1.0}')

    def audit(concept: str, model: Path, place: Path, *_: Any) -> None:
        asked.append(place.name)
        if len(asked) == 10:
            raise KeyboardInterrupt
        place.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(replicates, "trunk", lambda seed, folder: folder / "trunk")
    monkeypatch.setattr(replicates, "grown", grown)
    monkeypatch.setattr(replicates, "run", train)
    monkeypatch.setattr(replicates, "audit", audit)
    monkeypatch.setattr(replicates, "read_run", lambda place: place)
    monkeypatch.setattr(replicates, "numbers_of", lambda *_: {})
    out, methods = tmp_path / "lines.jsonl", ("uce", "esd", "salun")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            replicates.main((0, 1), ("umbrella",), methods, tmp_path / "sweep", out)
    replicates.main((0, 1), ("umbrella",), methods, tmp_path / "sweep", out)
    found = [json.loads(text) for text in out.read_text().splitlines()]
    names = [(line["training"], line["model"], line["seed"]) for line in found]
    assert len(names) == len(set(names)) == 2 * 2 + 3 * (3 + 1)
    again = {name for name in made if made.count(name) > 1}
    assert again == {"0-umbrella-esd-0"}, "the one that was interrupted"
    assert not list((tmp_path / "sweep/erasures").iterdir()), "erased models are gone when their line is written"
    before = len(made), len(asked)
    replicates.main((0, 1), ("umbrella",), methods, tmp_path / "sweep", out)
    assert (len(made), len(asked)) == before
