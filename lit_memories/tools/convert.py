"""Erased weights in the formats that methods' own code leaves behind, made into an `Erasure`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor, nn

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import FLOATS, Erasure, Provenance, versions
from lit_memories.ops.adapters import DOWN, UP, factor_shapes
from lit_memories.storage.hub import WEIGHT_SUFFIXES, fetch
from lit_memories.storage.weights import WeightFile, read_weights

KNOWN = (
    "state dicts of a U-Net with diffusers' names, whole or in part; ESD's dict of modules; AC's delta {'unet': …}; "
    "SPM and kohya adapters (lora_unet_….lora_down.weight); a CLIPTextModel's folder or state dict; "
    "CompVis checkpoints (model.diffusion_model.…), and AC's deltas of their attention"
)
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a CLIPTextModel's folder may hold, in the order of preference: what cannot run code comes first."""

COMPVIS_UNET, COMPVIS_TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
ADAPTER = re.compile(rf"lora_unet_(\w+)\.(?:({DOWN}|{UP})\.weight|(alpha))")
WRAPPERS = re.compile(r"(?:(?:module|model|unet)\.)*")


def convert(
    source: str | Path,
    base: str,
    out: Path,
    concept: str | None = None,
    method: str | None = None,
    gate: list[str] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    file: str | None = None,
) -> None:
    """Make an erasure folder of erased weights in a method's own format; what is in the file says which it is.

    Args:
        source: file of weights, or folder or hub id (``user/name`` or ``user/name@revision``) of a CLIPTextModel.
            Pickles are read as plain tensors or refused.
        base: hub id or folder of the model that was erased.
        out: folder to write the erasure to.
        concept: name of what was erased; of an adapter its gate's prompts if not given.
        method: name of the method; the format's if not given.
        gate: prompts near which an adapter acts, as a list, instead of those the file names; an empty list for
            an adapter that always acts. The file's own are joined by commas, which tears prompts with commas apart.
        revision: git revision of `base`, if that is a hub id.
        subfolder: folder in `source` that is the CLIPTextModel's.
        file: name of the file of weights in `source`.

    Raises:
        FileNotFoundError: if there is no such file or base.
        ValueError: if the file cannot be read without running code, has none of the known formats, does not fit the
            base, holds NaN or infinity, or changes nothing; nothing is written then.
    """
    inside = "/".join(part for part in (subfolder, file) if part)
    folder, commit = fetch(str(source), lambda files: _wanted(str(source), files, inside))
    weights = _read(folder / inside)
    diffusion = Diffusion(base, revision=revision)
    state = {k: v for k, v in diffusion.state_dict().items() if k.startswith(("unet.", "text_encoder."))}
    if any(key.startswith("lora_unet_") for key in weights.tensors):
        form, tensors = "adapter", _adapter(weights, diffusion.unet)
        gate = _gate(weights) if gate is None else gate
    elif gate is not None:
        raise ValueError(f"{source} is no adapter, so that nothing can be gated: leave out gate")
    elif any(key.startswith(COMPVIS_UNET) for key in weights.tensors):
        form, tensors = "compvis", _changed(weights, _compvis(weights, state, dict(diffusion.unet.config)), state)
    else:
        named = _named(weights, weights.tensors, state)
        form, tensors = _form(weights, set(named), set(state)), _changed(weights, named, state)
    if not tensors:
        raise ValueError(f"{source} changes nothing: its tensors equal those of {base}, or its adapter is zero")
    provenance = Provenance(
        method=method or form,
        concept={"name": concept or ", ".join(gate or []) or "unknown"},
        base=diffusion.base,
        base_revision=diffusion.revision,
        base_fingerprint=diffusion.fingerprint,
        settings={
            "source": (str(source).partition("@")[0] if commit else folder.resolve().name) + (inside and f"/{inside}"),
            "source_revision": commit,
            "format": form,
        },
        steps=0,
        seed=None,
        versions=versions(),
        gate=gate or None,
    )
    Erasure(tensors, provenance).save(out)


def _wanted(source: str, files: Sequence[str], inside: str) -> list[str]:
    """Of a folder's files the one that is meant, or a text encoder's weights."""
    if "model_index.json" in files and not inside:
        raise ValueError(f"{source} is a whole pipeline, which needs no conversion: pass it as a model's base")
    prefix = f"{inside}/" if inside else ""
    wanted = [name for name in (inside, *(prefix + name for name in FOLDER_FILES)) if name in files]
    if not wanted:
        there = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
        raise FileNotFoundError(
            f"{inside or 'it'} is no file of weights, nor a folder with {' or '.join(FOLDER_FILES)}; "
            f"files of weights are {', '.join(there[:8]) or 'not there'}: choose with subfolder or file"
        )
    return wanted[:1]


def _read(source: Path) -> WeightFile:
    whole = source.is_dir()
    path = next(file for name in FOLDER_FILES if (file := source / name).is_file()) if whole else source
    return replace(read_weights(path), whole=whole)


def _named(file: WeightFile, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the model's names.

    Prefixes of wrappers are cut off: a few known ones for the U-Net, whose short names (``conv_in``) a VAE has too; any
    for the text encoder, which versions of transformers and methods' code wrap in many ways.
    """
    own = [name for name in state if name.startswith("text_encoder.")]
    text = {name.removeprefix("text_encoder.").removeprefix("text_model."): name for name in own}
    named: dict[str, Tensor] = {}
    strange = []
    for key, tensor in tensors.items():
        name = _name(key, state, text)
        if name is None:
            if not key.endswith("position_ids"):  # a counter that old versions of transformers stored
                strange.append(key)
        elif name in named and not torch.equal(named[name], tensor):
            raise ValueError(f"{file.path} holds two different tensors for {name}, one of them as {key}")
        else:
            named[name] = tensor
    if not named:
        raise ValueError(f"{file.path} has an unknown format: it holds {_some(strange)}; known are {KNOWN}")
    _refuse(file, strange)
    if file.whole:
        _require(file, named, own)
    return named


def _name(key: str, state: Mapping[str, Tensor], text: Mapping[str, str]) -> str | None:
    name = f"unet.{WRAPPERS.sub('', key, count=1)}"
    if name in state:
        return name
    parts = ["embeddings" if part == "embedding" else part for part in key.split(".")]  # a name of AdvUnlearn's
    endings = (".".join(parts[start:]) for start in range(len(parts)))
    return next((text[ending] for ending in endings if ending in text), None)


def _form(file: WeightFile, named: set[str], state: set[str]) -> str:
    """The name of a format without a mark of its own: how it is nested, and how much of the model is there."""
    if file.groups:
        return "delta" if {"unet", "text_encoder"} & set(file.groups) else "modules"
    unet = {name for name in state if name.startswith("unet.")}
    if not named & unet:
        return "text-encoder"
    return "unet" if named >= unet else "partial"


def _compvis(file: WeightFile, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The U-Net and the CLIP text encoder of a CompVis checkpoint; VAE, averages and schedule are left.

    Of AC's deltas, which have layers of attention alone, these.
    """
    theirs = {key: tensor for key, tensor in file.tensors.items() if key.startswith(COMPVIS_UNET)}
    if all(".transformer_blocks." in key for key in theirs):
        names = {key: f"unet.{_diffusers_name(key, config['layers_per_block'])}" for key in theirs}
        _refuse(file, [key for key in file.tensors if names.get(key) not in state])
        return {names[key]: tensor for key, tensor in theirs.items()}
    try:
        converted = convert_ldm_unet_checkpoint(theirs, config)
    except (KeyError, TypeError) as error:  # it takes for granted what a Stable Diffusion has
        raise ValueError(f"{file.path} is for another base, or incomplete: {error} does not convert") from None
    found = {f"unet.{name}": tensor for name, tensor in converted.items() if tensor is not None}
    mapped = {id(tensor) for name, tensor in found.items() if name in state}
    _refuse(file, [key for key, tensor in theirs.items() if id(tensor) not in mapped])
    _require(file, found, [name for name in state if name.startswith("unet.")])
    text = {key: tensor for key, tensor in file.tensors.items() if key.startswith(COMPVIS_TEXT)}
    return found | (_named(file, text, state) if text else {})


def _diffusers_name(key: str, layers: int) -> str:
    """A layer of attention as diffusers calls it; CompVis counts a half's blocks in a row, `layers` + 1 a level."""
    block, _, rest = key.removeprefix(COMPVIS_UNET).partition(".1.transformer_blocks.")
    half, _, number = block.partition(".")
    if half == "input_blocks" and number.isdecimal() and int(number):
        level, layer = divmod(int(number) - 1, layers + 1)
        block = f"down_blocks.{level}.attentions.{layer}"
    elif half == "output_blocks" and number.isdecimal():
        level, layer = divmod(int(number), layers + 1)
        block = f"up_blocks.{level}.attentions.{layer}"
    elif block == "middle_block":
        block = "mid_block.attentions.0"
    return f"{block}.transformer_blocks.{rest}"


def _changed(file: WeightFile, named: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that differ from the base's; for those of a lower precision, from the base's in that precision."""
    for name, tensor in named.items():
        if tensor.shape != state[name].shape:
            there = tuple(state[name].shape)
            raise ValueError(f"{file.path} does not fit: {name} is {tuple(tensor.shape)}, the base has {there} there")
        _check_sound(file, name, tensor)
    return {
        name: tensor.clone() for name, tensor in named.items() if not torch.equal(state[name].to(tensor.dtype), tensor)
    }


def _adapter(file: WeightFile, unet: nn.Module) -> dict[str, Tensor]:
    """The factors of an adapter, with alpha / rank worked into ``lora_up``, for the layers that it changes."""
    layers = {n.replace(".", "_"): (n, m) for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    matches = {key: ADAPTER.fullmatch(key) for key in file.tensors}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, match in matches.items():
        if match and match[1] in layers:
            parts.setdefault(match[1], {})[match[2] or match[3]] = file.tensors[key]
    _refuse(file, [key for key, match in matches.items() if not match or match[1] not in layers])
    factors: dict[str, Tensor] = {}
    for label, part in parts.items():
        name, layer = layers[label]
        if DOWN not in part or UP not in part:
            raise ValueError(f"{file.path} has only one of the two factors of {name}")
        down, up = _factors(file, name, part[DOWN], part[UP], layer.weight.shape)
        up = up * _scale(file, name, part, len(down))
        if down.any() and up.any():
            factors |= {f"unet.{name}.{DOWN}": down, f"unet.{name}.{UP}": up}
    return factors


def _factors(file: WeightFile, name: str, down: Tensor, up: Tensor, weight: torch.Size) -> tuple[Tensor, Tensor]:
    """Both factors in float32, in the shapes that the layer's kind asks for."""
    rank = down.shape[0] if down.ndim else 0
    shapes = factor_shapes(weight, rank)
    if any(_core(factor.shape) != _core(shape) for factor, shape in zip((down, up), shapes, strict=True)):
        raise ValueError(
            f"{file.path} does not fit: factors of {name} are {tuple(down.shape)} and {tuple(up.shape)}, "
            f"the base asks for {shapes[0]} and {shapes[1]}"
        )
    for factor in (down, up):
        _check_sound(file, name, factor)
    return down.float().reshape(shapes[0]), up.float().reshape(shapes[1])


def _core(shape: Sequence[int]) -> list[int]:
    """A shape without the ones at its end: factors of a Linear and of a 1x1 convolution are alike in all else."""
    core = list(shape)
    while core and core[-1] == 1:
        core.pop()
    return core


def _scale(file: WeightFile, name: str, part: Mapping[str, Tensor], rank: int) -> float:
    """Alpha / rank of a layer; without an alpha 1, as kohya has it."""
    if "alpha" not in part:
        return 1.0
    alpha = part["alpha"]
    if alpha.numel() != 1 or not alpha.isfinite().all():
        raise ValueError(f"{file.path} is damaged: alpha of {name} is no finite number")
    return float(alpha) / max(rank, 1)


def _gate(file: WeightFile) -> list[str]:
    prompts = (file.metadata or {}).get("prompts", "").split(",")
    return [prompt.strip() for prompt in prompts if prompt.strip()]


def _check_sound(file: WeightFile, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{file.path} holds no weight for {name} but {kind}, {tensor.layout}, on {tensor.device}")
    if not tensor.isfinite().all():
        raise ValueError(f"{file.path} holds NaN or infinity in {name}: training diverged, or the file is damaged")


def _require(file: WeightFile, found: Mapping[str, Tensor], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{file.path} is for another base, or incomplete: it lacks {_some(missing)}")


def _refuse(file: WeightFile, strange: Sequence[str]) -> None:
    if strange:
        raise ValueError(f"{file.path} does not fit: the base has nothing for {_some(strange)}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "no tensors") + more
