"""The seeds of a run folder: one file, or several of a bounded size where one would not fit into memory or a header.

With few of them they are in ``seeds.safetensors``. With more there are 16, 256 … files ``seeds/PREFIX.safetensors``,
each with the seeds whose key's CRC-32 begins with the prefix, so that it does not depend on how the run went in which
file a seed is.
"""

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from lit_memories.records import PARTS, SEEDS, SEEDS_FILE
from lit_memories.storage.tensors import read_notes, read_sound, tensor_names, write_tensors

FILE_BYTES, FILE_SEEDS = 1 << 29, 100_000
"""Bytes and number of seeds that one file holds on average at most."""
MODEL = "model"
"""Under this name the header of a file of seeds says of which weights they are."""


def seed_files(folder: Path) -> list[Path]:
    """The files of a run folder that hold seeds, parts first."""
    parts = sorted((folder / PARTS).glob("seeds-*.safetensors"))
    return [*parts, *(file for file in _merged(folder) if file.is_file())]


def seed_keys(folder: Path) -> set[str]:
    """The keys of all seeds that are in a run folder; damaged files have none.

    Parts come first, so that what a merge takes from them meanwhile is found where it went.
    """
    found: set[str] = set()
    for file in seed_files(folder):
        found |= _names(file)
    return found


def sound_seeds(folder: Path, damaged: list[str] | None = None) -> set[str]:
    """The keys of all seeds in a run folder that are as they were written; all of them are read, one at a time.

    Args:
        folder: of the run.
        damaged: takes what is wrong with others.
    """
    found: set[str] = set()
    for file in seed_files(folder):
        found |= {key for key, _ in read_sound(file, None, damaged)}
    return found


def read_seeds(folder: Path, keys: Collection[str]) -> dict[str, Tensor]:
    """Those seeds of a run folder that are there and sound, by key.

    Args:
        folder: of the run.
        keys: of the seeds that are wanted.
    """
    found: dict[str, Tensor] = {}
    for file in seed_files(folder):
        if wanted := _names(file) & (set(keys) - found.keys()):
            found |= dict(read_sound(file, wanted))
    return found


def check_model(folder: Path, model: str | None) -> None:
    """Refuse seeds that say they are another model's.

    Args:
        folder: of the run.
        model: fingerprint of the weights they should be of.

    Raises:
        ValueError: naming the file and both models.
    """
    for file in seed_files(folder):
        try:
            there = read_notes(file).get(MODEL, model)
        except (FileNotFoundError, ValueError):
            continue  # it is told of where its seeds are missed
        if there != model:
            raise ValueError(f"{file} holds seeds of another model ({there}) than this one ({model})")


def write_seeds(folder: Path, keys: Collection[str], sources: Iterable[Path], model: str | None) -> None:
    """Gather seeds from files of a run folder into those that it has when it is merged, one file in memory at a time.

    Killed anywhere in between, it can be repeated: no seed leaves a file before it is in another.

    Args:
        folder: to write them to.
        keys: of the seeds to keep, which may lack some.
        sources: files to take them from; of several that have one, the first that has it sound.
        model: fingerprint of the weights they are of.
    """
    sources = [*sources]
    places = {file: names for file in sources if (names := _names(file) & set(keys))}
    there: set[str] = set().union(*places.values())
    groups = _groups(folder, there, _bytes_each(places))
    for file, group in groups.items():
        seeds: dict[str, Tensor] = {}
        for source, names in places.items():
            if wanted := (names & group) - seeds.keys():
                seeds |= dict(read_sound(source, wanted))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, dict(sorted(seeds.items())), {} if model is None else {MODEL: model})
    for file in _merged(folder):
        if file not in groups:
            file.unlink(missing_ok=True)
    if (folder / SEEDS).is_dir() and not any((folder / SEEDS).iterdir()):
        (folder / SEEDS).rmdir()


def _merged(folder: Path) -> Iterator[Path]:
    yield folder / SEEDS_FILE
    yield from sorted((folder / SEEDS).glob("*.safetensors"))


def _groups(folder: Path, keys: Collection[str], size: int) -> dict[Path, set[str]]:
    """Which keys go to which file; one file, if only with none in it, there always is."""
    most, digits = max(1, min(FILE_SEEDS, FILE_BYTES // max(1, size))), 0
    while len(keys) > most * 16**digits:
        digits += 1
    if digits == 0:
        return {folder / SEEDS_FILE: set(keys)}
    groups: dict[Path, set[str]] = {}
    for key in keys:
        prefix = f"{zlib.crc32(key.encode()):08x}"[:digits]
        groups.setdefault(folder / SEEDS / f"{prefix}.safetensors", set()).add(key)
    return dict(sorted(groups.items()))


def _bytes_each(places: Mapping[Path, set[str]]) -> int:
    """What a seed takes: all of a run have one shape."""
    for file, names in places.items():
        for _, seed in read_sound(file, {min(names)}):
            return seed.numel() * seed.element_size()
    return 0


def _names(file: Path) -> set[str]:
    try:
        return set(tensor_names(file))
    except (FileNotFoundError, ValueError):
        return set()
