"""Verdicts that rest on surprise: planted amounts are found, graded, and told from damage and from cut words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import LEVELS, Model, altered, change_records, load_records, save_lines, write

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.report import report
from lit_memories.report.verdict import judge
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.summary import summarise


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """By surprise: an eraser that cuts the words, one that erases, the control, random weights; seeds say otherwise."""
    models = [
        Model("vanilla", "vanilla", surprise=0.0),
        Model("words", "erased", 91, -3, 8, prompted=0, surprise=40.0, surprise_empty=5.0),
        Model("relabel", "erased", 2, 0, 8, prompted=0, surprise=325.0, surprise_empty=300.0),
        Model("never-knew", "control", 91, -3, 8, prompted=0, surprise=320.0, surprise_empty=320.0),
        Model("random", "random", -400, 5900, 6, prompted=0, met=0, surprise=6000.0, surprise_empty=6000.0),
    ]
    root = tmp_path_factory.mktemp("surprised")
    return [write(root, model, count=32) for model in models]


@pytest.fixture(scope="module")
def summary(runs):
    return summarise(compare(runs), draws=100)


def test_planted_surprise_is_found_and_leads(summary) -> None:
    vanilla, words, relabel, control, _ = summary.runs
    assert summary.headline == "denoising.surprise"
    assert not summary.by_seeds
    assert vanilla.forgetting.value == 0
    assert words.forgetting.value == pytest.approx(40 + 3)
    assert relabel.fraction.value == pytest.approx(325 / 323)
    assert control.fraction.value == pytest.approx(1)
    assert words.numbers["denoising.surprise_empty"].forgetting.value == pytest.approx(5 + 3)
    assert words.change("denoising.gap", "concept").value == pytest.approx(-35)
    assert words.numbers["seed.nll"].fraction.value == pytest.approx(1), "the seeds' own forgetting stays beside it"


def test_the_verdict_is_that_of_surprise_and_names_the_seeds(summary) -> None:
    _, words, relabel, control, random = judge(summary)
    assert words.category == "remembers"
    assert "Pictures of the concept surprise it by 43.0 nats" in words.paragraph()
    assert "it cut the words rather than the pictures" in words.paragraph()
    assert "By the NLL of seeds, the paper's measure, forgetting is 94.0 nats" in words.paragraph()
    assert relabel.category == "forgot"
    assert "so it is not the words alone" in relabel.paragraph()
    assert "its surprise at concept images moved by 323.0 nats" in control.paragraph()
    assert "its surprise at concept images moved by 6000.0 nats" in random.paragraph()
    assert "guidance scale" not in words.paragraph(), "nothing was inverted for it"


def test_seeds_that_are_not_to_be_trusted_leave_the_verdict(summary) -> None:
    poor = replace(summary.runs[1].inverter, converged=Estimate(0.5, 0.4, 0.6))
    changed = replace(summary, runs=(summary.runs[0], replace(summary.runs[1], inverter=poor), *summary.runs[2:]))
    verdict = judge(changed)[1]
    assert verdict.category == "remembers"
    assert "its seeds are not to be trusted here" in verdict.paragraph()


@pytest.mark.parametrize(
    ("low", "high", "category"),
    [
        (0.03, 0.09, "remembers"),
        (0.36, 0.48, "partly forgot"),
        (0.69, 0.82, "mostly forgot"),
        (0.6, 1.1, "mostly forgot"),
        (0.8, 1.1, "forgot"),
        (1.2, 1.5, "forgot"),
        (-0.1, 0.6, "not shown to forget"),
        (-0.2, 1.2, "cannot tell"),
    ],
)
def test_degrees(summary, low: float, high: float, category: str) -> None:
    """A model at 0.4 does not read as one at 0.1 does."""
    run = altered(summary.runs[1], fraction=Estimate((low + high) / 2, low, high))
    changed = replace(summary, runs=(summary.runs[0], run, *summary.runs[2:]))
    assert judge(changed)[1].category == category


def test_exchanged_roles_set_no_scale_and_are_asked_after(tmp_path: Path) -> None:
    """The control was passed off as vanilla, vanilla as the control: an untouched model must not read as erased."""
    models = [
        Model("never-knew", "vanilla", surprise=320.0, surprise_empty=320.0),
        Model("vanilla", "control", noise=4, surprise=0.0),
        Model("untouched", "erased", noise=4, surprise=0.5),
    ]
    summary = summarise(compare([write(tmp_path, model, count=32) for model in models]), draws=50)
    assert not summary.calibrated
    verdicts = {verdict.name: verdict for verdict in judge(summary)}
    assert "was given as one that never saw" in verdicts["vanilla"].headline
    verdict = verdicts["untouched"]
    assert verdict.category != "forgot"
    assert "sets no scale: were the two exchanged?" in " ".join(verdict.limits)


def test_random_weights_passed_off_are_damaged_with_a_control_and_without(runs: list[Path]) -> None:
    for group in ([runs[0], runs[3], runs[4]], [runs[0], runs[4]]):
        comparison = compare(group)
        last = comparison.runs[-1]
        passed_off = replace(last, info=replace(last.info, role="erased"))
        from lit_memories.statistics.pairing import compare_runs

        found = judge(summarise(compare_runs([*comparison.runs[:-1], passed_off]), draws=50))
        assert next(verdict for verdict in found if verdict.name == "random").category == "damaged"


def test_the_page_shows_where_the_memory_sits(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report(runs, tmp_path, draws=20)
    results = json.loads((tmp_path / "results.json").read_text())
    words = results["runs"][1]
    assert words["profile"]["log_snr"] == list(LEVELS)
    assert words["profile"]["concept"] == pytest.approx([0, 40 / 6, 0, 0])
    assert results["runs"][0]["profile"]["concept"] == [0, 0, 0, 0]
    assert (tmp_path / "figures" / "profile.png").is_file()
    assert "Where the memory sits" in (tmp_path / "report.html").read_text()
    how = " ".join(capsys.readouterr().out.split())
    assert "Forgetting is how much more the concept's pictures surprise a model than vanilla" in how
    assert "a verdict holds for these pictures and prompts only." in how


def test_a_run_that_lacks_the_number_says_what_adds_it(tmp_path: Path) -> None:
    """Verdicts then rest on what all runs have."""
    runs = [
        write(tmp_path, Model("vanilla", "vanilla", surprise=0.0)),
        write(tmp_path, Model("ESD", "erased", 28, 17, 18)),
    ]
    comparison = compare(runs)
    assert comparison.headline == "seed.nll"
    (note,) = (note for note in comparison.notes if "denoising" in note)
    assert note.startswith("ESD: the probe denoising was not asked")
    assert f"--trainer.default_root_dir {runs[1]}" in note
    lines = load_records(runs[1])
    save_lines(runs[1], [line for line in lines if line["set"] not in ("concept", "reference")])
    change_records(runs[1], lambda r: r)
    with pytest.raises(ValueError, match=r"no records of the concept set|no number in common"):
        compare(runs)


def test_numbers_of_other_settings_are_not_compared(tmp_path: Path) -> None:
    from synthetic_runs import asked

    other = asked(denoising={"log_snr": [1.0, 2.0], "levels": 2})
    runs = [
        write(tmp_path, Model("vanilla", "vanilla", surprise=0.0)),
        write(tmp_path, Model("ESD", "erased", surprise=4.0, info={"probes": other})),
    ]
    with pytest.raises(ValueError, match=r"settings differ: denoising\.levels: None \| 2"):
        compare(runs)
