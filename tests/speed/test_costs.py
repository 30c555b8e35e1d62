"""What the benchmark of costs counts is what the methods are known to take."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import costs

    yield costs
    for name in ("costs", "gpu_models"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_an_erasure_is_counted(costs: ModuleType, tmp_path: Path) -> None:
    """AC: a batch of 8 with a gradient and 8 without, a hundred times; UCE never asks the network."""
    costs.main(tmp_path / "costs", methods=("ac", "uce"))
    found = json.loads((tmp_path / "costs.json").read_text())
    ac, uce = found["erasures"]
    assert (ac["steps"], ac["plain"], ac["learning"]) == (100, 8, 8)
    assert ac["drawing"] == 200 * 50 * 2
    assert (uce["steps"], uce["plain"], uce["learning"], uce["drawing"]) == (1, 0, 0, 0)
    assert ac["evaluations"] == ac["before"] + 100 * (8 + 3 * 8) + ac["drawing"]
    page = (tmp_path / "costs.md").read_text()
    assert "| ac | 100 | 8 | 8 |" in page
    assert "FLUX.1-dev" in page


def test_an_audit_is_what_its_inverter_takes_and_the_picture_made_again(costs: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "inversion.json"
    rows = [{"inverter": name, "steps": 50, "evaluations": 100.0} for name in costs.INVERTERS.values()]
    file.write_text(json.dumps({"rows": rows}))
    first, *others = costs.audits(file)
    assert (first["an_image"], first["evaluations"]) == (36, 100 * 36 + 48 * 2 * 50)
    for row in others:
        assert row["an_image"] == 36 + 150
        assert row["evaluations"] == first["evaluations"] + 100 * 150 + 16 * (150 + 50)
