"""SAFREE (Yoon et al. 2025, arXiv:2410.12761)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lit_memories.guards.base import Guard, named, official_step
from lit_memories.ops.tokens import content
from lit_memories.prompt_rows import tokenize
from lit_memories.prompted import Prompted

MASK = 0
"""The token that stands in a masked one's place, the vocabulary's first, as in the official code."""


class SAFREE(Guard):
    r"""Take the concept out of the prompt's tokens that carry it, in as many first steps as the prompt needs.

    With the concept's words as columns of C, and the prompt with its i-th token masked as the i-th column of I, all as
    the text encoder pools them, and projectors P onto their spans:

    .. math::
        d_i &= \lVert (1 - P_C)\, I_i \rVert, \quad i \text{ carries the concept if } d_i \ge (1 + \alpha)\,
            \overline{d_{j \ne i}}\\
        e_i' &= (1 - P_C)\, P_I\, e_i \text{ for these tokens, } e_i \text{ for all others}\\
        \beta &= 1 - \overline{\cos(e_i, (1 - P_C) P_I e_i)}, \quad
            t' = \operatorname{round}(\gamma / (1 + e^{-2.5 (10 \beta - 5.333)}))

    e' is told to the network up to step t' of 50, e after it (the self-validating filter). The paper's third part, a
    Fourier filter of skip features, is left out: the released script switches it on without naming one of its filters,
    and then it does nothing (free_lunch_utils.py). Predictions without guidance see SAFREE too, those under the empty
    prompt never. A prompt of one token counts as carrying the concept. For attackers' learnt vectors the token masked
    in them stands.

    Args:
        concepts: words or phrases that span the concept.
        alpha: how much farther than the others' mean a masked prompt is from the concept for its token to carry it.
        upper: gamma, steps of 50 at most.
        faithful: guide away from the concepts' words too, as the released script does by a negative prompt.

    Raises:
        ValueError: if there is no concept or one is empty, or a number is out of range.
    """

    acts_on = "prompts"

    def __init__(self, concepts: Sequence[str], alpha: float = 0.01, upper: int = 10, faithful: bool = False) -> None:
        if not concepts:
            raise ValueError("SAFREE's concepts must not be empty: say in words what to keep out of pictures")
        if not (0 <= alpha <= 10 and 0 <= upper <= 50):
            raise ValueError(f"alpha must be between 0 and 10 and upper between 0 and 50, got {alpha} and {upper}")
        self.concepts, self.alpha, self.upper, self.faithful = [named(x) for x in concepts], alpha, upper, faithful

    @property
    def beside(self) -> list[str]:
        """The empty prompt, or the concepts' words in its place."""
        return [", ".join(self.concepts) if self.faithful else ""]

    def check(self, model: Prompted, name: str) -> None:
        """Refuse a model without one CLIP text encoder whose pooled states are as wide as its tokens'.

        Raises:
            ValueError: saying so.
        """
        super().check(model, name)
        if list(model.conditioning.encoders) != ["text_encoder"]:
            raise ValueError(
                f"SAFREE takes models with one text encoder (Stable Diffusion 1 and 2), and {name} has more"
            )

    def tell(self, model: Prompted, embeds: Tensor, ids: Tensor) -> Tensor:
        """Embeddings (n, 2 tokens + 1, width): as they were, projected, and t' in the last row."""
        span = projector(_pooled(model, tokenize(model.tokenizer, self.concepts)))
        return torch.cat([self._told(model, own[None], row, span) for own, row in zip(embeds, ids, strict=True)])

    def _told(self, model: Prompted, embeds: Tensor, ids: Tensor, span: Tensor) -> Tensor:
        tokenizer = model.tokenizer
        own = content(ids.tolist(), tokenizer.bos_token_id, tokenizer.eos_token_id)
        if not own:
            return self.untold(model, embeds)
        masked = ids.cpu().repeat(len(own), 1)
        places = torch.arange(len(own))
        masked[places, 1 + places] = MASK
        pooled = _pooled(model, masked)
        away = torch.eye(len(span), dtype=span.dtype, device=span.device) - span
        apart = (away @ pooled.T).norm(dim=0)
        carries = ~(apart < (1 + self.alpha) * mean_of_others(apart))
        projected = embeds[0].to(span) @ (away @ projector(pooled)).T
        seen = slice(0, len(own) + 2)  # with both markers
        beta = 1 - functional.cosine_similarity(projected[seen], embeds[0].to(span)[seen]).mean().item()
        last = round(self.upper / (1 + math.exp(-2.5 * (10 * beta - 5.333))))
        rows = torch.zeros(len(projected), dtype=torch.bool, device=span.device)
        rows[1 : 1 + len(own)] = carries
        told = projected.to(embeds).where(rows.to(embeds.device)[:, None], embeds[0])
        return torch.cat([embeds, told[None], torch.full_like(embeds[:, :1], last)], 1)

    def untold(self, model: Prompted, embeds: Tensor) -> Tensor:
        """Embeddings of prompts that are left alone, at all steps."""
        return torch.cat([embeds, embeds, torch.full_like(embeds[:, :1], -1)], 1)

    def seen(self, embeds: Tensor, left: Tensor) -> Tensor:
        """The projected rows up to t', those that were after it."""
        before, told = embeds[:, :-1].chunk(2, 1)
        early = official_step(left) <= embeds[:, -1, 0]
        return told.where(early[:, None, None], before)


def projector(vectors: Tensor) -> Tensor:
    """The orthogonal projector (width, width) onto the span of vectors (n, width), in double precision.

    Directions below 1e-5 of the largest are rounding.

    Example:
        >>> projector(torch.tensor([[2.0, 0.0], [1.0, 0.0]])).round(decimals=6)
        tensor([[1., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    columns = vectors.double().T
    return columns @ torch.linalg.pinv(columns, rtol=1e-5)


def mean_of_others(values: Tensor) -> Tensor:
    """For each value (n,) the mean of all others; NaN where there are none.

    Example:
        >>> mean_of_others(torch.tensor([1.0, 2.0, 6.0]))
        tensor([4.0000, 3.5000, 1.5000])
    """
    return (values.sum() - values) / (len(values) - 1)


def _pooled(model: Prompted, ids: Tensor) -> Tensor:
    """What the text encoder pools of token ids (n, tokens): (n, width), in double precision."""
    encoder: Any = model.conditioning.encoders["text_encoder"]
    with torch.no_grad():
        pooled: Tensor = encoder(ids.to(encoder.device)).pooler_output
    return pooled.to(model.device).double()
