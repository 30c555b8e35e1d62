"""Savings in a verdict: one less the fraction of the course, where a control gives one."""

import math
from dataclasses import replace

import pytest
from synthetic_runs import Model, write

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.numbers import paths
from lit_memories.probes import PROBES
from lit_memories.report.relearning import relearning_sentences
from lit_memories.report.verdict import judge
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.quantities import NumberStatistics, Summary
from lit_memories.statistics.summary import summarise

PATH = "relearning.area"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    root = tmp_path_factory.mktemp("relearnt")
    models = [
        Model("vanilla", "vanilla", surprise=0.0),
        Model("hides", "erased", noise=4, prompted=0, surprise=300.0, surprise_empty=300.0),
        Model("never-knew", "control", 91, noise=4, prompted=0, surprise=320.0, surprise_empty=300.0),
    ]
    return summarise(compare([write(root, model, count=32) for model in models]), draws=50)


def taught(summary: Summary, fraction: Estimate | None, settings: dict[str, object]) -> Summary:
    probe = PROBES["relearning"].asked(settings)
    found = NumberStatistics(paths([probe])[PATH], {}, fraction=fraction)
    runs = [
        replace(run, numbers=run.numbers | {PATH: found}, asked=run.asked | {"relearning": probe})
        if run.name == "hides"
        else run
        for run in summary.runs
    ]
    return replace(summary, runs=tuple(runs))


def test_a_verdict_says_what_is_saved(summary: Summary) -> None:
    found = taught(summary, Estimate(0.67, 0.49, 0.84), {"lesson": 8})
    (verdict,) = (verdict for verdict in judge(found) if verdict.name == "hides")
    assert "Taught 8 pictures of it again, it saves 0.33 [0.16, 0.51] of what a model that never saw" in str(
        verdict.sentences
    )
    assert not any("Taught" in sentence for sentence in judge(summary)[1].sentences)


@pytest.mark.parametrize("fraction", [None, Estimate(math.nan, math.nan, math.nan)])
def test_without_a_scale_nothing_is_said(summary: Summary, fraction: Estimate | None) -> None:
    found = taught(summary, fraction, {"lesson": 8})
    assert all(relearning_sentences(run) == [] for run in found.runs)


def test_settings_that_anybody_wrote_are_not_trusted(summary: Summary) -> None:
    found = taught(summary, Estimate(0.0, -0.1, 0.1), {"lesson": "<b>"})
    (text,) = (text for run in found.runs for text in relearning_sentences(run))
    assert text.startswith("Taught pictures of it again, it saves 1.00 [0.90, 1.10]")
