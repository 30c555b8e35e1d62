"""Models from a folder or the hub, without pickles, foreign code or stack traces."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoImageProcessor, AutoTokenizer

SAFE_FILES = ["*.json", "*.txt", "model*.safetensors"]
"""What is fetched: configurations, vocabularies and weights that need no unpickling."""


def locate(model_id: str, revision: str | None = None) -> Path:
    """The folder of a model, downloaded to the cache first if it is a hub id.

    Args:
        model_id: folder, or hub id.
        revision: git revision of a hub id.

    Raises:
        FileNotFoundError: if there is no such folder, or neither cache nor hub has the model.
    """
    folder = Path(model_id)
    if not folder.exists() and (folder.is_absolute() or model_id.startswith(".") or model_id.count("/") > 1):
        raise FileNotFoundError(f"no model in {model_id}: there is no such folder")
    if not folder.exists():
        try:
            folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=SAFE_FILES, etag_timeout=5))
        except (OSError, ValueError) as error:
            version = f" at revision {revision}" if revision else ""
            raise FileNotFoundError(
                f"model {model_id!r}{version} is neither a folder nor in the cache, and the hub does not give it: "
                f"check name and connection, or fetch it once where there is one with `hf download {model_id}` "
                f"({_first_line(error)})"
            ) from error
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no model in {model_id}: expected config.json and safetensors weights")
    return folder


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
        raise FileNotFoundError(f"cannot load {folder}: {_first_line(error)}") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot load {folder} with {loader.__name__}: {_first_line(error)}") from error
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
        raise FileNotFoundError(f"no {name} in {folder}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
