"""Checkpoints of a whole Stable Diffusion in one file, in CompVis' layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from lit_memories.storage.loading import empty_model
from lit_memories.storage.sizes import bounded
from lit_memories.storage.weights import read_weights

OPEN_CLIP = {"text_encoder": "cond_stage_model.model.", "text_encoder_2": "conditioner.embedders.1.model."}
"""Where text encoders stand that are OpenCLIP's: Stable Diffusion 2's, and the second of XL."""


def load_single_file(path: Path, dtype: torch.dtype, parts: Mapping[str, tuple[type[Any], Path]]) -> dict[str, Any]:
    """Models with the weights of a checkpoint.

    Names are translated by diffusers, and the models filled here, where a weight that is missing is an error:
    `from_single_file` would leave it at random.

    Args:
        path: safetensors, or a pickle of which only tensors are made.
        dtype: of the weights in memory.
        parts: class of each model by its name, and the folder with its configuration.

    Raises:
        ValueError: if the file cannot be read without running code, or does not fit the configuration.
    """
    tensors = read_weights(path).tensors
    models = {}
    for name, (loader, folder) in parts.items():
        with bounded(folder, [path]):
            model = empty_model(loader, folder)
        try:
            found = translate(name, tensors, model)
            result = model.load_state_dict(found, strict=False)
        except (KeyError, RuntimeError, ValueError) as error:  # names that the translation takes for granted; sizes
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"{path} does not fit the {name} configured in {folder}: {reason}") from None
        if result.missing_keys:
            raise ValueError(
                f"{path} does not fill the {name} configured in {folder}: {result.missing_keys[0]} is missing"
            )
        models[name] = model.to(dtype).eval()
    return models


def translate(name: str, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A model's tensors under its own names.

    Args:
        name: of the part that the model is.
        tensors: of a checkpoint, by CompVis' or OpenCLIP's names.
        model: of which only configuration and class count.

    Raises:
        KeyError: if names are missing that a Stable Diffusion has.
    """
    if name == "unet":
        unet = {key: tensor for key, tensor in tensors.items() if key.startswith("model.diffusion_model.")}
        converted = convert_ldm_unet_checkpoint(unet, dict(model.config))
    elif name == "vae":
        vae = {key: tensor for key, tensor in tensors.items() if key.startswith("first_stage_model.")}
        converted = convert_ldm_vae_checkpoint(vae, dict(model.config))
    else:
        prefix = OPEN_CLIP[name]
        if any(key.startswith(prefix) for key in tensors):
            converted = convert_open_clip_checkpoint(model, dict(tensors), prefix=prefix)
        else:
            converted = convert_ldm_clip_checkpoint(dict(tensors))
        if not hasattr(model, "text_model"):  # as transformers has it since version 5
            converted = {key.removeprefix("text_model."): tensor for key, tensor in converted.items()}
    return {key: tensor for key, tensor in converted.items() if tensor is not None}
