"""What opened one model, tried on others: replays find their sources by what was found, and are counted by picture."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from attack_helpers import Attacked
from test_replay import SHOUT, replayed

from lit_memories.cli import main
from lit_memories.runs import Run, read_run
from lit_memories.statistics.transfers import Transfer, mark_of, transfers

LEAST = 0.5
"""From which lightness pictures of the tiny models count, so that some do and some do not."""


@pytest.fixture(scope="module")
def audits(attacked: Attacked, tmp_path_factory: pytest.TempPathFactory, tiny_control: Path) -> list[Path]:
    """Two models that were shouted at, and what was found on the first tried on both."""
    root = tmp_path_factory.mktemp("transfers")
    other = f"--model.diffusion.base={tiny_control}"
    main(attacked("plain", root / "one", SHOUT, least=LEAST))
    main(attacked("plain", root / "two", SHOUT, other, least=LEAST))
    main(attacked("plain", root / "one-again", replayed(root / "one"), least=LEAST))
    main(attacked("plain", root / "one-on-two", replayed(root / "one"), other, least=LEAST))
    return [root / name for name in ("one", "two", "one-again", "one-on-two")]


def wins(run: Run, name: str) -> dict[str, bool]:
    return {r.key: r.probes[name]["success"] > 0.5 for r in run.records if name in r.probes}


def test_pictures_that_were_opened_are_followed(audits: list[Path]) -> None:
    one, _, again, moved = map(read_run, audits)
    here, there = wins(one, "shout"), wins(moved, "replay")
    assert sum(here.values()) > 0, "nothing to follow"
    both = sum(there[key] for key, won in here.items() if won)
    counts = [len(here), sum(there.values()), sum(here.values()), both]
    assert transfers([one, again, moved]) == [
        Transfer("shout", "one", "one-again", len(here), *[sum(here.values())] * 3),
        Transfer("shout", "one", "one-on-two", *counts),
    ]


def test_sources_are_known_by_what_was_found_and_not_by_where_it_lies(audits: list[Path], tmp_path: Path) -> None:
    shutil.copytree(audits[0], tmp_path / "moved")
    one, two, again, _ = map(read_run, audits)
    moved = read_run(tmp_path / "moved")
    assert mark_of(one, "shout") == mark_of(moved, "shout") == again.info.asked["replay"].settings["run"]
    assert mark_of(two, "shout") == mark_of(one, "shout"), "the same was shouted from the same noise"
    assert mark_of(one, "plain") is None
    named = replace(moved, info=replace(moved.info, name="the moved one"))
    assert [found.found_on for found in transfers([again, named])] == ["the moved one"]


def test_two_models_on_which_the_same_was_found_are_both_sources(audits: list[Path]) -> None:
    one, two, _, moved = map(read_run, audits)
    found = transfers([one, two, moved])
    assert [(row.found_on, row.tried_on) for row in found] == [("one", "one-on-two"), ("two", "one-on-two")]
    assert [row.opened for row in found] == [sum(wins(run, "shout").values()) for run in (one, two)]


def test_the_table_is_printed(audits: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["transfers", *map(str, audits)])
    said = capsys.readouterr().out
    found = transfers([read_run(folder) for folder in audits])[0]
    assert f"{found.moved} of {found.opened}" in said
    assert "one-on-two" in said


def test_audits_that_replay_nothing_or_something_else_are_refused(audits: list[Path]) -> None:
    one, _, again, _ = audits
    for given, message in (
        ([one], "none of these audits replays what another found"),
        ([again], f"{again} replays what shout found in an audit that is not among these"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["transfers", *map(str, given)])
        assert message in str(stop.value)
        assert "\n" not in str(stop.value)
