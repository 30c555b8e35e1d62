"""Attention over picture and text together, of Stable Diffusion 3 and FLUX: one row for many, and a look into it."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
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


def joint_attentions(network: nn.Module) -> dict[str, Any]:
    """The layers of a transformer in which text and picture attend together, by name; none in a U-Net.

    Those whose text has projections of its own, and FLUX's single blocks, in which it shares the picture's.
    """
    return {name: module for name, module in network.named_modules() if name.rsplit(".", 1)[-1] == "attn"}


@contextmanager
def recorded_joint_attention(network: nn.Module, layers: Collection[str] | None = None) -> Iterator[list[Tensor]]:
    """Within the context, each call of the network appends how the picture attends to the text, a layer at a time.

    The probabilities are computed again from what the layers are given, so that fast attention kernels, which never
    hold them, can stay; gradients flow through both. The picture attends to itself too: over the text's rows they add
    up to less than 1.

    Args:
        network: a transformer.
        layers: names of `joint_attentions`; all if None.

    Yields:
        A list that receives a tensor (n, heads, places, tokens) for each layer in the order of their calls.
    """
    probabilities: list[Tensor] = []
    tokens = 0

    def attend(attn: Any, _args: object, options: dict[str, Any]) -> None:
        nonlocal tokens
        picture, text = options["hidden_states"], options.get("encoder_hidden_states")
        query, key = _rows(attn, picture, attn.to_q, attn.norm_q), _rows(attn, picture, attn.to_k, attn.norm_k)
        if text is None:  # one of FLUX's single blocks, whose rows are the text's, then the picture's
            query = query[:, tokens:]
        else:
            tokens = text.shape[1]
            key = torch.cat([_rows(attn, text, attn.add_k_proj, attn.norm_added_k), key], 1)
        if (places := options.get("image_rotary_emb")) is not None:
            query, key = _turned(query, *(x[tokens:] for x in places)), _turned(key, *places)
        logits = torch.einsum("nqhd,nkhd->nhqk", query, key) * query.shape[-1] ** -0.5
        if (repeated := options.get("repeated", 1)) > 1:
            bias = torch.zeros(logits.shape[-1], device=logits.device, dtype=logits.dtype)
            bias[tokens - 1] = math.log(repeated)
            logits = logits + bias
        probabilities.append(logits.softmax(-1)[..., :tokens])

    hooks = [
        layer.register_forward_pre_hook(attend, with_kwargs=True)
        for name, layer in joint_attentions(network).items()
        if layers is None or name in layers
    ]
    try:
        yield probabilities
    finally:
        for hook in hooks:
            hook.remove()


def _rows(attn: Any, states: Tensor, layer: Any, norm: Any) -> Tensor:
    """Queries or keys (n, rows, heads, width)."""
    found = layer(states).unflatten(2, (attn.heads, -1))
    return cast("Tensor", found if norm is None else norm(found))


def _turned(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries or keys (n, rows, heads, width) with the rotary embedding of their places (rows, width)."""
    real, imaginary = states.unflatten(-1, (-1, 2)).unbind(-1)
    across = torch.stack([-imaginary, real], -1).flatten(-2)
    return (states.float() * cosines[:, None] + across.float() * sines[:, None]).to(states.dtype)
