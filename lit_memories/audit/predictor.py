"""What an inverter sees of the model: predictions under the prompts of some samples, in calls of one size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.ops.blocks import in_blocks


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
    ) -> None:
        self.diffusion, self.guidance_scale, self.block_size = diffusion, guidance_scale, block_size
        self.network_dtype, self.tally = network_dtype, Tally()
        with torch.inference_mode(False):
            self._prompts, self._empty = prompt_embeds.clone(), empty_embeds.clone()

    @property
    def empty(self) -> Tensor:
        """Embeddings of the empty prompt (tokens, width): rows of text alone, without a pooled embedding or a gate."""
        return self._empty[0, : self.diffusion.conditioning.tokens]

    def __call__(self, latents: Tensor, timestep: float | Tensor, rows: Tensor) -> Tensor:
        """Predictions for latents (m, c, h, w) under the prompts of their rows, guided; timesteps may be each's."""
        return self._blocks(latents, timestep, self._prompts[rows], self.guidance_scale)

    def under(self, latents: Tensor, timestep: float, embeds: Tensor, rows: Tensor) -> Tensor:
        """Predictions, unguided, under embeddings (m, tokens, width) in the empty prompt's place.

        A pooled embedding stays the empty prompt's; a gated adapter is as strong as for the samples' own prompts.
        """
        more = self._empty[:, embeds.shape[1] :].expand(len(embeds), -1, -1)
        if self.diffusion.adapter is not None:
            more = torch.cat([more[:, :-1], self._prompts[rows][:, -1:]], 1)
        return self._blocks(latents, timestep, torch.cat([embeds, more], 1), 1.0)

    def _blocks(self, latents: Tensor, timestep: float | Tensor, embeds: Tensor, guidance_scale: float) -> Tensor:
        self.tally.evaluations += len(latents) * (calls := self.diffusion.evaluations(guidance_scale))
        empty = None if calls == 1 else self._empty.expand(self.block_size, -1, -1)
        with torch.autocast(latents.device.type, self.network_dtype, enabled=self.network_dtype is not None):
            return in_blocks(
                lambda x, c, t=timestep: self.diffusion.predict(x, t, c, guidance_scale, empty),
                self.block_size,
                latents,
                embeds,
                *((timestep,) if isinstance(timestep, Tensor) else ()),
            )
