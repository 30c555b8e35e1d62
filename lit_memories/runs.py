"""What an audit leaves behind as a whole: ``run.json`` for what all records share, and the folder read into memory."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lit_memories.costs import read_cost
from lit_memories.numbers import Asked
from lit_memories.records import (
    OWN,
    RUN_FILE,
    Record,
    SetName,
    check_records,
    image_path,
    read_records,
)
from lit_memories.schemas import OLD_SCHEMA, renewed_info
from lit_memories.seeds import check_model, seed_keys
from lit_memories.settings import short_hash
from lit_memories.storage.files import check_inside, whole
from lit_memories.storage.plain import parse
from lit_memories.storage.signed import sign, unsign

ADDED = "conditioned", "unprompted"
"""Parts of the data that a run may ask for later."""
IMAGE_SETS: tuple[SetName, ...] = ("concept", "reference")
CONDITIONED = "conditioned"
"""Under this name images under other prompts than their own are counted."""
Role = Literal["vanilla", "erased", "control", "random"]
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class RunInfo:
    """What all records of a run share.

    Args:
        name: how tables call the run.
        role: what the model is in a comparison: ``vanilla`` is the base as released, ``control`` never saw the concept.
        concept: name of the concept.
        settings: everything that the answers of all probes depend on besides sample and model; runs pair only if
            these are equal.
        settings_hash: hash of `settings`.
        model: base, revision, fingerprint, provenance of the erasure if any.
        dimension: number of elements of a seed; gives the exact null law of the NLL.
        data: for each set, its source, the rows used and the unreadable ones left out.
        versions: of the packages involved.
        precision: the trainer's.
        metrics: the torchmetrics collection's values at the end of the run.
        probes: for each probe that was asked, what `Asked.to_dict` says.
        expected: how many samples of each set, by probe, are to have an answer; those under other prompts than their
            own are the set ``conditioned``. Empty in runs of earlier releases, which do not say.
        complete: whether the audit came to its end.

    Raises:
        ValueError: if name or concept would not print as one line, or the dimension is not positive.
    """

    name: str
    role: Role
    concept: str
    settings: dict[str, Any]
    settings_hash: str
    model: dict[str, Any]
    dimension: int
    data: dict[str, Any]
    versions: dict[str, str]
    precision: str = "32-true"
    metrics: dict[str, float] = field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    expected: dict[str, dict[str, int]] = field(default_factory=dict)
    complete: bool = False
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for label in (self.name, self.concept):
            if not label.isprintable():  # they are shown in terminals, tables and titles
                raise ValueError(f"{label!r} holds line breaks or control characters: choose another name")
        if self.dimension < 1:
            raise ValueError(f"dimension must be positive, got {self.dimension}")
        for name, entry in self.data.items():
            _check_set(name, entry)
        for name, values in self.probes.items():
            Asked.from_dict(name, values)

    @property
    def asked(self) -> dict[str, Asked]:
        """The probes that were asked, by name."""
        return {name: Asked.from_dict(name, values) for name, values in self.probes.items()}

    def key(self, name: str) -> str:
        """The key of a sample's record: the same for every model, another for other settings."""
        return short_hash(name + self.settings_hash)

    def mark(self, probe: str) -> str:
        """A hash of the settings that a probe's answers depend on, which they hold."""
        return short_hash(json.dumps(self.probes[probe]["settings"], sort_keys=True))

    @property
    def fingerprint(self) -> str | None:
        """Of the weights that were asked."""
        found = self.model.get("fingerprint")
        return found if isinstance(found, str) else None

    def comparable(self) -> dict[str, Any]:
        """What runs must share for their records to stand in one folder; images and conditionings may be added."""
        sources = {name: entry.get("source") for name, entry in self.data.items() if name not in ADDED}
        return {name: getattr(self, name) for name in ("role", "concept", "settings", "model")} | {"data": sources}

    def save(self, folder: Path) -> None:
        """Write ``run.json``, replacing an older one at once or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / RUN_FILE) as part:
            part.write_text(sign(json.dumps(asdict(self), indent=2, sort_keys=True)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "RunInfo":
        """Read ``run.json`` of a run folder.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged or of another schema, or a link leads out of the folder.
        """
        file = Path(folder) / RUN_FILE
        check_inside(Path(folder), OWN)
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} is not an audit run: it has no {RUN_FILE}; make one with lit-memories predict"
            )
        _check_release(file)
        try:
            text, intact = unsign(file.read_text(encoding="utf-8"))
            info = parse(cls, renewed_info(text))
            if info.schema not in (OLD_SCHEMA, SCHEMA_VERSION):
                raise ValueError(f"schema {info.schema}, this version reads {SCHEMA_VERSION}")
            if not intact:
                raise ValueError("it was changed after it was written")
            return info
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged or of another version: {error}; restore it, or remove it and run the same audit "
                "again, which takes up the records that say they are of its model and settings"
            ) from None


def _check_release(file: Path) -> None:
    """Refuse a file of a release to come, which is neither damaged nor to be removed.

    Raises:
        ValueError: if it is one.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is int and schema > SCHEMA_VERSION:
        raise ValueError(f"{file} is of a newer release (schema {schema}, not {SCHEMA_VERSION}): update lit-memories")


def _check_set(name: str, entry: Any) -> None:
    """What ``run.json`` says of a set is what data modules say of one.

    Raises:
        ValueError: naming the set.
    """
    kinds: dict[str, type] = {"source": str, "rows": int, "unreadable": list, "repeated": int, "cut": int, "each": int}
    if not isinstance(entry, dict):
        raise ValueError(f"data.{name} does not describe a set")
    for field_name, kind in kinds.items():
        value = entry.get(field_name, kind())
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
            raise ValueError(f"data.{name}.{field_name} cannot be {str(value)[:40]!r}")
    if not all(isinstance(file, str) for file in entry.get("unreadable", [])):
        raise ValueError(f"data.{name}.unreadable are no names")


@dataclass(frozen=True)
class Run:
    """A run folder read into memory.

    Args:
        folder: that was read.
        info: its ``run.json``.
        records: all that are there.
        cost: of each probe.
        seeds: keys of the seeds that are there.
    """

    folder: Path
    info: RunInfo
    records: tuple[Record, ...]
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    seeds: frozenset[str] = frozenset()
    _found: dict[tuple[str, ...], dict[str, Record]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __repr__(self) -> str:
        """One line, without the records."""
        return f"Run({str(self.folder)!r}, {self.info.role}, {self.info.concept!r}, {len(self.records)} records)"

    def of(self, name: SetName, probe: str, conditioning: str | None = None) -> list[Record]:
        """The records of one set, under one conditioning, for which a probe's answer may be counted."""
        return [r for r in self._of_set.get((name, conditioning), ()) if r.counts(probe)]

    def holding(self, name: SetName, path: str, conditioning: str | None = None) -> dict[str, Record]:
        """Those of these records that have a number, by key; statistics ask for the same ones again and again."""
        wanted = (name, path, *([] if conditioning is None else [conditioning]))
        if wanted not in self._found:
            records = self.of(name, path.partition(".")[0], conditioning)
            self._found[wanted] = {record.key: record for record in records if record.value(path) is not None}
        return self._found[wanted]

    @cached_property
    def _of_set(self) -> dict[tuple[str, str | None], list[Record]]:
        sets: dict[tuple[str, str | None], list[Record]] = {}
        for record in self.records:
            sets.setdefault((record.set, record.conditioning), []).append(record)
        return sets

    @property
    def conditionings(self) -> list[str]:
        """Under what images were inverted besides their own prompts."""
        return sorted({record.conditioning for record in self.records if record.conditioning is not None})

    @property
    def gaps(self) -> list[str]:
        """What is missing, in words, by the records and seeds themselves and whatever the run says of itself."""
        there = Counter((counted_as(record), probe) for record in self.records for probe in record.probes)
        found = [
            f"{there[name, probe]} of {count} answers of {probe} for the {name} set"
            for name, probes in self.info.expected.items()
            for probe, count in probes.items()
            if there[name, probe] < count
        ]
        if not self.info.expected:  # an earlier release does not say how many
            samples = Counter(record.set for record in self.records if record.conditioning is None)
            rows = [(name, self.info.data.get(name, {}).get("rows")) for name in IMAGE_SETS]
            found = [
                f"{samples[name]} of {count} records of the {name} set"
                for name, count in rows
                if isinstance(count, int) and samples[name] < count
            ]
        leave = {name for name, probe in self.info.asked.items() if probe.leaves_seeds and self.info.expected}
        if lost := sum(bool(leave & record.probes.keys()) and record.key not in self.seeds for record in self.records):
            found.append(f"{lost} seeds are missing")
        return found or ([] if self.info.complete else ["its audit did not come to its end"])

    def image(self, name: SetName, index: int, kind: str) -> Path:
        """Where the picture of a sample is, if it was kept; `kind` is original, round_trip, regenerated or sample."""
        return image_path(self.folder, name, index, kind)


def counted_as(record: Record) -> str:
    """The set that a record counts in: images under other prompts than their own are one, `CONDITIONED`."""
    return record.set if record.conditioning is None else CONDITIONED


def check_origin(folder: Path, info: RunInfo, records: Iterable[Record]) -> None:
    """Refuse a run folder whose records or seeds are of another model or of other settings than its ``run.json`` says.

    Raises:
        ValueError: naming what differs, and what to do.
    """
    try:
        check_records(folder, records, info.fingerprint, {name: info.mark(name) for name in info.probes})
        check_model(folder, info.fingerprint)
    except ValueError as error:
        raise ValueError(f"{error}: {RUN_FILE}, records or seeds were exchanged, restore what belongs") from None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: if it is none.
        ValueError: if a file in it is damaged, a link leads out of it, or records or seeds are of another model than it
            names.
    """
    folder = Path(folder)
    info, records = RunInfo.load(folder), read_records(folder)
    check_origin(folder, info, records)
    return Run(folder, info, tuple(records), read_cost(folder), frozenset(seed_keys(folder)))
