"""Appends records as they come, merges them at the end, and takes up a run where it stopped."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_memories.records import PARTS, RECORDS_FILE, SEEDS_FILE, Record, read_records


class RecordWriter:
    """One process's hand in a run folder.

    Every batch is on disk before the next begins: first its seeds, as a file of their own, then its records, as
    appended lines. What a killed process leaves is at most a cut line or a seed file nobody refers to.

    Args:
        folder: the run folder.
        rank: number of this process.

    Raises:
        OSError: if the folder cannot be written; one line that says what is safe.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.rank = Path(folder), rank
        self.parts = self.folder / PARTS
        self.file = self.parts / f"records-{rank}.jsonl"
        self.written = 0
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            self._drop_cut_line()
        except OSError as error:
            raise self._explain(error) from error

    def write(self, records: Sequence[Record], seeds: Mapping[str, Tensor], images: Mapping[Path, Image.Image]) -> None:
        """Put one batch on disk.

        Args:
            records: its records.
            seeds: the seed (c, h, w) of each inverted sample, by key.
            images: pictures to keep, by file.
        """
        try:
            for file, image in images.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)
            if seeds:
                name = f"seeds-{min(seeds)}.safetensors"
                part = self.parts / (name + ".part")
                save_file({key: seed.contiguous() for key, seed in seeds.items()}, part)
                part.replace(self.parts / name)
            with self.file.open("a") as lines:
                lines.write("".join(record.to_json() + "\n" for record in records))
        except (OSError, SafetensorError) as error:
            raise self._explain(error) from error
        self.written += len(records)

    def _drop_cut_line(self) -> None:
        if self.file.is_file():
            content = self.file.read_bytes()
            if not content.endswith(b"\n"):
                self.file.write_bytes(content[: content.rfind(b"\n") + 1])

    def _explain(self, error: Exception) -> OSError:
        reason = getattr(error, "strerror", None) or str(error)
        return OSError(
            f"cannot write to {self.folder}: {reason}; the {self.written} records written so far are safe: "
            "free the disk or the folder and run the same command again to continue"
        )


def merge(folder: Path) -> list[Record]:
    """Gather all parts of a run into ``records.jsonl`` and ``seeds.safetensors``, in an order of their own.

    The two files depend on nothing but the records: not on how many processes wrote them, in which order, or how
    often the run was stopped. Killed half-way, a merge can be repeated.

    Returns:
        The records, in order.
    """
    records = read_records(folder)
    keys = {record.key for record in records}
    parts = sorted((folder / PARTS).glob("seeds-*.safetensors"))
    seeds: dict[str, Tensor] = {}
    for file in (folder / SEEDS_FILE, *parts):
        if file.is_file():
            seeds |= {key: seed for key, seed in load_file(file).items() if key in keys}
    part = folder / (SEEDS_FILE + ".part")
    save_file({key: seeds[key] for key in sorted(seeds)}, part)
    part.replace(folder / SEEDS_FILE)
    part = folder / (RECORDS_FILE + ".part")
    part.write_text("".join(record.to_json() + "\n" for record in records))
    part.replace(folder / RECORDS_FILE)
    _clear(folder / PARTS)
    return records


def _clear(parts: Path) -> None:
    files: Iterable[Path] = parts.iterdir() if parts.is_dir() else ()
    for file in files:
        file.unlink()
    if parts.is_dir():
        parts.rmdir()
