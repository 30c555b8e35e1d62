"""How strong an adapter says that it is: in its file, in the file's header, or in a configuration beside it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lit_memories.storage.plain import parse_json
from lit_memories.storage.weights import WeightFile

CONFIG_FILE = "adapter_config.json"
"""What peft writes beside an adapter: its alpha, among others."""
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the same in a file's header."""
ALPHAS = ("ss_network_alpha", "network_alpha")
"""Where kohya's training keeps an alpha in a file's header."""


@dataclass
class Layer:
    """What a file holds for one layer.

    Args:
        label: the layer's name in the file.
        factors: by what they are; its alpha is among them.
    """

    label: str
    factors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Strengths:
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
    def of(cls, file: WeightFile, alpha: float | None) -> "Strengths":
        """What is said in the file's header, or beside it.

        Raises:
            ValueError: if that is damaged, or is of no plain LoRA.
        """
        metadata = file.metadata or {}
        text, beside = metadata.get(METADATA), file.path.parent / CONFIG_FILE
        where = f"{METADATA} in {file.path}" if text else str(beside)
        if text is None and beside.is_file() and any("lora_A" in key or "hada_" in key for key in file.tensors):
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
        names = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
        own = {p: {k.removeprefix(f"{p}."): v for k, v in values.items() if k.startswith(f"{p}.")} for p in names}
        configs = {part: own[part] or values for part in names}
        kind = "LOHA" if any("hada_" in key for key in file.tensors) else "LORA"
        dora = any("lora_magnitude_vector" in key for key in file.tensors)
        for config in configs.values():
            _check_config(config, where, kind, dora)
        return cls(file, configs, alpha)

    def scale(self, layer: Layer, part: str, path: str, rank: int) -> float:
        """What a layer's product of factors is multiplied by."""
        config = self.configs.get(part, {})
        if "alpha" in layer.factors:
            found = layer.factors["alpha"]
            if found.numel() != 1 or not found.isfinite().all():
                raise ValueError(f"{self.file.path} is damaged: alpha of {part}.{path} is no finite number")
            self.sources.add("recorded in the file")
            alpha = float(found)
        elif (named := "alpha" if config.get("peft_type") == "LOHA" else "lora_alpha") in config:
            self.sources.add("recorded in the configuration")
            patterns = config.get("alpha_pattern") or {}
            found_in = [key for key in patterns if path == key or path.endswith(f".{key}")]
            alpha = float(patterns[found_in[0]] if found_in else config[named])
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


def _check_config(config: Mapping[str, Any], where: str, kind: str, dora: bool) -> None:
    """Refuse what peft's configuration says of an adapter that is not what the file holds, or that is no number."""
    said = config.get("peft_type", kind)
    if said != kind or (config.get("use_dora") and not dora):
        wrong = "DoRA, and no lora_magnitude_vector is in its file" if said == kind else f"{said}, which is not read so"
        raise ValueError(f"{where} says that the adapter is {wrong}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "loftq", "eva")) and start != "eva":
        raise ValueError(f"{where} says {start}: the adapter is added to weights that it changed, not to the base's")
    patterns = config.get("alpha_pattern") or {}
    numbers = [
        config.get("lora_alpha", 1),
        config.get("alpha", 1),
        *(patterns.values() if isinstance(patterns, dict) else [None]),
    ]
    if not all(_is_number(number) for number in numbers):
        raise ValueError(f"{where} is damaged: lora_alpha or alpha_pattern is no number")
    if expressions := [key for key in patterns if not re.fullmatch(r"[\w.]+", key)]:
        raise ValueError(f"{where} has a regular expression as alpha_pattern, which is not supported: {expressions[0]}")


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
