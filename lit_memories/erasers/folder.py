"""The folder that an erasure goes to, looked at before anything is written."""

import json
from pathlib import Path
from shlex import quote
from typing import Any

from lit_memories.erasers.cost import COST_FILE
from lit_memories.erasure import PROVENANCE_FILE, WEIGHTS_FILE, Provenance
from lit_memories.recipe_files import audit_command
from lit_memories.records import RUN_FILE
from lit_memories.settings import differences
from lit_memories.storage.cards import CARD_FILE
from lit_memories.storage.files import check_inside, check_writable
from lit_memories.storage.hub import redact
from lit_memories.terminal import said

ELSEWHERE = "choose another folder with --trainer.default_root_dir"


def check_folder(folder: Path, made: Provenance, elsewhere: str = ELSEWHERE) -> None:
    """Refuse, before training or conversion, a folder that cannot be written, or holds what is not to be replaced.

    The same erasure is: one of the same method, concept, base, settings and seed.

    Args:
        folder: of the erasure; a missing one is made.
        made: the erasure that will be in it.
        elsewhere: how to choose another folder, in words.

    Raises:
        ValueError: if it holds another erasure, an audit's records, or links that lead out of it.
        OSError: if it cannot be written.
    """
    check_inside(folder, (WEIGHTS_FILE, PROVENANCE_FILE, CARD_FILE, COST_FILE))
    check_writable(folder)
    if (folder / RUN_FILE).is_file():
        raise ValueError(f"{folder} holds an audit: {elsewhere}")
    if not (file := folder / PROVENANCE_FILE).is_file():
        return
    try:
        there = Provenance.read(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, or {elsewhere}") from None
    if lines := differences(_comparable(there), _comparable(made)):
        names = " and this is ".join(f"{one.method} of {one.concept.get('name')}" for one in (there, made))
        raise ValueError(f"{folder} holds another erasure, {names} ({'; '.join(lines[:2])}): {elsewhere}, or remove it")


def announce(folder: Path, provenance: Provenance) -> None:
    """Say where an erasure is, and what tells whether it forgot.

    Args:
        folder: that it was written to.
        provenance: of it.
    """
    model = [f"--model.diffusion.base {quote(provenance.base)}", f"--model.diffusion.erasure {quote(str(folder))}"]
    command = audit_command(str(provenance.concept["name"]), provenance.base, *model)
    print(said(f"the erasure is in {folder}; to audit it: {command} --trainer.default_root_dir RUN"))  # noqa: T201


def _comparable(provenance: Provenance) -> dict[str, Any]:
    """What makes an erasure another one, as its file has it: not how the base is called, nor how far training came."""
    values: dict[str, Any] = json.loads(redact(json.dumps(provenance.to_dict())))
    return {name: values[name] for name in ("method", "concept", "base_fingerprint", "settings", "seed", "gate")}
