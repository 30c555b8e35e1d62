"""The writer and the merge: nothing of a finished batch is ever lost."""

import builtins
import errno
import io
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from lit_memories import records
from lit_memories.audit.embedding import KEPT, Embeddings
from lit_memories.audit.folder import merge, rearrange
from lit_memories.audit.writer import RecordWriter, explained
from lit_memories.records import PARTS, SEEDS_FILE, STALE, Place, Record, read_records, read_stale
from lit_memories.seeds import seed_keys
from lit_memories.storage import tensors

PLACES = {f"key{i}": Place("concept", i) for i in range(10)}


def record(number: int) -> Record:
    return Record(f"key{number}", "concept", number, "umbrella", {"seed": {"nll": float(number)}})


def seed(number: int) -> torch.Tensor:
    return torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(number))


def write(writer: RecordWriter, *numbers: int) -> None:
    writer.write([record(i) for i in numbers], {f"key{i}": seed(i) for i in numbers}, {})


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    "batches",
    [[(0, (0, 1, 2, 3))], [(0, (3,)), (0, (0,)), (0, (2, 1))], [(1, (1, 3)), (0, (0, 2))], [(2, (0, 1, 2, 3, 0))]],
)
def test_a_merge_depends_on_nothing_but_the_records(batches: list[tuple[int, tuple[int, ...]]], tmp_path: Path) -> None:
    for rank, numbers in batches:
        write(RecordWriter(tmp_path / "run", rank), *numbers)
    write(RecordWriter(tmp_path / "other"), 0, 1, 2, 3)
    assert merge(tmp_path / "run", PLACES) == merge(tmp_path / "other", PLACES) == [record(i) for i in range(4)]
    assert files(tmp_path / "run") == files(tmp_path / "other")
    seeds = load_file(tmp_path / "run" / "seeds.safetensors")
    assert list(seeds) == [f"key{i}" for i in range(4)]
    assert all(torch.equal(seeds[f"key{i}"], seed(i)) for i in range(4))
    assert not (tmp_path / "run" / PARTS).exists()


def test_every_batch_is_on_disk_at_once(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for number in range(3):
        write(writer, number)
        assert len(read_records(tmp_path)) == number + 1
        kept = set()
        for file in (tmp_path / PARTS).glob("*.safetensors"):
            kept |= set(load_file(file))
        assert kept == {f"key{i}" for i in range(number + 1)}


def test_a_repeated_sample_takes_no_others_seed(tmp_path: Path) -> None:
    """A batch that begins with a sample written before must not replace that batch's seeds."""
    writer = RecordWriter(tmp_path)
    write(writer, 0, 1, 2)
    write(writer, 0)
    write(writer, 0, 3)
    merge(tmp_path, PLACES)
    assert set(load_file(tmp_path / "seeds.safetensors")) == {f"key{i}" for i in range(4)}


def test_seeds_without_a_record_are_dropped(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write([record(0)], {"key0": seed(0), "orphan": seed(1)}, {})
    merge(tmp_path, PLACES)
    assert set(load_file(tmp_path / "seeds.safetensors")) == {"key0"}


def test_records_without_seeds_can_be_written(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write([record(0)], {}, {})
    assert merge(tmp_path, PLACES) == [record(0)]


def test_a_merge_can_be_repeated_and_added_to(tmp_path: Path) -> None:
    write(RecordWriter(tmp_path), 1)
    merge(tmp_path, PLACES)
    before = files(tmp_path)
    merge(tmp_path, PLACES)
    assert files(tmp_path) == before
    write(RecordWriter(tmp_path), 0)
    assert merge(tmp_path, PLACES) == [record(0), record(1)]
    assert set(load_file(tmp_path / "seeds.safetensors")) == {"key0", "key1"}


@pytest.mark.parametrize("tail", ['{"key": "ke', record(1).to_json(), "\n", "ü"])
def test_a_writer_mends_what_a_killed_one_left(tail: str, tmp_path: Path) -> None:
    write(RecordWriter(tmp_path), 0)
    part = tmp_path / PARTS / "records-0.jsonl"
    part.write_text(part.read_text() + tail if tail != "\n" else part.read_text())
    found = read_records(tmp_path)
    writer = RecordWriter(tmp_path)
    assert read_records(tmp_path) == found, "what was read before is there after"
    write(writer, 2)
    assert read_records(tmp_path) == [*found, record(2)]


def test_pictures_are_kept_where_told(tmp_path: Path) -> None:
    picture = tmp_path / "images" / "concept-0000-original.png"
    RecordWriter(tmp_path).write([record(0)], {}, {picture: Image.new("RGB", (4, 4), "red")})
    with Image.open(picture) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_errors_are_explained_in_one_line(tmp_path: Path) -> None:
    safe = "No space left on device; the records written so far are safe"
    with pytest.raises(OSError, match=safe) as error, explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file"):
        RecordWriter(tmp_path / "file")


class FailingDisk:
    """From the given operation on, all that changes the disk fails with an error; writes fail half done.

    Operations are counted wherever Python or safetensors carry them out: files opened for writing, their content,
    renames, removals, folders made, and the wait for the disk.
    """

    def __init__(self, patch: pytest.MonkeyPatch, operation: int, error: int) -> None:
        self.left, self.error = operation, OSError(error, os.strerror(error))
        opened, save = io.open, tensors.save_file

        def open_file(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if set(mode) & set("wax+"):
                self.spend()
                stream = opened(file, mode, *rest, **options)
                return HalfWritten(stream, self)
            return opened(file, mode, *rest, **options)

        def save_file(seeds: dict[str, torch.Tensor], file: Path, notes: dict[str, str]) -> None:
            save(seeds, file, notes)
            try:
                self.spend()
            except OSError:
                os.truncate(file, file.stat().st_size // 2)
                raise SafetensorError(f"I/O error: {self.error}") from None

        patch.setattr(io, "open", open_file)
        patch.setattr(builtins, "open", open_file)
        patch.setattr(tensors, "save_file", save_file)
        patch.setattr(os, "fsync", self.counted(lambda descriptor: None))  # the slowest, and without a trace here
        for name in ("replace", "unlink", "rmdir", "touch"):
            patch.setattr(Path, name, self.counted(getattr(Path, name)))

    def spend(self) -> None:
        """One operation more."""
        self.left -= 1
        if self.left < 1:
            raise self.error

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.spend()
            return function(*arguments, **options)

        return operation


class HalfWritten:
    """A file of which half of what is written arrives if the disk fails."""

    def __init__(self, stream: Any, disk: FailingDisk) -> None:
        self.stream, self.disk = stream, disk

    def write(self, content: Any) -> int:
        try:
            self.disk.spend()
        except OSError:
            self.stream.write(content[: len(content) // 2])
            raise
        return self.stream.write(content)

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def session(folder: Path, done: list[int]) -> None:
    """An audit of three batches by two processes, and one of another batch later on."""
    for rank, numbers in ((0, (2, 0)), (1, (1,)), (0, (3, 4))):
        picture = {folder / "images" / f"concept-{numbers[0]:04d}-original.png": Image.new("RGB", (8, 8), "red")}
        seeds = {f"key{i}": seed(i) for i in numbers}
        RecordWriter(folder, rank).write([record(i) for i in numbers], seeds, picture)
        done.extend(numbers)
    with explained(folder):
        merge(folder, PLACES)
    write(RecordWriter(folder), 5)
    done.append(5)
    with explained(folder):
        rearrange(
            folder, {key: place for key, place in PLACES.items() if key != "key3"} | {"key4": Place("concept", 9)}
        )
    with explained(folder):
        rearrange(folder, {key: place for key, place in PLACES.items() if key != "key1"})


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_disk_that_fails_at_any_operation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation in turn is the first that fails; then the disk is well again and the session is repeated."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    session(tmp_path / "undisturbed", [])
    expected = everything(tmp_path / "undisturbed")
    for operation in itertools.count(1):
        folder, done, failed = tmp_path / str(operation), list[int](), False
        error = (errno.ENOSPC, errno.EROFS, errno.EIO)[operation % 3]
        with pytest.MonkeyPatch.context() as patch:
            FailingDisk(patch, operation, error)
            try:
                session(folder, done)
            except OSError as stop:
                failed = True
                message = str(stop)
        if not failed:
            break
        assert message.startswith(f"cannot write to {folder}: ")
        assert os.strerror(error) in message
        kept = {record.key for record in (*read_records(folder), *read_stale(folder))}
        assert {f"key{number}" for number in done} <= kept, f"operation {operation} lost a finished batch"
        whole_seeds = set()
        aside = folder / records.STALE / records.SEEDS_FILE
        for file in (aside, folder / records.SEEDS_FILE, *(folder / PARTS).glob("seeds-*.safetensors")):
            whole_seeds |= set(load_file(file)) if file.is_file() else set()
        assert kept <= whole_seeds, f"operation {operation} left a record without its seed"
        session(folder, [])
        assert everything(folder) == expected, f"after operation {operation}"
    assert operation > 50, "the sweep saw every kind of operation"


def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    for name, target in ((PARTS, outside), ("images", outside), ("records.jsonl", outside / "precious")):
        folder = tmp_path / f"run-{name}"
        folder.mkdir()
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match="leads out of its folder"):
            RecordWriter(folder)
    folder = tmp_path / "inner"
    (folder / PARTS).mkdir(parents=True)
    (folder / PARTS / "records-0.jsonl").symlink_to(tmp_path / "not-there-yet")
    with pytest.raises(ValueError, match="leads out of its folder"):
        RecordWriter(folder)
    assert [file.name for file in outside.iterdir()] == ["precious"]
    assert not (tmp_path / "not-there-yet").exists()


def test_of_a_damaged_seed_file_the_records_stay_and_the_seeds_are_missed(tmp_path: Path) -> None:
    write(RecordWriter(tmp_path), 0)
    write(RecordWriter(tmp_path), 1)
    part = max((tmp_path / PARTS).glob("seeds-*"))
    (lost,) = load_file(part)
    part.write_bytes(part.read_bytes()[:-1])
    assert {record.key for record in merge(tmp_path, PLACES)} == {"key0", "key1"}
    assert seed_keys(tmp_path) == {"key0", "key1"} - {lost}


def test_what_killed_processes_left_half_written_is_cleared(tmp_path: Path) -> None:
    write(RecordWriter(tmp_path), 0)
    for name in ("seeds.safetensors.0a1b2c3d.part", "records.jsonl.0a1b2c3d.part", "run.json.0a1b2c3d.part"):
        (tmp_path / name).write_text("half")
    merge(tmp_path, PLACES)
    assert sorted(files(tmp_path)) == ["records.jsonl", "seeds.safetensors"]


def test_records_of_other_samples_are_set_aside_and_come_back(tmp_path: Path) -> None:
    write(RecordWriter(tmp_path), 0, 1, 2)
    merge(tmp_path, PLACES)
    whole = everything(tmp_path)
    fewer = {"key0": Place("concept", 0), "key2": Place("concept", 1)}
    picture = tmp_path / "images" / "concept-0002-original.png"
    RecordWriter(tmp_path).write([], {}, {picture: Image.new("RGB", (8, 8), "red")})
    with pytest.warns(UserWarning, match="1 records are of samples that this audit no longer has"):
        rearrange(tmp_path, fewer)
    assert [(record.key, record.index) for record in read_records(tmp_path)] == [("key0", 0), ("key2", 1)]
    assert [record.key for record in read_stale(tmp_path)] == ["key1"]
    assert set(load_file(tmp_path / SEEDS_FILE)) == {"key0", "key2"}
    assert set(load_file(tmp_path / STALE / SEEDS_FILE)) == {"key1"}
    assert not picture.exists(), "it shows a sample that is in another row now"
    rearrange(tmp_path, PLACES)
    assert everything(tmp_path) == whole, "nothing was lost, and nothing is left aside"


def test_embeddings_of_any_number_of_prompts_are_bounded() -> None:
    asked = []

    def encode(prompts: Sequence[str]) -> torch.Tensor:
        asked.extend(prompts)
        return torch.full((1, 2, 3), float(len(prompts[0])))

    embeddings = Embeddings(encode)
    for number in range(3 * KEPT):
        found = embeddings(["", "x" * number])
        assert found[:, 0, 0].tolist() == [0, number]
    assert len(embeddings) == KEPT
    assert asked.count("") == 1, "what is asked for again and again stays"
    embeddings(["x"])
    assert asked.count("x") == 2
