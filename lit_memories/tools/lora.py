"""Low-rank adapters as people save them: kohya's, diffusers' and peft's files, made into factors of a model's layers.

Each format is a way to write three things in a name: the part of the model, the layer, and which factor it is. A name
is taken apart by its ending; the layer is looked up under all names that it goes by, dots and underscores being one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lit_memories.ops.adapters import DOWN, UP, factor_shapes, merged
from lit_memories.storage.transformer_names import Place, places
from lit_memories.storage.weights import OUTER, WeightFile
from lit_memories.tools.authors import of_encoder, t5_of
from lit_memories.tools.checks import check_sound, misfit
from lit_memories.tools.names import WRAPPERS, compvis_names
from lit_memories.tools.strengths import Layer, Strengths
from lit_memories.tools.whole_adapters import MAGNITUDE, PRODUCTS, hadamard, rescaled

KEY = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<flat>down|up|mid|A|B)(?:\.[\w-]+)?\.weight"
    r"|[._]lora(?P<stream>[12])?(?:_linear_layer)?\.(?P<nested>down|up)\.weight"
    r"|\.(?P<hada>hada_w[12]_[ab])|\.(?P<dora>dora_scale|lora_magnitude_vector)(?:\.[\w-]+){0,2}"
    r"|(?:[._]lora(?:_linear_layer)?)?\.(?P<alpha>alpha))"
)
FACTORS = {
    "down": DOWN, "A": DOWN, "up": UP, "B": UP, "mid": "mid", "alpha": "alpha",
    "dora_scale": MAGNITUDE, "lora_magnitude_vector": MAGNITUDE,
}  # fmt: skip
OTHERS = {
    "hada_t": "LoHa in Tucker's form",
    "lokr_w": "LoKr, a Kronecker product",
    "oft_": "OFT, which turns weights",
    "ia3_": "IA3, which scales activations",
    "lora_embedding_": "a LoRA of embeddings",
    "lora_B.bias": "a LoRA with biases",
    "diff_b": "differences of biases",
}
"""Adapters that are not read, by what stands in their names."""
ENCODERS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
"""What kohya's files call text encoders: T5 is the third, though FLUX has two."""
TEXT_WIDTHS = {768: " (as Stable Diffusion 1)", 1024: " (as Stable Diffusion 2)", 2048: " (as Stable Diffusion XL)"}
"""Whose cross-attention reads embeddings of which width."""
WIDTHS = {
    1536: " (as Stable Diffusion 3 and 3.5 medium)",
    2432: " (as Stable Diffusion 3.5 large)",
    3072: " (as FLUX.1)",
}
"""Whose transformers are how wide."""
READS_TEXT = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")
ATTENDS = re.compile(r"_blocks[._]\d+[._].*(?:to_[qkv]|add_[qkv]_proj|qkv|linear1)$")
"""Layers whose inputs tell a network's width, of a U-Net's and a transformer's names."""
BY_ROWS = {UP, "hada_w1_a", "hada_w2_a", MAGNITUDE}
"""Factors with a row for each of a layer's outputs."""


Factors: TypeAlias = Mapping[str, Tensor]
Scale: TypeAlias = Callable[[int], float]
"""The strength of a layer's factors, by their rank."""


@dataclass(frozen=True)
class Lora:
    """What an adapter makes of the layers that it changes.

    Args:
        tensors: its factors, by the model's names and ``.lora_down`` or ``.lora_up``, in float32 and with alpha / rank
            worked into ``lora_up``; or the layers' whole weights.
        alpha: where its strength comes from, in words.
        whole: None, or what kind of adapter has to have whole weights.
    """

    tensors: dict[str, Tensor]
    alpha: str
    whole: str | None = None


def is_lora(file: WeightFile) -> bool:
    """Whether a file holds an adapter, of whatever kind."""
    return any(
        ((match := KEY.fullmatch(key)) and not match["alpha"]) or any(mark in key for mark in OTHERS)
        for key in file.tensors
    )


def read_lora(file: WeightFile, parts: Mapping[str, nn.Module], alpha: float | None = None) -> Lora:
    """The factors of an adapter for a model's layers.

    Args:
        file: of kohya's, diffusers' or peft's; peft's has `strengths.CONFIG_FILE` beside it.
        parts: the network, which is the first, and the text encoders of the base, by their names.
        alpha: of layers for which the file says none.

    Raises:
        ValueError: if it is of another kind or for another base, not whole or not finite, or does not say how strong
            it is.
    """
    for key in file.tensors:
        if kind := next((words for mark, words in OTHERS.items() if mark in key), None):
            raise ValueError(
                f"{file.path} is no plain LoRA but {kind} ({key}): have the program that made it merge it into a "
                "model, and convert that"
            )
    layers, strange = _collect(file, parts)
    network, *encoders = parts
    _check_family(file, parts[network])
    if strange:
        raise ValueError(f"{file.path} does not fit: {misfit(strange, parts[network], encoders)}")
    strengths = Strengths.of(file, alpha)
    whole = _kind(layers)
    tensors: dict[str, Tensor] = {}
    make = _pair if whole is None else _whole
    for name, layer in layers.items():
        part, _, path = name.partition(".")
        weight = parts[part].get_parameter(f"{path}.weight").detach()
        tensors |= make(file, name, layer.factors, weight, partial(strengths.scale, layer, part, path))
    return Lora(tensors, strengths.says(), whole)


def _kind(layers: Mapping[str, Layer]) -> str | None:
    """What kind of adapter it is, if two factors beside each layer cannot say it."""
    found = {factor for layer in layers.values() for factor in layer.factors}
    return "LoHa" if found & {*PRODUCTS} else "DoRA" if MAGNITUDE in found else None


def _pair(file: WeightFile, name: str, found: Factors, weight: Tensor, scale: Scale) -> dict[str, Tensor]:
    """A layer's two factors, unless they do nothing."""
    down, up = _factors(file, name, found, weight)
    up = up * scale(len(down))
    for factor in (down, up):  # what was finite in the file's type, and without its strength, need not be here
        check_sound(file, name, factor)
    return {f"{name}.{DOWN}": down, f"{name}.{UP}": up} if down.any() and up.any() else {}


def _whole(file: WeightFile, name: str, found: Factors, weight: Tensor, scale: Scale) -> dict[str, Tensor]:
    """A layer's weight with the adapter worked in, unless that is the weight as it was."""
    for tensor in (found[part] for part in (*PRODUCTS, MAGNITUDE) if part in found):
        check_sound(file, name, tensor)
    of_products = bool({*PRODUCTS} & found.keys())
    if of_products and {DOWN, UP, "mid"} & found.keys():
        raise ValueError(f"{file.path} does not fit: it has factors of a LoRA and of LoHa for {name}")
    moved = weight.float()
    pair = {} if of_products else _pair(file, name, found, weight, scale)
    try:
        if of_products:
            moved = moved + hadamard(found, weight.shape) * scale(len(found["hada_w1_b"]))
        elif pair:
            moved = merged(moved, pair[f"{name}.{DOWN}"], pair[f"{name}.{UP}"])
        if MAGNITUDE in found:
            moved = rescaled(moved, found[MAGNITUDE].float())
    except ValueError as error:
        raise ValueError(f"{file.path} does not fit: of {name}, {error}") from None
    check_sound(file, name, moved)
    return {} if torch.equal(moved, weight.float()) else {f"{name}.weight": moved.to(weight.dtype)}


def _collect(file: WeightFile, parts: Mapping[str, nn.Module]) -> tuple[dict[str, Layer], list[str]]:
    """What the file holds for each layer, by the model's names, and the keys for which the model has none."""
    network = next(iter(parts))
    known = {part: _aliases(module, is_network=part == network) for part, module in parts.items()}
    layers: dict[str, Layer] = {}
    strange = []
    for key, tensor in file.tensors.items():
        match = KEY.fullmatch(key)
        layer = match["layer"] + (f".{match['stream']}" if match["stream"] else "") if match else key
        part, label = _split(layer, known, parts)
        if not match or label not in known.get(part, {}):
            strange.append(key)
            continue
        if match["dora"] == "lora_magnitude_vector":
            tensor = tensor.flatten()  # an output each, which peft lays along the second axis for convolutions
        factor = match["hada"] or FACTORS[match["alpha"] or match["dora"] or match["flat"] or match["nested"]]
        for name, share in _shares(file, key, factor, tensor, known[part][label], parts[part]).items():
            layer_of = layers.setdefault(f"{part}.{name}", Layer(match["layer"]))
            if factor in layer_of.factors and not torch.equal(layer_of.factors[factor], share):
                raise ValueError(f"{file.path} holds two different tensors for one factor, one of them as {key}")
            layer_of.factors[factor] = share
    return layers, strange


def _shares(
    file: WeightFile, key: str, factor: str, tensor: Tensor, place: Place, module: nn.Module
) -> dict[str, Tensor]:
    """What of a factor each layer has that is one with others in the file, or what the only one has."""
    if factor not in BY_ROWS:
        return dict.fromkeys(place.layers, tensor)
    if factor == MAGNITUDE and len(place.layers) > 1 and tensor.ndim > 1 and len(tensor) == 1:
        raise ValueError(
            f"{file.path} does not fit: {key} has lengths of the inputs of layers that the base has apart: have the "
            "program that made it merge it into a model, and convert that"
        )
    try:
        return place.divide(tensor, {name: len(module.get_parameter(f"{name}.weight")) for name in place.layers})
    except ValueError as error:
        raise ValueError(f"{file.path} does not fit: {key} {error}") from None


def _split(layer: str, known: Mapping[str, Mapping[str, Place]], parts: Mapping[str, nn.Module]) -> tuple[str, str]:
    """The part of a model that a layer is in, and the layer's name in it, with underscores for dots."""
    network = next(iter(parts))
    words = [word for word in layer.split(".") if word not in WRAPPERS and word != "processor"]
    while len(words) > 1 and words[0] in OUTER:
        words = words[1:]
    part = network
    if (found := of_encoder(".".join(words), parts)) is not None:
        part, words = found[0], found[1].split(".")
    elif words[0].startswith("text_encoder"):
        part, words = words[0].removesuffix("_state_dict"), words[1:]
    label = "_".join(words)
    if match := re.match(r"lora_(unet|transformer|te\d?)_", label):
        part, label = ENCODERS.get(match[1], network), label[match.end() :]
        part = t5_of(parts) if match[1] == "te3" else part
    if part == network and label not in known[part]:  # peft's names are within a part, and do not say which
        part = "text_encoder" if label.startswith("text_model_") else part
    return part, label.removeprefix("text_model_") if part != network else label


def _aliases(module: nn.Module, is_network: bool) -> dict[str, Place]:
    """A part's layers by all names that they go by, with underscores for dots."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    found = {}
    for name in names:
        found[name.removeprefix("text_model.")] = name
        if is_network:
            found[name.replace("to_out.0", "to_out")] = name  # diffusers' attention processors
        else:
            old = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", name.removeprefix("text_model."))
            found[old] = name
    if isinstance(module, UNet2DConditionModel):
        config: Any = module.config
        found |= {theirs: name for name, theirs in compvis_names(names, config["layers_per_block"]).items()}
    known = {alias: Place((name,)) for alias, name in found.items()}
    if is_network and not isinstance(module, UNet2DConditionModel):
        known |= places(module)
    return {alias.replace(".", "_"): place for alias, place in known.items()}


def _check_family(file: WeightFile, network: nn.Module) -> None:
    """Refuse an adapter of a U-Net that reads embeddings of another width, or of a transformer of another width."""
    config: Any = network.config
    if isinstance(network, UNet2DConditionModel):
        layers, width, families = READS_TEXT, config["cross_attention_dim"], TEXT_WIDTHS
        what = "cross-attention reads embeddings"
    else:
        layers, width, families = ATTENDS, network.get_parameter("proj_out.weight").shape[1], WIDTHS
        what = "transformer is"
    for key, tensor in file.tensors.items():
        match = KEY.fullmatch(key)
        factor = match and (match["flat"] or match["nested"])
        if match and factor in {"down", "A"} and layers.search(match["layer"]) and tensor.ndim >= 2:
            theirs = int(tensor.shape[1])
            if isinstance(width, int) and theirs != width and theirs in families:
                raise ValueError(
                    f"{file.path} does not fit: its {what} {theirs} wide{families[theirs]}, the base's {width}"
                    f"{families.get(width, '')}: pass the base it was made for"
                )


def _factors(file: WeightFile, name: str, found: Mapping[str, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors in float32, in the shapes that the layer's kind asks for."""
    if DOWN not in found or UP not in found:
        alone = "lengths" if MAGNITUDE in found else "an alpha"
        raise ValueError(f"{file.path} has only one of the two factors of {name}" if found.keys() - {"alpha", MAGNITUDE}
                         else f"{file.path} has {alone} and no factors of {name}")  # fmt: skip
    for tensor in (factors := [found[part] for part in (DOWN, "mid", UP) if part in found]):
        check_sound(file, name, tensor)
    down, up = factors[0].float(), factors[-1].float()
    if "mid" in found:  # a convolution in three steps, of which the first two are one
        down = _composed(file, name, found["mid"].float(), down)
    rank, other = len(down) if down.ndim else 0, up.shape[1] if up.ndim > 1 else 0
    shapes = factor_shapes(weight.shape, rank)
    if any(_core(factor.shape) != _core(shape) for factor, shape in zip((down, up), shapes, strict=True)):
        if rank != other and min(rank, other) and _core(up.shape[:1]) == _core(weight.shape[:1]):
            raise ValueError(f"{file.path} does not fit: factors of {name} have ranks {rank} and {other}, and not one")
        raise ValueError(
            f"{file.path} does not fit: factors of {name} are {tuple(down.shape)} and {tuple(up.shape)}, "
            f"the base asks for {shapes[0]} and {shapes[1]}"
        )
    return down.reshape(shapes[0]), up.reshape(shapes[1])


def _composed(file: WeightFile, name: str, mid: Tensor, down: Tensor) -> Tensor:
    """The factor (r, in, kh, kw) of a convolution (r, s, kh, kw) after one of single pixels (s, in, 1, 1)."""
    if mid.ndim != 4 or len(_core(down.shape)) > 2 or mid.shape[1] != (len(down) if down.ndim else 0):
        raise ValueError(
            f"{file.path} does not fit: lora_mid {tuple(mid.shape)} of {name} does not go with {tuple(down.shape)}"
        )
    return torch.einsum("rskl,si->rikl", mid, down.flatten(1))


def _core(shape: Sequence[int]) -> list[int]:
    """A shape without the ones at its end: factors of a Linear and of a 1x1 convolution are alike in all else."""
    core = list(shape)
    while core and core[-1] == 1:
        core.pop()
    return core
