"""Low-rank adapters as people save them: kohya's, diffusers' and peft's files, made into factors of a model's layers.

Each format is a way to write three things in a name: the part of the model, the layer, and which factor it is. A name
is taken apart by its ending; the layer is looked up under all names that it goes by, dots and underscores being one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lit_memories.ops.adapters import DOWN, UP, factor_shapes
from lit_memories.storage.plain import parse_json
from lit_memories.storage.weights import OUTER, WeightFile
from lit_memories.tools.checks import check_sound, misfit
from lit_memories.tools.names import WRAPPERS, compvis_names

CONFIG_FILE = "adapter_config.json"
"""What peft writes beside an adapter: its alpha, among others."""
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the same in a file's header."""
ALPHAS = ("ss_network_alpha", "network_alpha")
"""Where kohya's training keeps an alpha in a file's header."""

KEY = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<flat>down|up|mid|A|B)(?:\.[\w-]+)?\.weight"
    r"|[._]lora(?:_linear_layer)?\.(?P<nested>down|up)\.weight"
    r"|(?:[._]lora(?:_linear_layer)?)?\.(?P<alpha>alpha))"
)
FACTORS = {"down": DOWN, "A": DOWN, "up": UP, "B": UP, "mid": "mid"}
OTHERS = {
    "dora_scale": "DoRA, which scales whole weights anew",
    "lora_magnitude_vector": "DoRA, which scales whole weights anew",
    "hada_w": "LoHa, a product of two adapters",
    "lokr_w": "LoKr, a Kronecker product",
    "oft_": "OFT, which turns weights",
    "ia3_": "IA3, which scales activations",
    "lora_embedding_": "a LoRA of embeddings",
    "lora_B.bias": "a LoRA with biases",
    "diff_b": "differences of biases",
}
"""Adapters that are no two factors beside each layer, by what stands in their names."""
ENCODERS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
FAMILIES = {768: " (as Stable Diffusion 1)", 1024: " (as Stable Diffusion 2)", 2048: " (as Stable Diffusion XL)"}
"""Whose cross-attention reads embeddings of which width."""
READS_TEXT = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")


@dataclass(frozen=True)
class Lora:
    """An adapter's factors, with alpha / rank worked into ``lora_up``, for the layers that it changes.

    Args:
        factors: by the model's names and ``.lora_down`` or ``.lora_up``, in float32.
        alpha: where its strength comes from, in words.
    """

    factors: dict[str, Tensor]
    alpha: str


@dataclass
class _Layer:
    """What a file holds for one layer."""

    label: str
    factors: dict[str, Tensor] = field(default_factory=dict)


def is_lora(file: WeightFile) -> bool:
    """Whether a file holds an adapter, of whatever kind."""
    return any(
        ((match := KEY.fullmatch(key)) and not match["alpha"]) or any(mark in key for mark in OTHERS)
        for key in file.tensors
    )


def read_lora(file: WeightFile, parts: Mapping[str, nn.Module], alpha: float | None = None) -> Lora:
    """The factors of an adapter for a model's layers.

    Args:
        file: of kohya's, diffusers' or peft's; peft's has `CONFIG_FILE` beside it.
        parts: the U-Net and the text encoders of the base, by their names.
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
    _check_family(file, parts)
    if strange:
        raise ValueError(f"{file.path} does not fit: {misfit(strange, [name for name in parts if name != 'unet'])}")
    strengths = _Strengths.of(file, alpha)
    factors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        part, _, path = name.partition(".")
        down, up = _factors(file, name, layer.factors, parts[part].get_parameter(f"{path}.weight"))
        up = up * strengths.scale(layer, part, path, len(down))
        if down.any() and up.any():
            factors |= {f"{name}.{DOWN}": down, f"{name}.{UP}": up}
    return Lora(factors, strengths.says())


def _collect(file: WeightFile, parts: Mapping[str, nn.Module]) -> tuple[dict[str, _Layer], list[str]]:
    """What the file holds for each layer, by the model's names, and the keys for which the model has none."""
    known = {part: _aliases(part, module) for part, module in parts.items()}
    layers: dict[str, _Layer] = {}
    strange = []
    for key, tensor in file.tensors.items():
        match = KEY.fullmatch(key)
        part, label = _split(match["layer"] if match else key, known)
        if not match or label not in known.get(part, {}):
            strange.append(key)
            continue
        layer = layers.setdefault(f"{part}.{known[part][label]}", _Layer(match["layer"]))
        factor = "alpha" if match["alpha"] else FACTORS[match["flat"] or match["nested"]]
        if factor in layer.factors and not torch.equal(layer.factors[factor], tensor):
            raise ValueError(f"{file.path} holds two different tensors for one factor, one of them as {key}")
        layer.factors[factor] = tensor
    return layers, strange


def _split(layer: str, known: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """The part of a model that a layer is in, and the layer's name in it, with underscores for dots."""
    words = [word for word in layer.split(".") if word not in WRAPPERS and word != "processor"]
    while len(words) > 1 and words[0] in OUTER:
        words = words[1:]
    part = "unet"
    if words[0].startswith("text_encoder"):
        part, words = words[0].removesuffix("_state_dict"), words[1:]
    label = "_".join(words)
    if match := re.match(r"lora_(unet|te\d?)_", label):
        part, label = ENCODERS.get(match[1], match[1]), label[match.end() :]
    if part == "unet" and label not in known["unet"]:  # peft's names are within a part, and do not say which
        part = "text_encoder" if label.startswith("text_model_") else part
    return part, label.removeprefix("text_model_") if part != "unet" else label


def _aliases(part: str, module: nn.Module) -> dict[str, str]:
    """A part's layers by all names that they go by, with underscores for dots."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    found = {}
    for name in names:
        found[name.removeprefix("text_model.")] = name
        if part == "unet":
            found[name.replace("to_out.0", "to_out")] = name  # diffusers' attention processors
        else:
            old = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", name.removeprefix("text_model."))
            found[old] = name
    if part == "unet":
        config: Any = module.config
        found |= {theirs: name for name, theirs in compvis_names(names, config["layers_per_block"]).items()}
    return {alias.replace(".", "_"): name for alias, name in found.items()}


def _check_family(file: WeightFile, parts: Mapping[str, nn.Module]) -> None:
    """Refuse an adapter of a U-Net that reads embeddings of another width."""
    config: Any = parts["unet"].config
    width = config["cross_attention_dim"]
    for key, tensor in file.tensors.items():
        match = KEY.fullmatch(key)
        factor = match and (match["flat"] or match["nested"])
        if match and factor in {"down", "A"} and READS_TEXT.search(match["layer"]) and tensor.ndim >= 2:
            theirs = int(tensor.shape[1])
            if isinstance(width, int) and theirs != width and theirs in FAMILIES:
                raise ValueError(
                    f"{file.path} does not fit: its cross-attention reads embeddings {theirs} wide"
                    f"{FAMILIES[theirs]}, the base's {width}{FAMILIES.get(width, '')}: pass the base it was made for"
                )


def _factors(file: WeightFile, name: str, found: Mapping[str, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors in float32, in the shapes that the layer's kind asks for."""
    if DOWN not in found or UP not in found:
        raise ValueError(f"{file.path} has only one of the two factors of {name}" if found.keys() - {"alpha"} else
                         f"{file.path} has an alpha and no factors of {name}")  # fmt: skip
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


@dataclass
class _Strengths:
    """How strong a file says its layers are; alpha / rank, or alpha / sqrt(rank) if it is rank-stabilised.

    Args:
        file: the file.
        configs: what is written of each part in the header or beside the file, as peft has it.
        alpha: for layers of which nothing is said.
    """

    file: WeightFile
    configs: Mapping[str, Mapping[str, Any]]
    alpha: float | None
    sources: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, file: WeightFile, alpha: float | None) -> "_Strengths":
        """What is said in the file's header, or beside it.

        Raises:
            ValueError: if that is damaged, or is of no plain LoRA.
        """
        metadata = file.metadata or {}
        text, beside = metadata.get(METADATA), file.path.parent / CONFIG_FILE
        where = f"{METADATA} in {file.path}" if text else str(beside)
        if text is None and beside.is_file() and any("lora_A" in key for key in file.tensors):
            text = beside.read_text(encoding="utf-8")
        for name in ALPHAS:
            if alpha is None and _is_number(metadata.get(name)):
                alpha = float(metadata[name])
        if text is None:
            return cls(file, {}, alpha)
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{where} is damaged: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{where} is damaged: it is no object with named fields")
        names = ("unet", "text_encoder", "text_encoder_2")
        own = {p: {k.removeprefix(f"{p}."): v for k, v in values.items() if k.startswith(f"{p}.")} for p in names}
        configs = {part: own[part] or values for part in names}
        for config in configs.values():
            _check_config(config, where)
        return cls(file, configs, alpha)

    def scale(self, layer: _Layer, part: str, path: str, rank: int) -> float:
        """What a layer's product of factors is multiplied by."""
        config = self.configs.get(part, {})
        if "alpha" in layer.factors:
            found = layer.factors["alpha"]
            if found.numel() != 1 or not found.isfinite().all():
                raise ValueError(f"{self.file.path} is damaged: alpha of {part}.{path} is no finite number")
            self.sources.add("recorded in the file")
            alpha = float(found)
        elif "lora_alpha" in config:
            self.sources.add("recorded in the configuration")
            patterns = config.get("alpha_pattern") or {}
            found_in = [key for key in patterns if path == key or path.endswith(f".{key}")]
            alpha = float(patterns[found_in[0]] if found_in else config["lora_alpha"])
        elif self.alpha is not None:
            self.sources.add(f"given as {self.alpha:g}")
            alpha = self.alpha
        elif layer.label.startswith("base_model."):
            raise ValueError(
                f"{self.file.path} does not say how strong it is: put its {CONFIG_FILE} beside it, or pass its "
                "lora_alpha as alpha"
            )
        else:
            self.sources.add("assumed to be the rank")
            alpha = rank
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else max(rank, 1))

    def says(self) -> str:
        """Where the strengths come from, in words."""
        return ", ".join(sorted(self.sources))


def _check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse what peft's configuration says of an adapter that is no plain LoRA, or that is no number."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA" or config.get("use_dora"):
        raise ValueError(f"{where} says that the adapter is {'DoRA' if kind == 'LORA' else kind}, no plain LoRA")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "loftq", "eva")) and start != "eva":
        raise ValueError(f"{where} says {start}: the adapter is added to weights that it changed, not to the base's")
    patterns = config.get("alpha_pattern") or {}
    numbers = [config.get("lora_alpha", 1), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(_is_number(number) for number in numbers):
        raise ValueError(f"{where} is damaged: lora_alpha or alpha_pattern is no number")
    if expressions := [key for key in patterns if not re.fullmatch(r"[\w.]+", key)]:
        raise ValueError(f"{where} has a regular expression as alpha_pattern, which is not supported: {expressions[0]}")


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
