"""An erased model for everybody else: as a pipeline for other tools, and on the hub."""

from pathlib import Path
from shlex import quote

from huggingface_hub import constants

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import PROVENANCE_FILE, Erasure, Provenance, versions
from lit_memories.ops.attachments import check_mergeable
from lit_memories.recipe_files import audit_command
from lit_memories.settings import short_hash
from lit_memories.shared_runs import push_to_hub, run_folders
from lit_memories.storage.cards import CARD_FILE, erasure_of, marked
from lit_memories.storage.files import check_inside, check_writable, whole_folder, write
from lit_memories.storage.hub import redact
from lit_memories.storage.tensors import checksum
from lit_memories.storage.unfinished import LEFT
from lit_memories.terminal import said
from lit_memories.tools.portable import make_portable


def export(base: str, erasure: Path, out: Path, revision: str | None = None) -> None:
    """Write a base model with an erasure applied as a full pipeline that plain diffusers loads, with a card.

    Its files are in the form that transformers 4 reads as well as 5; the card names the versions that wrote them.
    An adapter is worked into the weights at full strength: a pipeline has no place for a prompt's gate.

    Args:
        base: hub id or folder of the base model.
        erasure: folder or hub id of the erasure.
        out: folder to write.
        revision: git revision of a hub id.

    Raises:
        OSError: if `out` cannot be written.
        ValueError: if a link leads out of it, it is the base, it holds anything but an earlier export of the same, or
            no weights can hold the erasure.
    """
    check_inside(out, (".",))
    applied = Erasure.load(erasure)
    check_mergeable(applied.tensors, applied.provenance.method)
    mark = _mark(applied)
    _check_free(out, base, mark)
    check_writable(out)
    model = Diffusion(base, revision=revision)
    applied.apply(model, gated=False)
    pipeline = model.pipeline()
    with whole_folder(out) as part:
        pipeline.save_pretrained(part)
        make_portable(part)
        write(part / CARD_FILE, _card(applied.provenance, mark, type(pipeline).__name__))
    command = audit_command(str(applied.provenance.concept["name"]), applied.provenance.base)
    audit = f"{command} --model.diffusion.base {quote(str(out))} --model.role erased --trainer.default_root_dir RUN"
    print(said(f"the pipeline is in {out}: its README.md says how to open it; to audit it: {audit}"))  # noqa: T201


def _check_free(out: Path, base: str, mark: str) -> None:
    """Refuse a folder that holds anything but an export of this erasure: a base model, say, or the user's own files."""
    if out.is_dir() and Path(base).is_dir() and out.samefile(base):
        raise ValueError(f"{out} is the base itself, which every erasure of it needs: choose another OUT")
    held = sorted(path.name for path in out.iterdir() if not LEFT.fullmatch(path.name)) if out.is_dir() else []
    if held and (there := erasure_of(out)) != mark:
        what = f"{held[0]}, and is no export" if there is None else f"an export of another erasure ({there})"
        raise ValueError(f"{out} holds {what}: choose another OUT, or remove it")


def _mark(erasure: Erasure) -> str:
    """A hash of what an export holds, by which a later one knows its own."""
    sums = [checksum(name, tensor.cpu()) for name, tensor in sorted(erasure.tensors.items())]
    origin = erasure.provenance
    return short_hash(" ".join([origin.method, origin.concept["name"], origin.base_fingerprint, *sums]))


def _card(origin: Provenance, mark: str, kind: str) -> str:
    """A model card: what it is, and what wrote it."""
    wrote = "\n".join(f"| {package} | {version} |" for package, version in versions().items())
    return marked(
        redact(f"""---
library_name: diffusers
pipeline_tag: text-to-image
tags: [concept-erasure, text-to-image, lit-memories]
erasure: "{mark}"
---

# {origin.method}: {origin.concept["name"]} erased from {origin.base}

A whole pipeline, with the erasure worked into its weights. It opens with diffusers beside transformers 4 or 5:

```python
from diffusers import {kind}
pipeline = {kind}.from_pretrained("path/to/this/folder")
```

| written with | version |
|---|---|
{wrote}
""")
    )


def push(
    folder: Path, repo_id: str, private: bool = False, license_id: str | None = None, message: str | None = None
) -> None:
    """Send an erasure, or audits, with a card to the hub, with the token that ``hf auth login`` or HF_TOKEN holds.

    Args:
        folder: of the erasure; or a run folder, or one that holds some, of which records and seeds are sent.
        repo_id: ``user/name``; made if there is none.
        private: whether a new repository is for its owner only.
        license_id: the hub's name of a license, such as creativeml-openrail-m.
        message: of the commit.
    """
    if not (folder / PROVENANCE_FILE).is_file() and run_folders(folder):
        commit = push_to_hub(folder, repo_id, private=private, license_id=license_id, commit_message=message)
    else:
        erasure = Erasure.load(folder)
        commit = erasure.push_to_hub(repo_id, private=private, license_id=license_id, commit_message=message)
    print(f"{constants.ENDPOINT}/{repo_id} at {commit}")  # noqa: T201 - this is the program's output
