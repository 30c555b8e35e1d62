"""A probe is one file: one defined here, and the contributors' example as it is printed."""

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lit_memories.probes
from lit_memories.cli import main
from lit_memories.numbers import Number
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.runs import read_run

ROOT = Path(__file__).parents[2]
SECTION = re.search(r"## How to add a probe\n(.*?)\n## ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", SECTION[1], re.DOTALL)
(COMMAND,) = re.findall(r"```bash\n(.*?)```", SECTION[1], re.DOTALL)
Arguments = Callable[..., list[str]]
PROBES = '[{class_path: Denoising, init_args: {levels: 3}}, {class_path: Samples}, {class_path: "%s"}]'


class Brightness(Probe):
    """How bright latents are: needs nothing of the model, and says nothing of a memory."""

    question = "How large are the latents?"
    numbers = (
        Number("size", "size of the latents", "forgetting", "units", digits=3),
        Number("large", "large latents", "rate", percent=True),
        Number("noted", "a note"),
    )
    conditioned = True
    says = "Nothing."
    cost = "none"

    def __call__(self, group: Group) -> Answers:
        size = group.latents.flatten(1).norm(dim=1)
        return Answers({"size": size, "large": (size > 0).float(), "noted": ["seen"] * len(group.prompts)})


def test_a_probe_of_a_test_is_found_everywhere(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In records, tables, results.json, on the page, and among the numbers that are held against known truth."""
    options = (f"--model.probes={PROBES % f'{__name__}.Brightness'}", "--data.known=0", "--data.prompted=1")
    run = tmp_path / "vanilla"
    main(arguments(run, *options, "--data.conditionings=[empty]"))
    found = read_run(run)
    records = [record for record in found.records if record.set in ("concept", "reference")]
    assert len(records) == 18
    for record in records:
        assert record.number("brightness.size") > 0
        assert record.value("brightness.noted") == "seen"
    monkeypatch.delitem(sys.modules, __name__, raising=False)  # a report imports nothing that a folder names
    out = tmp_path / "report"
    main(["report", str(run), f"--out={out}", "--draws=20"])
    (result,) = json.loads((out / "results.json").read_text())["runs"]
    probe = result["probes"]["brightness"]
    assert probe["question"] == Brightness.question
    size = probe["numbers"]["size"]
    assert size["forgetting"]["value"] == 0
    assert size["sets"]["concept"]["count"] == 4
    assert [entry["label"] for entry in size["conditionings"]] == ["own", "empty"]
    assert probe["numbers"]["large"]["sets"]["reference"]["value"]["value"] == 1
    assert "noted" not in probe["numbers"]
    (row,) = csv.DictReader((out / "tables" / "probe_brightness.csv").open())
    assert float(row["size_concept"]) == size["sets"]["concept"]["value"]["value"]
    page = (out / "report.html").read_text()
    assert Brightness.question in page
    assert "size of the latents" in page
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from validity_scores import measures_of

    paths = {measure.path for measure in measures_of(found)}
    assert {"brightness.size", "brightness.large", "denoising.surprise"} <= paths
    assert "brightness.noted" not in paths


def test_the_contributors_example_runs(arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "probes"
    place.mkdir()
    (place / "sharpness.py").write_text(EXAMPLE)
    monkeypatch.setattr(lit_memories.probes, "__path__", [*lit_memories.probes.__path__, str(place)])
    (option,) = (word for word in COMMAND.split() if word.startswith("--model.probes"))
    main(arguments(tmp_path / "run", option, "--data.known=0", "--data.prompted=0"))
    run = read_run(tmp_path / "run")
    assert run.info.complete
    for record in run.of("concept", "sharpness"):
        assert 0 <= record.number("sharpness.contrast") < 1
        assert record.number("sharpness.lost") is not None
    sys.modules.pop("lit_memories.probes.sharpness")


def test_numbers_that_are_not_finite_are_flagged_by_probe(arguments: Arguments, tmp_path: Path) -> None:
    path = f"{__name__}.Half"
    main(arguments(tmp_path, f"--model.probes={PROBES % path}", "--data.known=0", "--data.prompted=0"))
    run = read_run(tmp_path)
    assert {tuple(record.flags.items()) for record in run.records if "half" in record.probes} == {
        (), (("half", "not finite"),), (("half", "too small"),)
    }  # fmt: skip
    assert len(run.of("concept", "denoising")) == 4, "another probe's flag is none of its own"


class Half(Probe):
    """A number that is lost on some samples, and one that is too small on others."""

    question = "Is it there?"
    numbers = (Number("number", "number", "mean"),)

    def __call__(self, group: Group) -> Answers:
        rows = torch.tensor([len(prompt) % 3 for prompt in group.prompts])
        return Answers(
            {"number": torch.where(rows == 0, torch.nan, rows.double())},
            ["too small" if r == 1 else None for r in rows],
        )
