"""What a run folder holds of an audit's samples: read at the start, put in order if they changed, merged at the end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from lit_memories.records import (
    IMAGES,
    PARTS,
    RECORDS_FILE,
    SEEDS,
    SEEDS_FILE,
    STALE,
    Place,
    Record,
    SetName,
    check_records,
    image_path,
    order,
    read_lines,
    read_records,
    read_stale,
)
from lit_memories.seeds import MODEL, check_model, seed_files, sound_seeds, write_seeds
from lit_memories.storage.files import whole
from lit_memories.storage.tensors import read_sound, write_tensors
from lit_memories.storage.unfinished import clear


@dataclass(frozen=True)
class Found:
    """What a run folder holds.

    Args:
        recorded: records of the audit's samples, by key, those among them that were set aside before.
        undrawn: keys of the samples that should have left pictures and have none.
        seeds: keys of the samples whose seeds are there, as they were written.
        changed: whether it also holds records of other samples, of samples that have moved, or anything damaged.
    """

    recorded: dict[str, Record]
    undrawn: set[str]
    seeds: set[str]
    changed: bool


def look(
    folder: Path,
    places: Mapping[str, Place],
    pictured: Callable[[Place], bool],
    model: str,
    marks: Mapping[str, str],
    renamed: Mapping[str, str] | None = None,
) -> Found:
    """Read what a run folder holds of an audit's samples; warn of what is damaged, and leave it out.

    Args:
        folder: the run folder, which need not exist.
        places: the audit's samples, by key.
        pictured: which of them leave pictures.
        model: fingerprint of the weights that are asked.
        marks: of the settings of the probes that are asked, by name.
        renamed: keys that samples have now, by those in the folder, if an earlier release wrote it.

    Raises:
        ValueError: if what is there is of another model or of other settings, or a link leads out of the folder.
    """
    damaged: list[str] = []
    there, stale = (
        _with_keys(records, renamed or {}) for records in (read_records(folder, damaged), read_stale(folder, damaged))
    )
    try:
        check_records(folder, [*there, *stale], model, marks)
        check_model(folder, model)
    except ValueError as error:
        raise ValueError(f"{error}: choose another folder with --trainer.default_root_dir") from None
    seeds = sound_seeds(folder, damaged) | sound_seeds(folder / STALE, damaged)
    if damaged:
        rank_zero_warn(f"{_some(damaged)}: what was damaged is left out and made anew, all else is kept")
    held = {record.key for record in there if record.key in places and places[record.key].holds(record)}
    recorded = {record.key: record for record in order([*there, *stale]) if record.key in places}
    undrawn = {
        key
        for key in recorded
        if pictured(place := places[key]) and not (key in held and _pictures(folder, place.set, place.index))
    }
    found = {(renamed or {}).get(key, key) for key in seeds}
    return Found(recorded, undrawn, found, len(held) < len(there) or bool(damaged))


def _some(damaged: Sequence[str]) -> str:
    more = len(damaged) - 3
    return "; ".join(damaged[:3]) + (f"; and {more} more" if more > 0 else "")


def renew(folder: Path, renamed: Mapping[str, str], model: str, marks: Mapping[str, str]) -> None:
    """Give the records and seeds of a folder that an earlier release wrote the keys they have now, and their model.

    Args:
        folder: the run folder.
        renamed: the keys they have now, by those they have there.
        model: fingerprint of the weights they are of, as its ``run.json`` says.
        marks: of the settings of the probes that it was asked.
    """
    for place in (folder, folder / STALE):
        records = [*read_lines(place / RECORDS_FILE, []), *_part_records(place)]
        if not records:
            continue
        seeds = {renamed.get(key, key): x for file in seed_files(place) for key, x in read_sound(file, None)}
        # Killed anywhere in between, this can be repeated: what has its new key already keeps it.
        write_tensors(place / SEEDS_FILE, dict(sorted(seeds.items())), {MODEL: model})
        named = [
            replace(r, model=model, asked={name: marks[name] for name in r.probes if name in marks} | r.asked)
            for r in _with_keys(records, renamed)
        ]
        _write_records(place, named)
        _remove(place / PARTS)


def _part_records(place: Path) -> list[Record]:
    return [r for file in sorted((place / PARTS).glob("records-*.jsonl")) for r in read_lines(file, [])]


def _with_keys(records: Iterable[Record], renamed: Mapping[str, str]) -> list[Record]:
    return order(replace(record, key=renamed.get(record.key, record.key)) for record in records)


def merge(folder: Path, places: Mapping[str, Place], model: str | None = None) -> list[Record]:
    """Gather all parts of a run into ``records.jsonl`` and files of seeds, in an order of their own.

    They depend on nothing but the run's samples and their records: not on how many processes wrote them, in which
    order, how often the run was stopped, or what else it once held. Records of other samples go to ``stale/``, from
    where they come back with their samples. What is damaged is left out, and missed when the run is counted. Killed
    half-way, a merge can be repeated, and whoever reads meanwhile finds every record.

    Args:
        folder: the run folder.
        places: the run's samples, by key.
        model: fingerprint of the weights that were asked.

    Returns:
        The records, in order.
    """
    there, before = read_records(folder, []), read_stale(folder, [])
    records = order(_at(record, places[record.key]) for record in (*there, *before) if record.key in places)
    stale = order(record for record in (*there, *before) if record.key not in places)
    aside = folder / STALE
    gone, known = ({record.key for record in some} for some in (stale, before))

    def write(place: Path, kept: Sequence[Record]) -> None:
        sources = [*seed_files(folder), *seed_files(aside)]
        write_seeds(place, {record.key for record in kept}, sources, model)
        _write_records(place, kept)

    if gone - known:  # what leaves is there before it is gone here, what comes back is gone there last
        aside.mkdir(exist_ok=True)
        write(aside, order([*before, *stale]))
    write(folder, records)
    if stale and not known <= gone:
        write(aside, stale)
    elif not stale and aside.is_dir():
        _remove(aside)
    _remove(folder / PARTS)
    for place in (folder, folder / IMAGES, folder / SEEDS):
        clear(place)
    return records


def rearrange(folder: Path, places: Mapping[str, Place], model: str | None = None) -> None:
    """Bring a run folder in line with samples that were changed since it was written; warn of those that went.

    Pictures of a sample that left its row are removed with it; its audit draws them again.

    Args:
        folder: the run folder.
        places: the run's samples, by key.
        model: fingerprint of the weights that were asked.
    """
    left = [r for r in read_records(folder, []) if r.key not in places or not places[r.key].holds(r)]
    for record in left:
        if record.conditioning is None:
            for picture in _pictures(folder, record.set, record.index):
                picture.unlink()
    merge(folder, places, model)
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


def _write_records(folder: Path, records: Sequence[Record]) -> None:
    with whole(folder / RECORDS_FILE) as part:
        part.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")


def _remove(folder: Path) -> None:
    """Take a folder of the run's own away, with what kills have left in it."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir():
            _remove(entry)
        else:
            entry.unlink()
    if folder.is_dir():
        folder.rmdir()
