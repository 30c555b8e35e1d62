"""What was found on one model and tried on others: which audits replay the findings of which, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_memories.attacks.base import is_attack
from lit_memories.attacks.replay import Replay
from lit_memories.runs import Run


@dataclass(frozen=True)
class Transfer:
    """What an attack found on one model, tried on another.

    Args:
        attack: that found it.
        found_on: name of the run in which it did.
        tried_on: name of the run in which it was replayed.
        count: pictures on which it was tried.
        hits: of these, those on which it brings the concept back.
        opened: of all that were tried, those on which it had done so where it was found.
        moved: of these, those on which it does so again.
    """

    attack: str
    found_on: str
    tried_on: str
    count: int
    hits: int
    opened: int
    moved: int


def transfers(runs: Sequence[Run]) -> list[Transfer]:
    """All that some runs replay of others among them, in their order.

    A run names what it replays by a sum of it and by no place, so that folders may be moved. What was found alike on
    two models has both as its sources: they differ in whether it opened them.

    Args:
        runs: those in which attacks were made, and those in which what they found was replayed.

    Raises:
        ValueError: if none replays anything, or one replays what none of the others found.
    """
    replays = [run for run in runs if Replay.name in run.info.asked]
    if not replays:
        raise ValueError(
            "none of these audits replays what another found: recipes/pictograms/attack/replay.yaml is one that does"
        )
    marks = {(row, attack): mark_of(run, attack) for row, run in enumerate(runs) for attack in _attacks(run)}
    found = []
    for replay in replays:
        settings = replay.info.asked[Replay.name].settings
        wanted = settings.get("attack"), settings.get("run")
        sources = [(runs[row], attack) for (row, attack), mark in marks.items() if (attack, mark) == wanted]
        if not sources:
            raise ValueError(
                f"{replay.folder} replays what {wanted[0]} found in an audit that is not among these: name that too"
            )
        found += [_transfer(source, attack, replay) for source, attack in sources]
    return found


def mark_of(run: Run, attack: str) -> str | None:
    """By what an audit names that it replays an attack of a run; None if the attack left nothing to replay.

    Args:
        run: in which the attack was made.
        attack: its name.
    """
    try:
        return str(Replay(run.folder, attack).settings(None)["run"])
    except ValueError:
        return None


def _attacks(run: Run) -> list[str]:
    return [name for name, asked in run.info.asked.items() if is_attack(asked) and name != Replay.name]


def _transfer(source: Run, attack: str, replay: Run) -> Transfer:
    tried, found = _successes(replay, Replay.name), _successes(source, attack)
    opened = [key for key in tried if found.get(key)]
    return Transfer(
        attack=attack,
        found_on=source.info.name,
        tried_on=replay.info.name,
        count=len(tried),
        hits=sum(tried.values()),
        opened=len(opened),
        moved=sum(tried[key] for key in opened),
    )


def _successes(run: Run, attack: str) -> dict[str, bool]:
    path = f"{attack}.success"
    return {key: (record.number(path) or 0) > 0.5 for key, record in run.holding("concept", path).items()}
