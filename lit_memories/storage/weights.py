"""Files of weights, read without running code."""

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lit_memories.storage.files import check_regular
from lit_memories.storage.tensors import check_header, tensor_names

TRAINING = frozenset(
    {
        "epoch", "global_step", "step", "steps", "iteration", "best", "pytorch-lightning_version", "hparams_name",
        "hyper_parameters", "datamodule_hyper_parameters", "args", "config", "callbacks", "loops", "optimizer",
        "optimizers", "optimizer_states", "optimizer_state_dict", "lr_scheduler", "lr_schedulers", "scheduler",
        "scaler", "rng_state", "NativeMixedPrecision", "MixedPrecision",
    }
)  # fmt: skip
"""What checkpoints hold besides weights: how training stood, which no model is made of."""
CHECKPOINT = frozenset({"state_dict", "pytorch-lightning_version", "global_step", "loops"})
"""What every checkpoint of Lightning's has."""
OUTER = frozenset(
    {
        "model", "unet", "transformer", "net", "network", "diffusion_model", "base_model", "state_dict",
        "model_state_dict", "unet_state_dict", "params", "weights", "checkpoint", "ema", "ema_model", "unet_ema",
        "ema_state_dict",
    }
)  # fmt: skip
"""What weights of a network are kept under, one in another: as a dict, or in their names."""
DEPTH = 8
"""Dicts around each other that are looked into for weights."""


@dataclass(frozen=True)
class WeightFile:
    """The named tensors of a file.

    Args:
        path: where it is, for messages.
        tensors: by name, plain numbers among them; names of nested dicts are joined with dots.
        groups: names of the dicts that were nested.
        metadata: of a safetensors file.
        whole: a folder of a text encoder, which has to have all of it.
    """

    path: Path
    tensors: dict[str, Tensor]
    groups: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None
    whole: bool = False


def read_weights(path: Path) -> WeightFile:
    """The tensors of a safetensors file or a pickle; what is in it says which it is, and not its name.

    Raises:
        ValueError: if it is damaged, a pickle that needs code to be run, or holds anything that would be lost.
    """
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
        return WeightFile(path, tensors, (), metadata)
    content = _unpickle(path)
    for _ in range(DEPTH):
        if not isinstance(content, Mapping):
            raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
        content = {key: value for key, value in content.items() if key not in TRAINING}
        if (inner := _nested(content, path)) is None:
            break
        content = content[inner]
    groups = tuple(str(key) for key, value in content.items() if isinstance(value, Mapping))
    return WeightFile(path, dict(_flatten(content, path)), groups)


def _nested(content: Mapping[Any, Any], path: Path) -> Any:
    """The key of the one dict that all weights are in, unless it says which part of a model they are of."""
    holders = [key for key, value in content.items() if _tensors(value)]
    if isinstance(content.get("state_dict"), Mapping):
        if beside := [key for key in holders if key != "state_dict"]:
            raise ValueError(f"{path} holds tensors in {beside[0]!r} beside its state_dict: which are the weights?")
        return "state_dict"
    only = next(iter(content)) if len(content) == 1 else None
    return only if only in OUTER - {"unet", "transformer"} and isinstance(content[only], Mapping) else None


def weight_names(path: Path) -> list[str]:
    """The names of a file's tensors, of which none is read; in a pickle they are at its top.

    Raises:
        ValueError: as `read_weights`.
    """
    if _is_safetensors(path):
        return tensor_names(path)
    content = _unpickle(path, "meta")  # of which torch reads shapes alone
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return sorted(map(str, content))


def check_checkpoint(path: Path) -> None:
    """Refuse, before a training is taken up from a checkpoint, a file that is none, or that needs code to be read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of Lightning's, damaged, or would run code.
    """
    if not path.is_file():
        there = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {there}: name a checkpoint of a training (.ckpt) with --ckpt_path")
    content = None if _is_safetensors(path) else _unpickle(path, "meta")  # of which torch reads shapes alone
    if not isinstance(content, Mapping) or not content.keys() >= CHECKPOINT:
        raise ValueError(f"{path} is no checkpoint of a training: name one (.ckpt) with --ckpt_path, or leave it out")


def _is_safetensors(path: Path) -> bool:
    check_regular(path)
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{"  # after the header's length, a safetensors file goes on as JSON; a pickle cannot


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors' own, and torch's for what it cannot make a tensor of
        raise ValueError(f"{path} is a damaged safetensors file: {error}") from None


def _unpickle(path: Path, device: str = "cpu") -> Any:
    """What a pickle holds; only tensors, containers and plain values are ever made of it."""
    try:
        check_stored(path)
        with path.open("rb") as stream, warnings.catch_warnings():  # of a path, torch would believe the suffix
            warnings.simplefilter("ignore")  # about old protocols and archives of code: they are read or refused
            return torch.load(stream, map_location=device, weights_only=True)
    except Exception as error:  # bytes that anybody may have made up can fail in any way
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f" (it asks for {wanted[1]})" if wanted else ""
        raise ValueError(
            f"{path} is refused: it is damaged, or no file of weights, or a pickle that needs code to be run{reason}, "
            "which nobody should do with a file of others'; ask its author for a state dict or safetensors"
        ) from None


def check_stored(path: Path) -> None:
    """Refuse an archive with compressed parts: torch writes none, and a few kilobytes of them can fill any memory.

    Raises:
        ValueError: if there are any.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("its parts are compressed")


def _flatten(content: Mapping[Any, Any], path: Path, prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """Tensors with dotted names, numbers among them; nothing is left out in silence.

    No format nests deeper than `depth`, but a pickle may contain itself.

    Raises:
        ValueError: naming what is neither a tensor, a number nor a dict of them.
    """
    for key, value in content.items():
        if isinstance(value, Tensor):
            if not _stored(value):
                raise ValueError(
                    f"{path} is refused: of {prefix}{key} it does not hold all numbers, as files of weights do"
                )
            yield f"{prefix}{key}", value.detach()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", torch.tensor(value, dtype=torch.float64)  # an adapter's alpha, for one
        elif isinstance(value, Mapping) and depth > 1:
            yield from _flatten(value, path, f"{prefix}{key}.", depth - 1)
        elif not isinstance(value, Mapping) or value:
            raise ValueError(
                f"{path} has an unknown format: {prefix}{key} is a {type(value).__name__}, neither tensor nor number, "
                "and would be lost"
            )


def _stored(tensor: Tensor) -> bool:
    """Whether each of a tensor's numbers is in memory; one that is repeated could be of any size in a small file."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return True  # it has no such memory, and is no weight either
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _tensors(value: Any, depth: int = 3) -> bool:
    """Whether a value is or holds a tensor."""
    if isinstance(value, Mapping | list | tuple) and depth:
        return any(_tensors(part, depth - 1) for part in (value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, Tensor)
