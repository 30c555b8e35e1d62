"""What a run folder holds of an audit's samples: read at the start, put in order if they changed, merged at the end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor

from lit_memories.costs import COST_FILE
from lit_memories.records import (
    PARTS,
    RECORDS_FILE,
    RUN_FILE,
    SEEDS_FILE,
    STALE,
    Place,
    Record,
    SetName,
    image_path,
    order,
    read_lines,
    read_records,
    read_stale,
)
from lit_memories.storage.files import PART, read_tensors, whole


@dataclass(frozen=True)
class Found:
    """What a run folder holds.

    Args:
        recorded: records of the audit's samples, by key, those among them that were set aside before.
        undrawn: keys of the samples that should have left pictures and have none.
        changed: whether it also holds records of other samples, or of samples that have moved.
    """

    recorded: dict[str, Record]
    undrawn: set[str]
    changed: bool


def look(
    folder: Path,
    places: Mapping[str, Place],
    pictured: Callable[[Place], bool],
    renamed: Mapping[str, str] | None = None,
) -> Found:
    """Read what a run folder holds of an audit's samples.

    Args:
        folder: the run folder, which need not exist.
        places: the audit's samples, by key.
        pictured: which of them leave pictures.
        renamed: keys that samples have now, by those in the folder, if an earlier release wrote it.

    Raises:
        ValueError: if a file is damaged, or a link leads out of the folder.
    """
    there, stale = (_with_keys(records, renamed or {}) for records in (read_records(folder), read_stale(folder)))
    held = {record.key for record in there if record.key in places and places[record.key].holds(record)}
    recorded = {record.key: record for record in order([*there, *stale]) if record.key in places}
    undrawn = {
        key
        for key in recorded
        if pictured(place := places[key]) and not (key in held and _pictures(folder, place.set, place.index))
    }
    return Found(recorded, undrawn, len(held) < len(there))


def renew(folder: Path, renamed: Mapping[str, str]) -> None:
    """Give the records and seeds of a folder that an earlier release wrote the keys they have now.

    Args:
        folder: the run folder.
        renamed: the keys they have now, by those they have there.
    """
    for place in (folder, folder / STALE):
        file = place / RECORDS_FILE
        parts = sorted((place / PARTS).glob("records-*.jsonl"))
        records = order(record for part in (file, *parts) if part.is_file() for record in read_lines(part))
        if not records:
            continue
        seeds = dict[str, Tensor]()
        for part in (place / SEEDS_FILE, *sorted((place / PARTS).glob("seeds-*.safetensors"))):
            if part.is_file():
                seeds |= read_tensors(part)
        # Killed anywhere in between, this can be repeated: what has its new key already keeps it.
        _write(place, _with_keys(records, renamed), {renamed.get(key, key): x for key, x in seeds.items()})
        _clear(place / PARTS)


def _with_keys(records: Iterable[Record], renamed: Mapping[str, str]) -> list[Record]:
    return order(replace(record, key=renamed.get(record.key, record.key)) for record in records)


def merge(folder: Path, places: Mapping[str, Place]) -> list[Record]:
    """Gather all parts of a run into ``records.jsonl`` and ``seeds.safetensors``, in an order of their own.

    The two files depend on nothing but the run's samples and their records: not on how many processes wrote them, in
    which order, how often the run was stopped, or what else it once held. Records of other samples go to ``stale/``,
    from where they come back with their samples. Killed half-way, a merge can be repeated.

    Args:
        folder: the run folder.
        places: the run's samples, by key.

    Returns:
        The records, in order.

    Raises:
        ValueError: if a file is damaged; names it.
    """
    there, before = read_records(folder), read_stale(folder)
    records = order(_at(record, places[record.key]) for record in (*there, *before) if record.key in places)
    stale = order(record for record in (*there, *before) if record.key not in places)
    aside, seeds = folder / STALE, dict[str, Tensor]()
    for file in (aside / SEEDS_FILE, folder / SEEDS_FILE, *sorted((folder / PARTS).glob("seeds-*.safetensors"))):
        if file.is_file():
            seeds |= read_tensors(file)
    gone, known = ({record.key for record in some} for some in (stale, before))
    if gone - known:  # what leaves is there before it is gone here, what comes back is gone there last
        aside.mkdir(exist_ok=True)
        _write(aside, order([*before, *stale]), seeds)
    _write(folder, records, seeds)
    if stale and not known <= gone:
        _write(aside, stale, seeds)
    elif not stale and aside.is_dir():
        _clear(aside)
    _clear(folder / PARTS)
    for name in (RUN_FILE, RECORDS_FILE, SEEDS_FILE, COST_FILE):
        for left in folder.glob(f"{name}.*{PART}"):  # by a process that was killed while it wrote
            left.unlink()
    return records


def rearrange(folder: Path, places: Mapping[str, Place]) -> None:
    """Bring a run folder in line with samples that were changed since it was written; warn of those that went.

    Pictures of a sample that left its row are removed with it; its audit draws them again.

    Args:
        folder: the run folder.
        places: the run's samples, by key.

    Raises:
        ValueError: if a file is damaged; names it.
    """
    left = [r for r in read_records(folder) if r.key not in places or not places[r.key].holds(r)]
    for record in left:
        if record.conditioning is None:
            for picture in _pictures(folder, record.set, record.index):
                picture.unlink()
    merge(folder, places)
    if aside := sum(record.key not in places for record in left):
        rank_zero_warn(
            f"{aside} records are of samples that this audit no longer has, as images, captions or numbers were "
            f"changed: they are set aside in {folder / STALE}, and come back with their samples"
        )


def _pictures(folder: Path, name: SetName, index: int) -> list[Path]:
    """The pictures that a run keeps of a sample."""
    pattern = image_path(folder, name, index, "*")
    return sorted(pattern.parent.glob(pattern.name))


def _at(record: Record, place: Place) -> Record:
    return record if place.holds(record) else replace(record, index=place.index, support=place.support)


def _write(folder: Path, records: Sequence[Record], seeds: Mapping[str, Tensor]) -> None:
    keys = sorted({record.key for record in records} & seeds.keys())
    with whole(folder / SEEDS_FILE) as part:
        save_file({key: seeds[key] for key in keys}, part)
    with whole(folder / RECORDS_FILE) as part:
        part.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")


def _clear(parts: Path) -> None:
    files: Iterable[Path] = parts.iterdir() if parts.is_dir() else ()
    for file in files:
        file.unlink()
    if parts.is_dir():
        parts.rmdir()
