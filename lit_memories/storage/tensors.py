"""Files of tensors that know the checksum of each, read as if a stranger had made them."""

import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_memories.storage.files import check_regular, whole
from lit_memories.storage.plain import parse

HEADER_LIMIT = 32 << 20
"""Bytes of a safetensors header that are read; a tensor's entry takes about a hundred, with its checksum more."""
HEADER = "lit_memories"
"""Where the header of a safetensors file holds notes, and the checksums of its tensors."""


@dataclass
class _Header:
    """What `write_tensors` puts in a file's header."""

    notes: dict[str, str]
    crc32: dict[str, str]


def write_tensors(file: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, that knows the checksum of each of its tensors.

    Args:
        file: to write.
        tensors: by name; on the CPU or elsewhere.
        notes: text for its header, which `read_notes` gives back.

    Raises:
        OSError: if it cannot be written.
    """
    plain = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    sums = {name: checksum(name, tensor) for name, tensor in sorted(plain.items())}
    with whole(file) as part:
        # One entry alone, as safetensors writes several in an order of chance.
        save_file(plain, part, {HEADER: json.dumps({"notes": dict(sorted((notes or {}).items())), "crc32": sums})})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory, as tied weights do: safetensors writes none such."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, by name, on the CPU; those of `write_tensors` as they were written.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or its header is too long to be one.
    """
    return _read(file, None)


def is_sound(file: Path) -> bool:
    """Whether a safetensors file is there and holds what was written."""
    try:
        read_tensors(file)
    except (OSError, ValueError):
        return False
    return True


def read_some(file: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Those tensors of a safetensors file that it has of some names, on the CPU; none if there is no file.

    Raises:
        ValueError: if it is damaged.
    """
    return _read(file, names) if file.is_file() else {}


def read_sound(
    file: Path, names: Collection[str] | None, damaged: list[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Those tensors of a file of `write_tensors` that are as they were written, one at a time, in order of their names.

    Args:
        file: to read; one that is gone, or of which nothing can be read, has none.
        names: of the tensors that are wanted; None wants all.
        damaged: takes what is wrong with others.
    """
    try:
        with _opened(file) as stored:
            sums = _header(file, stored).get("crc32")
            for name in sorted(set(stored.keys()) if names is None else set(stored.keys()) & set(names)):
                tensor = stored.get_tensor(name)
                if sums is None or sums.get(name) == checksum(name, tensor):
                    yield name, tensor
                elif damaged is not None:
                    damaged.append(f"{file} is damaged: {name} is not what was written")
    except FileNotFoundError:
        return
    except ValueError as error:
        if damaged is not None:
            damaged.append(str(error))


def tensor_names(file: Path) -> list[str]:
    """The names of a safetensors file's tensors, in order.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    with _opened(file) as stored:
        return sorted(stored.keys())


def read_notes(file: Path) -> dict[str, str]:
    """The text that `write_tensors` put in the header of a safetensors file; none of other programs'.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    with _opened(file) as stored:
        return _header(file, stored).get("notes", {})


def checksum(name: str, tensor: Tensor) -> str:
    """CRC-32 of a tensor's name, type, shape and bytes, in hexadecimal: tells of damage, not of ill will."""
    start = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return f"{zlib.crc32(data, start):08x}"


def _read(file: Path, names: Sequence[str] | None) -> dict[str, Tensor]:
    with _opened(file) as stored:
        there = set(stored.keys())
        wanted = [name for name in (there if names is None else names) if name in there]
        tensors = {name: stored.get_tensor(name) for name in sorted(wanted)}
        sums = _header(file, stored).get("crc32")
    if sums is not None and (damaged := [name for name in tensors if sums.get(name) != checksum(name, tensors[name])]):
        raise ValueError(f"{file} is damaged: {damaged[0]} is not what was written")
    return tensors


def _header(file: Path, stored: Any) -> dict[str, dict[str, str]]:
    """Notes and checksums; files of other programs and of earlier releases have none."""
    text = (stored.metadata() or {}).get(HEADER)
    if text is None:
        return {}
    try:
        return parse(_Header, text).__dict__
    except ValueError as error:
        raise ValueError(f"{file} is damaged: its header is not what was written ({error})") from None


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file to read from.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for all that is wrong with it.
    """
    check_header(file)
    try:
        with safe_open(file, "pt") as stored:
            yield stored
    except OSError:
        raise
    except Exception as error:  # safetensors' own, and torch's for what it cannot make a tensor of
        raise ValueError(f"{file} is a damaged safetensors file: {error}") from None


def check_header(file: Path) -> None:
    """Refuse a header that would fill the memory, as of millions of empty tensors, before anything is made of it.

    Raises:
        ValueError: if it claims to be longer than `HEADER_LIMIT`, or is no file.
    """
    check_regular(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"{file} is a damaged safetensors file: its header claims to have {length} bytes")
