"""Records of the shipped model are those of an earlier release: to the bit on its machine, to 1e-4 elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from release_records import RELEASE, command, machine

from lit_memories.cli import main

pytestmark = pytest.mark.slow
MODEL = ("key", "model", "asked", "crc32")
"""What a record says of settings and of itself, which a release may write otherwise."""


def numbers(file: Path) -> list[dict[str, Any]]:
    """Each record's set, place, prompt and answers."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in MODEL} for line in lines]


def agree(found: Any, wanted: Any, where: str, exact: bool) -> None:
    """Asserts that two values are alike, floating-point numbers as near as the machine allows."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name, value in wanted.items():
            agree(found[name], value, f"{where}.{name}", exact)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            agree(one, other, f"{where}[{place}]", exact)
    elif isinstance(wanted, float) and not exact:
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6), where
    else:
        assert found == wanted, where


def test_numbers_are_those_of_the_last_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    main(command(tmp_path / "run"))
    found, wanted = numbers(tmp_path / "run/records.jsonl"), numbers(RELEASE / "records.jsonl")
    exact = (RELEASE / "machine.txt").read_text(encoding="utf-8").strip() == machine()
    assert {name for line in wanted for name in line["probes"]} >= {"denoising", "seed", "samples", "likelihood"}
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        agree(one, other, f"{other['set']} {other['index']}", exact)


def test_a_bit_that_differs_is_seen() -> None:
    line = {"probes": {"seed": {"nll": 1.0, "converged": True, "profile": [1.0, 2.0]}}}
    other = json.loads(json.dumps(line))
    other["probes"]["seed"]["profile"][1] += 2**-51
    agree(line, other, "near", exact=False)
    with pytest.raises(AssertionError, match=r"profile\[1\]"):
        agree(line, other, "exact", exact=True)
    other["probes"]["seed"]["nll"] += 1e-3
    with pytest.raises(AssertionError, match="nll"):
        agree(line, other, "far", exact=False)
