"""Checkpoints of a whole Stable Diffusion or FLUX in one file, in CompVis' and their authors' layouts."""

from collections.abc import Iterable, Mapping, Sequence
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
from lit_memories.storage.transformer_names import Layout
from lit_memories.storage.weights import read_weights, weight_names

OPEN_CLIP = {"text_encoder": "cond_stage_model.model.", "text_encoder_2": "conditioner.embedders.1.model."}
"""Where text encoders stand that are OpenCLIP's: Stable Diffusion 2's, and the second of XL."""
AUTOENCODER = "first_stage_model.", "vae."
"""Where autoencoders stand; the latter in ComfyUI's files of FLUX."""
FLOW_BLOCKS = "joint_blocks.", "double_blocks."
"""Where Stable Diffusion 3's and FLUX's transformers have their blocks, perhaps after `NETWORK`."""
NETWORK = "model.diffusion_model."
FLOW_TEXT = {"text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.clip_g.transformer."}
FLOW_T5 = "text_encoders.t5xxl.transformer."
"""Where their text encoders stand, where a file has them."""


def load_single_file(path: Path, dtype: torch.dtype, parts: Mapping[str, tuple[type[Any], Path]]) -> dict[str, Any]:
    """Models with the weights of a checkpoint.

    Names are translated by diffusers, those of transformers by `transformer_names`, and the models filled here, where a
    weight that is missing is an error: `from_single_file` would leave it at random.

    Args:
        path: safetensors, or a pickle of which only tensors are made.
        dtype: of the weights in memory.
        parts: class of each model by its name, and the folder with its configuration.

    Raises:
        ValueError: if the file cannot be read without running code, or does not fit the configuration.
    """
    if _is_flow(names := weight_names(path)):
        _check_flow(path, names, parts.items())
    tensors = read_weights(path).tensors
    models = {}
    for name, (loader, folder) in parts.items():
        with bounded(folder, [path]):
            model = empty_model(loader, folder)
        try:
            found = translate(name, tensors, model)
            result = model.load_state_dict(found, strict=False)
        except (
            KeyError,
            IndexError,
            RuntimeError,
            ValueError,
        ) as error:  # names taken for granted; sizes
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"{path} does not fit the {name} configured in {folder}: {reason}") from None
        if result.missing_keys:
            raise ValueError(
                f"{path} does not fill the {name} configured in {folder}: {result.missing_keys[0]} is missing"
            )
        if name == "transformer" and result.unexpected_keys:
            raise ValueError(
                f"{path} holds {result.unexpected_keys[0]}, which the {name} configured in {folder} has not: it is of "
                "another model, whose configuration to give with config"
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
    if name != "vae" and _is_flow(tensors):
        converted = _flow_part(name, tensors, model)
    elif name == "unet":
        unet = {key: tensor for key, tensor in tensors.items() if key.startswith("model.diffusion_model.")}
        converted = convert_ldm_unet_checkpoint(unet, dict(model.config))
    elif name == "vae":
        vae = {key: tensor for key, tensor in tensors.items() if key.startswith(AUTOENCODER)}
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


def _is_flow(names: Iterable[str]) -> bool:
    """Whether there is a transformer in a file, by its tensors' names."""
    return any(name.removeprefix(NETWORK).startswith(FLOW_BLOCKS) for name in names)


def _flow_part(name: str, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A part of Stable Diffusion 3 or FLUX under its own names; nothing if the file has only others."""
    if name == "transformer":
        layout, own = Layout.of(model), {key: x for key, x in tensors.items() if _of_network(key)}
        own = {key: x for key, x in own.items() if key.startswith(NETWORK)} or own
        found: dict[str, Tensor] = {}
        for key, tensor in own.items():
            bare = key.removeprefix(NETWORK)
            found |= layout.own(bare, tensor) or {bare: tensor}
        return found
    prefix = _begins(name, type(model))[0]
    found = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    if "shared.weight" in found:
        found.setdefault("encoder.embed_tokens.weight", found["shared.weight"])
    if not hasattr(model, "text_model"):  # as transformers has it since version 5
        found = {key.removeprefix("text_model."): tensor for key, tensor in found.items()}
    return found


def _check_flow(path: Path, names: Sequence[str], parts: Iterable[tuple[str, tuple[type[Any], Path]]]) -> None:
    """Refuse, before it is read, a file of a flow's network alone, as the released ones of FLUX are.

    Raises:
        ValueError: naming what it lacks, and saying what to do.
    """
    for name, (loader, _) in parts:
        if name != "transformer" and not any(key.startswith(_begins(name, loader)) for key in names):
            raise ValueError(
                f"{path} holds no {name}, as files of a network alone do: give the pipeline in diffusers' layout as "
                "base, its folder or hub id"
            )


def _begins(name: str, kind: type[Any]) -> tuple[str, ...]:
    """How names of a part's tensors begin in a file of a flow model."""
    if name == "vae":
        return AUTOENCODER
    return (FLOW_T5 if kind.__name__ == "T5EncoderModel" else FLOW_TEXT[name],)


def _of_network(name: str) -> bool:
    return not name.startswith(("text_encoders.", "first_stage_model.", "vae."))
