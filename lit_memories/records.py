"""What an audit leaves behind of each sample: one `Record`, its numbers by probe, and where it stands.

A run folder holds

- ``run.json``: settings, model, data, versions (`runs.RunInfo`),
- ``records.jsonl``: one line a sample, sorted by set and index,
- ``seeds.safetensors``: the seed of every inverted sample, by key; of very many, files in ``seeds/`` (`seeds`),
- ``cost.json``: for each probe the network evaluations, seconds and samples that it took, over all attempts,
- ``images/SET-INDEX-KIND.png``: pictures of the first few samples of each set,
- ``artefacts/ATTACK/KEY.safetensors``: what an attack made of each sample,
- ``parts/`` while the audit runs: what each process has finished so far,
- ``stale/``: records and seeds of samples that the audit no longer has, out of every count,
- ``lock``: of the process that writes, and empty otherwise.

Every record says of which model it is and with which settings its probes were asked, and has a checksum: without its
``run.json`` it is not taken for another model's, and a changed bit is found.
"""

import contextlib
import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lit_memories.costs import COST_FILE
from lit_memories.numbers import LARGEST, check_answer
from lit_memories.schemas import renewed_record
from lit_memories.storage.files import check_inside
from lit_memories.storage.plain import fit, parse_json
from lit_memories.storage.signed import sign, unsign

SetName = Literal["concept", "reference", "known", "prompted", "retained", "unprompted", "own", "repeat", "memory"]
TOO_FEW = 8
"""With fewer images than this in a set nothing is concluded: intervals hold what they say from here on
(docs/results/intervals.md)."""
SETS: tuple[SetName, ...] = ("concept", "reference", "known", "prompted", "retained", "unprompted")
MEMORY_SETS: tuple[SetName, ...] = ("own", "repeat", "memory")
"""The sets of a concept-level and of an image-level audit."""
RANKS = {name: rank for rank, name in enumerate(SETS + MEMORY_SETS)}
"""Their order in ``records.jsonl``."""

RUN_FILE, RECORDS_FILE, SEEDS_FILE, PARTS, IMAGES = "run.json", "records.jsonl", "seeds.safetensors", "parts", "images"
SEEDS, STALE, LOCK, ARTEFACTS = "seeds", "stale", "lock", "artefacts"
OWN = (RUN_FILE, RECORDS_FILE, SEEDS_FILE, SEEDS, COST_FILE, PARTS, IMAGES, ARTEFACTS, STALE, LOCK)
"""All that an audit writes to its folder."""
AGAIN = "run the same audit again: it keeps what is sound and makes the rest anew"
"""What mends a damaged run folder."""


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
        model: fingerprint of the weights that were asked; None in records of earlier releases, which do not say.
        asked: for each probe a hash of the settings that its answer depends on.
    """

    key: str
    set: SetName
    index: int
    prompt: str
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditioning: str | None = None
    support: int | None = None
    model: str | None = None
    asked: dict[str, str] = field(default_factory=dict)

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
        """One line of JSON with its checksum; probes in alphabetical order, None left out."""
        plain = {name: value for name, value in vars(self).items() if value is not None}
        plain["probes"] = {
            probe: {name: value for name, value in self.probes[probe].items() if value is not None}
            for probe in sorted(self.probes)
        }
        if not plain.pop("asked"):
            return sign(json.dumps(plain, allow_nan=False))
        return sign(json.dumps(plain | {"asked": dict(sorted(self.asked.items()))}, allow_nan=False))

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read one line, of this schema or an older one.

        Raises:
            ValueError: if the line is no record, or was changed after it was written.
        """
        text, intact = unsign(line)
        try:
            record = fit(cls, parse_json(renewed_record(text)))
            if record.index < 0 or (record.support or 0) < 0:
                raise ValueError(f"{'index' if record.index < 0 else 'support'} is negative")
            own = record.key, record.conditioning or "", record.model or ""
            if not "".join((*own, *record.asked, *record.asked.values())).isprintable():
                raise ValueError("a label holds control characters")
            for probe, answer in record.probes.items():
                check_answer(probe, answer)
            if not intact:
                raise ValueError("it was changed after it was written")
        except ValueError as error:
            raise ValueError(f"not a record: {line[:80]!r} ({error})") from None
        return record


def finite(value: float) -> float | None:
    """The value, or None if it is NaN, infinite (JSON has neither) or too large to be reckoned with."""
    return value if abs(value) <= LARGEST else None


@dataclass(frozen=True)
class Place:
    """Where a sample stands in a run.

    Args:
        set: it belongs to.
        index: its row there.
        support: of an image-level audit, the support's row in its set.
        conditioned: whether it is an image under another prompt than its own.
        lesson: whether it is one of those that probes teach the model.
    """

    set: SetName
    index: int
    support: int | None = None
    conditioned: bool = False
    lesson: bool = False

    def holds(self, record: Record) -> bool:
        """Whether a record of the sample says the same."""
        return (record.set, record.index, record.support) == (self.set, self.index, self.support)


def image_path(folder: Path, name: SetName, index: int, kind: str) -> Path:
    """Where a run keeps the picture of a sample."""
    return folder / IMAGES / f"{name}-{index:04d}-{kind}.png"


def artefact_path(folder: Path, attack: str, key: str) -> Path:
    """Where a run keeps what an attack made of a sample."""
    return folder / ARTEFACTS / attack / f"{key}.safetensors"


def read_lines(file: Path, damaged: list[str] | None = None) -> list[Record]:
    """Records of a JSONL file; a last line cut short by a killed process is left out.

    A file of others may hold anything: every value has its field's type, is finite and not absurd for it.

    Args:
        file: to read; one that is gone has none.
        damaged: takes what is wrong with lines that are none, and has them left out; without, the first is an error.

    Raises:
        ValueError: if a line is damaged; names file and line, and what mends it.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    *whole, tail = content.decode("utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(whole, 1):
        try:
            records.append(Record.from_json(line))
        except ValueError as error:
            if damaged is None:
                raise ValueError(f"{file}:{number}: {error}; {AGAIN}") from None
            damaged.append(f"{file}:{number}: {error}")
    if tail:
        with contextlib.suppress(ValueError):
            records.append(Record.from_json(tail))
    return records


@contextlib.contextmanager
def no_collecting() -> Iterator[None]:
    """Without looks for garbage, of which records make none: among a million objects these take half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def order(records: Iterable[Record]) -> list[Record]:
    """Records in the order of ``records.jsonl``, one a key; of two answers of a probe the first stays."""
    unique: dict[str, Record] = {}
    for record in records:
        first = unique.setdefault(record.key, record)
        if first is not record:
            probes, asked = record.probes | first.probes, record.asked | first.asked
            unique[record.key] = replace(first, probes=probes, asked=asked)
    return sorted(unique.values(), key=_place)


def _place(record: Record) -> tuple[int, int, int, str]:
    return RANKS[record.set], record.index, record.support or 0, record.key


def read_records(folder: Path, damaged: list[str] | None = None) -> list[Record]:
    """All records of a run folder: those still in parts, and the merged ones.

    Parts are read first: what a merge takes from them meanwhile is in the merged file by the time that is read. Of two
    answers of one probe, the merged one stays.

    Args:
        folder: the run folder.
        damaged: takes what is wrong with damaged lines, which are left out; without, the first is an error.

    Raises:
        ValueError: if a line is damaged, or a link leads out of the folder.
    """
    folder = Path(folder)
    check_inside(folder, OWN)
    with no_collecting():
        parts = [record for file in _parts(folder) for record in read_lines(file, damaged)]
        return order([*read_lines(folder / RECORDS_FILE, damaged), *parts])


def _parts(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):  # a merge may take the folder away between two looks
        return sorted((folder / PARTS).glob("records-*.jsonl"))
    return []


def read_stale(folder: Path, damaged: list[str] | None = None) -> list[Record]:
    """Records of a run folder that were set aside, because the audit no longer had their samples.

    Args:
        folder: the run folder.
        damaged: as `read_records` takes it.

    Raises:
        ValueError: if a line is damaged, or a link leads out of the folder.
    """
    check_inside(Path(folder), OWN)
    return read_lines(Path(folder) / STALE / RECORDS_FILE, damaged)


def check_records(folder: Path, records: Iterable[Record], model: str | None, marks: Mapping[str, str]) -> None:
    """Refuse records that say they are of another model, or of probes with other settings.

    Args:
        folder: where they stand.
        records: to check; those of earlier releases say nothing, and pass.
        model: fingerprint of the weights they should be of.
        marks: of the settings of some probes, by name (`RunInfo.mark`).

    Raises:
        ValueError: naming what differs.
    """
    for record in records:
        if record.model not in (None, model):
            raise ValueError(f"{folder} holds records of another model ({record.model}) than this one ({model})")
        for probe, mark in record.asked.items():
            if marks.get(probe, mark) != mark:
                raise ValueError(f"{folder} holds answers of the probe {probe} with other settings than these")
