"""Which parameters an eraser may change: named predicates on parameter names.

Counts in SD 1.4's U-Net (686 tensors, 859.52 M parameters) are tested: ``attn2`` 80 tensors and 43.96 M, ``attn2-kv``
32 and 19.17 M, ``attn1`` 80 and 49.57 M, ``not-attn2`` 598 and 813.50 M.
"""

import re
from collections.abc import Callable
from typing import Literal

from torch import nn

Selection = Literal["attn2", "attn2-kv", "attn1", "attn", "not-attn2", "not-time", "full", "xlayer", "selflayer"]

# As the CompVis script names them: output blocks 6 and 8, input blocks 4 and 7.
_XLAYER = re.compile(r"up_blocks\.2\.attentions\.[02]\..*\battn2\b")
_SELFLAYER = re.compile(r"down_blocks\.[12]\.attentions\.0\..*\battn1\b")
_ENDS = ("time_embedding.", "conv_norm_out.", "conv_out.")

PREDICATES: dict[Selection, Callable[[str], bool]] = {
    "attn2": lambda name: ".attn2." in name,
    "attn2-kv": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "attn1": lambda name: ".attn1." in name,
    "attn": lambda name: ".attn1." in name or ".attn2." in name,
    "not-attn2": lambda name: ".attn2." not in name and not name.startswith(_ENDS),
    "not-time": lambda name: not name.startswith(_ENDS),
    "full": lambda name: True,
    "xlayer": lambda name: _XLAYER.search(name) is not None,
    "selflayer": lambda name: _SELFLAYER.search(name) is not None,
}
"""Rules by name. ESD's own names: esd-x is ``attn2``, esd-x-strict ``attn2-kv``, esd-u (noxattn) ``not-attn2``,
selfattn ``attn1``, notime ``not-time``, esd-all ``full``; xlayer and selflayer are called the same."""


def select(module: nn.Module, rule: Selection) -> dict[str, nn.Parameter]:
    """The parameters of a U-Net that a rule names, in order.

    Raises:
        ValueError: if the rule is unknown or matches nothing.
    """
    if rule not in PREDICATES:
        raise ValueError(f"unknown selection {rule!r}: choose one of {', '.join(PREDICATES)}")
    chosen = {name: parameter for name, parameter in module.named_parameters() if PREDICATES[rule](name)}
    if not chosen:
        raise ValueError(f"selection {rule!r} matches none of the {type(module).__name__}'s parameters")
    return chosen
