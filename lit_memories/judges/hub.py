"""Models from a folder or the hub, without pickles, foreign code or stack traces."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer

from lit_memories.storage.hub import fetch, plain


def locate(model_id: str, revision: str | None = None) -> Path:
    """The folder of a model, downloaded to the cache first if it is a hub id; never pickles.

    Args:
        model_id: folder, or hub id.
        revision: git revision of a hub id.

    Raises:
        FileNotFoundError: if there is no such folder, or neither cache nor hub has the model.
    """
    return fetch(model_id, _wanted, revision).folder


def _wanted(files: Sequence[str]) -> list[str]:
    """Configurations, vocabularies and weights that need no unpickling."""
    weights = [file for file in files if fnmatch(file, "model*.safetensors")]
    if "config.json" not in files or not weights:
        raise FileNotFoundError("it has no model: expected are config.json and safetensors weights")
    return [file for file in files if "/" not in file and file.endswith((".json", ".txt"))] + weights


def load_model(loader: Any, folder: Path) -> Any:
    """A frozen model in evaluation mode and single precision.

    Args:
        loader: the transformers class to load with.
        folder: where it is, as `locate` found it.

    Raises:
        FileNotFoundError: if weights are missing or only there as a pickle.
        ValueError: if the weights do not fit, or leave parts at random.
    """
    try:
        model, info = loader.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        raise FileNotFoundError(f"cannot load {folder}: {plain(error)}") from error
    except Exception as error:  # files that anybody may have made can fail in any way
        raise ValueError(f"cannot load {folder} with {loader.__name__}: {plain(error)}") from error
    if missing := sorted(info["missing_keys"]):
        # Transformers would draw them at random: a headless backbone would then judge by chance.
        raise ValueError(f"{folder} does not hold all weights of {type(model).__name__}: {missing[0]} is missing")
    return model.requires_grad_(False).eval()


def load_image_processor(folder: Path) -> Any:
    """What makes a model's input of a PIL image.

    It is PIL's even where torchvision is installed, as the two resize differently.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    return _load_part(AutoImageProcessor, folder, "image processor", backend="pil")


def load_tokenizer(folder: Path) -> Any:
    """What makes a model's input of texts.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    return _load_part(AutoTokenizer, folder, "tokenizer")


def _load_part(loader: Any, folder: Path, name: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no {name} in {folder}: {plain(error)}") from error
