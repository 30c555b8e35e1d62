"""What decides a model's results besides its weights, in a form that can be compared, shown and hashed.

Two models of one fingerprint compute the same only if these agree too: everything that keeps results, or compares them,
asks here.
"""

import hashlib
import inspect
import json
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.storage.pipelines import TOKENIZERS


def digest(value: Any) -> str:
    """Short hash of plain values."""
    return hashlib.sha256(_text(value).encode()).hexdigest()[:16]


def arguments_of(kind: type) -> set[str]:
    """Names of what a class's constructor takes, and those it passes options on to."""
    names: set[str] = set()
    for part in kind.__mro__:
        parameters = inspect.signature(part).parameters
        names |= set(parameters)
        variable = {name for name, entry in parameters.items() if entry.kind is entry.VAR_KEYWORD}
        names -= variable
        if not variable:
            break  # nothing is passed on from here
    return names


def schedule_of(schedule: NoiseSchedule) -> dict[str, Any]:
    """Every setting of a schedule; its noise levels as a hash of their bits."""
    return {entry.name: _plain(getattr(schedule, entry.name)) for entry in fields(cast("Any", schedule))}


def autoencoder_of(diffusion: Diffusion) -> dict[str, Any]:
    """The autoencoder's weights and configuration, as hashes, and how it scales latents."""
    config = diffusion.vae.config
    return {
        "weights": fingerprint(diffusion.vae),
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.get("shift_factor"),
        "config": digest(config_of(diffusion.vae)),
    }


def configuration_of(diffusion: Diffusion) -> dict[str, str]:
    """A hash for each other part of what turns prompts and latents into predictions, by the part's name."""
    parts: dict[str, Any] = {diffusion.denoiser.component: config_of(diffusion.network)}
    return {name: digest(part) for name, part in (parts | _telling(diffusion)).items()}


def prompting_of(diffusion: Diffusion) -> dict[str, Any]:
    """All that decides the embeddings that a model computes of prompts, as hashes, and where and in what it does so."""
    encoders = diffusion.conditioning.encoders.values()
    return {
        "weights": fingerprint(*encoders),
        "parts": {name: digest(part) for name, part in _telling(diffusion).items()},
        "devices": [encoder.device.type for encoder in encoders],
        "types": [str(encoder.dtype) for encoder in encoders],
    }


def _telling(diffusion: Diffusion) -> dict[str, Any]:
    """What turns prompts into embeddings, by the part's name."""
    conditioning = diffusion.conditioning
    parts: dict[str, Any] = {name: config_of(encoder) for name, encoder in conditioning.encoders.items()}
    own = vars(conditioning)
    parts |= {name: tokenizer_of(own[name]) for name in TOKENIZERS if own.get(name) is not None}
    rest = {name: value for name, value in own.items() if name not in {"encoders", *TOKENIZERS}}
    if diffusion.adapter is not None:
        parts["gate"] = [diffusion.gate_prompts, diffusion.gate_power]
    if rest:
        parts["conditioning"] = {name: _plain(value) for name, value in rest.items()}
    return parts


def config_of(model: Any) -> dict[str, Any]:
    """What a network's configuration says besides its class's defaults, so that a new release's entries do not count.

    Args:
        model: of diffusers or transformers.
    """
    if hasattr(model.config, "to_diff_dict"):
        ignored = {"architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
        return {name: value for name, value in model.config.to_diff_dict().items() if name not in ignored}
    defaults = {
        name: _text(entry.default) for name, entry in inspect.signature(type(model).__init__).parameters.items()
    }
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {name: value for name, value in config.items() if _text(value) != defaults.get(name)}


def tokenizer_of(tokenizer: Any) -> dict[str, Any]:
    """How a tokenizer cuts texts; without the state that its last call left in it."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {name: value for name, value in rules.items() if name not in {"truncation", "padding"}}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.padding_side]
    return {"rules": rules, "special": special, "window": tokenizer.model_max_length}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[
        :16
    ]
