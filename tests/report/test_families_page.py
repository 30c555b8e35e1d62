"""Pages that set the flow pictograms beside the U-Net's: planted numbers give the words that they stand for."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ABOVE, BELOW, CHANCE = [0.98, 0.88, 1.0], [0.0, 0.0, 0.09], [0.5, 0.3, 0.7]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def tables(known: dict[str, Any], taught: dict[str, Any]) -> dict[str, Any]:
    parts = {"known": known, "taught": taught}
    return {
        part: [{"measure": name, "concept": value} for name, value in numbers.items()]
        for part, numbers in parts.items()
    }


def test_a_number_is_kept_where_it_says_the_same_on_both() -> None:
    from validity_families import page

    unet = tables({"surprise": ABOVE, "gap": BELOW, "psnr": CHANCE, "ks": CHANCE}, {"surprise": ABOVE, "gap": ABOVE})
    flow = tables({"surprise": ABOVE, "gap": ABOVE, "psnr": CHANCE, "reach": ABOVE}, {"surprise": CHANCE, "gap": None})
    text = page({"U-Net": {"umbrella": unet, "striped": unet}, "flow": {"umbrella": flow}})
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["surprise"] == (
        "| surprise | 0.98 [0.88, 1.00] | 0.98 [0.88, 1.00] | yes | 0.98 [0.88, 1.00] | 0.50 [0.30, 0.70] | **no** |"
    )
    assert rows["gap"].split(" | ")[3:] == ["**no**", "0.98 [0.88, 1.00]", "–", "– |"]
    assert rows["psnr"].split(" | ")[3:] == ["yes", "–", "–", "– |"]
    assert set(rows) == {"number", "surprise", "gap", "psnr"}, "of those that both have"
    assert "Of 3 numbers 2 keep what their AUC tells, of 1 numbers 0 the order." in text
    assert "striped" not in text, "a concept that one family lacks"


@pytest.mark.parametrize(
    ("interval", "expected"), [(ABOVE, 1), (BELOW, -1), (CHANCE, 0), ([0.6, 0.5, 0.7], 0), ([0.9, None, None], 0)]
)
def test_the_side_of_chance(interval: list[float], expected: int) -> None:
    from validity_families import side

    assert side(interval) == expected


def row(model: str, prompted: float, fraction: float, verdict: str) -> dict[str, Any]:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value / 2, "high": value}

    names = ("retained", "forgetting", "fraction_empty", "damage", "forgetting_seeds", "fraction_seeds")
    return {
        **{name: estimate(0.5) for name in (*names, "relative_distance", "relative_distance_w2_squared")},
        **{"concept": "umbrella", "model": model, "verdict": verdict, "retained_by_factor": {}},
        **{"prompted": estimate(prompted), "fraction": estimate(fraction)},
    }


def test_methods_of_both_families_stand_side_by_side() -> None:
    from erasure_page import flow_section

    unet = [row("esd", 0.02, 0.12, "remembers"), row("rece", 0, 0.1, "remembers")]
    flow = [row("esd", 0.04, 0.9, "forgot"), row("erase_anything", 0, 0.2, "partly forgot")]
    both, own = flow_section(unet, flow).split("### umbrella, flow")
    (line,) = [line for line in both.splitlines() if line.startswith("| esd")]
    assert line.split(" | ")[1:3] == ["2 [1, 2]", "4 [2, 4]"]
    assert line.split(" | ")[5:7] == ["0.12 [0.06, 0.12]", "0.90 [0.45, 0.90]"]
    assert line.endswith("| remembers | forgot |")
    assert "rece" not in both, "which the flow has not"
    assert "erase_anything" not in both, "which the U-Net has not"
    assert "| erase_anything | 0 [0, 0] |" in own
