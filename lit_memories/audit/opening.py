"""The start of an audit: what its run folder holds, whether it is this audit's, and what is left to ask."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from lit_memories.audit.folder import Found, look
from lit_memories.probes.base import Probe
from lit_memories.records import RUN_FILE, Place, Record, artefact_path, read_records
from lit_memories.runs import CONDITIONED, RunInfo
from lit_memories.schemas import OLD_SCHEMA
from lit_memories.settings import differences
from lit_memories.storage.tensors import is_sound


@dataclass(frozen=True)
class Opened:
    """A run folder as an audit finds it.

    Args:
        info: what the run is, with the probes that earlier audits asked.
        places: where the finished run's records stand, by key.
        asked: the probes that each of them is put to, by key.
        left: those that are left to ask, by the name a record is keyed by.
        held: records that are there, by key.
        recorded: the same with those answers alone that this audit asks for.
        renamed: the keys that records have now, by those in the folder, if an earlier release wrote it.
        changed: whether it also holds records of other samples, or of samples that have moved.
        finished: whether nothing is left to do.
    """

    info: RunInfo
    places: dict[str, Place]
    asked: dict[str, list[str]]
    left: dict[str, list[str]]
    held: dict[str, Record]
    recorded: dict[str, Record]
    renamed: dict[str, str]
    changed: bool
    finished: bool

    def answered(self, records: Sequence[Record], seeds: Set[str]) -> bool:
        """Whether records hold an answer to every question, and seeds are there where answers leave some."""
        there = {record.key: set(record.probes) for record in records}
        return all(
            there.get(key, set()).issuperset(names) and (key in seeds or not self.leaving & set(names))
            for key, names in self.asked.items()
        )

    @property
    def leaving(self) -> set[str]:
        """The probes whose answers leave seeds."""
        return {name for name, probe in self.info.asked.items() if probe.leaves_seeds}


def asked_of(place: Place, probes: Mapping[str, Probe]) -> list[str]:
    """The probes that a sample is put to: those that need seeds where seeds are sought, none that teaches it."""

    def within(probe: Probe) -> bool:
        limits = [probe.limit, *([probes["seed"].limit] if "seeds" in probe.needs else [])]
        return all(limit is None or place.index < limit for limit in limits) and not (place.lesson and probe.lesson)

    return [
        name
        for name, probe in probes.items()
        if place.set in probe.sets and (probe.conditioned or not place.conditioned) and within(probe)
    ]


def open_folder(
    folder: Path, info: RunInfo, probes: Mapping[str, Probe], places: Mapping[str, Place], keep_images: int
) -> Opened:
    """Check that a run folder is new or of this very audit, and read what it holds.

    If nothing is left to ask, but the folder does not say so, one question is left: asked again, it brings the run to
    its end.

    Args:
        folder: the run folder, which need not exist.
        info: what this run is.
        probes: to ask, by name.
        places: the finished run's records, by the name each is keyed by.
        keep_images: how many samples of each set leave pictures.

    Raises:
        ValueError: if the folder holds records of another audit, or a probe's with other settings; names what differs.
    """
    there = RunInfo.load(folder) if (folder / RUN_FILE).is_file() else None
    if there is not None:
        _compare(folder, there, info)
        info = replace(info, probes=there.probes | info.probes)
    elif any(record.model is None for record in read_records(folder, [])):
        raise ValueError(
            f"{folder} holds records of an earlier release and no {RUN_FILE}, so that nothing says of which model they "
            "are: restore it, or choose another folder with --trainer.default_root_dir"
        )
    old = there is not None and there.schema == OLD_SCHEMA
    renamed = {there.key(name): info.key(name) for name in places} if old and there is not None else {}
    keyed = {info.key(name): place for name, place in places.items()}
    asked = {key: asked_of(place, probes) for key, place in keyed.items()}

    def pictured(place: Place) -> bool:
        drawn = any(probes[name].pictures for name in asked_of(place, probes))
        return drawn and not place.conditioned and place.index < keep_images

    found = look(folder, keyed, pictured, str(info.fingerprint), {name: info.mark(name) for name in probes}, renamed)
    lost = _lost(folder, found, probes)
    left = {name: _left(info.key(name), asked[info.key(name)], probes, found, lost) for name in places}
    info = replace(info, expected=_expected(keyed, asked, found.recorded))
    said = there is not None and there.complete and (there.data, there.probes, there.expected)
    finished = said == (info.data, info.probes, info.expected) and not found.changed and not any(left.values())
    if not any(left.values()) and not finished:
        for name in [name for name in places if asked[info.key(name)]][:1]:
            left[name] = asked[info.key(name)][:1]
    recorded = {
        key: replace(record, probes={name: record.probes[name] for name in asked[key] if name in record.probes})
        for key, record in found.recorded.items()
    }
    return Opened(info, keyed, asked, left, found.recorded, recorded, renamed, found.changed, finished)


def _expected(
    places: Mapping[str, Place], asked: Mapping[str, Sequence[str]], recorded: Mapping[str, Record]
) -> dict[str, dict[str, int]]:
    """How many answers there will be, by set and probe: those to what is asked, and what was asked before."""
    counts: dict[str, Counter[str]] = {}
    for key, place in places.items():
        before = recorded[key].probes if key in recorded else {}
        counts.setdefault(CONDITIONED if place.conditioned else place.set, Counter()).update({*asked[key], *before})
    return {name: dict(sorted(probes.items())) for name, probes in counts.items() if probes}


def _lost(folder: Path, found: Found, probes: Mapping[str, Probe]) -> set[tuple[str, str]]:
    """Keys and names of answers whose artefacts are not there as they were written; a warning counts them."""
    leaving = [name for name, probe in probes.items() if probe.leaves_artefacts]
    lost = {
        (key, name)
        for key, record in found.recorded.items()
        for name in leaving
        if name in record.probes and not is_sound(artefact_path(folder, name, key))
    }
    for name in leaving:
        if count := sum(one == name for _, one in lost):
            rank_zero_warn(f"{count} artefacts of {name} in {folder} are lost or damaged, and are made anew")
    return lost


def _left(
    key: str, names: Sequence[str], probes: Mapping[str, Probe], found: Found, lost: Set[tuple[str, str]]
) -> list[str]:
    """Those of a sample's probes that have not answered, or should have left a file that is not there."""
    answered = set(found.recorded[key].probes) if key in found.recorded else set()

    def again(name: str) -> bool:
        probe = probes[name]
        return (
            (key, name) in lost
            or (key in found.undrawn and probe.pictures)
            or (key not in found.seeds and probe.leaves_seeds)
        )

    return [name for name in names if name not in answered or again(name)]


def _compare(folder: Path, there: RunInfo, info: RunInfo) -> None:
    elsewhere = "choose another folder with --trainer.default_root_dir"
    if lines := differences(there.comparable(), info.comparable()):
        raise ValueError(f"{folder} holds records of another audit ({'; '.join(lines[:3])}): {elsewhere}")
    for name in sorted(info.probes.keys() & there.probes.keys()):
        settings = (one.probes[name]["settings"] for one in (there, info))
        if lines := differences(*settings):
            raise ValueError(
                f"{folder} holds numbers of the probe {name} with other settings ({'; '.join(lines[:3])}); they are as "
                f"they were, and so are the other probes': {elsewhere}, or take these settings back"
            )
