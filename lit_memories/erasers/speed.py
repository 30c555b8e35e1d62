"""SPEED, scalable, precise and efficient concept erasure (Li et al. 2026, arXiv:2503.07392)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.closed_form import Projections, SolvingEraser
from lit_memories.ops.clusters import centres
from lit_memories.ops.generators import seeded
from lit_memories.ops.null_space import null_edit_map, null_space


class SPEED(SolvingEraser):
    r"""Gives the concept's tokens their guides' values by an edit in the null space of what is retained.

    .. math:: \min_\Delta \lVert (W + \Delta P)\, c - W g \rVert^2 + r \lVert \Delta P \rVert^2
        \quad \text{with} \quad (\Delta P)\, c_k = 0

    for every value matrix W of the cross-attention, where P projects on directions in which the retained vectors hardly
    reach, and :math:`c_k` are invariant vectors: the start marker's, and centres of the empty prompt's others. Its
    solution is `lit_memories.ops.null_space.null_edit_map`.

    The more is retained, the smaller is the null space. So each matrix chooses: of the retained vectors
    it keeps those that the edit without a null space would move most, and augments them by noise along the direction
    in which it is least sensitive, :math:`c + z v_{\min}`, of which again the most affected are kept.

    Args:
        diffusion: the model to change.
        concept: what to erase; of its ``retain`` prompts the empty one's vectors take the place if there is none.
        train: the values alone, or keys too.
        threshold: eigenvalues of the retained vectors' mean square below it are the null space; in their units.
        retain_scale: r, weight of a small edit.
        lamb: how far invariant vectors may move, 0 for not at all; officially 0.5 for nudity.
        augmentations: noisy copies of a retained vector; officially with 0 all vectors are retained, unfiltered.
        prior_filter: whether only the most affected vectors are retained; officially not for many celebrities.
        invariants: how many centres the empty prompt's vectors have.
        **options: see `SolvingEraser`.

    Raises:
        ValueError: if a number is out of range, or, in training, nothing is left to edit.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Projections = "attn2-v",
        threshold: float = 0.1,
        retain_scale: float = 1.0,
        lamb: float = 0.0,
        augmentations: int = 10,
        prior_filter: bool = True,
        invariants: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train, **options)
        if min(threshold, retain_scale) <= 0 or min(lamb, augmentations) < 0 or invariants < 1:
            raise ValueError(
                f"threshold ({threshold}) and retain_scale ({retain_scale}) must be above 0, lamb ({lamb}) and "
                f"augmentations ({augmentations}) not negative, invariants ({invariants}) at least 1"
            )
        self.threshold, self.retain_scale, self.lamb, self.augmentations = threshold, retain_scale, lamb, augmentations
        self.prior_filter, self.invariants = prior_filter, invariants

    def edits(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """The minimum, a matrix at a time."""
        concepts, guides = (vectors.double() for vectors in self.rows_of(batch["prompts"]))
        retained, invariant = self.preserved(batch["retain"]).double(), self.invariant()
        count, whole = len(batch["prompts"]), torch.eye(concepts.shape[1], dtype=concepts.dtype, device=self.device)
        free = null_edit_map(concepts, guides, whole, invariant[:0], count) - whole
        for name, matrix in self._originals.items():
            kept = self.refined(retained, matrix.to(free), free, name)
            basis = null_space(kept, self.threshold)
            try:
                edit = null_edit_map(concepts, guides, basis, invariant, count, self.retain_scale, self.lamb)
            except ValueError as error:
                raise ValueError(
                    f"SPEED: {error} in {name}: {len(kept)} retained vectors have a mean square above threshold "
                    f"({self.threshold:g}) in all: raise it, or retain fewer prompts"
                ) from error
            yield name, edit

    def preserved(self, prompts: Sequence[str]) -> Tensor:
        """The vectors (m, width) that are to stay; those of the empty prompt if there are no prompts."""
        return super().preserved(prompts) if prompts else self._empty()[1:]

    def _empty(self) -> Tensor:
        (vectors,) = self._vectors([""], [""], "all")
        return vectors

    def invariant(self) -> Tensor:
        """The vectors (1 + invariants, width) that are not to move at all."""
        start, *rest = self._empty().double().split(1)
        return torch.cat([start, centres(torch.cat(rest), self.invariants, seeded(f"{self.seed}/invariants"))])

    def refined(self, retained: Tensor, matrix: Tensor, free: Tensor, name: str) -> Tensor:
        """What a matrix (out, width) retains: the vectors (m, width) it would move most, with noisy copies.

        Args:
            retained: all vectors (n, width).
            matrix: the original.
            free: the map of the edit without constraint, less the identity.
            name: the matrix's, for its noise.
        """
        if not self.augmentations:
            return retained
        change = (matrix @ free).T
        filtered = most_affected(retained, change)
        direction = torch.linalg.svd(matrix, full_matrices=False).Vh[-1:]  # the last of the matrix's own, as officially
        generator = seeded(f"{self.seed}/{name}")
        noise = torch.randn(self.augmentations, len(filtered), 1, generator=generator).to(filtered)
        copies = most_affected((filtered + noise * direction).flatten(0, 1), change)
        return torch.cat([filtered if self.prior_filter else retained, copies])


def most_affected(vectors: Tensor, change: Tensor) -> Tensor:
    """Those of some vectors (n, width) that a change (width, out) of a map moves at least as far as the mean of all."""
    moved = (vectors @ change).norm(dim=1)
    return vectors[moved >= moved.mean()]
