"""Safetensors that lie: refused with an error of one line, in bounded memory."""

import json
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import PROVENANCE_FILE, WEIGHTS_FILE, Erasure, Provenance
from lit_memories.storage.tensors import HEADER_LIMIT, read_tensors
from lit_memories.storage.weights import read_weights


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def doubled(*pairs: str) -> bytes:
    return ("{" + ",".join(pairs) + "}").encode()


ONE = json.dumps(entry([1], 0, 4))
HEADERS: dict[str, tuple[bytes, bytes]] = {
    "deep nesting": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b""),
    "no json": (b"{nonsense", b""),
    "a list": (b"[]", b""),
    "one name twice": (doubled(f'"a":{ONE}', f'"a":{json.dumps(entry([1], 4, 8))}'), bytes(8)),
    "overlapping": (json.dumps({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}).encode(), bytes(4)),
    "a hole": (json.dumps({"a": entry([1], 4, 8)}).encode(), bytes(8)),
    "beyond the end": (json.dumps({"a": entry([2], 0, 8)}).encode(), bytes(4)),
    "backwards": (json.dumps({"a": entry([1], 4, 0)}).encode(), bytes(4)),
    "wider than it is": (json.dumps({"a": entry([1], 0, 4, "F64")}).encode(), bytes(4)),
    "no such type": (json.dumps({"a": entry([1], 0, 4, "F99")}).encode(), bytes(4)),
    "more elements than numbers": (json.dumps({"a": entry([2**62, 2**62], 0, 4)}).encode(), bytes(4)),
    "negative": (json.dumps({"a": entry([-1], 0, 4)}).encode(), bytes(4)),
}


def write(file: Path, header: bytes, data: bytes, length: int | None = None) -> Path:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return file


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", *HEADERS[name])
    for read in (read_tensors, read_weights):
        with pytest.raises(ValueError, match=r"x\.safetensors") as stop:
            read(file)
        assert "\n" not in str(stop.value)


@pytest.mark.parametrize("length", [3, 2**63, 2**64 - 1, HEADER_LIMIT + 1, 100_000_000])
def test_a_length_that_lies(length: int, tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", b"{}", b"", length)
    for read in (read_tensors, read_weights):
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            read(file)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x00" * 8, b"\x02" + b"\x00" * 7 + b"{"])
def test_a_stump(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_tensors(file)


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """A header of a million empty tensors, and a file that claims terabytes without having them."""
    crowd = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(crowd % number for number in range(700_000)) + b"}"
    assert len(header) > HEADER_LIMIT
    bomb = write(tmp_path / "crowd.safetensors", header, b"")
    del header
    huge = tmp_path / "huge.safetensors"
    size = 1 << 40
    write(huge, json.dumps({"unet.conv_in.bias": entry([size // 4], 0, size)}).encode(), b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for file in (bomb, huge):
        with pytest.raises(ValueError, match="damaged"):
            read_tensors(file)
        with pytest.raises(ValueError, match="damaged"):
            read_weights(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def erasure(folder: Path, tensors: dict[str, torch.Tensor], diffusion: Diffusion) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS_FILE)
    provenance = Provenance("ESD", {"name": "x"}, diffusion.base, None, diffusion.fingerprint, {}, 1, 0, {})
    (folder / PROVENANCE_FILE).write_text(json.dumps(provenance.to_dict()))
    return folder


@pytest.mark.parametrize(
    "tensors",
    [
        {"unet.conv_in.bias": torch.zeros(3)},
        {"unet.conv_in.bias": torch.zeros(8, 1)},
        {"unet.conv_in.bias": torch.tensor(0.0)},
        {"unet.conv_in.bias": torch.zeros(8, dtype=torch.int64)},
        {"unet.conv_in.bias": torch.zeros(8, dtype=torch.bool)},
        {"unet.conv_in.bias": torch.full((8,), torch.nan)},
        {"unet.conv_in.bias": torch.zeros(8).to(torch.float8_e4m3fn)},
        {"unet.no_such.weight": torch.zeros(8)},
        {"vae.../../escape": torch.zeros(8)},
        {"../../escape": torch.zeros(8)},
        {"/etc/escape": torch.zeros(8)},
        {"unet.conv_in.lora_down": torch.zeros(1, 4, 3, 3)},
        {"unet.conv_in.lora_down": torch.zeros(1, 4, 3, 3), "unet.conv_in.lora_up": torch.zeros(9, 1, 1, 1)},
        {"unet.lora_down": torch.zeros(1), "unet.lora_up": torch.zeros(1)},
        {},
    ],
    ids=lambda tensors: " ".join(tensors) or "nothing",
)
def test_an_erasure_that_does_not_fit(tensors: dict[str, torch.Tensor], diffusion: Diffusion, tmp_path: Path) -> None:
    folder = erasure(tmp_path / "erasure", tensors, diffusion)
    before = diffusion.weights_fingerprint()
    with pytest.raises(ValueError, match="erasure"):
        Erasure.load(folder).apply(diffusion)
    assert diffusion.weights_fingerprint() == before, "the model is untouched"
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["erasure", PROVENANCE_FILE, WEIGHTS_FILE]
