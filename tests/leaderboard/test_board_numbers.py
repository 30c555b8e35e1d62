"""A leaderboard's numbers: those of the report, with the ranks that planted differences leave."""

import json
import re
import types
import typing
from itertools import combinations
from pathlib import Path

import pytest
import torch
from board_runs import COUNT, MODELS, Made, describe, modelled, world, write

from lit_memories.leaderboard import schema
from lit_memories.leaderboard.board import Board, base_of, method_of
from lit_memories.leaderboard.columns import Table
from lit_memories.leaderboard.groups import grouped
from lit_memories.metrics.intervals import mean_interval, paired_rate_interval
from lit_memories.report.schema import EstimateResult
from lit_memories.runs import Run, read_run
from lit_memories.statistics.doors import best_gain
from lit_memories.statistics.pairing import Comparison
from lit_memories.statistics.ranking import damage_size, forgetting_difference, rate_difference

DOC = Path(__file__).parents[2] / "docs" / "leaderboard.md"


@pytest.fixture(scope="module")
def found(made: Made) -> schema.LeaderboardResult:
    return json.loads((made.out / "leaderboard.json").read_text())


def ranks(found: schema.LeaderboardResult, key: str) -> dict[str, list[int] | None]:
    return {row["name"]: row["numbers"][key]["ranks"] for row in found["boards"][0]["rows"] if key in row["numbers"]}


def test_rows_are_erased_models_by_name_and_references_stand_apart(found) -> None:
    (board,) = found["boards"]
    assert [row["name"] for row in board["rows"]] == ["also-hides", "Forgets", "hides", "wrecks"]
    assert [row["name"] for row in board["references"]] == ["vanilla", "never-knew"]
    assert (board["vanilla"], board["control"], board["concept"]) == ("vanilla", "never-knew", "star")
    assert [column["key"] for column in board["columns"]] == [
        "prompted", "retained", "forgetting", "fraction", "seeds", "damage", "gain", "savings", "exposure"
    ]  # fmt: skip
    assert [row["method"] for row in board["rows"]] == ["SPM", "UCE", "ESD", "whole model"]
    assert not any(cell["ranks"] for row in board["references"] for cell in row["numbers"].values())


def test_what_is_alike_shares_ranks_and_what_is_not_is_told(found) -> None:
    told = {"hides": [2, 3], "also-hides": [2, 3], "Forgets": [1, 1], "wrecks": None}
    assert ranks(found, "forgetting") == ranks(found, "fraction") == told, "the control's share of both is the same"
    assert ranks(found, "savings") == {"hides": [2, 3], "also-hides": [2, 3], "Forgets": [1, 1], "wrecks": None}
    assert ranks(found, "damage") == {"hides": [1, 2], "also-hides": [1, 2], "Forgets": [3, 3], "wrecks": [4, 4]}
    assert ranks(found, "gain")["hides"] == [3, 3]
    assert ranks(found, "retained")["wrecks"] == [4, 4]
    assert set(ranks(found, "exposure").values()) == {None}
    compared = {column["key"]: column["compared"] for column in found["boards"][0]["columns"]}
    assert (compared["prompted"], compared["fraction"], compared["exposure"]) == (6, 3, 0)


def test_numbers_are_those_of_the_report(found, table: Board) -> None:
    runs = {run.name: run for run in table.level.summary.runs}
    for row in found["boards"][0]["rows"]:
        run = runs[row["name"]]
        for key in ("prompted", "retained", "forgetting", "damage"):
            number, own = row["numbers"][key]["number"], getattr(run, key)
            assert (number["value"], number["low"], number["high"]) == (own.value, own.low, own.high)
        assert row["numbers"]["fraction"]["number"]["value"] == run.fraction.value
        assert row["numbers"]["seeds"]["number"]["value"] == run.numbers["seed.nll"].fraction.value
        assert row["numbers"]["savings"]["number"]["low"] == 1 - run.numbers["relearning.area"].fraction.high
    assert runs["hides"].doors["spell"].over_never_knew.value == pytest.approx(19 / COUNT)


def test_the_best_of_two_attacks_pays_for_the_choice(found, table: Board) -> None:
    row = next(row for row, run in enumerate(table.level.summary.runs) if run.name == "hides")
    gain = next(model for model in found["boards"][0]["rows"] if model["name"] == "hides")["numbers"]["gain"]["number"]
    one = table.level.summary.runs[row].doors["spell"]
    assert gain["value"] == one.over_never_knew.value
    assert gain["low"] == one.corrected.low < one.over_never_knew.low
    assert best_gain(table.level.comparison, row, [], 0.95) is None


def conforms(value, kind, where="leaderboard"):
    """Check a JSON value against TypedDicts, exactly: no key more, no key less."""
    if isinstance(kind, types.UnionType):
        if value is not None:
            conforms(value, typing.get_args(kind)[0], where)
    elif typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        assert set(value) == set(hints), where
        for name, hint in hints.items():
            conforms(value[name], hint, f"{where}.{name}")
    elif typing.get_origin(kind) is list:
        for item in value:
            conforms(item, typing.get_args(kind)[0], where)
    elif typing.get_origin(kind) is dict:
        for item in value.values():
            conforms(item, typing.get_args(kind)[1], where)
    elif kind is not typing.Any:
        assert isinstance(value, (int, float) if kind is float else kind), f"{where} is {value!r}"


def test_the_file_is_of_its_schema_and_every_field_is_documented(found) -> None:
    conforms(found, schema.LeaderboardResult)
    assert found["schema"] == schema.LEADERBOARD_SCHEMA
    documented = set(re.findall(r"`(\w+)`", DOC.read_text()))
    kinds = [kind for kind in vars(schema).values() if typing.is_typeddict(kind) and kind is not EstimateResult]
    assert {name for kind in kinds for name in kind.__annotations__} <= documented
    assert {column["key"] for column in found["boards"][0]["columns"]} <= documented


# --- differences -----------------------------------------------------------------------------------------------------


def by_key(run: Run, name: str, probe: str, number: str) -> dict[str, float]:
    return {r.key: r.probes[probe][number] for r in run.records if r.set == name and number in r.probes.get(probe, {})}


def test_differences_are_paired_by_sample(table: Board) -> None:
    """Against a reference by hand; the pairs of a row with itself differ by nothing."""
    comparison, level = table.level.comparison, 0.99
    for one, other in combinations(range(2, 5), 2):
        values = {}
        for name in ("concept", "reference"):
            own, others = (
                by_key(comparison.runs[row], name, "denoising", "surprise") for row in (one, other)
            )  # fmt: skip
            values[name] = torch.tensor([own[key] - others[key] for key in own], dtype=torch.float64)
        expected = mean_interval(values["concept"], values["reference"], level)
        found = forgetting_difference(comparison, one, other, "denoising.surprise", 1, level)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        back = forgetting_difference(comparison, other, one, "denoising.surprise", 1, level)
        assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
        own, others = (by_key(comparison.runs[row], "prompted", "samples", "shows_concept") for row in (one, other))
        gained = sum(own[key] > others[key] for key in own)
        lost = sum(own[key] < others[key] for key in own)
        rate = rate_difference(comparison, one, other, "prompted", "samples.shows_concept", level)
        assert rate == paired_rate_interval(gained, lost, COUNT, level)
    itself = forgetting_difference(comparison, 2, 2, "denoising.surprise", 1, level)
    assert itself.low == itself.high == 0


def test_a_falling_number_is_turned_and_damage_has_no_sign(table: Board) -> None:
    comparison = table.level.comparison
    up, down = (forgetting_difference(comparison, 2, 3, "denoising.surprise", sign, 0.95) for sign in (1, -1))
    assert (up.low, up.high) == pytest.approx((-down.high, -down.low))
    names = [run.info.name for run in comparison.runs]
    found = {name: damage_size(comparison, names.index(name), "denoising.surprise", 0.95) for name in names}
    assert found["also-hides"].value == pytest.approx(1.5)
    assert found["also-hides"].low == 0 < found["also-hides"].high
    assert found["Forgets"].low > 0


def test_who_holds_no_sample_in_common_is_told_nothing(table: Board) -> None:
    comparison = table.level.comparison
    assert rate_difference(comparison, 2, 3, "unprompted", "samples.shows_concept", 0.95) is None
    assert forgetting_difference(comparison, 2, 3, "likelihood.bound", 1, 0.95) is None


def test_sizes_and_signs_of_a_table(table: Board) -> None:
    one = Table(table.level.comparison, table.level.summary)
    assert one.sign("denoising.surprise") == 1
    assert one.sign("seed.psnr") in (1, -1)
    assert one.run(0).role == "vanilla"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_concepts_and_worlds_have_tables_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    """Of another architecture, the same concept is another table; by what its vanilla is, not by what it is called."""
    info = {"concept": "moon"}
    other = [modelled(f"{name}-m", role, surprise=0.0, info=info) for name, role in (("v", "vanilla"), ("e", "erased"))]
    flow = [modelled(f"{name}-f", role, surprise=0.0) for name, role in (("v", "vanilla"), ("e", "erased"))]
    folders = [write(tmp_path, model, count=8) for model in (*other, *flow)]
    for folder in folders[2:]:
        describe(folder, configuration={"transformer": "t"})
    found = grouped([read_run(folder) for folder in (*folders, *runs)])
    assert [(one.runs[0].info.concept, one.runs[0].info.name) for one in found] == [
        ("moon", "v-m"), ("star", "v-f"), ("star", "vanilla")
    ]  # fmt: skip
    assert [sum(run.info.role == "erased" for run in one.runs) for one in found] == [1, 1, 4]


def test_an_adapters_gate_is_no_other_world(tmp_path: Path) -> None:
    folders = world(tmp_path, MODELS[:3])
    erased = next(folder for folder in folders if read_run(folder).info.role == "erased")
    describe(erased, configuration={"gate": "g"})
    (found,) = grouped([read_run(folder) for folder in folders])
    assert [run.info.role for run in found.runs].count("erased") == 1


def test_a_reference_that_several_folders_hold_counts_once(runs: list[Path], tmp_path: Path) -> None:
    """As reports made by `lit-memories audit` each have a vanilla run; the one that was asked more is kept."""
    again = world(tmp_path, MODELS[:2])
    bare = write(tmp_path / "bare", modelled("vanilla", "vanilla", noise=0.0, surprise=0.0), count=COUNT)
    (found,) = grouped([read_run(folder) for folder in (bare, *again, *runs)])
    assert isinstance(found, Comparison)
    assert [run.info.role for run in found.runs].count("vanilla") == 1
    assert "spell" in found.runs[0].info.probes
    assert [run.info.role for run in found.runs].count("control") == 1


@pytest.mark.parametrize(
    ("model", "method", "base"),
    [
        ({"base": "b"}, "whole model", "b"),
        ({"base": "b", "erasure": {"method": "ESD", "base": "c"}}, "ESD", "c"),
        ({"base": "b", "guard": {"name": "SLD"}, "erasure": None}, "SLD", "b"),
        ({"base": "b", "guard": {"name": "SLD"}, "erasure": {"method": "UCE", "base": "c"}}, "UCE + SLD", "c"),
        ({"base": ["x\n"], "erasure": "\x1b[2J"}, "whole model", "['x\\n']"),
    ],
)
def test_what_erased_is_named_whatever_a_run_says(model: dict[str, object], method: str, base: str) -> None:
    assert (method_of(model), base_of(model)) == (method, base)
