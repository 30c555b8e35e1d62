"""RECE, reliable and efficient concept erasure (Gong et al. 2024, arXiv:2407.12383)."""

from typing import Any

from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.closed_form import ClosedFormEraser, Tokens
from lit_memories.ops.ridge import adversarial_embeddings, edit_map


class RECE(ClosedFormEraser):
    r"""UCE, then rounds: find the embedding that brings the concept back, and edit that too (eq. 7 and 8).

    .. math:: c' = \Big(\lambda' I + \sum_k W_k^T W_k\Big)^{-1} \sum_k W_k^T W_{0,k}\, c

    is what the edited matrices map to the concept's own keys and values. It is edited towards the guide, and so on.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        rounds: how many, after UCE's own edit.
        adversary_lamb: :math:`\lambda'`: 0.1 for nudity and easy objects, 0.001 for styles and hard objects.
        round_lamb: weight of staying near, in the rounds.
        round_preserve_scale: weight of preserved prompts, in the rounds.
        round_tokens: which vectors of a prompt's embedding the rounds edit, officially ``all``; those of UCE's own edit
            (`tokens`, officially ``following``) if None.
        **options: see `ClosedFormEraser`.

    Raises:
        ValueError: if a number is out of range, or the network is a transformer.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rounds: int = 1,
        adversary_lamb: float = 0.1,
        round_lamb: float = 0.1,
        round_preserve_scale: float = 0.1,
        round_tokens: Tokens | None = None,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if diffusion.component != "unet":
            raise ValueError(
                f"RECE attacks what cross-attention reads, and {diffusion.base} has a transformer: "
                "UCE edits what its text enters through"
            )
        if rounds < 0 or min(adversary_lamb, round_lamb) <= 0 or round_preserve_scale < 0:
            raise ValueError(
                f"rounds ({rounds}) and round_preserve_scale ({round_preserve_scale}) cannot be negative, "
                f"adversary_lamb ({adversary_lamb}) and round_lamb ({round_lamb}) must be above 0"
            )
        self.rounds, self.adversary_lamb = rounds, adversary_lamb
        self.round_lamb, self.round_preserve_scale, self.round_tokens = round_lamb, round_preserve_scale, round_tokens

    def edit(self, batch: Batch) -> Tensor:
        """The map for a batch's prompts, with vectors of their own in the rounds."""
        prompts = batch["prompts"]
        again = self.rows_of(prompts, self.round_tokens)
        return self.solve(*self.rows_of(prompts), self.preserved(batch["retain"]), *again)

    def solve(
        self,
        concepts: Tensor,
        guides: Tensor,
        preserved: Tensor,
        round_concepts: Tensor | None = None,
        round_guides: Tensor | None = None,
    ) -> Tensor:
        """UCE's map, and one more a round."""
        again_concepts = concepts if round_concepts is None else round_concepts
        again_guides = guides if round_guides is None else round_guides
        edit = edit_map(concepts, guides, preserved, self.lamb, self.erase_scale, self.preserve_scale)
        original = [matrix.to(edit) for matrix in self._originals.values()]
        for _ in range(self.rounds):
            edited = [matrix @ edit for matrix in original]
            found = adversarial_embeddings(again_concepts, edited, original, self.adversary_lamb)
            again = edit_map(found, again_guides, preserved, self.round_lamb, 1.0, self.round_preserve_scale)
            edit = edit @ again
        return edit
