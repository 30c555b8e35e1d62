"""The README's figure shows what the committed results say, and its caption what the figure shows."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

import doors  # noqa: E402

WHITE_BOX = {"fraction", "fraction_empty", "fraction_seeds", "relearning"}


@pytest.fixture(scope="module")
def places() -> dict[str, dict[str, doors.Interval]]:
    return doors.places()


def test_places_are_those_of_the_results(places: dict[str, dict[str, doors.Interval]]) -> None:
    rows = json.loads((ROOT / "docs/results/erasure.json").read_text())
    rows = {row["model"]: row for row in rows if row["concept"] == "umbrella"}
    assert set(rows) - set(places) == {"vanilla", "never-knew", "fmn-hard"}
    assert rows["fmn-hard"]["verdict"] == "damaged"
    for model, found in places.items():
        assert found["fraction"] == tuple(rows[model]["fraction"][end] for end in ("value", "low", "high"))
        assert found["prompt"][0] == pytest.approx(1 - rows[model]["prompted"]["value"])  # of 100 % and 0 %
        assert all(low <= value <= high for value, low, high in found.values())
    assert set(places["uce"]) == {"prompt"} | WHITE_BOX
    lessons = json.loads((ROOT / "docs/results/relearning.json").read_text())
    (uce,) = (
        row for row in lessons if (row["concept"], row["form"], row["model"]) == ("umbrella", "all weights", "uce")
    )
    assert list(places["uce"]["relearning"]) == uce["area"]


def test_the_caption_says_what_is_shown(places: dict[str, dict[str, doors.Interval]]) -> None:
    caption = (ROOT / "README.md").read_text()
    assert "of eleven models" in caption
    assert len(places) == 11
    first, *others = places.values()
    assert first["prompt"][0] == 0
    assert all(found["prompt"][1] > 0.8 for found in others)
    kept = [found for found in places.values() if all(found[door][0] <= 0.25 for door in WHITE_BOX & found.keys())]
    assert len(kept) == 8
    assert kept == list(places.values())[:8], "from above"
    assert all(found["fraction"][0] > 0.9 for found in list(places.values())[8:])


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "doors.png").write_bytes(doors.figure())
    with Image.open(tmp_path / "doors.png") as drawn, Image.open(ROOT / "docs/figures/doors.png") as kept:
        assert drawn.size == kept.size
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 100
