"""What an audit leaves behind: one `Record` a sample, its numbers by probe, and one ``run.json`` for what is constant.

A run folder holds

- ``run.json``: settings, model, data, versions (`RunInfo`),
- ``records.jsonl``: one line a sample, sorted by set and index,
- ``seeds.safetensors``: the seed of every inverted sample, by key,
- ``cost.json``: for each probe the network evaluations, seconds and samples that it took, over all attempts,
- ``images/SET-INDEX-KIND.png``: pictures of the first few samples of each set,
- ``parts/`` while the audit runs: what each process has finished so far,
- ``stale/``: records and seeds of samples that the audit no longer has, out of every count.
"""

import contextlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lit_memories.costs import COST_FILE, read_cost
from lit_memories.numbers import Asked, check_answer
from lit_memories.schemas import OLD_SCHEMA, renewed_info, renewed_record
from lit_memories.settings import short_hash
from lit_memories.storage.files import check_inside, parse, whole

SetName = Literal["concept", "reference", "known", "prompted", "retained", "unprompted", "own", "repeat", "memory"]
SETS: tuple[SetName, ...] = ("concept", "reference", "known", "prompted", "retained", "unprompted")
MEMORY_SETS: tuple[SetName, ...] = ("own", "repeat", "memory")
"""The sets of a concept-level and of an image-level audit."""
ADDED = "conditioned", "unprompted"
"""Parts of the data that a run may ask for later."""
Role = Literal["vanilla", "erased", "control", "random"]

RUN_FILE, RECORDS_FILE, SEEDS_FILE, PARTS, IMAGES = "run.json", "records.jsonl", "seeds.safetensors", "parts", "images"
STALE = "stale"
OWN = (RUN_FILE, RECORDS_FILE, SEEDS_FILE, COST_FILE, PARTS, IMAGES, STALE)
"""All that an audit writes to its folder."""
SCHEMA_VERSION = 2


@dataclass
class Record:
    """What the audit found about one sample, by probe.

    Not frozen, as `Trainer.predict` returns what steps return, and Lightning refuses to carry frozen dataclasses.

    Args:
        key: hash of the sample's content and of the settings that all probes share; the same for every model.
        set: ``concept`` (E), ``reference`` (R), ``known`` (K), or samples under E's prompts (``prompted``), under R's
            (``retained``) and without a prompt (``unprompted``); of an image-level audit, a query's seed (``own``), the
            same from another start (``repeat``), and those by way of support images (``memory``).
        index: row in its set; of an image-level audit, the query's.
        prompt: the conditioning.
        probes: for each probe that was asked, its numbers by name; those that are not finite are left out, and the
            answer then holds a ``flag`` that says why it must not be counted.
        conditioning: under what an image was looked at, if not under its own prompt at the audit's guidance.
        support: row of the support image, for memories.
    """

    key: str
    set: SetName
    index: int
    prompt: str
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditioning: str | None = None
    support: int | None = None

    def value(self, path: str) -> Any:
        """What a probe found, ``seed.nll`` for instance; None if it was not asked or found nothing."""
        probe, _, name = path.partition(".")
        return self.probes.get(probe, {}).get(name)

    def number(self, path: str) -> float | None:
        """The same where it is one number.

        Raises:
            ValueError: if it is none.
        """
        value = self.value(path)
        if value is None or isinstance(value, int | float):
            return None if value is None else float(value)
        raise ValueError(f"{path} of the record {self.key} is no number: {str(value)[:40]!r}")

    def flag(self, probe: str) -> str | None:
        """Why a probe's answer must not be counted, or None."""
        return self.probes.get(probe, {}).get("flag")

    @property
    def flags(self) -> dict[str, str]:
        """The flags of all answers that have one, by probe."""
        return {probe: answer["flag"] for probe, answer in self.probes.items() if "flag" in answer}

    def counts(self, probe: str) -> bool:
        """Whether a probe was asked, and its answer may be counted."""
        return probe in self.probes and self.flag(probe) is None

    def to_json(self) -> str:
        """One line of JSON; probes in alphabetical order, None left out."""
        plain = {name: value for name, value in vars(self).items() if value is not None and name != "probes"}
        plain["probes"] = {
            probe: {name: value for name, value in self.probes[probe].items() if value is not None}
            for probe in sorted(self.probes)
        }
        return json.dumps(plain, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read one line, of this schema or an older one.

        Raises:
            ValueError: if the line is no record.
        """
        try:
            record = parse(cls, renewed_record(line))
            for name in ("index", "support"):
                if (getattr(record, name) or 0) < 0:
                    raise ValueError(f"{name} is negative")
            if not all(label is None or label.isprintable() for label in (record.key, record.conditioning)):
                raise ValueError("a label holds control characters")
            for probe, answer in record.probes.items():
                check_answer(probe, answer)
        except ValueError as error:
            raise ValueError(f"not a record: {line[:80]!r} ({error})") from None
        return record


def finite(value: float) -> float | None:
    """The value, or None if it is NaN or infinite (JSON has neither)."""
    return value if math.isfinite(value) else None


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
        complete: whether every sample has its record.

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
    complete: bool = False
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for label in (self.name, self.concept):
            if not label.isprintable():  # they are shown in terminals, tables and titles
                raise ValueError(f"{label!r} holds line breaks or control characters: choose another name")
        if self.dimension < 1:
            raise ValueError(f"dimension must be positive, got {self.dimension}")

        for name, values in self.probes.items():
            Asked.from_dict(name, values)

    @property
    def asked(self) -> dict[str, Asked]:
        """The probes that were asked, by name."""
        return {name: Asked.from_dict(name, values) for name, values in self.probes.items()}

    def key(self, name: str) -> str:
        """The key of a sample's record: the same for every model, another for other settings."""
        return short_hash(name + self.settings_hash)

    def comparable(self) -> dict[str, Any]:
        """What runs must share for their records to stand in one folder; images and conditionings may be added."""
        sources = {name: entry["source"] for name, entry in self.data.items() if name not in ADDED}
        return {name: getattr(self, name) for name in ("role", "concept", "settings", "model")} | {"data": sources}

    def save(self, folder: Path) -> None:
        """Write ``run.json``, replacing an older one at once or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / RUN_FILE) as part:
            part.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

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
        try:
            info = parse(cls, renewed_info(file.read_text(encoding="utf-8")))
            if info.schema not in (OLD_SCHEMA, SCHEMA_VERSION):
                raise ValueError(f"schema {info.schema}, this version reads {SCHEMA_VERSION}")
            return info
        except ValueError as error:
            raise ValueError(f"{file} is damaged or of another version: {error}") from None


@dataclass(frozen=True)
class Run:
    """A run folder read into memory."""

    folder: Path
    info: RunInfo
    records: tuple[Record, ...]
    cost: dict[str, dict[str, float]] = field(default_factory=dict)

    def of(self, name: SetName, probe: str, conditioning: str | None = None) -> list[Record]:
        """The records of one set, under one conditioning, for which a probe's answer may be counted."""
        wanted = (name, conditioning)
        return [r for r in self.records if (r.set, r.conditioning) == wanted and r.counts(probe)]

    @property
    def conditionings(self) -> list[str]:
        """Under what images were inverted besides their own prompts."""
        return sorted({record.conditioning for record in self.records if record.conditioning is not None})

    def image(self, name: SetName, index: int, kind: str) -> Path:
        """Where the picture of a sample is, if it was kept; `kind` is original, round_trip, regenerated or sample."""
        return image_path(self.folder, name, index, kind)


@dataclass(frozen=True)
class Place:
    """Where a sample stands in a run.

    Args:
        set: it belongs to.
        index: its row there.
        support: of an image-level audit, the support's row in its set.
        conditioned: whether it is an image under another prompt than its own.
    """

    set: SetName
    index: int
    support: int | None = None
    conditioned: bool = False

    def holds(self, record: Record) -> bool:
        """Whether a record of the sample says the same."""
        return (record.set, record.index, record.support) == (self.set, self.index, self.support)


def image_path(folder: Path, name: SetName, index: int, kind: str) -> Path:
    """Where a run keeps the picture of a sample."""
    return folder / IMAGES / f"{name}-{index:04d}-{kind}.png"


def read_lines(file: Path) -> list[Record]:
    """Records of a JSONL file; a last line cut short by a killed process is left out.

    A file of others may hold anything: every value has its field's type, is finite and not absurd for it.

    Raises:
        ValueError: if any other line is damaged; names file and line.
    """
    lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    *whole, tail = lines
    records = []
    for number, line in enumerate(whole, 1):
        try:
            records.append(Record.from_json(line))
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from None
    if tail:
        with contextlib.suppress(ValueError):
            records.append(Record.from_json(tail))
    return records


def order(records: Iterable[Record]) -> list[Record]:
    """Records in the order of ``records.jsonl``, one a key; of two answers of a probe the first stays."""
    unique: dict[str, Record] = {}
    for record in records:
        first = unique.setdefault(record.key, record)
        if first is not record:
            unique[record.key] = replace(first, probes=record.probes | first.probes)
    return sorted(unique.values(), key=_place)


def _place(record: Record) -> tuple[int, int, int, str]:
    return (SETS + MEMORY_SETS).index(record.set), record.index, record.support or 0, record.key


def read_records(folder: Path) -> list[Record]:
    """All records of a run folder: the merged ones and those still in parts.

    Raises:
        ValueError: if a file is damaged, or a link leads out of the folder.
    """
    check_inside(Path(folder), OWN)
    files = [Path(folder) / RECORDS_FILE, *sorted((Path(folder) / PARTS).glob("records-*.jsonl"))]
    return order(record for file in files if file.is_file() for record in read_lines(file))


def read_stale(folder: Path) -> list[Record]:
    """Records of a run folder that were set aside, because the audit no longer had their samples.

    Raises:
        ValueError: if the file is damaged, or a link leads out of the folder.
    """
    check_inside(Path(folder), OWN)
    file = Path(folder) / STALE / RECORDS_FILE
    return read_lines(file) if file.is_file() else []


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: if it is none.
        ValueError: if a file in it is damaged, or a link leads out of it.
    """
    return Run(Path(folder), RunInfo.load(folder), tuple(read_records(folder)), read_cost(Path(folder)))
