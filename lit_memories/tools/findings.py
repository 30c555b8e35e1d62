"""What attacks found, for others to try and to defend against: a data set with a card."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_memories.attacks import ATTACKS
from lit_memories.attacks.base import is_attack
from lit_memories.records import artefact_path
from lit_memories.runs import Run, read_run
from lit_memories.storage.cards import CARD_FILE, kept, marked
from lit_memories.storage.files import check_inside, check_writable, whole_folder, write
from lit_memories.storage.hub import redact
from lit_memories.storage.tensors import read_tensors, write_tensors
from lit_memories.terminal import said

ROWS_FILE, TENSORS_FILE = "findings.jsonl", "artefacts.safetensors"


def findings(runs: list[Path], out: Path = Path("runs/findings")) -> None:
    """Write the prompts, seeds and vectors that attacks found as a data set that `datasets` loads, with a card.

    One row for each picture and attack, whether it succeeded or not; tensors lie beside them, by the names in a row's
    ``artefacts``. A prompt that opens a model is for whoever has to close it: the card says of which model it is.

    Args:
        runs: folders of audits in which attacks were made.
        out: folder to write; findings that are there are replaced.

    Raises:
        ValueError: if a folder is no audit, or none of them holds an attack, or a link leads out of `out`, or it holds
            something else.
        OSError: if it cannot be written.
    """
    check_inside(out, (ROWS_FILE, TENSORS_FILE, CARD_FILE))
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held and not _own(out / ROWS_FILE):
        raise ValueError(f"{out} holds {held[0]}, and no findings: choose another OUT")
    read = [read_run(folder) for folder in runs]
    attacked = [(run, name) for run in read for name, probe in run.info.asked.items() if is_attack(probe)]
    if not attacked:
        raise ValueError(f"{', '.join(map(str, runs))}: no attack was made there; recipes/pictograms/attack has some")
    if unfinished := [run for run in read if run.gaps]:
        lacking = f"{unfinished[0].folder} holds {'; '.join(unfinished[0].gaps)}"
        raise ValueError(f"{lacking}: run the same audit again to complete it, and then this")
    if len({run.folder.resolve() for run in read}) < len(read):
        raise ValueError("the same audit is named twice: name each once")
    check_writable(out)
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for run, name in attacked:
        for row, made in _rows(run, name):
            rows.append(row)
            tensors |= made
    with whole_folder(out) as part:
        write(part / ROWS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_tensors(part / TENSORS_FILE, tensors)
        if not kept(out / CARD_FILE):
            write(part / CARD_FILE, _card(attacked, rows))
    print(said(f"{len(rows)} findings of {len(attacked)} attacks are in {out}"))  # noqa: T201


def _own(file: Path) -> bool:
    """Whether a file holds findings, by its first line."""
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        try:
            first = json.loads(lines.readline() or "{}")
        except ValueError:
            return False
    return first == {} or (isinstance(first, dict) and {"attack", "fingerprint", "artefacts"} <= first.keys())


def _rows(run: Run, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A row a picture, and its tensors by the names that the row gives."""
    model = run.info.model
    erased = model["erasure"] or {}
    shared = {
        "attack": name,
        "threat": ATTACKS[name].threat if name in ATTACKS else None,
        "concept": run.info.concept,
        "model": run.info.name,
        "base": redact(str(model["base"])),
        "method": erased.get("method"),
        "fingerprint": run.info.fingerprint,
    }
    for record in run.of("concept", name):
        file = artefact_path(run.folder, name, record.key)
        made = read_tensors(file) if file.is_file() else {}
        named = {f"{run.info.fingerprint}/{name}/{record.key}/{key}": tensor for key, tensor in made.items()}
        own = {key: record.value(f"{name}.{key}") for key in ("success", "probability", "evaluations", "looks")}
        found = record.value(f"{name}.prompt")
        row = {**shared, "key": record.key, "prompt": record.prompt, "found": found, **own, "artefacts": sorted(named)}
        yield row, named


def _card(attacked: Sequence[tuple[Run, str]], rows: Sequence[dict[str, Any]]) -> str:
    """What is in it, of which models."""
    lines = []
    for run, name in attacked:
        own = [row for row in rows if row["attack"] == name and row["fingerprint"] == run.info.fingerprint]
        hits = sum(bool(row["success"]) for row in own)
        lines.append(f"| {name} | {run.info.name} | {run.info.role} | {run.info.concept} | {hits} of {len(own)} |")
    table = "\n".join(lines)
    return marked(
        redact(f"""---
task_categories: [text-to-image]
tags: [concept-erasure, adversarial-prompts, lit-memories]
configs:
- config_name: default
  data_files: {ROWS_FILE}
---

# What attacks found

Made by `lit-memories findings` from audits of models that were made to forget a concept. A row is a picture of the
concept and an attack: the prompt it has (`prompt`), what the attack found instead (`found`, where it is a prompt),
whether a picture then showed the concept (`success`), at which cost. Seeds, tokens and vectors are in
`{TENSORS_FILE}`, by the names in `artefacts`.

| attack | model | role | concept | successes |
|---|---|---|---|---|
{table}

A success is evidence of a memory only as far as it exceeds what the same attack comes to on a model that never saw the
concept. Prompts and seeds can be tried on another model: `lit_memories.attacks.replay.Replay` in an audit's probes.
""")
    )
