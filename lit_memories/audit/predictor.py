"""What an inverter sees of the model: predictions under the prompts of some samples, in calls of one size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.rollout import RowPredictFn, Trajectories


@dataclass
class Tally:
    """Latents that a network was asked about, twice where it was with guidance."""

    evaluations: int = 0


class BlockwisePredictor:
    """Predictions for samples by their rows (an `inverters.base.PromptedPredictor`); every call has one size.

    Gradients flow where they are asked for: nothing kept here is bound to inference mode, in which Lightning predicts.
    Low precision ends here: predictions come back in the latents' own type, whatever the network computed in.

    Args:
        diffusion: the model.
        prompt_embeds: of the samples (n, tokens, width).
        empty_embeds: of the empty prompt (1, tokens, width).
        guidance_scale: of the predictions under the samples' prompts.
        block_size: rows of every network call.
        network_dtype: what the network's matrix products and convolutions are computed in, by autocast; None leaves
            everything in the type of the weights.
        beside_embeds: of the k prompts that guidance asks about besides (k, tokens, width), see `Diffusion.beside`;
            None for the empty prompt.

    `tally` counts what is asked; whoever wants to count several together gives them the same one.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        prompt_embeds: Tensor,
        empty_embeds: Tensor,
        guidance_scale: float,
        block_size: int,
        network_dtype: torch.dtype | None = None,
        beside_embeds: Tensor | None = None,
    ) -> None:
        self.diffusion, self.guidance_scale, self.block_size = diffusion, guidance_scale, block_size
        self.network_dtype, self.tally = network_dtype, Tally()
        with torch.inference_mode(False):
            self._prompts, self._empty = prompt_embeds.clone(), empty_embeds.clone()
            self._beside = self._empty if beside_embeds is None else beside_embeds.clone()

    @property
    def empty(self) -> Tensor:
        """Embeddings of the empty prompt (tokens, width): rows of text alone, without a pooled embedding or a gate."""
        return self._empty[0, : self.diffusion.conditioning.tokens]

    def __call__(self, latents: Tensor, timestep: float | Tensor, rows: Tensor) -> Tensor:
        """Predictions for latents (m, c, h, w) under the prompts of their rows, guided; timesteps may be each's."""
        return self._blocks(latents, timestep, self._prompts[rows], self.guidance_scale)

    def begin(self) -> RowPredictFn:
        """The same along one way from noise to pictures, for a guard that remembers the step before."""
        guard = self.diffusion.guard
        if guard is None or not guard.remembers or self.diffusion.evaluations(self.guidance_scale) == 1:
            return self

        def after(memory: Tensor | None, latents: Tensor, timestep: float, rows: Tensor) -> tuple[Tensor, Tensor]:
            before = torch.zeros_like(latents) if memory is None else memory
            found = self._blocks(latents, timestep, self._prompts[rows], self.guidance_scale, before)
            return found[:, 0], found[:, 1]

        return Trajectories(after).begin()

    def under(self, latents: Tensor, timestep: float, embeds: Tensor, rows: Tensor) -> Tensor:
        """Predictions, unguided, under embeddings (m, tokens, width) in the empty prompt's place.

        A pooled embedding stays the empty prompt's; a gated adapter is as strong as for the samples' own prompts.
        """
        more = self._empty[:, embeds.shape[1] :].expand(len(embeds), -1, -1)
        if self.diffusion.adapter is not None:
            more = torch.cat([more[:, :-1], self._prompts[rows][:, -1:]], 1)
        return self._blocks(latents, timestep, torch.cat([embeds, more], 1), 1.0)

    def _blocks(
        self,
        latents: Tensor,
        timestep: float | Tensor,
        embeds: Tensor,
        guidance_scale: float,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Predictions; after a memory of the step before they and what is remembered of them (n, 2, c, h, w)."""
        self.tally.evaluations += len(latents) * (calls := self.diffusion.evaluations(guidance_scale))
        beside = None if calls == 1 else self._beside.repeat_interleave(self.block_size, 0)

        def plain(x: Tensor, c: Tensor, t: float | Tensor = timestep) -> Tensor:
            return self.diffusion.predict(x, t, c, guidance_scale, beside)

        def remembering(x: Tensor, c: Tensor, before: Tensor) -> Tensor:
            found, after = self.diffusion.predict_after(before, x, timestep, c, guidance_scale, beside)
            return torch.stack([found, before if after is None else after], 1)

        more = memory if memory is not None else timestep
        with torch.autocast(latents.device.type, self.network_dtype, enabled=self.network_dtype is not None):
            return in_blocks(
                plain if memory is None else remembering,
                self.block_size,
                latents,
                embeds,
                *((more,) if isinstance(more, Tensor) else ()),
            )
