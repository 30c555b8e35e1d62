"""Which runs may be compared, and which of their records: everything that can be wrong is said before any work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from lit_memories.attacks import ASKABLE
from lit_memories.recipe_files import audit_command
from lit_memories.records import AGAIN, Record, SetName
from lit_memories.runs import Role, Run, RunInfo, read_run
from lit_memories.settings import differences
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.convergence import accuracy_notes

ROLES: tuple[Role, ...] = ("vanilla", "erased", "control", "random")
HEADLINES = "denoising.surprise", "seed.nll"
"""Numbers that can carry a verdict, the better one first."""
PAIRED: tuple[SetName, SetName] = ("concept", "reference")
NO_RUN = (
    "no run given: name the folders of at least one vanilla run; lit-memories predict --config RECIPE makes one, and "
    "recipes/*/audit has recipes"
)


@dataclass(frozen=True)
class Pairing:
    """How the records of one set of a run pair with vanilla's.

    Args:
        used: samples of which both hold the number, unflagged.
        left_out: samples that at least one holds and that are not used, whatever the reason.
    """

    used: int
    left_out: int


@dataclass(frozen=True)
class Comparison:
    """Runs that may be compared, in the order of tables.

    Args:
        runs: vanilla first, then erased models, controls, random ones.
        headline: path of the number that carries verdicts.
        notes: what a reader must know about the data, in sentences.
    """

    runs: tuple[Run, ...]
    headline: str
    notes: tuple[str, ...]

    @property
    def vanilla(self) -> int:
        """Row of the vanilla run."""
        return self.index("vanilla") or 0

    @property
    def control(self) -> int | None:
        """Row of the first control, or None."""
        return self.index("control")

    def index(self, role: Role) -> int | None:
        """Row of the first run of a role, or None."""
        return next((row for row, run in enumerate(self.runs) if run.info.role == role), None)

    def shared(
        self, rows: Sequence[int], name: SetName, path: str, conditioning: str | None = None
    ) -> tuple[tuple[Record, ...], ...]:
        """The records of a set that the runs of some rows all hold and count a number for: a tuple each, by image."""
        wanted = tuple(rows), name, path, conditioning
        if wanted not in self._shared:
            tables = [self.runs[row].holding(name, path, conditioning) for row in rows]
            keys = [key for key in tables[0] if all(key in table for table in tables[1:])]
            self._shared[wanted] = tuple(tuple(table[key] for key in keys) for table in tables)
        return self._shared[wanted]

    def table(self, rows: Sequence[int], name: SetName, path: str, conditioning: str | None = None) -> Tensor:
        """A number of the images that the runs of some rows all hold and count it for (images, runs), float64."""
        wanted = tuple(rows), name, path, conditioning
        if wanted not in self._tables:
            found = [[record.number(path) for record in records] for records in self.shared(*wanted)]
            self._tables[wanted] = torch.tensor(found, dtype=torch.float64).view(len(rows), -1).T
        return self._tables[wanted]

    @cached_property
    def _shared(self) -> dict[Any, tuple[tuple[Record, ...], ...]]:
        """What was paired before."""
        return {}

    @cached_property
    def _tables(self) -> dict[Any, Tensor]:
        """What was looked up before."""
        return {}

    def used(self, row: int, name: SetName, path: str, conditioning: str | None = None) -> tuple[Record, ...]:
        """A run's own records of those that it and vanilla count a number for: the ones its statistics rest on."""
        return self.shared([row, self.vanilla], name, path, conditioning)[0]

    def pairing(self, row: int, name: SetName, path: str) -> Pairing:
        """How many of the samples of a set a number of a run rests on."""
        every = {
            record.key
            for run in (self.runs[row], self.runs[self.vanilla])
            for record in run.records
            if record.set == name and record.conditioning is None
        }
        used = len(self.used(row, name, path))
        return Pairing(used, len(every) - used)


def compare(folders: Sequence[Path]) -> Comparison:
    """Read run folders, check that they can be compared, and pair their records by key.

    Raises:
        FileNotFoundError: if a folder is no run.
        ValueError: if the runs cannot be compared; says which and why.
    """
    if not folders:
        raise ValueError(NO_RUN)
    return compare_runs([read_run(folder) for folder in folders])


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Check that runs can be compared, and pair their records by key.

    Raises:
        ValueError: if they cannot be compared; says which and why.
    """
    runs = sorted(runs, key=lambda run: ROLES.index(run.info.role))
    _check(runs)
    headline, lacking = _headline(runs)
    comparison = Comparison(tuple(runs), headline, (*lacking, *_notes(runs)))
    for row, run in enumerate(runs):
        for name in PAIRED:
            if not comparison.used(row, name, headline):
                raise ValueError(
                    f"no sample of the {name} set is common to {run.folder} and {runs[0].folder} and usable in both: "
                    "audit the same images in every run"
                )
    return comparison


def expected(info: RunInfo) -> int | None:
    """How many records a complete run would have, if ``run.json`` says so."""
    if info.expected:
        return sum(max(counts.values()) for counts in info.expected.values() if counts)
    asked = {name for probe in asked_of(info).values() for name in probe.sets}
    sources = {name: source for name, source in info.data.items() if isinstance(source, dict)}
    if "memory" not in sources and asked:
        sources = {name: source for name, source in sources.items() if name == "conditioned" or name in asked}
    rows = [source.get("rows") for source in sources.values()]
    counts = [row for row in rows if isinstance(row, int)]
    return sum(counts) if counts and len(counts) == len(rows) else None


def unreadable(info: RunInfo) -> dict[str, list[str]]:
    """Names of the files that could not be read, by set; sets without any are left out."""
    lists = {name: source.get("unreadable") for name, source in info.data.items() if isinstance(source, dict)}
    return {name: [str(file) for file in files] for name, files in lists.items() if files}


def _check(runs: Sequence[Run]) -> None:
    check_names(runs)
    vanilla = [run for run in runs if run.info.role == "vanilla"]
    if len(vanilla) != 1:
        found = ", ".join(str(run.folder) for run in vanilla) or "none"
        command = audit_command(runs[0].info.concept, runs[0].info.model.get("base"), "--trainer.default_root_dir RUN")
        hint = f"; audit the unchanged model with {command}"
        if vanilla:
            hint = "; audit each other again in a folder of its own, a model that never knew with --model.role control"
        raise ValueError(f"a report needs exactly one run whose role is vanilla, found {found}{hint}")
    for run in runs:
        check_against(vanilla[0], run)
    for run in runs:
        for name in ("concept", "reference"):
            if any(record.set == name for record in run.records):
                continue
            if run.info.asked and not any(name in probe.sets for probe in run.info.asked.values()):
                raise ValueError(
                    f"{run.folder} was asked nothing about the {name} set, as attacks ask of the concept alone, so no "
                    "verdict can rest on it: run the same command again with --model.probes+=Denoising, which keeps "
                    "what is there"
                )
            raise ValueError(f"{run.folder} holds no records of the {name} set: run its audit (again) first")


def check_names(runs: Sequence[Run]) -> None:
    """Names tell runs apart.

    Raises:
        ValueError: if two have the same.
    """
    repeated = [name for name, count in Counter(run.info.name for run in runs).items() if count > 1]
    if repeated:
        folders = ", ".join(str(run.folder) for run in runs if run.info.name == repeated[0])
        raise ValueError(f"two runs are called {repeated[0]!r} ({folders}): give each run its own name")


def check_against(vanilla: Run, run: Run) -> None:
    """Runs are of one concept and of equal settings.

    Raises:
        ValueError: if not; names what differs.
    """
    pair = f"{vanilla.folder} and {run.folder} cannot be compared"
    if run.info.concept != vanilla.info.concept:
        raise ValueError(f"{pair}: their concepts are {vanilla.info.concept!r} and {run.info.concept!r}")
    if vanilla.info.schema != run.info.schema:
        old = min(vanilla, run, key=lambda one: one.info.schema)
        raise ValueError(
            f"{pair}: {old.folder} was written by an earlier release; run its audit again, which asks what is new and "
            "keeps what is there"
        )
    base, of = run.info.model.get("base_fingerprint"), vanilla.info.model.get("fingerprint")
    if run.info.model.get("erasure") is not None and base is not None and of is not None and base != of:
        raise ValueError(
            f"{pair}: {run.info.name} was erased from {run.info.model.get('base')} ({base}), and {vanilla.info.name}, "
            f"whose role is vanilla, is {vanilla.info.model.get('base')} ({of}): audit the base itself"
        )
    found = differences(_shared(vanilla.info), _shared(run.info))
    ours, theirs = ({name: probe.settings for name, probe in one.info.asked.items()} for one in (vanilla, run))
    both = ours.keys() & theirs.keys()
    found += differences({name: ours[name] for name in both}, {name: theirs[name] for name in both})
    if found:
        raise ValueError(f"{pair}, their settings differ: {'; '.join(found)}")


def _shared(info: RunInfo) -> dict[str, Any]:
    return {**info.settings, "dimension": info.dimension}


def _headline(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The number that carries verdicts: the first of `HEADLINES` that every run holds, and what is to be said of it."""
    for number, path in enumerate(HEADLINES):
        probe = path.partition(".")[0]
        if all(any(record.counts(probe) for record in run.records) for run in runs):
            return path, [_lacking(runs, HEADLINES[0])] if number else []
    lacking = _lacking(runs, HEADLINES[0])
    raise ValueError(f"the runs have no number in common that a verdict could rest on: {lacking}")


def _lacking(runs: Sequence[Run], path: str) -> str:
    """Which runs were not asked what verdicts rest on, and what asks them."""
    probe = path.partition(".")[0]
    names = [run for run in runs if not any(record.counts(probe) for record in run.records)]
    shown = ", ".join(run.info.name for run in names)
    folder = quote(str(names[0].folder))
    more = f"--model.probes+={ASKABLE[probe].__name__}", f"--trainer.default_root_dir {folder}"
    command = audit_command(names[0].info.concept, names[0].info.model.get("base"), *more)
    return (
        f"{shown}: the probe {probe} was not asked, so verdicts rest on the NLL of seeds, which says whether a trace "
        f"is left and not how much. Audit the same folders again to add it, what is there is kept: {command}"
    )


def _notes(runs: Sequence[Run]) -> list[str]:
    notes = []
    for run in runs:
        notes += incomplete(run)
    notes += data_notes(runs)
    if len({run.info.precision for run in runs}) > 1:
        found = ", ".join(f"{run.info.name} {run.info.precision}" for run in runs)
        notes.append(f"The runs were made in different precisions ({found}).")
    notes += _asked_of_one(runs)
    controls = [run.info.name for run in runs if run.info.role == "control"]
    if len(controls) > 1:
        notes.append(f"Several controls were given; fractions refer to {controls[0]}.")
    return notes


def _asked_of_one(runs: Sequence[Run]) -> list[str]:
    """Which probes were asked of one run alone, so that their numbers compare with nothing."""
    asked = Counter(name for run in runs for name in run.info.asked)
    if len(runs) == 1:
        return []
    alone = {name: run.info.name for run in runs for name in run.info.asked if asked[name] == 1}
    return [
        f"The probe {name} was asked of {run} alone, so its numbers compare with nothing: audit the other folders with "
        "it too, which keeps what is there."
        for name, run in alone.items()
        if name != HEADLINES[0].partition(".")[0]
    ]


def incomplete(run: Run) -> list[str]:
    """What a run lacks, in a sentence, or nothing."""
    if not (gaps := run.gaps):
        return []
    more = f"; and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return [f"{run.info.name} is incomplete: {'; '.join(gaps[:3])}{more}. To finish it, {AGAIN}."]


def data_notes(runs: Sequence[Run]) -> list[str]:
    """What runs say of images, prompts and accuracy that a reader must know, in sentences."""
    notes = []
    lost = {run.info.name: sum(map(len, unreadable(run.info).values())) for run in runs}
    for files in sorted(set(lost.values()) - {0}):
        names = [name for name, number in lost.items() if number == files]
        who = "every run" if len(names) == len(runs) else ", ".join(names)
        notes.append(f"{who}: {files} image files could not be read.")
    if twice := _most(runs, "repeated"):
        notes.append(f"{twice} images stood in a set more than once with the same caption, and count once.")
    if cut := _most(runs, "cut"):
        notes.append(f"{cut} samples have prompts longer than the text encoder's window: the model saw them cut.")
    return notes + [note for run in runs for note in accuracy_notes(run)]


def _most(runs: Sequence[Run], name: str) -> int:
    """The largest number that a run counts over its sets."""
    sources = [[source for source in run.info.data.values() if isinstance(source, dict)] for run in runs]
    return max(sum(int(source.get(name, 0)) for source in of) for of in sources)
