"""Files of tensors know when a bit of them has changed."""

import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_memories.storage.tensors import read_notes, read_some, read_tensors, write_tensors


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 4, generator=generator).T,
        "b.weight": torch.randn(5, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(7),
        "none": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
    }


def test_tensors_and_notes_come_back(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, tensors(), {"model": "abc"})
    for name, tensor in read_tensors(file).items():
        torch.testing.assert_close(tensor, tensors()[name], rtol=0, atol=0)
    assert read_tensors(file).keys() == load_file(file).keys() == tensors().keys()
    assert read_notes(file) == {"model": "abc"}
    assert read_some(file, ["a", "absent"]).keys() == {"a"}
    assert read_some(tmp_path / "absent", ["a"]) == {}


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    made = set()
    for number in range(8):
        write_tensors(tmp_path / str(number), dict(reversed(tensors().items())), {"x": "1", "y": "2", "z": "3"})
        made.add((tmp_path / str(number)).read_bytes())
    assert len(made) == 1


def test_no_flipped_bit_changes_a_value_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, tensors(), {"model": "abc"})
    sound = file.read_bytes()
    draw = random.Random(0)  # noqa: S311
    silent = 0
    for bit in draw.sample(range(8 * len(sound)), 400):
        broken = bytearray(sound)
        broken[bit // 8] ^= 1 << bit % 8
        file.write_bytes(broken)
        try:
            found = read_tensors(file)
        except ValueError:
            continue
        silent += 1
        assert found.keys() == tensors().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    assert silent < 40  # in the name of the entry itself, and in blanks


def test_files_of_other_programs_have_no_checksums(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a", {"format": "pt"})
    assert read_tensors(tmp_path / "a")["a"].sum() == 2
    assert read_notes(tmp_path / "a") == {}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a", tensors())
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    """Tied weights, which safetensors refuses."""
    tied = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    write_tensors(tmp_path / "a", {"a": tied, "b": tied, "c": tied[1:]})
    found = read_tensors(tmp_path / "a")
    assert torch.equal(found["a"], tied)
    assert torch.equal(found["b"], tied)
    assert torch.equal(found["c"], tied[1:])
