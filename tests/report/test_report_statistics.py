import math

import numpy as np
import pytest
from synthetic_runs import Model, change_records, load_records, save_lines, world, write

from lit_memories.metrics import permutation
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.summary import summarise


@pytest.fixture(scope="module")
def summary(runs):
    return summarise(compare(runs), draws=400)


def by_name(summary, name):
    return next(run for run in summary.runs if run.name == name)


@pytest.mark.parametrize(
    ("name", "forgetting", "damage"), [("ESD", 11, 17), ("relabel", 100.5, 2.5), ("never-knew", 94, -3)]
)
def test_planted_shifts_are_found(summary, name, forgetting, damage):
    run = by_name(summary, name)
    assert run.forgetting.value == pytest.approx(forgetting)
    assert run.damage.value == pytest.approx(damage)
    assert run.fraction.value == pytest.approx(forgetting / 94)
    assert run.fraction.low < forgetting / 94 < run.fraction.high or name == "never-knew"
    assert run.forgetting.low < forgetting < run.forgetting.high
    assert run.change("seed.nll", "concept").value - run.change("seed.nll", "reference").value == pytest.approx(
        forgetting
    )


def test_vanilla_is_exactly_zero_and_control_exactly_one(summary):
    vanilla, control = summary.vanilla, by_name(summary, "never-knew")
    for estimate in (vanilla.forgetting, vanilla.damage, vanilla.fraction):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert (control.fraction.value, control.fraction.low, control.fraction.high) == pytest.approx((1, 1, 1))


def test_pairing_narrows_the_interval(runs):
    """Images differ far more from one another than models do on one image: unpaired, the interval would be wider."""
    run = by_name(summarise(compare(runs), draws=400), "never-knew")
    rng = np.random.default_rng(0)
    values = [
        np.array([r.number("seed.nll") for r in compare(runs).used(row, "concept", "seed.nll")]) for row in (0, 3)
    ]
    unpaired = [np.diff([rng.choice(v, len(v)).mean() for v in values])[0] for _ in range(400)]
    shift = run.change("seed.nll", "concept")
    assert shift.high - shift.low < 0.8 * np.ptp(np.quantile(unpaired, [0.025, 0.975]))


def test_all_tests_of_as_many_images_share_what_is_drawn(runs, monkeypatch, summary):
    """However many runs and numbers: relabellings take the time of a report, and are drawn once."""
    drawn, draw = [], permutation._draw
    monkeypatch.setattr(permutation, "_draw", lambda groups, *chance: drawn.append(groups) or draw(groups, *chance))
    assert summarise(compare(runs), draws=400) == summary
    assert [len(groups[0].columns) for groups in drawn] == [24 + 24]
    assert sum(len(group.extreme) for group in drawn[0]) == len(runs)


def test_missing_control_leaves_no_fraction(runs):
    without = [run for run in runs if run.name != "never-knew"]
    found = summarise(compare(without), draws=50)
    assert found.control is None
    assert all(run.fraction is None for run in found.runs)


def test_control_like_vanilla_sets_no_scale(tmp_path):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("bad", "control", noise=10))]
    found = summarise(compare(runs), draws=200)
    assert found.control == "bad"
    assert not found.calibrated
    assert all(math.isnan(run.fraction.low) and math.isnan(run.fraction.high) for run in found.runs)
    assert found.runs[1].leading.resolution.goal == 5


def test_order_of_runs_changes_nothing(runs, summary):
    assert summarise(compare(runs[::-1]), draws=400) == summarise(compare(runs[::-1]), draws=400)
    assert by_name(summarise(compare(runs[::-1]), draws=400), "ESD") == by_name(summary, "ESD")


def test_rates(summary):
    esd = by_name(summary, "ESD")
    assert esd.prompted.value == pytest.approx(1 / 24)
    assert esd.retained.value == pytest.approx(14 / 24)
    assert esd.retained_by_factor["object"].value == 1
    assert esd.retained_by_factor["colour"].value == pytest.approx(14 / 24)
    assert esd.retained_change.value == pytest.approx(-10 / 24)
    assert esd.retained_change.high < 0
    assert esd.value("seed.shows_concept", "concept").value == 1
    assert esd.value("seed.shows_concept", "reference").value == 0


def test_inverter(summary):
    inverter = summary.vanilla.inverter
    assert inverter.known == 6
    assert inverter.nll_bias.value == pytest.approx(0.5)
    assert inverter.worst_bias == pytest.approx(0.6)
    assert inverter.seed_error.value == pytest.approx(0.01)
    assert inverter.worst_residual == pytest.approx(2e-4)
    assert inverter.converged.value == 1
    assert inverter.evaluations.value == 120


def test_null_and_settings(summary):
    assert summary.null_mean == pytest.approx(1453.0, abs=0.1)
    nll = summary.vanilla.value("seed.nll", "concept")
    assert summary.vanilla.paper.z_concept.value == pytest.approx((nll.value - summary.null_mean) / summary.null_sd)
    assert summary.guidance_scale == 1
    assert summary.inverter == "FixedPoint"


def test_flags_are_counted_and_excluded(tmp_path):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("ESD", concept_shift=10))]

    def change(record):
        if record["key"] == "concept5":
            record |= {"nll": 1e6, "flag": "diverged", "converged": False}
        return record

    change_records(runs[1], change)
    run = by_name(summarise(compare(runs), draws=50), "ESD")
    assert run.flags == {"seed: diverged": 1}
    assert run.used["concept"] == run.leading.sets["concept"].count == 23
    assert run.records["concept"] == 24
    assert run.change("seed.nll", "concept").value == pytest.approx(10)
    assert run.inverter.converged.value == pytest.approx(53 / 54)


def test_one_image_has_no_interval(tmp_path):
    runs = [write(tmp_path, Model(name, role), count=1) for name, role in (("v", "vanilla"), ("e", "erased"))]
    run = summarise(compare(runs), draws=50).runs[1]
    assert np.isnan(run.forgetting.low)


def test_audit_without_known_and_sampled_sets(tmp_path):
    runs = [write(tmp_path, Model(name, role)) for name, role in (("v", "vanilla"), ("e", "erased"))]
    for folder in runs:
        change_records(folder, lambda record: record if record["set"] in ("concept", "reference") else None)
    run = summarise(compare(runs), draws=50).runs[1]
    assert run.prompted is run.retained is run.retained_change is run.inverter.nll_bias is None


def changed(run, **numbers):
    """Change the first six records of E and of R in a run."""

    def change(record):
        touched = record["set"] in ("concept", "reference") and record["index"] < 6
        return record | numbers if touched else record

    change_records(run, change)


@pytest.mark.parametrize("level", ["statistics", "conditionings"])
def test_another_erased_run_changes_no_number_of_this_one(tmp_path, level):
    """Its flagged images are its own affair; flags of vanilla and the control are everybody's."""
    runs = world(tmp_path)
    if level == "conditionings":
        for run in runs:
            extra = [
                record | {"key": f"{record['key']}/empty", "conditioning": "empty"}
                for record in load_records(run)
                if record["set"] in ("concept", "reference") and run.name != "relabel"
            ]
            save_lines(run, load_records(run) + extra)
    changed(next(run for run in runs if run.name == "relabel"), flag="diverged")
    others = [run for run in runs if run.name != "relabel"]
    alone, beside = (summarise(compare(group), draws=100) for group in (others, runs))
    for run in alone.runs:
        assert by_name(beside, run.name) == run
        assert run.leading.sets["concept"].count == 24
    flagged = by_name(beside, "relabel")
    assert (flagged.leading.sets["concept"].count, flagged.pairing["concept"].left_out) == (18, 6)
    assert flagged.fraction.count == 36


def test_images_that_the_control_lacks_leave_the_fraction_only(tmp_path):
    runs = world(tmp_path)
    before = by_name(summarise(compare(runs), draws=100), "ESD")
    changed(next(run for run in runs if run.name == "never-knew"), flag="diverged")
    after = by_name(summarise(compare(runs), draws=100), "ESD")
    assert (after.forgetting, after.damage, after.leading.sets) == (
        before.forgetting,
        before.damage,
        before.leading.sets,
    )
    assert (before.fraction.count, after.fraction.count) == (48, 36)


def test_no_change_of_retained_prompts_has_an_interval(tmp_path):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("ESD"))]
    change = summarise(compare(runs), draws=50).runs[1].retained_change
    assert (change.low, change.value, change.high) == pytest.approx((-0.138, 0, 0.138), abs=1e-3)
