"""The writer and the merge: nothing of a finished batch is ever lost."""

import errno
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lit_memories.audit.writer import RecordWriter, explained, merge
from lit_memories.records import PARTS, Record, read_records


def record(number: int) -> Record:
    return Record(f"key{number}", "concept", number, "umbrella", nll=float(number))


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
    assert merge(tmp_path / "run") == merge(tmp_path / "other") == [record(i) for i in range(4)]
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
    merge(tmp_path)
    assert set(load_file(tmp_path / "seeds.safetensors")) == {f"key{i}" for i in range(4)}


def test_seeds_without_a_record_are_dropped(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write([record(0)], {"key0": seed(0), "orphan": seed(1)}, {})
    merge(tmp_path)
    assert set(load_file(tmp_path / "seeds.safetensors")) == {"key0"}


def test_records_without_seeds_can_be_written(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write([record(0)], {}, {})
    assert merge(tmp_path) == [record(0)]


def test_a_merge_can_be_repeated_and_added_to(tmp_path: Path) -> None:
    write(RecordWriter(tmp_path), 1)
    merge(tmp_path)
    before = files(tmp_path)
    merge(tmp_path)
    assert files(tmp_path) == before
    write(RecordWriter(tmp_path), 0)
    assert merge(tmp_path) == [record(0), record(1)]
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
