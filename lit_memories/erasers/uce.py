"""UCE, unified concept editing (Gandikota et al. 2024, arXiv:2308.14761)."""

from torch import Tensor

from lit_memories.erasers.closed_form import ClosedFormEraser
from lit_memories.ops.ridge import edit_map


class UCE(ClosedFormEraser):
    r"""Gives the concept's tokens the keys and values of its guide, and leaves those of preserved prompts (eq. 3).

    .. math:: \min_W \; s_e \sum_i \lVert W c_i - W_0 g_i \rVert^2 + s_p \sum_j \lVert W c_j - W_0 c_j \rVert^2
        + \lambda \lVert W - W_0 \rVert^2

    for every key and value matrix of the cross-attention; the solution is one linear map on prompt embeddings
    (`lit_memories.ops.ridge.edit_map`), the same for all of them. On transformers (UCE-FLUX) W are the layers through
    which text enters them. These have a bias, which is no part of W: the released code has it in the guides' values,
    and adds it twice.
    """

    def solve(self, concepts: Tensor, guides: Tensor, preserved: Tensor) -> Tensor:
        """Equation 3's minimum."""
        return edit_map(concepts, guides, preserved, self.lamb, self.erase_scale, self.preserve_scale)
