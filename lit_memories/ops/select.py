"""Which parameters an eraser may change: named predicates on a model's parameter names.

Counts in SD 1.4's U-Net (686 tensors, 859.52 M parameters) are tested: ``attn2`` 80 tensors and 43.96 M, ``attn2-kv``
32 and 19.17 M, ``attn2-v`` half of these, ``attn1`` 80 and 49.57 M, ``not-attn2`` 598 and 813.50 M, ``selfup`` 10 and
8.19 M.
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


def select(model: nn.Module, rule: Selection) -> dict[str, nn.Parameter]:
    """The parameters of a model that a rule names, in order.

    Args:
        model: has a ``unet`` and, for the rules that begin with ``text``, a ``text_encoder``.
        rule: a key of `PREDICATES`.

    Returns:
        Parameters by their full names, ``unet.…`` or ``text_encoder.…``.

    Raises:
        ValueError: if the rule is unknown or matches nothing, or is one for the text encoder and there are two (SDXL).
    """
    if rule not in PREDICATES:
        raise ValueError(f"unknown selection {rule!r}: choose one of {', '.join(PREDICATES)}")
    component, matches = PREDICATES[rule]
    if component == "text_encoder." and hasattr(model, "text_encoder_2"):
        raise ValueError(f"selection {rule!r} is for a model with one text encoder, this one has two (SDXL)")
    chosen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(component) and matches(name.removeprefix(component))
    }
    if not chosen:
        raise ValueError(f"selection {rule!r} matches none of the model's parameters")
    return chosen
