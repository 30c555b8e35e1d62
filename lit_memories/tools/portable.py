"""A pipeline's files in the form that the most releases of the libraries read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from lit_memories.storage.files import whole, write

OWN = ("_name_or_path", "backend", "is_local", "local_files_only")
"""Entries of configurations that tell of the machine they were written on, or that only one release knows."""
WRAPPER = "text_model."
"""What names of a text encoder's weights begin with, but where transformers 5 writes them."""


def make_portable(folder: Path) -> None:
    """Change a pipeline that the libraries wrote so that transformers 4 reads it as well as 5.

    Transformers 5 writes a CLIP text encoder's weights under names that 4 leaves at random, the type of weights under
    another name, and CLIP's tokenizers without the vocabulary that 4 makes them of. T5's are the same in both.

    Args:
        folder: of the pipeline.
    """
    for file in sorted(folder.glob("*/*config.json")):
        _rewrite(file)
    for part in sorted(folder.glob("text_encoder*")):
        if _read(part / "config.json").get("model_type") == "t5":
            continue
        for file in sorted(part.glob("*.safetensors")):
            tensors = load_file(file)
            if not any(name.startswith(WRAPPER) for name in tensors):
                with whole(file) as made:  # not in place: tensors may still be read from the old file
                    save_file({WRAPPER + name: tensor for name, tensor in tensors.items()}, made, {"format": "pt"})
    for part in sorted(folder.glob("tokenizer*")):
        _spell_out(part)


def _rewrite(file: Path) -> None:
    """Leave out what is of one machine or release, and call the type of weights as all releases do."""
    config = {name: value for name, value in _read(file).items() if name not in OWN}
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    _write(file, config)


def _spell_out(folder: Path) -> None:
    """Write a tokenizer's words and merges beside the one file that has both."""
    rules = _read(folder / "tokenizer.json")
    if rules["model"].get("type") != "BPE":
        return
    words = rules["model"]["vocab"] | {token["content"]: token["id"] for token in rules["added_tokens"]}
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in rules["model"]["merges"])
    config = _read(folder / "tokenizer_config.json")
    special = {name: value for name, value in config.items() if name.endswith("_token")}
    _write(folder / "vocab.json", dict(sorted(words.items(), key=lambda entry: entry[1])))
    write(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    _write(folder / "special_tokens_map.json", special)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _write(file: Path, values: Mapping[str, Any]) -> None:
    write(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
