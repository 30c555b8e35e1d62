"""Which parameters an eraser may change: named predicates on a model's parameter names.

Counts are tested, here of tensors and millions of parameters:

| rule | SD 1.4 (U-Net) | SD 3.5 medium | FLUX.1-dev | what it names |
|---|---|---|---|---|
| ``full`` | 686, 859.52 | 908, 2243.17 | 1160, 11901.41 | everything |
| ``attn`` | 160, 93.54 | 486, 573.68 | 532, 2511.11 | all attention |
| ``attn2`` | 80, 43.96 | 190, 224.28 | 152, 717.46 | what reads the text |
| ``attn2-kv`` | 32, 19.17 | 96, 113.32 | 76, 358.73 | its keys and values |
| ``attn2-v`` | half of these | half | half | its values |
| ``attn1`` | 80, 49.57 | 296, 349.40 | 152, 717.46 | the picture's own |
| ``single`` | | | 228, 1076.19 | FLUX's single blocks |
| ``not-attn2`` | 598, 813.50 | 706, 2005.81 | 992, 11132.61 | all but text and ends |
| ``context`` | | 2, 6.29 | 2, 12.59 | where rows of text enter |
| ``embedders`` | | 2, 9.44 | 2, 14.94 | what UCE edits there |
| ``selfup`` | 10, 8.19 | | | Scissorhands' scope |

Transformers have no cross-attention: text and picture attend together, each by projections of its own. Those of the
text stand for ``attn2`` there, those of the picture for ``attn1``. In FLUX's single blocks both share theirs.
"""

import re
from collections.abc import Callable
from typing import Literal

from torch import nn

Selection = Literal[
    "attn2",
    "attn2-kv",
    "attn2-v",
    "attn1",
    "attn",
    "not-attn2",
    "not-time",
    "full",
    "single",
    "context",
    "embedders",
    "xlayer",
    "selflayer",
    "selfup",
    "text-layers",
    "text-full",
    "text-mlp",
    "text-attn",
]

# As the CompVis scripts name them: output blocks 6 and 8, input blocks 4 and 7, output blocks 4 and 7.
_XLAYER = re.compile(r"up_blocks\.2\.attentions\.[02]\..*\battn2\b")
_SELFLAYER = re.compile(r"down_blocks\.[12]\.attentions\.0\..*\battn1\b")
_SELFUP = re.compile(r"up_blocks\.[12]\.attentions\.1\..*\battn1\b")
# In SDXL's U-Net the pooled prompt and the sizes join the timestep, by way of add_embedding.
_ENDS = ("time_embedding.", "add_embedding.", "conv_norm_out.", "conv_out.")

_UNET: dict[Selection, Callable[[str], bool]] = {
    "attn2": lambda name: ".attn2." in name,
    "attn2-kv": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "attn2-v": lambda name: ".attn2.to_v." in name,
    "attn1": lambda name: ".attn1." in name,
    "attn": lambda name: ".attn1." in name or ".attn2." in name,
    "not-attn2": lambda name: ".attn2." not in name and not name.startswith(_ENDS),
    "not-time": lambda name: not name.startswith(_ENDS),
    "full": lambda name: True,
    "xlayer": lambda name: _XLAYER.search(name) is not None,
    "selflayer": lambda name: _SELFLAYER.search(name) is not None,
    "selfup": lambda name: _SELFUP.search(name) is not None,
}
# Stable Diffusion 3.5's dual blocks have a module attn2 too, in which the picture attends to itself once more.
_READING = re.compile(r"\.attn\.(add_[qkv]_proj|to_add_out)\.")
_READING_KV = re.compile(r"\.attn\.add_[kv]_proj\.")
_SEEING = re.compile(r"^transformer_blocks\.\d+\.attn2?\.to_(q|k|v|out)\.")
_ATTENDING = re.compile(r"\.attn2?\.(to|add)_")
_SINGLE = re.compile(r"^single_transformer_blocks\.\d+\.attn\.to_")
_TRANSFORMER_ENDS = ("time_text_embed.", "norm_out.", "proj_out.")
POOLED = "time_text_embed.text_embedder.linear_1.weight"
"""The matrix by which a pooled prompt enters a transformer."""

_TRANSFORMER: dict[Selection, Callable[[str], bool]] = {
    "attn2": lambda name: _READING.search(name) is not None,
    "attn2-kv": lambda name: _READING_KV.search(name) is not None,
    "attn1": lambda name: _SEEING.search(name) is not None,
    "attn": lambda name: _ATTENDING.search(name) is not None,
    "not-attn2": lambda name: _READING.search(name) is None and not name.startswith(_TRANSFORMER_ENDS),
    "not-time": lambda name: not name.startswith(_TRANSFORMER_ENDS),
    "full": lambda name: True,
    "single": lambda name: _SINGLE.search(name) is not None,
    "context": lambda name: name.startswith("context_embedder."),
    "embedders": lambda name: name in ("context_embedder.weight", POOLED),
}
_TEXT: dict[Selection, Callable[[str], bool]] = {
    "text-layers": lambda name: "encoder.layers." in name,
    "text-full": lambda name: "encoder.layers." in name or "final_layer_norm." in name,
    "text-mlp": lambda name: "encoder.layers." in name and ".mlp." in name,
    "text-attn": lambda name: "encoder.layers." in name and ".self_attn." in name,
}

PREDICATES: dict[Selection, tuple[str, Callable[[str], bool]]] = {
    **{rule: ("unet.", predicate) for rule, predicate in _UNET.items()},
    **{rule: ("text_encoder.", predicate) for rule, predicate in _TEXT.items()},
}
"""Rules by name: the component, and a predicate on names within it. ESD's own names: esd-x is ``attn2``, esd-x-strict
``attn2-kv``, esd-u (noxattn) ``not-attn2``, selfattn ``attn1``, notime ``not-time``, esd-all ``full``; xlayer and
selflayer are called the same. ``selfup`` is what Scissorhands trims. AdvUnlearn's text_encoder_full is ``text-full``,
its default component being "all"."""
TRANSFORMER: dict[Selection, tuple[str, Callable[[str], bool]]] = {
    rule: ("transformer.", predicate) for rule, predicate in _TRANSFORMER.items()
}
"""The same of models whose network is a transformer. ESD's script for FLUX calls ``attn`` esd-x."""


def select(model: nn.Module, rule: Selection) -> dict[str, nn.Parameter]:
    """The parameters of a model that a rule names, in order.

    Args:
        model: has a ``unet`` or a ``transformer``, and for the rules that begin with ``text`` a ``text_encoder``.
        rule: a key of `PREDICATES` or `TRANSFORMER`.

    Returns:
        Parameters by their full names, ``unet.…``, ``transformer.…`` or ``text_encoder.…``.

    Raises:
        ValueError: if the rule is unknown or matches nothing, or is one for the text encoder and there are several
            (SDXL, SD3, FLUX).
    """
    if rule not in PREDICATES | TRANSFORMER:
        raise ValueError(f"unknown selection {rule!r}: choose one of {', '.join(PREDICATES | TRANSFORMER)}")
    if rule in _TEXT and hasattr(model, "text_encoder_2"):
        raise ValueError(
            f"selection {rule!r} is for a model with one text encoder, this one has two or more (SDXL, SD3, FLUX): "
            "select a part of its network, with a method that changes that"
        )
    rules = TRANSFORMER if hasattr(model, "transformer") and rule not in _TEXT else PREDICATES
    if not (chosen := _matching(model, rules.get(rule))):
        others = [other for other, entry in TRANSFORMER.items() if _matching(model, entry)]
        there = f": of its transformer choose one of {', '.join(others)}" if others else ""
        raise ValueError(f"selection {rule!r} matches none of the model's parameters{there}")
    return chosen


def _matching(model: nn.Module, entry: tuple[str, Callable[[str], bool]] | None) -> dict[str, nn.Parameter]:
    if entry is None:
        return {}
    component, matches = entry
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(component) and matches(name.removeprefix(component))
    }
