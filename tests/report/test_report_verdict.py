import re
from dataclasses import replace

import pytest
from synthetic_runs import Model, altered, write

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.report.verdict import judge, limits
from lit_memories.statistics import criteria
from lit_memories.statistics.criteria import categorise, prompt_state, samples_to_know
from lit_memories.statistics.pairing import Pairing, compare
from lit_memories.statistics.summary import summarise


@pytest.fixture(scope="module")
def summary(runs):
    return summarise(compare(runs), draws=200)


def made(summary, **changes):
    """A summary whose first erased run is changed, and its verdict."""
    run = altered(summary.runs[1], **changes)
    changed = replace(summary, runs=(summary.runs[0], run, *summary.runs[2:]))
    return changed, run, judge(changed)[1]


def interval(low, high, count=24):
    return Estimate((low + high) / 2, low, high, 0.95, count)


NAN = float("nan")


@pytest.mark.parametrize(
    ("low", "high", "category", "phrase"),
    [
        (0.02, 0.2, "remembers", "refuses the prompt and remembers “star”"),
        (-0.6, -0.1, "remembers", "the interval excludes"),
        (0.3, 0.6, "partly forgot", "partly forgot “star”"),
        (0.05, 1.3, "partly forgot", "at least partly forgot"),
        (0.8, 1.1, "forgot", "as far as this audit can see"),
        (1.2, 1.5, "forgot", "more than a model that never saw the concept"),
        (-0.2, 1.2, "cannot tell", "covers both vanilla (0) and the control (1)"),
        (-0.1, 0.6, "not shown to forget", "is not shown to forget"),
        (NAN, NAN, "cannot tell", "an interval the data cannot give"),
    ],
)
def test_categories(summary, low, high, category, phrase):
    _, _, verdict = made(summary, fraction=interval(low, high))
    assert verdict.category == category
    assert phrase in verdict.paragraph()


@pytest.mark.parametrize(
    ("rate", "state", "headline"),
    [
        (wilson_interval(1, 24), "refused", "refuses the prompt and remembers"),
        (wilson_interval(11, 24), "weakened", "answers the prompt less often, and remembers"),
        (wilson_interval(18, 24), "weakened", "answers the prompt less often, and remembers"),
        (wilson_interval(43, 50), "works", "is not erased: the prompt still works"),
        (wilson_interval(23, 24), "works", "is not erased: the prompt still works"),
        (wilson_interval(0, 3), "weakened", "answers the prompt less often, and remembers"),
        (wilson_interval(3, 3), "unknown", "ESD remembers"),
        (wilson_interval(1, 1), "unknown", "ESD remembers"),
        (None, "unknown", "ESD remembers"),
    ],
)
def test_prompt(summary, rate, state, headline):
    changed, run, verdict = made(summary, prompted=rate, fraction=interval(0, 0.1))
    assert prompt_state(run, changed.vanilla) == state
    assert headline in verdict.headline


def against(summary, hits, total, usual, total_usual):
    vanilla = altered(summary.vanilla, prompted=wilson_interval(usual, total_usual))
    return prompt_state(altered(summary.runs[1], prompted=wilson_interval(hits, total)), vanilla)


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ((3, 8, 8, 8), "weakened"),
        ((43, 50, 50, 50), "weakened"),
        ((50, 50, 43, 50), "works"),
        ((0, 2, 2, 2), "unknown"),
        ((2, 3, 3, 3), "unknown"),
        ((0, 48, 48, 48), "refused"),
        ((12, 12, 12, 12), "works"),
    ],
)
def test_what_few_samples_say_of_a_prompt(summary, counts, state):
    """A loss must be significant, and a working prompt be shown to work: three samples show neither."""
    assert against(summary, *counts) == state


def test_how_many_samples_would_do_is_said(summary):
    _, _, verdict = made(summary, prompted=wilson_interval(3, 3))
    (needed,) = re.findall(r"with (\d+) of either model it could be said", verdict.paragraph())
    assert against(summary, int(needed), int(needed), int(needed), int(needed)) == "works"
    assert against(summary, int(needed) - 1, int(needed) - 1, int(needed) - 1, int(needed) - 1) == "unknown"


@pytest.mark.parametrize(("hits", "usual"), [(4, 8), (5, 8), (5, 7), (4, 7), (6, 8)])
def test_more_samples_are_asked_for_than_there_are(summary, hits, usual):
    """Eight samples of each model that leave it open are not answered by four."""
    vanilla = altered(summary.vanilla, prompted=wilson_interval(usual, 8))
    run = altered(summary.runs[1], prompted=wilson_interval(hits, 8))
    needed = samples_to_know(run, vanilla)
    assert needed > 8
    assert against(summary, round(hits / 8 * needed), needed, round(usual / 8 * needed), needed) != "unknown"


@pytest.mark.parametrize(
    ("damage", "change", "damaged"),
    [
        (
            interval(-260, -240),
            interval(-1, -0.86),
            "prompts for other things fail and the seeds of other images",
        ),
        (interval(-260, -240), None, "the seeds of other images moved more than forgetting would move the concept's"),
        (interval(-2, 3), interval(-0.99, -0.8), "prompts for other things fail."),
        (interval(95, 200), interval(-0.1, 0.1), "the seeds of other images moved"),
        (interval(41, 89), interval(-0.14, 0.05), None),
        (interval(80, 120), interval(-0.3, -0.1), None),
    ],
)
@pytest.mark.parametrize("fraction", [interval(-0.04, 0.19), interval(0.8, 1.2), interval(NAN, NAN)])
def test_a_wrecked_model_is_damaged_and_remembers_nothing(summary, damage, change, damaged, fraction):
    _, _, verdict = made(summary, damage=damage, retained_change=change, fraction=fraction)
    assert (verdict.category == "damaged") == (damaged is not None)
    if damaged is not None:
        assert f"ESD is damaged: {damaged}" in verdict.headline
        assert "says nothing of a memory" in verdict.paragraph()
        assert not any(
            word in verdict.paragraph() for word in ("remembers “", "forgot “", "of what it is for the control")
        )


def test_without_a_control_damage_is_read_against_the_null(summary):
    without = uncalibrated(summary, None)
    wrecked, sound = (made(without, damage=interval(*ends))[2].category for ends in ((95, 100), (80, 100)))
    assert (wrecked, sound) == ("damaged", "not calibrated"), "four standard deviations of the null are 90.5 nats"


def test_what_was_not_measured_of_damage_is_said(summary):
    _, _, verdict = made(summary, retained_change=None)
    assert "whether prompts for other things are still met was not measured" in verdict.paragraph()


def test_a_control_that_is_wrecked_itself_sets_no_scale(summary):
    row = next(row for row, run in enumerate(summary.runs) if run.role == "control")
    wrecked = altered(summary.runs[row], damage=interval(-260, -240))
    changed = replace(summary, runs=(*summary.runs[:row], wrecked, *summary.runs[row + 1 :]))
    assert summary.calibrated
    assert not changed.calibrated
    assert judge(changed)[1].category == "not calibrated"
    assert (
        "The control never-knew differs from vanilla on reference images as much as on concept images"
        in judge(changed)[1].paragraph()
    )


def test_random_weights_under_another_role_are_damaged(tmp_path):
    """As the real ones read: E and R moved alike, so that their difference is small."""
    models = [Model("vanilla", "vanilla"), Model("control", "control", 91, -3, 12, prompted=0)]
    models += [Model("passed off", "erased", -236, -249, 10, prompted=0, met=0)]
    found = judge(summarise(compare([write(tmp_path, model, count=32) for model in models]), draws=50))[1]
    assert found.category == "damaged"


def test_prompt_that_vanilla_does_not_answer_says_little(summary):
    vanilla = altered(summary.vanilla, prompted=interval(0.1, 0.3))
    changed = replace(summary, runs=(vanilla, *summary.runs[1:]))
    assert prompt_state(changed.runs[1], vanilla) == "unknown"
    assert "that says little" in judge(changed)[1].paragraph()


def test_forgot_while_the_prompt_works_is_doubted(summary):
    _, _, verdict = made(summary, prompted=wilson_interval(24, 24), fraction=interval(0.9, 1.1))
    assert "Yet the prompt still works" in verdict.headline


def uncalibrated(summary, control):
    """Without a control or, with one, as if it were not told from vanilla."""
    unknown = None if control is None else interval(NAN, NAN)
    runs = tuple(altered(run, fraction=unknown) for run in summary.runs)
    runs = tuple(altered(run, forgetting=interval(-9, 9)) if run.name == control else run for run in runs)
    return replace(summary, control=control, runs=runs)


@pytest.mark.parametrize(
    ("forgetting", "headline"),
    [(interval(5, 9), "is not calibrated"), (interval(-2, 2), "ESD is not distinguishable from vanilla")],
)
def test_without_control_says_what_to_run(summary, forgetting, headline):
    _, run, verdict = made(uncalibrated(summary, None), forgetting=forgetting)
    assert verdict.category == "not calibrated"
    assert headline in verdict.headline
    assert "lit-memories predict --config RECIPE --model.diffusion.base MODEL --model.role" in verdict.paragraph()
    assert categorise(uncalibrated(summary, None), run) == "not calibrated"


@pytest.mark.parametrize(
    ("base", "concept", "recipe"),
    [
        ("checkpoints/pictograms", "umbrella", "recipes/pictograms/audit/umbrella.yaml"),
        ("checkpoints/pictograms", "striped", "recipes/pictograms/audit/striped.yaml"),
        ("CompVis/stable-diffusion-v1-4", "church", "recipes/sd14/audit/concept.yaml"),
        ("checkpoints/pictograms", "church", "RECIPE"),
    ],
)
def test_a_hint_names_the_recipe_of_the_runs_own_world(summary, base, concept, recipe):
    found = replace(uncalibrated(summary, None), base=base, concept_name=concept)
    assert f"lit-memories predict --config {recipe} --model.diffusion.base MODEL" in limits(found)[0]


def test_of_how_many_images_there_are_seeds_is_said(summary):
    assert not any("Numbers of seeds rest" in sentence for sentence in limits(summary))
    run = replace(summary.runs[1], pairing={"concept": Pairing(24, 40), "reference": Pairing(24, 0)})
    (said,) = (s for s in limits(replace(summary, runs=(summary.runs[0], run))) if s.startswith("Numbers of seeds"))
    assert said == "Numbers of seeds rest on 24 of 64 images of the concept: no more were inverted, or count."


def test_control_without_effect_is_said(summary):
    found = judge(uncalibrated(summary, "never-knew"))
    assert "never-knew itself is not distinguishable from vanilla" in found[1].paragraph()
    assert "never-knew itself is not distinguishable from vanilla" in found[3].paragraph()


@pytest.mark.parametrize("who", [1, 3])
def test_bias_of_run_or_control_makes_it_untrustworthy(summary, who):
    inverter = replace(summary.runs[who].inverter, nll_bias=interval(40, 42))
    runs = [replace(run, inverter=inverter) if row == who else run for row, run in enumerate(summary.runs)]
    changed = replace(summary, runs=tuple(runs))
    verdict = judge(changed)[1]
    assert verdict.category == "not trustworthy"
    assert "differs between models by 40.5 nats" in verdict.paragraph()


def test_bias_of_the_size_of_a_small_movement_is_mentioned(summary):
    inverter = replace(summary.runs[1].inverter, nll_bias=interval(4, 6))
    _, _, verdict = made(summary, inverter=inverter)
    assert verdict.category == "remembers"
    assert "this model's own movement is of that size" in verdict.paragraph()


def test_unconverged_inversions(summary):
    inverter = replace(summary.runs[1].inverter, converged=interval(0.4, 0.6))
    _, _, verdict = made(summary, inverter=inverter)
    assert verdict.category == "not trustworthy"
    assert "Only 50 % of the inversions converged" in verdict.paragraph()


def test_no_known_seeds_is_said(summary):
    _, _, verdict = made(summary, inverter=replace(summary.runs[1].inverter, nll_bias=None))
    assert "not checked on known seeds" in verdict.paragraph()


@pytest.mark.parametrize(
    ("count", "category", "phrase"),
    [(7, "cannot tell", "With 7 images in a set no conclusion"), (12, "remembers", "only 12 images in a set")],
)
def test_small_sets(summary, count, category, phrase):
    _, _, verdict = made(summary, count=count)
    assert verdict.category == category
    assert phrase in verdict.paragraph()


@pytest.mark.parametrize(
    ("damage", "change", "phrases"),
    [
        (interval(-2, 3), interval(-0.1, 0.1), ["did not measurably move", "no change in how well"]),
        (interval(1, 5), interval(-0.5, -0.2), ["moved slightly", "met less often: −35 points [−50, −20]"]),
        (interval(15, 25), interval(0.1, 0.3), ["moved a lot", "met more often"]),
        (interval(-25, -15), None, ["moved a lot, by −20.0 nats [−25.0, −15.0]"]),
    ],
)
def test_damage(summary, damage, change, phrases):
    _, _, verdict = made(summary, damage=damage, retained_change=change)
    assert all(phrase in verdict.paragraph() for phrase in phrases)


@pytest.mark.parametrize(
    ("forgetting", "phrase"),
    [(interval(2, 9), "is distinguishable from no change"), (interval(-2, 9), "may be no change at all")],
)
def test_forgetting_against_vanilla(summary, forgetting, phrase):
    assert phrase in made(summary, forgetting=forgetting)[2].paragraph()


def test_psnr_says_nothing_unless_models_differ(summary):
    verdicts = judge(summary)
    assert "PSNR says nothing here: it is about 30.0 dB for every model, the one with random" in verdicts[1].paragraph()
    assert "a high PSNR is no evidence of memory" in verdicts[-1].paragraph()
    changed, _, verdict = made(summary, psnr=interval(20, 22))
    assert "PSNR" not in verdict.paragraph()
    assert "PSNR" not in judge(changed)[-1].paragraph()


def test_rows_by_construction(summary):
    verdicts = {verdict.name: verdict for verdict in judge(summary)}
    assert "0 by construction" in verdicts["vanilla"].paragraph()
    assert "fraction is 1 by construction" in verdicts["never-knew"].paragraph()
    assert "random weights" in verdicts["random"].headline
    assert {verdicts[name].category for name in ("vanilla", "never-knew", "random")} == {"by construction"}


def test_every_verdict_of_an_erased_model_names_its_limits(summary):
    for verdict in judge(summary)[1:3]:
        assert "at guidance scale 1, with the inverter FixedPoint" in verdict.limits[-1]


def test_calibration_experiment(summary):
    """facts of the calibration run: ESD hides, relabelling erases."""
    assert [verdict.category for verdict in judge(summary)[1:3]] == ["remembers", "forgot"]


def test_eraser_that_does_nothing_is_caught(summary):
    same = summary.vanilla
    _, _, verdict = made(summary, numbers=same.numbers)
    assert verdict.category == "remembers"
    assert "check that the erasure was applied at all" in verdict.paragraph()


def test_thresholds_are_ordered():
    assert 0 < criteria.REMEMBERS_BELOW < criteria.FORGOT_ABOVE < 1
    assert criteria.TOO_FEW < criteria.FEW
