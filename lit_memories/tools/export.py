"""An erased model for everybody else: as a pipeline for other tools, and on the hub."""

from pathlib import Path

from huggingface_hub import constants

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure
from lit_memories.storage.files import check_inside, check_writable, whole_folder


def export(base: str, erasure: Path, out: Path, revision: str | None = None) -> None:
    """Write a base model with an erasure applied as a full pipeline that plain diffusers loads, beside transformers 5.

    Transformers 4 does not know its names of the text encoder's weights, and leaves that at random with a warning.
    An adapter is worked into the weights at full strength: a pipeline has no place for a prompt's gate.

    Args:
        base: hub id or folder of the base model.
        erasure: folder or hub id of the erasure.
        out: folder to write.
        revision: git revision of a hub id.

    Raises:
        OSError: if `out` cannot be written.
        ValueError: if a link leads out of it.
    """
    check_inside(out, (".",))
    check_writable(out)
    pipeline = Diffusion(base, erasure, revision, gated=False).pipeline()
    with whole_folder(out) as part:
        pipeline.save_pretrained(part)


def push(
    folder: Path, repo_id: str, private: bool = False, license_id: str | None = None, message: str | None = None
) -> None:
    """Send an erasure with its model card to the hub, with the token that ``hf auth login`` or HF_TOKEN holds.

    Args:
        folder: of the erasure.
        repo_id: ``user/name``; made if there is none.
        private: whether a new repository is for its owner only.
        license_id: the hub's name of a license, such as creativeml-openrail-m.
        message: of the commit.
    """
    commit = Erasure.load(folder).push_to_hub(repo_id, private=private, license_id=license_id, commit_message=message)
    print(f"{constants.ENDPOINT}/{repo_id} at {commit}")  # noqa: T201 - this is the program's output
