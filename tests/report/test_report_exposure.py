"""Numbers of an audit as pictures seen: planted doses are found, and a scale that does not hold is not used."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import SETTINGS, Model, write

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.crossed import least_difference
from lit_memories.report import report
from lit_memories.report.exposure import exposure_figure, pictures
from lit_memories.report.verdict import judge
from lit_memories.runs import RunInfo
from lit_memories.statistics.exposure import SHIPPED, Scale, expose, misfit, read_scale, settings_mark, world_of
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.summary import summarise

WORLD: dict[str, Any] = {"settings": SETTINGS | {"vae": {"weights": "v"}}}
DOSES, READINGS = [0.0, 1.0, 4.0, 16.0, 64.0, 256.0], [1.0, 0.95, 0.8, 0.5, 0.2, 0.0]


def modelled(name: str, role: str, **options: Any) -> Model:
    return Model(name, role, noise=4, settings=WORLD["settings"], **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An eraser that hides what a model keeps that saw 16 pictures, between vanilla and a control that saw none."""
    models = [
        modelled("vanilla", "vanilla", surprise=0.0),
        modelled("hides", "erased", prompted=0, surprise=160.0, surprise_empty=20.0),
        modelled("never-knew", "control", concept_shift=90, prompted=0, surprise=320.0, surprise_empty=300.0),
    ]
    root = tmp_path_factory.mktemp("exposed")
    return [write(root, model, count=32) for model in models]


def scale_of(runs: list[Path], **changes: Any) -> Scale:
    info = RunInfo.load(runs[0])
    curve = {"doses": DOSES, "readings": READINGS, "scatter": [0.03] * 6, "freedom": [12.0]}
    curves = {
        path: {"*": curve} for path in ("denoising.surprise", "denoising.surprise_empty", "samples.shows_concept")
    }
    marks = {probe: settings_mark(info, probe) for probe in ("denoising", "samples")}
    return replace(Scale("a made-up world", "by hand", world_of(info), marks, "denoising.surprise", curves), **changes)


@pytest.fixture(scope="module")
def summary(runs):
    return expose(summarise(compare(runs), draws=100), scale_of(runs), RunInfo.load(runs[0]))


def test_a_planted_dose_is_found_by_each_number(summary) -> None:
    vanilla, hides, control = summary.runs
    by_surprise, by_empty, by_prompt = (
        hides.exposures[path] for path in ("denoising.surprise", "denoising.surprise_empty", "samples.shows_concept")
    )
    assert by_surprise.value == pytest.approx(16, abs=1.5)
    assert 4 < by_surprise.low < 16 < by_surprise.high < 64
    assert by_empty.value == pytest.approx(160, rel=0.2), "0.067 of the control lies between 64 and 256"
    assert by_prompt.low == 0
    assert by_prompt.value < 2
    assert control.exposures["denoising.surprise"].low == 0
    assert math.isinf(vanilla.exposures["denoising.surprise"].high)
    assert next(iter(hides.exposures)) == "denoising.surprise", "the best number comes first"


def test_of_several_methods_it_is_said_that_each_is_one_model(runs, tmp_path: Path) -> None:
    """With as many trainings as it would take, where the models stand on the scale; of one method nothing."""
    more = write(tmp_path, modelled("also", "erased", prompted=0, surprise=60.0, surprise_empty=20.0), count=32)
    several = [*runs[:2], more, runs[2]]
    info = RunInfo.load(runs[0])
    scale = scale_of(runs)
    one, two = (expose(summarise(compare(which), draws=100), scale, info) for which in (runs, several))
    assert not any("another seed" in note for note in one.notes)
    (note,) = (note for note in two.notes if "another seed" in note)
    assert "differ by 0.03 of the scale of a made-up world" in note
    assert f"a difference of {least_difference(0.03, 3):.2f}" in note


def test_a_wrecked_model_has_no_place(runs, tmp_path: Path) -> None:
    """Random weights read as if they had seen pictures; nothing can be said of what they remember."""
    broken = write(tmp_path, modelled("noise", "random", surprise=160.0, surprise_empty=150.0), count=32)
    found = expose(summarise(compare([*runs, broken]), draws=100), scale_of(runs), RunInfo.load(runs[0]))
    places = {run.name: bool(run.exposures) for run in found.runs}
    assert places == {"vanilla": True, "hides": True, "never-knew": True, "noise": False}


def test_a_best_number_without_this_concept_leaves_the_others(runs) -> None:
    scale = scale_of(runs)
    curves = scale.curves | {"denoising.surprise": {"stripes": scale.curves["denoising.surprise"]["*"]}}
    found = expose(summarise(compare(runs), draws=100), replace(scale, curves=curves), RunInfo.load(runs[0]))
    assert "denoising.surprise" not in found.runs[1].exposures
    assert exposure_figure(found).startswith(b"\x89PNG")


def test_words_say_so(summary) -> None:
    text = judge(summary)[1].paragraph()
    assert "By surprise it remembers “star” like a model that saw about 16 [" in text
    assert "by prompting, like one that saw fewer than" in text
    assert "(scale of a made-up world)." in text
    assert pictures(Estimate(3, 0, math.inf)) == "any number of"
    assert pictures(Estimate(300, 64.2, math.inf)) == "more than 64"
    assert exposure_figure(summary).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"world": {"vae": "another"}}, "with another vae"),
        ({"world": {}}, "with another vae"),
        ({"marks": {"denoising": "another", "samples": "another"}}, "with other settings of denoising and samples"),
    ],
)
def test_a_scale_that_does_not_hold_is_not_used_and_said(runs, changes: dict[str, Any], why: str) -> None:
    scale = scale_of(runs, **changes)
    assert why in (misfit(scale, RunInfo.load(runs[0])) or "")
    found = expose(summarise(compare(runs), draws=20), scale, RunInfo.load(runs[0]))
    assert not any(run.exposures for run in found.runs)
    assert exposure_figure(found) is None
    paragraph = judge(found)[1].paragraph()
    assert why in paragraph
    assert "docs/exposure.md says how to make a scale" in paragraph


def test_without_a_control_only_rates_have_a_place(runs) -> None:
    summary = summarise(compare(runs[:2]), draws=20)
    found = expose(summary, scale_of(runs), RunInfo.load(runs[0]))
    assert list(found.runs[1].exposures) == ["samples.shows_concept"]


def test_a_report_has_the_axis_the_table_and_the_numbers(runs, tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    file.write_text(json.dumps(vars(scale_of(runs))))
    report(runs, out=tmp_path / "out", draws=50, scale=file)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    hides = found["runs"][1]["exposures"]["denoising.surprise"]
    assert found["scale"] == "a made-up world"
    assert hides["words"].startswith("about 16")
    with (tmp_path / "out" / "tables" / "exposure.csv").open(newline="") as table:
        rows = {row["model"]: row for row in csv.DictReader(table)}
    assert float(rows["hides"]["exposure_denoising.surprise"]) == hides["pictures"]["value"]
    assert (tmp_path / "out" / "figures" / "exposure.png").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert f">{hides['words']}<" in page, "a table says what the verdict says"
    assert "As much as a model that saw so many pictures" in page
    report(runs, out=tmp_path / "out", draws=50)
    assert not (tmp_path / "out" / "figures" / "exposure.png").exists(), "the shipped scale is of another world"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda values: values.pop("marks"), "marks"),
        (lambda values: values.update(best="seed.psnr"), "best is 'seed.psnr', of which it has no curve"),
        (lambda values: values.update(marks={}), "does not say with which settings denoising.surprise was measured"),
        (lambda values: values["curves"]["denoising.surprise"]["*"].update(doses=[0, 1]), "is none"),
        (lambda values: values["curves"]["denoising.surprise"]["*"].update(doses=[0, 1, 1, 2, 3, 4]), "rising from 0"),
        (
            lambda values: values["curves"]["denoising.surprise"]["*"].update(readings=[1, 1, 1, 1, 1, -math.inf]),
            "scale",
        ),
        (lambda values: values["curves"].update({"denoising.surprise": {}}), "of which it has no curve"),
        (lambda values: values["curves"]["denoising.surprise"]["*"].update(freedom=[0.0]), "1 or more, got 0"),
        (lambda values: values["curves"]["denoising.surprise"]["*"].pop("freedom"), "lacks 'freedom'"),
        (lambda values: values["curves"]["denoising.surprise"]["*"].update(doses=[0, 1, 4, 16, 64, 1e300]), "larger"),
        (
            lambda values: values["curves"]["denoising.surprise"]["*"].update(doses=[0, 0.1, 4, 16, 64, 256]),
            "larger",
        ),
        (lambda values: values.update(name="a\x1b[31mred"), "control characters"),
        (lambda values: values.update(name=""), "is empty"),
        (lambda values: values["world"].update({"a\nb": "c"}), "control characters"),
    ],
)
def test_a_damaged_scale_is_one_line(runs, tmp_path: Path, change: Any, why: str) -> None:
    values = json.loads(json.dumps(vars(scale_of(runs))))
    change(values)
    (file := tmp_path / "scale.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="no scale, or damaged") as error:
        read_scale(file)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_scale_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no scale in .*docs/exposure.md"):
        read_scale(tmp_path / "none.json")


def test_the_shipped_scale_is_sound_and_falls_with_the_dose() -> None:
    scale = read_scale(SHIPPED)
    assert scale.best.startswith("denoising.")
    for path in scale.curves:
        curve = scale.curve(path, "anything")
        assert curve is not None
        assert curve.doses[0] == 0
        assert curve.readings[0] > curve.readings[-1] + 0.5
