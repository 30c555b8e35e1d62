"""Attention over picture and text together (Stable Diffusion 3), in which one row of text can stand for many."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class RepeatedRow:
    r"""Joint attention whose last row of text counts as many.

    Rows of text know no place, so that equal ones stay equal through all blocks, and n keys of one value are one key
    whose logit is larger by :math:`\log n`. Where a text encoder is left out diffusers gives hundreds of rows of zeros;
    one of them is enough, for the same result. Without ``repeated`` it is diffusers' own processor.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        repeated: int = 1,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            attn: `diffusers.models.attention_processor.Attention`, which has the weights.
            hidden_states: of the picture (n, places, width).
            encoder_hidden_states: of the text (n, tokens, width); None where the picture attends to itself.
            attention_mask: none; diffusers passes it.
            repeated: for how many rows the last one of the text stands.
        """
        parts = [_heads(attn, hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k))]
        if encoder_hidden_states is not None:
            layers, norms = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj), (attn.norm_added_q, attn.norm_added_k)
            parts.append(_heads(attn, encoder_hidden_states, layers, norms))
        query, key, value = (torch.cat(entries, 2) for entries in zip(*parts, strict=True))
        bias = None
        if encoder_hidden_states is not None and repeated > 1:
            bias = torch.zeros(1, 1, 1, key.shape[2], device=key.device, dtype=key.dtype)
            bias[..., -1] = math.log(repeated)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        found = found.transpose(1, 2).flatten(2)
        picture, text = found.split([hidden_states.shape[1], found.shape[1] - hidden_states.shape[1]], 1)
        for layer in attn.to_out:
            picture = layer(picture)
        if encoder_hidden_states is None:
            return picture
        return picture, text if attn.context_pre_only else attn.to_add_out(text)


def _heads(attn: Any, states: Tensor, layers: Any, norms: Any) -> list[Tensor]:
    """Queries, keys and values (n, heads, rows, width)."""
    found = [layer(states).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in layers]
    return [norm(x) if norm is not None else x for x, norm in zip(found, (*norms, None), strict=True)]
