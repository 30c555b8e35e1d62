"""Whole weights of Stable Diffusion 3 and FLUX in their authors' names, and in those of ComfyUI's checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import T5EncoderModel

from lit_memories.storage.transformer_names import Layout
from lit_memories.storage.weights import WeightFile
from lit_memories.tools.names import unwrapped


def diffusers_named(file: WeightFile, network: nn.Module, encoders: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A file's tensors, with those of a transformer and of text encoders that its authors have named in diffusers' way.

    The autoencoder of a checkpoint is left out; all else stays as it is.

    Args:
        file: of whole weights.
        network: of the base.
        encoders: of the base, by their names.

    Raises:
        ValueError: if a tensor does not hold what the base has apart, or two differ that are for one name.
    """
    layout = Layout.of(network)
    found: dict[str, Tensor] = {}
    for key, tensor in file.tensors.items():
        if key.startswith(("first_stage_model.", "vae.")):
            continue
        if (text := of_encoder(key, encoders)) is not None:
            named = {".".join(text): tensor}
        else:
            try:
                own = layout.own(unwrapped(key), tensor)
            except ValueError as error:
                raise ValueError(f"{file.path} does not fit: {error}") from None
            named = {f"transformer.{name}": share for name, share in own.items()} or {key: tensor}
        for name, share in named.items():
            if name in found and not torch.equal(found[name], share):
                raise ValueError(f"{file.path} holds two different tensors for {name}, one of them as {key}")
            found[name] = share
    return found


def of_encoder(key: str, parts: Mapping[str, nn.Module]) -> tuple[str, str] | None:
    """The text encoder that a tensor or layer is of in a file for ComfyUI, and its name there; None if it is of none.

    Example:
        >>> of_encoder("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", {})
        ('text_encoder', 'text_model.encoder.layers.0.mlp.fc1')
    """
    words = key.split(".", 3)
    if words[0] != "text_encoders" or len(words) < 4 or words[1] not in ("clip_l", "clip_g", "t5xxl"):
        return None
    return {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}.get(words[1]) or t5_of(parts), words[3]


def t5_of(parts: Mapping[str, nn.Module]) -> str:
    """What T5 is called in a base: it is FLUX's second text encoder, and Stable Diffusion 3's third."""
    return next((name for name, module in parts.items() if isinstance(module, T5EncoderModel)), "text_encoder_3")
