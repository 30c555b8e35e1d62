"""Which runs may stand in one table: whatever makes readings differ besides the model must be equal, or is named."""

from collections.abc import Iterable, Sequence

from lit_memories.runs import Role, Run
from lit_memories.settings import differences
from lit_memories.statistics.exposure import world_of
from lit_memories.statistics.image_level import is_image_level
from lit_memories.statistics.pairing import Comparison, check_against, check_names, compare_runs

SAME: tuple[Role, ...] = "vanilla", "control"
"""References that every row of a table is measured by."""
ASKED = "concept", "reference", "prompted", "retained"
"""Sets whose samples must be the same in all runs of a table that have them."""


def grouped(runs: Sequence[Run]) -> list[Comparison]:
    """A comparison for each table, by concept and world: autoencoder, tokenizer and architecture.

    References that several folders hold of the same weights count once.

    Args:
        runs: of all folders.

    Raises:
        ValueError: if a run is unfinished or of another kind, two have one name, or runs of one concept and world
            differ in vanilla, control, settings or samples; names the folders and what differs.
    """
    for run in runs:
        _check_run(run)
    tables: dict[tuple[str, tuple[tuple[str, str], ...]], list[Run]] = {}
    for run in runs:
        tables.setdefault((run.info.concept, tuple(world_of(run.info).items())), []).append(run)
    found = []
    for (concept, world), table in sorted(tables.items()):
        others = [dict(known) for named, known in tables if named == concept and known != world]
        found.append(_compared(table, dict(world), others))
    if not any(run.info.role == "erased" for comparison in found for run in comparison.runs):
        names = ", ".join(str(run.folder) for run in runs)
        raise ValueError(f"{names}: no run is of an erased model, and a leaderboard has a row for each: add some")
    return [one for one in found if any(run.info.role == "erased" for run in one.runs)]


def _check_run(run: Run) -> None:
    """A run of which a row can be made."""
    if is_image_level(run):
        raise ValueError(f"{run.folder} is an image-level audit: a leaderboard compares audits of concepts")
    if run.gaps:
        raise ValueError(
            f"{run.folder} is unfinished, it holds {'; '.join(run.gaps[:3])}: run the same audit again to complete it, "
            "or leave it out"
        )


def _compared(runs: Sequence[Run], world: dict[str, str], others: Sequence[dict[str, str]]) -> Comparison:
    table = _once(runs)
    check_names(table)
    vanilla = next((run for run in table if run.info.role == "vanilla"), None)
    if vanilla is None and others:
        told = "; ".join(differences(world, others[0]))
        raise ValueError(
            f"{table[0].folder} cannot be compared: no vanilla run of “{table[0].info.concept}” is of its world "
            f"({told}): add the audit of its own base"
        )
    for role in SAME:
        _check_same_model([run for run in table if run.info.role == role], role)
    if vanilla is not None:
        for run in table:
            check_against(vanilla, run)
        _check_probes(table)
        _check_samples(table)
    return compare_runs(table)


def _once(runs: Iterable[Run]) -> list[Run]:
    """Runs without the references that are there already, of which the one that was asked most stays."""
    kept: dict[object, Run] = {}
    for run in runs:
        weights = None if run.info.role == "erased" else run.info.fingerprint
        own = run.info.role, weights or str(run.folder)
        if own not in kept or len(run.info.probes) > len(kept[own].info.probes):
            kept[own] = run
    return list(kept.values())


def _check_same_model(runs: Sequence[Run], role: Role) -> None:
    if len(runs) > 1:
        told = " and ".join(f"{run.folder} ({run.info.fingerprint})" for run in runs[:2])
        raise ValueError(
            f"runs of “{runs[0].info.concept}” are measured by different {role} models, {told}: one table has one, so "
            "leave out the runs of the other"
        )


def _check_samples(runs: Sequence[Run]) -> None:
    """Rows were asked about the same samples, and references about all of them, and perhaps about more."""
    first = next((run for run in runs if run.info.role == "erased"), None)
    if first is None:
        return
    for name in ASKED:
        usual = _keys(first, name)
        for run in runs:
            own = _keys(run, name)
            if own and usual and (own != usual if run.info.role == "erased" else not own >= usual):
                sources = " | ".join(
                    f"{len(keys)} of {one.info.data.get(name, {}).get('source', 'a source that is not told')!r}"
                    for one, keys in ((first, usual), (run, own))
                )
                raise ValueError(
                    f"{first.folder} and {run.folder} cannot be compared, they were asked about other samples of the "
                    f"{name} set: {sources}, {len(usual & own)} in common"
                )


def _keys(run: Run, name: str) -> set[str]:
    return {record.key for record in run.records if record.set == name and record.conditioning is None}


def _check_probes(runs: Sequence[Run]) -> None:
    """Vanilla may not have been asked everything: what it lacks is compared with the first run that has it."""
    first: dict[str, Run] = {}
    for run in runs:
        for name, asked in run.info.asked.items():
            usual = first.setdefault(name, run)
            if told := differences(usual.info.asked[name].settings, asked.settings):
                raise ValueError(
                    f"{usual.folder} and {run.folder} cannot be compared, their settings of {name} differ: "
                    f"{'; '.join(told)}"
                )
