"""Appends records as they come, merges them at the end, and takes up a run where it stopped."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from lit_memories.records import (
    OWN,
    PARTS,
    Record,
    read_lines,
)
from lit_memories.seeds import MODEL
from lit_memories.storage.files import check_inside, sync, whole
from lit_memories.storage.tensors import write_tensors


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Within the context a full disk or a folder that cannot be written ends in one line that says what is safe.

    Raises:
        OSError: for any error of writing.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"cannot write to {folder}: {reason}; the records written so far are safe: "
            "free the disk or the folder and run the same command again to continue"
        ) from error


class RecordWriter:
    """One process's hand in a run folder.

    Every batch is on disk before the next begins: first its seeds, as a file of their own, then its records, as
    appended lines. What a killed process leaves is at most a cut line or a seed file nobody refers to. Both are flushed
    to the disk in this order, so that a machine without power leaves no more.

    Args:
        folder: the run folder.
        rank: number of this process.
        model: fingerprint of the weights that are asked.

    Raises:
        OSError: if the folder cannot be written; one line that says what is safe.
        ValueError: if a link leads out of the folder.
    """

    def __init__(self, folder: Path, rank: int = 0, model: str = "") -> None:
        self.folder, self.rank, self.model = Path(folder), rank, model
        self.parts = self.folder / PARTS
        self.file = self.parts / f"records-{rank}.jsonl"
        check_inside(self.folder, OWN)
        with explained(self.folder):
            self.parts.mkdir(parents=True, exist_ok=True)
            self._mend_cut_line()
            self.file.touch()
            for path in (self.parts, self.folder):  # the names of both, too, are on the disk
                sync(path)

    def write(
        self,
        records: Sequence[Record],
        seeds: Mapping[str, Tensor],
        images: Mapping[Path, Image.Image],
        artefacts: Mapping[Path, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Put one batch on disk.

        Args:
            records: its records.
            seeds: the seed (c, h, w) of each inverted sample, by key.
            images: pictures to keep, by file.
            artefacts: what attacks made, by file.
        """
        with explained(self.folder):
            for file, image in images.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole(file) as part:
                    image.save(part, "PNG")
            for file, tensors in (artefacts or {}).items():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(file, tensors, {MODEL: self.model})
            if seeds:
                # Named by all its keys: a sample audited again must not replace a file that holds others too.
                name = f"seeds-{hashlib.sha256(''.join(sorted(seeds)).encode()).hexdigest()[:20]}.safetensors"
                write_tensors(self.parts / name, seeds, {MODEL: self.model})
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write("".join(record.to_json() + "\n" for record in records))
            sync(self.file)

    def _mend_cut_line(self) -> None:
        """Keep exactly the records `read_lines` finds: a line of which only the end is missing is one of them."""
        if self.file.is_file() and not self.file.read_bytes().endswith(b"\n"):
            with whole(self.file) as part:
                lines = [record.to_json() + "\n" for record in read_lines(self.file, [])]
                part.write_text("".join(lines), encoding="utf-8")
