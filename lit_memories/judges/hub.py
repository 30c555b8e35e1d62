"""Models from a folder or the hub, without pickles, foreign code or stack traces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from lit_memories.storage import loading
from lit_memories.storage.complete import check_vocabulary
from lit_memories.storage.configs import check_config, check_size, numbers_of, read_config
from lit_memories.storage.hub import fetch, plain
from lit_memories.storage.shards import complete_sets

SIDE_LIMIT = 4096
"""Pixels a side of what a judge looks at; the largest classifiers take 1024."""
TEXTS = (".json", ".txt", ".jinja")
"""Ends of the names of configurations, vocabularies and templates."""
CROP_LEAST = 0.1
"""Least share of a picture that processors cut out, and which they enlarge the rest for."""


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
    weights = complete_sets(files).get((None, "safetensors"))
    if "config.json" not in files or weights is None:
        raise FileNotFoundError("it has no model: expected are config.json and safetensors weights")
    return [file for file in files if "/" not in file and file.endswith(TEXTS)] + weights


def locate_processor(model_id: str, revision: str | None = None) -> Path:
    """The folder of a model's tokenizer and image processor, without its weights.

    Args:
        model_id: folder, or hub id.
        revision: git revision of a hub id.

    Raises:
        FileNotFoundError: if there is no such folder, or neither cache nor hub has it.
    """
    return fetch(model_id, _texts, revision).folder


def _texts(files: Sequence[str]) -> list[str]:
    """Configurations and vocabularies."""
    if "preprocessor_config.json" not in files and "processor_config.json" not in files:
        raise FileNotFoundError("it has no image processor: expected is preprocessor_config.json")
    return [file for file in files if "/" not in file and file.endswith(TEXTS)]


def load_model(loader: Any, folder: Path) -> Any:
    """A frozen model in evaluation mode and single precision.

    Args:
        loader: the transformers class to load with.
        folder: where it is, as `locate` found it.

    Raises:
        FileNotFoundError: if weights are missing or only there as a pickle.
        ValueError: if the weights do not fit, leave parts at random, or are not finite.
    """
    check_config(read_config(folder / "config.json"), folder / "config.json", loader)
    options: dict[str, Any] = {"trust_remote_code": False, "dtype": torch.float32}
    model = loading.load_model(loader, folder, kinds=("safetensors",), **options)
    loading.check_finite(model, f"judge in {folder}")
    return model.requires_grad_(False).eval()


def load_image_processor(folder: Path) -> Any:
    """What makes a model's input of a PIL image.

    It is PIL's even where torchvision is installed, as the two resize differently.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if it would enlarge pictures beyond what any model looks at.
    """
    for file in (folder / "preprocessor_config.json", folder / "processor_config.json"):
        if file.is_file():
            read_config(file)
    processor = _load_part(AutoImageProcessor, folder, "image processor", backend="pil")
    for name, value in processor.to_dict().items():
        if any(abs(number) > SIDE_LIMIT for number in numbers_of(value)):
            raise ValueError(
                f"the image processor in {folder} would take any memory: of {name} nothing may exceed {SIDE_LIMIT}, "
                f"got {value}"
            )
        if name == "crop_pct" and value is not None and not (isinstance(value, float | int) and value >= CROP_LEAST):
            raise ValueError(f"the image processor in {folder} has a crop_pct of {value}: at least {CROP_LEAST} is one")
    return processor


def load_tokenizer(folder: Path) -> Any:
    """What makes a model's input of texts.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if its files are larger than any tokenizer's.
    """
    check_vocabulary(folder)
    return _load_part(AutoTokenizer, folder, "tokenizer")


def load_processor(folder: Path) -> Any:
    """What makes a model's input of pictures and texts together; its image processor should have been looked at before.

    Raises:
        FileNotFoundError: if the folder holds none, or a package that it needs is not installed.
        ValueError: if its files are larger than any tokenizer's.
    """
    check_vocabulary(folder)
    for file in folder.glob("*.jinja"):
        check_size(file)
    processor = _load_part(AutoProcessor, folder, "processor", backend="pil")
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        raise FileNotFoundError(f"{folder} has no processor of pictures and texts together: is it a model of both?")
    return processor


def _load_part(loader: Any, folder: Path, name: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # files that anybody may have made can fail in any way
        raise FileNotFoundError(f"no {name} can be made of {folder}: {plain(error)}") from error
