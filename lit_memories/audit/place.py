"""What an audit is asked to do and where, looked at before anything is loaded: nothing of others' is replaced."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_memories.erasure import PROVENANCE_FILE, WEIGHTS_FILE
from lit_memories.lightning_files import CONFIG_FILE, own_config
from lit_memories.records import LOCK, OWN, PARTS, RECORDS_FILE, RUN_FILE, SEEDS, SEEDS_FILE, STALE, Record
from lit_memories.runs import RunInfo
from lit_memories.storage.files import check_folder_place, check_inside
from lit_memories.storage.unfinished import LEFT

PART = re.compile(r"(records-\d+\.jsonl|cost-\d+\.json|seeds-[0-9a-f]+\.safetensors)")
"""Names of what processes have finished so far."""
ASIDE = re.compile("|".join(map(re.escape, (RECORDS_FILE, SEEDS_FILE, SEEDS, PARTS))))
"""Names of what is set aside."""
ELSEWHERE = "choose another folder with --trainer.default_root_dir"


def check_place(folder: Path) -> None:
    """Refuse a folder with an erasure in it, or with anything that an audit would replace and that is not an audit's.

    Args:
        folder: which need not exist.

    Raises:
        ValueError: naming what is in the way, a link that leads out, or a ``run.json`` that is damaged.
        WriteError: if it is no folder.
    """
    check_folder_place(folder)
    check_inside(folder, (*OWN, CONFIG_FILE))
    if any((folder / name).exists() for name in (PROVENANCE_FILE, WEIGHTS_FILE)):
        raise ValueError(f"{folder} holds an erasure: {ELSEWHERE}")
    if (file := next(_foreign(folder), None)) is not None:
        raise ValueError(f"{file} is not of an audit, which would replace it: move it, or {ELSEWHERE}")
    if (folder / RUN_FILE).is_file():
        RunInfo.load(folder)


def check_whole(trainer: Any) -> None:
    """Refuse limits of the trainer that would leave an audit incomplete.

    Args:
        trainer: Lightning's, or the settings that one is made of.

    Raises:
        ValueError: naming the options that make an audit smaller.
    """
    limit = trainer.limit_predict_batches
    limited = limit is not None and not (isinstance(limit, float) and limit == 1.0)
    name = "fast_dev_run" if trainer.fast_dev_run else "limit_predict_batches" if limited else None
    if name is not None:
        raise ValueError(
            f"--trainer.{name} would leave the run incomplete: ask fewer samples with --data.concept_images.limit, "
            "--data.reference_images.limit, --data.known and --data.prompted (of an image-level audit --data.queries)"
        )


def _foreign(folder: Path) -> Iterator[Path]:
    """What stands in the way of an audit and is somebody else's."""
    parts, stale = folder / PARTS, folder / STALE
    for place, known in ((parts, PART), (stale, ASIDE), (stale / PARTS, PART)):
        if place.exists() and not place.is_dir():
            yield place
        for entry in sorted(place.iterdir()) if place.is_dir() else ():  # an audit takes these folders away as a whole
            if not (known.fullmatch(entry.name) or LEFT.fullmatch(entry.name)):
                yield entry
    if (folder / RUN_FILE).is_file() or _recorded(folder / RECORDS_FILE) or (parts.is_dir() and any(parts.iterdir())):
        return
    for name in OWN:
        if name not in {LOCK, PARTS} and _holds_something(folder / name):
            yield folder / name
    if (folder / CONFIG_FILE).exists() and not own_config(folder / CONFIG_FILE):
        yield folder / CONFIG_FILE


def _recorded(file: Path) -> bool:
    """Whether any line of a file is a record."""
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        return any(_is_record(line) for line in lines)


def _is_record(line: str) -> bool:
    try:
        Record.from_json(line)
    except ValueError:
        return False
    return True


def _holds_something(path: Path) -> bool:
    """Whether a folder or a file is there that is not empty."""
    if path.is_dir():
        return any(not LEFT.fullmatch(entry.name) for entry in path.iterdir())
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)
