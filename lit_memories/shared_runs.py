"""Run folders as people hand them on: in a folder that holds several, and on the hub.

A repository has one run at its top, or one in each of its folders. Of its files only those that `FILES` names are
fetched, which are JSON and safetensors; they are copied out of the cache and read as if a stranger had written them.
Reports are not taken over: whoever wants one makes it of the records.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_memories.costs import COST_FILE
from lit_memories.records import RECORDS_FILE, RUN_FILE, SEEDS, SEEDS_FILE
from lit_memories.runs import Run, read_run
from lit_memories.storage.cards import CARD_FILE, marked
from lit_memories.storage.files import check_inside, check_regular, whole, write
from lit_memories.storage.hub import fetch, is_id, push, redact

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a folder in a repository may be called."""
_TOP = "|".join(map(re.escape, (RUN_FILE, RECORDS_FILE, COST_FILE, SEEDS_FILE)))
_OWN = rf"(?:{_TOP}|{SEEDS}/[0-9a-f]{{1,8}}\.safetensors)"
OWN_FILES = re.compile(_OWN)
"""Files of a run folder that are sent."""
FILES = re.compile(rf"(?:{PART.pattern}/)?{_OWN}")
"""Files of a repository that are fetched."""
REPORT_FILE = "results.json"
"""By which a report is known."""
MOST_RUNS = 200
LARGEST = {".json": 1 << 26, ".jsonl": 1 << 30, ".safetensors": 1 << 32}
"""Bytes that a file of the hub may have, by its kind."""
MOST_BYTES = 1 << 33
"""Bytes that all files of a repository may have together."""


def read_runs(name: str) -> list[Run]:
    """Read the runs that a name stands for.

    Args:
        name: a run folder; a folder that holds some, as ``lit-memories audit`` leaves it; or an id on the hub.

    Returns:
        The run, or the runs by the names of their folders.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a file is damaged, too large, or a link leads out of a folder.
        OSError: if the hub cannot be reached.
    """
    folder = Path(name)
    if not folder.exists() and name.strip() and is_id(name):
        return from_hub(name)
    places = run_folders(folder)
    if not places and (folder / REPORT_FILE).is_file():
        raise ValueError(
            f"{folder} is a report without the runs it was made of, whose numbers cannot be computed anew: name the "
            "folders of its runs"
        )
    return [read_run(place) for place in places or [folder]]


def run_folders(folder: Path) -> list[Path]:
    """The run folders at a place: itself, or those in it.

    Args:
        folder: which need not be there.
    """
    if (folder / RUN_FILE).is_file() or not folder.is_dir():
        return [folder] if (folder / RUN_FILE).is_file() else []
    return sorted(place for place in folder.iterdir() if (place / RUN_FILE).is_file())


def from_hub(repo_id: str, revision: str | None = None) -> list[Run]:
    """Read the runs of a repository on the hub, or from the cache if they were read before.

    Args:
        repo_id: ``user/name``, or ``user/name@revision``.
        revision: branch, tag or commit.

    Raises:
        FileNotFoundError: if there is no such repository, or no run in it.
        ValueError: if a file is damaged or too large.
        OSError: if the hub cannot be reached.
    """
    fetched = fetch(repo_id, _wanted, revision, lambda sizes: _check_sizes(repo_id, sizes))
    called = repo_id if fetched.commit is None or "@" in repo_id else f"{repo_id}@{fetched.commit[:7]}"
    names = _wanted([file.relative_to(fetched.folder).as_posix() for file in _regular(fetched.folder)])
    _check_sizes(repo_id, {name: (fetched.folder / name).stat().st_size for name in names})
    with TemporaryDirectory() as made:
        root = Path(made)
        for name in names:  # the cache holds links to its blobs, which in a run folder lead out of it
            with whole(root / name) as part:
                shutil.copyfile(fetched.folder / name, part)
        try:
            runs = [read_run(place) for place in run_folders(root)]
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(str(root), called)) from None
        return [replace(run, folder=Path(called, run.folder.relative_to(root))) for run in runs]


def push_to_hub(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    license_id: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Send runs to a repository on the hub, which is made if there is none, with a card that says what they are.

    Pictures, artefacts of attacks, logs and reports stay here: what was found is in the records.

    Args:
        folder: a run folder, or one that holds some.
        repo_id: ``user/name``.
        private: whether a new repository is for its owner only.
        token: with write access; if None, the one that ``hf auth login`` stored. It is written nowhere.
        license_id: the hub's name of a license, such as ``"cc-by-4.0"``.
        commit_message: of the commit.

    Returns:
        The commit.

    Raises:
        ValueError: if there is no run, one is unfinished or has a name that no folder of a repository may have, or a
            file holds what looks like a token.
        PermissionError: if there is no token, or it may not write there.
        OSError: if the hub cannot be reached.
    """
    places = run_folders(folder)
    runs = [_sound(place) for place in places]
    if not runs:
        raise ValueError(f"{folder} holds no run: lit-memories predict makes one, and lit-memories audit several")
    with TemporaryDirectory() as made:
        root = Path(made)
        for place in places:
            _copy(place, root if place == folder else root / place.name)
        write(root / CARD_FILE, _card(runs, repo_id, license_id))
        names = [file.relative_to(root).as_posix() for file in _regular(root)]
        _check_sizes(str(folder), {name: (root / name).stat().st_size for name in names if name != CARD_FILE})
        message = commit_message or f"Audits of {', '.join(run.info.name for run in runs)}"
        return push(root, repo_id, names, private, token, message, "the audits")


def _wanted(files: Sequence[str]) -> Sequence[str]:
    """Files of a repository that are wanted, those last that say what the others are.

    Raises:
        FileNotFoundError: if there is no run, or one has records and does not say of what, as a download that broke off
            leaves it in the cache.
    """
    wanted = sorted(file for file in files if FILES.fullmatch(file))
    runs = {file.rpartition("/")[0] for file in wanted if file.rpartition("/")[2] == RUN_FILE}
    if not runs:
        raise FileNotFoundError(f"it holds no audit: it has no {RUN_FILE}, nor has a folder in it")
    records = {file.rpartition("/")[0] for file in wanted if file.rpartition("/")[2] == RECORDS_FILE}
    if alone := sorted(records - runs):
        raise FileNotFoundError(f"{alone[0] or 'it'} has records and no {RUN_FILE}")
    return sorted(wanted, key=lambda file: file.endswith(RUN_FILE))


def _check_sizes(name: str, sizes: Mapping[str, int]) -> None:
    """Refuse what would fill a disk or take forever, of a repository or before it is sent."""
    runs = sum(file.rpartition("/")[2] == RUN_FILE for file in sizes)
    if runs > MOST_RUNS:
        raise ValueError(f"{name} holds {runs} runs, more than {MOST_RUNS}: take them apart")
    for file, size in sizes.items():
        if size > LARGEST[Path(file).suffix]:
            raise ValueError(
                f"{name}: {file} has {size} bytes, more than {LARGEST[Path(file).suffix]}: it is no audit's"
            )
    if sum(sizes.values()) > MOST_BYTES:
        raise ValueError(f"{name} holds {sum(sizes.values())} bytes, more than {MOST_BYTES}: take its runs apart")


def _regular(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _sound(place: Path) -> Run:
    """A run that may be sent."""
    run = read_run(place)
    if run.gaps:
        raise ValueError(
            f"{place} is unfinished, it holds {'; '.join(run.gaps[:3])}: run the same audit again to complete it, and "
            "then this"
        )
    if not PART.fullmatch(place.resolve().name):
        raise ValueError(f"{place} cannot be sent: rename the folder, to letters, digits, dots, - and _")
    return run


def _copy(place: Path, target: Path) -> None:
    """The files of a run that are sent, each looked at."""
    check_inside(place, (RUN_FILE, RECORDS_FILE, COST_FILE, SEEDS_FILE, SEEDS))
    for file in _regular(place):
        name = file.relative_to(place).as_posix()
        if not OWN_FILES.fullmatch(name):
            continue
        check_regular(file)
        if file.suffix != ".safetensors":
            text = file.read_text(encoding="utf-8")
            if redact(text) != text:
                raise ValueError(f"{file} holds what looks like a token, which would be read by all: take it out first")
        with whole(target / name) as part:
            shutil.copyfile(file, part)


def _card(runs: Sequence[Run], repo_id: str, license_id: str | None) -> str:
    """What the runs are, and what makes a page of them."""
    rows = "\n".join(f"| {' | '.join(_cells(run))} |" for run in runs)
    license_line = "" if license_id is None else f"license: {license_id}\n"
    return marked(
        redact(f"""---
library_name: lit-memories
{license_line}tags: [concept-erasure, audit, lit-memories]
---

# What audited models remember

Records of audits by `lit-memories predict`: of each picture or sample its numbers, and in `{RUN_FILE}` the settings
and the model they were asked of. Pictures and weights are not here.

| run | role | concept | method | base | records | model |
|---|---|---|---|---|---|---|
{rows}

```bash
lit-memories leaderboard {repo_id} --out DIR
```

computes every number anew from these records, beside those of other folders and ids that were made alike.
""")
    )


def _cells(run: Run) -> list[str]:
    model: dict[str, Any] = run.info.model
    erasure = model.get("erasure")
    method = erasure.get("method") if isinstance(erasure, dict) else None
    cells = [run.info.name, run.info.role, run.info.concept, method or "–", model.get("base"), len(run.records)]
    return [str(cell).replace("|", "\\|").replace("\n", " ") for cell in (*cells, run.info.fingerprint)]
