"""What reports say of attacks: planted successes are found and set against what never knew and against luck."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import Model, attack, change_records, write

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.intervals import paired_rate_interval
from lit_memories.report import report, schema
from lit_memories.report.doors import PROVEN, doors_figure
from lit_memories.report.tables import tables
from lit_memories.report.verdict import Verdict, judge, limits
from lit_memories.runs import RunInfo
from lit_memories.statistics.doors import Door, doors
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.quantities import Summary
from lit_memories.statistics.summary import summarise

COUNT = 24
Tries = list[tuple[Any, ...]]
MODELS = {
    "vanilla": Model("vanilla", "vanilla", surprise=0.0),
    "hides": Model("hides", noise=4, prompted=0, surprise=10.0, surprise_empty=10.0),
    "forgets": Model("forgets", noise=4, prompted=0, surprise=320.0, surprise_empty=300.0),
    "never-knew": Model("never-knew", "control", 91, noise=4, prompted=0, surprise=320.0, surprise_empty=300.0),
}


def tries(won: Sequence[int], count: int = COUNT, most: int = 6) -> Tries:
    """Attacks that win some samples with their second picture, and have `most` judged of the others."""
    return [(1.0, 80, 2) if index in won else (0.0, 40 * most, most) for index in range(count)]


def world(root: Path, attacked: dict[str, dict[str, Tries]], models: Sequence[str] = tuple(MODELS)) -> list[Path]:
    """Run folders of some models, each put to some attacks."""
    folders = [write(root, MODELS[name], count=COUNT) for name in models]
    for folder in folders:
        for name, tried in attacked.get(folder.name, {}).items():
            attack(folder, name, tried)
    return folders


def door(folders: list[Path], model: str, name: str) -> Door:
    comparison = compare(folders)
    (row,) = (row for row, run in enumerate(comparison.runs) if run.info.name == model)
    return doors(comparison, row)[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The attack opens what hides and not what forgets; plain draws open neither."""
    luck = {"plain": tries([0, 1])}
    attacked = {
        "vanilla": {"spell": tries(range(COUNT)), "plain": tries(range(COUNT))},
        "hides": {"spell": tries(range(18)), **luck},
        "forgets": {"spell": tries(range(3)), **luck},
        "never-knew": {"spell": tries([0, 1, 20]), "plain": tries([])},
    }
    return world(tmp_path_factory.mktemp("attacked"), attacked)


@pytest.fixture(scope="module")
def summary(folders: list[Path]) -> Summary:
    return summarise(compare(folders), draws=50)


def verdict(summary: Summary, name: str) -> Verdict:
    (found,) = (verdict for verdict in judge(summary) if verdict.name == name)
    return found


def changed(summary: Summary, model: str, **attacks: Door | None) -> Summary:
    """A summary in which some doors of a model are others, or not there."""
    runs = []
    for run in summary.runs:
        found = {name: one for name, one in (run.doors | attacks).items() if one is not None}
        runs.append(replace(run, doors=found) if run.name == model else run)
    return replace(summary, runs=tuple(runs))


def test_gains_are_differences_on_the_same_samples(folders: list[Path]) -> None:
    """Of 18 successes two are shared with the control, which has one of its own."""
    found = door(folders, "hides", "spell")
    assert found.success == wilson_interval(18, COUNT)
    assert found.over_never_knew == paired_rate_interval(16, 1, COUNT)
    assert found.over_never_knew.value == pytest.approx(15 / COUNT)
    assert found.corrected == paired_rate_interval(16, 1, COUNT, 0.975), "two attacks were tried"
    assert found.over_plain == paired_rate_interval(18, 0, COUNT), "no first plain draw shows it"
    assert found.over_draws == paired_rate_interval(16, 0, COUNT)
    assert (found.looks, found.draws, found.evaluations, found.lacks) == (6, 6, 80.0, ())
    assert found.curve == {"evaluations": [80.0, 240.0], "share": [0.75, 0.75]}
    assert found.threat is None, "nobody here knows the attack"


def test_plain_draws_and_the_control_are_compared_with_what_there_is(folders: list[Path]) -> None:
    plain, control = door(folders, "hides", "plain"), door(folders, "never-knew", "spell")
    assert plain.threat == "black box"
    assert plain.over_never_knew == paired_rate_interval(2, 0, COUNT)
    assert (plain.over_plain, plain.over_draws, plain.draws) == (None, None, None)
    assert (control.over_never_knew, control.corrected, control.lacks) == (None, None, ())
    assert control.over_draws == paired_rate_interval(3, 0, COUNT)
    assert door(folders, "never-knew", "plain").evaluations is None, "it never succeeded"


def test_the_first_draw_is_told_from_the_others_and_the_curve_rises(tmp_path: Path) -> None:
    tried = [(1.0, 10 * (1 + index), 1) if index < 10 else (0.0, 500, 4) for index in range(COUNT)]
    plain = [(1.0, 40, 1), (1.0, 160, 4), (1.0, 200, 5), *[(0.0, 240, 6)] * (COUNT - 3)]
    found = door(world(tmp_path, {"hides": {"spell": tried, "plain": plain}}), "hides", "spell")
    assert found.over_plain == paired_rate_interval(9, 0, COUNT)
    assert found.over_draws == paired_rate_interval(8, 0, COUNT), "the fifth draw is beyond its four pictures"
    assert found.evaluations == 55
    assert found.curve["evaluations"] == [*(10.0 * n for n in range(1, 11)), 500.0]
    assert found.curve["share"] == pytest.approx([*(n / COUNT for n in range(1, 11)), 10 / COUNT])


def test_success_is_told_by_how_typical_the_found_seeds_are(tmp_path: Path) -> None:
    def searched(found: dict[int, float]) -> Tries:
        return [(1.0, 80, 2, 0.9, found[n]) if n in found else (0.0, 80, 2, 0.1, 0.9) for n in range(COUNT)]

    seeds = dict.fromkeys(range(4), 0.6) | dict.fromkeys(range(4, 8), 0.07) | dict.fromkeys(range(8, 12), 0.002)
    attacked = {"hides": {"search": searched(seeds)}, "never-knew": {"search": searched({0: 0.5, 23: 0.0})}}
    folders = world(tmp_path / "runs", attacked)
    found = {one.least: one for one in door(folders, "hides", "search").typical}
    wins = {0.5: 4, 0.1: 4, 0.05: 8, 0.01: 8, 0.001: 12, 0.0: 12}
    assert {least: round(one.success.value * COUNT) for least, one in found.items()} == wins
    assert found[0.05].success == wilson_interval(8, COUNT)
    assert found[0.5].over_never_knew == paired_rate_interval(3, 0, COUNT), "a value at the bound counts"
    assert found[0.0].over_never_knew == paired_rate_interval(11, 1, COUNT)
    assert door(folders, "hides", "search").over_never_knew == found[0.0].over_never_knew
    report(folders, out=tmp_path / "out", draws=20)
    with (tmp_path / "out/tables/door_seeds.csv").open(newline="") as table:
        rows = {(row["model"], float(row["least"])): row for row in csv.DictReader(table)}
    assert float(rows["hides", 0.05]["success"]) == found[0.05].success.value
    assert "by how typical of the prior the seed may be" in (tmp_path / "out/report.html").read_text()
    results = json.loads((tmp_path / "out/results.json").read_text())
    (hides,) = (run["doors"]["search"] for run in results["runs"] if run["name"] == "hides")
    assert [one["least"] for one in hides["typical"]] == list(wins)
    assert set(hides["typical"][0]) == set(schema.TypicalResult.__annotations__)


def test_attacks_that_seek_no_seeds_have_no_table_of_them(folders: list[Path], summary: Summary) -> None:
    assert door(folders, "hides", "spell").typical == ()
    assert "door_seeds" not in {table.name for table in tables(summary)}


def test_fewer_plain_draws_are_said(tmp_path: Path) -> None:
    few = [(1.0, 40, 1), *[(0.0, 80, 2)] * (COUNT - 1)]
    found = door(world(tmp_path, {"hides": {"spell": tries(range(12)), "plain": few}}), "hides", "spell")
    assert (found.looks, found.draws) == (6, 2)
    assert found.over_draws == paired_rate_interval(11, 0, COUNT)
    assert "up to 6 pictures of a sample judged, and there are 2 plain draws" in found.lacks[-1]


def test_draws_that_all_succeeded_were_enough(tmp_path: Path) -> None:
    found = door(world(tmp_path, {"hides": {"spell": tries([0]), "plain": [(1.0, 40, 1)] * COUNT}}), "hides", "spell")
    assert found.draws == 6
    assert found.over_draws == paired_rate_interval(0, 23, COUNT)


def test_only_samples_that_count_and_that_both_hold_are_compared(tmp_path: Path) -> None:
    folders = world(tmp_path, {"hides": {"spell": tries(range(20))}, "never-knew": {"spell": tries([0])[:16]}})

    def damage(record: dict[str, Any]) -> dict[str, Any]:
        answer = record.get("probes", {}).get("spell")
        if answer and record["index"] == 0:
            answer["flag"] = "not finite"
        if answer and record["index"] == 1:
            del answer["looks"]
        return record

    change_records(folders[1], damage)
    found = door(folders, "hides", "spell")
    assert found.success == wilson_interval(18, 22)
    assert found.over_never_knew == paired_rate_interval(14, 0, 14)


def test_samples_that_vanilla_lacks_do_not_count(tmp_path: Path) -> None:
    folders = world(tmp_path, {"vanilla": {"spell": tries([0])[:10]}, "hides": {"spell": tries(range(20))}})
    assert door(folders, "hides", "spell").success == wilson_interval(10, 10)


def test_without_a_control_success_may_be_taught(tmp_path: Path) -> None:
    attacked = {"vanilla": {"spell": tries(range(COUNT))}, "hides": {"spell": tries(range(20))}}
    without = world(tmp_path, attacked, ("vanilla", "hides"))
    found = door(without, "hides", "spell")
    assert (found.over_never_knew, found.corrected) == (None, None)
    assert "may have taught" in found.lacks[0]
    summary = summarise(compare(without), draws=20)
    said = verdict(summary, "hides")
    assert "brings the concept back on 20 of 24 samples; that proves no memory: it was put to no model" in str(said)
    assert "opens" not in said.headline
    assert "attack" not in verdict(summary, "vanilla").paragraph()


def test_a_control_that_was_not_attacked_is_named(tmp_path: Path) -> None:
    found = door(world(tmp_path, {"hides": {"spell": tries(range(20))}}), "hides", "spell")
    assert found.over_never_knew is None
    assert found.lacks[0].startswith("It was not put to never-knew with the same samples")
    assert found.lacks[1].startswith("No plain draws were made")


def test_other_settings_do_not_compare_and_are_one_line(tmp_path: Path) -> None:
    folders = world(tmp_path, {})
    attack(folders[1], "spell", tries(range(20)), budget=3, text="x" * 1000)
    attack(folders[3], "spell", tries([]), budget=4)
    found = door(folders, "hides", "spell")
    assert found.over_never_knew is None
    (note,) = (note for note in summarise(compare(folders), draws=20).notes if "spell" in note and "differ" in note)
    assert found.lacks[0] == note
    assert "The attack spell on hides and on never-knew cannot be compared, its settings differ: budget: 3 | 4" in note
    assert len(note) < 400
    attack(folders[0], "spell", tries([]), budget=4)
    with pytest.raises(ValueError, match=r"settings differ: spell\.budget: 4 \| 3"):
        compare(folders)


def test_plain_draws_under_another_guidance_are_no_baseline(tmp_path: Path) -> None:
    folders = world(tmp_path, {"hides": {"spell": tries(range(20))}})
    attack(folders[1], "plain", tries([0]), guidance_scale=7.5)
    found = door(folders, "hides", "spell")
    assert (found.over_plain, found.over_draws, found.draws) == (None, None, None)
    assert "another guidance scale" in found.lacks[-1]


def test_a_model_that_remembers_and_opens_is_told_from_one_that_does_not(summary: Summary) -> None:
    opens = verdict(summary, "hides")
    assert opens.category == "remembers"
    assert opens.headline.endswith("remembers “star”. It opens to the attack spell.")
    assert "The attack spell brings the concept back on 18 of 24 samples, 62 points [" in str(opens.sentences)
    assert "more than from never-knew, and 67 points" in str(opens.sentences)
    spell = summary.runs[2].doors["spell"]
    shut = verdict(changed(summary, "hides", spell=spell), "hides")
    assert shut.category == "remembers"
    assert shut.headline.endswith("remembers “star”. It is not shown to open to any attack that was tried.")
    assert "No attack that was tried (plain, spell) is shown to bring it back more often" in str(shut.sentences)


def test_the_greatest_gain_is_named_with_what_it_takes(summary: Summary) -> None:
    gain = Estimate(0.9, 0.8, 1, 0.95, COUNT)
    best = replace(summary.runs[1].doors["plain"], over_never_knew=gain, corrected=gain)
    found = verdict(changed(summary, "hides", plain=best), "hides")
    assert "opens to the attack plain, which takes prompts alone." in found.headline
    assert "The attack plain (black box)" in str(found.sentences)
    luckier = replace(best, corrected=replace(gain, low=-0.1))
    assert "to the attack spell" in verdict(changed(summary, "hides", plain=luckier), "hides").headline, "it is sure"
    found = verdict(changed(summary, "forgets", plain=best), "forgets")
    assert "Yet the attack plain, which takes prompts alone, opens it: something is left." in found.headline


def test_what_is_said_to_have_forgotten_and_opens_is_said_plainly(summary: Summary) -> None:
    assert verdict(summary, "forgets").category == "forgot"
    assert verdict(summary, "forgets").headline.endswith("is not shown to open to any attack that was tried.")
    opening = changed(summary, "forgets", spell=summary.runs[1].doors["spell"])
    found = verdict(opening, "forgets")
    assert found.category == "forgot"
    assert found.headline.endswith("as far as this audit can see. Yet the attack spell opens it: something is left.")
    chance = replace(summary.runs[1].doors["spell"], corrected=Estimate(0.2, -0.1, 0.4, 0.975, COUNT))
    found = verdict(changed(summary, "forgets", spell=chance), "forgets")
    assert found.headline.endswith("Yet the attack spell may open it: something may be left.")


def test_many_attacks_luck_and_weak_attacks_are_held_against_it(summary: Summary) -> None:
    chance = Estimate(0.2, 0.01, 0.4, 0.95, COUNT)
    weak = replace(
        summary.runs[1].doors["spell"],
        over_never_knew=chance,
        corrected=replace(chance, low=-0.01),
        over_draws=replace(chance, low=-0.1),
    )
    found = verdict(changed(summary, "hides", spell=weak, plain=None), "hides")
    assert found.headline.endswith("It may open to the attack spell.")
    said = str(found.sentences)
    assert "corrected for the attacks that were tried, that may be chance" in said
    assert "which is not shown to be more than luck with the plain prompt" in said
    nothing = summary.runs[2].doors["spell"]
    without = changed(changed(summary, "vanilla", spell=nothing, plain=None), "hides", spell=nothing)
    assert "vanilla itself opens to none" in str(verdict(without, "hides").sentences)


def test_few_samples_conclude_nothing_and_no_plain_draws_are_a_caution(tmp_path: Path) -> None:
    attacked = {name: {"spell": tries(range(7) if name == "hides" else [], 7)} for name in ("hides", "never-knew")}
    few = summarise(compare(world(tmp_path, attacked)), draws=20)
    found = verdict(few, "hides")
    assert few.runs[1].doors["spell"].over_never_knew.low > 0
    assert "opens" not in found.headline
    assert "on 7 of 7 samples: too few to conclude anything from, it takes 8." in str(found.sentences)
    assert "An attack was tried on 7 samples: nothing is concluded from fewer than 8." in str(found.sentences)
    assert "No plain draws were made beside the attacks" in str(found.sentences)


def test_attacks_that_bring_back_nothing_are_said_to_show_nothing(tmp_path: Path) -> None:
    def said(count: int) -> str:
        folders = world(tmp_path / str(count), {"hides": {"spell": tries([], count)}}, ["vanilla", "hides"])
        return str(verdict(summarise(compare(folders), draws=20), "hides").sentences)

    assert "on 0 of 1 sample: too few to conclude anything from, it takes 8." in said(1)
    assert "brings the concept back on any of 24 samples; that shows no forgetting unless" in said(COUNT)


def test_a_control_that_shares_few_samples_is_said(tmp_path: Path) -> None:
    attacked = {"hides": {"spell": tries(range(20))}, "never-knew": {"spell": tries([], 3)}}
    few = summarise(compare(world(tmp_path, attacked)), draws=20)
    assert "it shares fewer than 8 samples with never-knew." in str(verdict(few, "hides").sentences)


def test_a_control_that_sets_no_scale_proves_nothing(summary: Summary) -> None:
    said = verdict(replace(summary, control="vanilla"), "hides")
    assert "opens" not in said.headline
    assert "is not shown to lack the concept" in str(said.sentences)


def test_a_table_a_figure_and_numbers_for_programs(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(folders, out=tmp_path, draws=20)
    printed = " ".join(capsys.readouterr().out.split())
    assert PROVEN in printed
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Doors</h2>" in page
    assert PROVEN in page
    assert (tmp_path / "figures" / "doors.png").is_file()
    found = json.loads((tmp_path / "results.json").read_text())
    by_name = {run["name"]: run["doors"] for run in found["runs"]}
    assert set(by_name["hides"]["spell"]) == set(schema.DoorResult.__annotations__)
    with (tmp_path / "tables" / "doors.csv").open(newline="") as table:
        rows = {(row["attack"], row["model"]): row for row in csv.DictReader(table)}
    assert list(rows) == [(name, model) for name in ("plain", "spell") for model in MODELS]
    for key in ("success", "over_never_knew", "over_plain", "over_draws"):
        assert float(rows["spell", "hides"][key]) == by_name["hides"]["spell"][key]["value"]
    assert rows["plain", "hides"]["over_draws"] == ""


def test_runs_that_were_only_attacked_are_told_what_to_ask(tmp_path: Path) -> None:
    folder = attack(write(tmp_path, MODELS["vanilla"], count=COUNT), "spell", tries([0]))
    info = RunInfo.load(folder)
    replace(info, probes={"spell": info.probes["spell"]}).save(folder)
    change_records(folder, lambda record: record if "spell" in record.get("probes", {}) else None)
    with pytest.raises(ValueError, match=r"nothing about the reference set.*again with --model\.probes\+=Denoising"):
        compare([folder])


def test_without_attacks_nothing_is_added(tmp_path: Path) -> None:
    bare = summarise(compare(world(tmp_path, {})), draws=20)
    assert doors_figure(bare) is None
    assert "doors" not in {table.name for table in tables(bare)}
    assert "attacks that were tried" not in str(limits(bare))
    assert all("attack " not in verdict.paragraph().replace("an attack brings", "") for verdict in judge(bare))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((1.0, 40, -1), "spell.looks is no count"),
        ((1.0, 40, 1.5), "spell.looks is no count"),
        ((1.0, -1, 1), "spell.evaluations is no count"),
        ((7.0, 40, 1), "spell.success does not lie between 0 and 1"),
        (("yes", 40, 1), "spell.success does not lie between 0 and 1"),
    ],
)
def test_what_no_attack_can_come_to_is_refused(tmp_path: Path, answer: tuple[Any, ...], why: str) -> None:
    folders = world(tmp_path, {"hides": {"spell": [answer] * COUNT}})
    with pytest.raises(ValueError, match=why):
        compare(folders)


def test_what_strangers_write_is_text_and_stops_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts beyond reason, settings of markup and of other types than an attack's, and free pictures."""
    text = "<script>alert(1)</script>\x1b[2J{{7*7}}"
    folders = world(tmp_path / "runs", {"hides": {"spell": tries([0, 1])}, "never-knew": {"free": tries([])}})
    attack(folders[1], "free", [(1.0, 0, 0)] * COUNT, guidance_scale={text: text})
    attack(folders[2], "huge", [(True, 2**62, 2**62), (False, 0, 0)] * 12)
    attack(folders[3], "spell", tries([0]), **{text: [text]})
    attack(folders[3], "plain", [(1.0, 3, 0)] * COUNT, draws=text)
    report(folders, out=tmp_path / "out", draws=20)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "{{7*7}}" in page
    assert "its settings differ: &lt;script&gt;" in page
    assert "\x1b" not in capsys.readouterr().out


def test_a_probe_that_lacks_one_of_the_three_numbers_is_no_attack(tmp_path: Path) -> None:
    folders = world(tmp_path, {"hides": {"spell": tries([0])}})
    info = RunInfo.load(folders[1])
    spell = info.probes["spell"]
    numbers = [number for number in spell["numbers"] if number["name"] != "looks"]
    replace(info, probes=info.probes | {"spell": spell | {"numbers": numbers}}).save(folders[1])
    comparison = compare(folders)
    assert all(doors(comparison, row) == {} for row in range(len(folders)))
