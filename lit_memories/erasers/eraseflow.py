"""EraseFlow, concept erasure policies via GFlowNets (Kusumba et al. 2025, arXiv:2511.00804)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser, draw
from lit_memories.ops.adapters import Adapter, initial_factors, projections
from lit_memories.ops.path import ddim_eta_step, log_densities


class EraseFlow(Eraser):
    r"""Makes the anchor's way from noise to picture as likely under the concept's prompt: trajectory balance.

    Paths :math:`z_T, \dots, z_0` are drawn under the anchored prompt, with fresh noise at each step (DDIM with eta).
    For the concept's prompt c a low-rank adapter lowers

    .. math:: \Big(\log Z - \log \beta + \sum_{t \in S} \big[\log p_\theta(z_{t'} \mid z_t, c)
        - \log q(z_t \mid z_{t'})\big]\Big)^2

    with q diffusion (`lit_memories.ops.path.log_densities`, nats an element), :math:`\beta` the same reward for all
    paths, and Z a number that is learnt. The steps S are the last of a run and some of the others. The square falls
    from both sides: only while :math:`\log \beta` is above what the rest comes to are paths made more likely. Nothing
    keeps other prompts as they are. A step of training holds as many network calls as S has steps.

    Args:
        diffusion: the model; its weights are not changed.
        concept: what to erase.
        rank: of the adapter beside all attention's projections.
        log_reward: :math:`\log \beta`.
        log_flow: :math:`\log Z` at the beginning.
        flow_lr: its learning rate.
        eta: share of DDPM's noise in paths.
        guidance_scale: of paths, and of predictions in the loss.
        num_inference_steps: of a path.
        early: how many steps of S are drawn among all but the last.
        late: how many are the last.
        renew: training step up to which paths are drawn anew, then the last ones stay; None for always.
        weight_decay: of AdamW.
        max_grad_norm: norm to clip gradients to.
        **options: see `Eraser`. The model in training draws paths, as officially.

    Raises:
        ValueError: if the network is a transformer, or a number is out of range.
    """

    one_process = "its processes would each learn a flow of their own"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rank: int = 4,
        log_reward: float = 2.5,
        log_flow: float = -0.1953,
        flow_lr: float = 3e-4,
        eta: float = 1.0,
        guidance_scale: float = 5.0,
        num_inference_steps: int = 50,
        early: int = 10,
        late: int = 10,
        renew: int | None = None,
        weight_decay: float = 1e-2,
        max_grad_norm: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=None, **options)
        if diffusion.component != "unet":
            raise ValueError(
                f"EraseFlow follows DDIM of a U-Net, and {diffusion.base} has a transformer: of the methods that need "
                "prompts only ESD, UCE and SPM are for both"
            )
        if min(rank, early + late) < 1 or max_grad_norm <= 0 or min(flow_lr, weight_decay, early, late) < 0:
            raise ValueError(
                f"rank ({rank}) and early + late ({early + late}) must be at least 1, max_grad_norm "
                f"({max_grad_norm}) above 0, flow_lr ({flow_lr}), weight_decay ({weight_decay}), early ({early}) and "
                f"late ({late}) not negative"
            )
        if not 0 < eta <= 1:
            raise ValueError(f"eta ({eta}) must be above 0, as a path without noise has no density, and at most 1")
        self.path = diffusion.schedule.ddim_steps(num_inference_steps)
        self.uncertain = [index for index, step in enumerate(self.path) if step.alpha_prev < 1]
        if not self.uncertain:
            raise ValueError(f"num_inference_steps ({num_inference_steps}) leave no step but the one to the picture")
        self.rank, self.log_reward, self.log_flow, self.flow_lr, self.eta = rank, log_reward, log_flow, flow_lr, eta
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.early, self.late, self.renew = early, late, renew
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        factors = initial_factors(projections(diffusion.network), rank, Generator().manual_seed(self.seed))
        self.adapter = Adapter(diffusion.network, factors)
        self.adopt({f"{diffusion.component}.{name}": factor for name, factor in self.adapter.factors().items()})
        self.flow = nn.Parameter(torch.tensor(log_flow))
        self._drawn: tuple[list[str], Tensor] | None = None

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model with the adapter off, without gradients."""
        with self.adapter.off(), torch.no_grad():
            yield

    def configure_optimizers(self) -> Any:
        """AdamW on the adapter and the flow."""
        groups = [
            {"params": list(self.selected.values()), "lr": self.lr},
            {"params": [self.flow], "lr": self.flow_lr},
        ]
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay)

    def erase_loss(self, batch: Batch) -> Tensor:
        """Trajectory balance."""
        generator = self.generator()
        if self._drawn is None or self.renew is None or self.global_step <= self.renew:
            prompts = draw(batch["prompts"], self.batch_size, generator)
            self._drawn = prompts, self.drawn(prompts, generator)
        prompts, states = self._drawn
        embeds = self.diffusion.encode_prompts(prompts)
        balance = self.flow - self.log_reward
        for index in self.chosen(self.generator("steps")):
            step, here = self.path[index], states[index]
            prediction = self.diffusion.predict(here, step.timestep, embeds, self.guidance_scale)
            forward, backward = log_densities(here, prediction, states[index + 1], step, self.eta)
            balance = balance + forward - backward
        self.log_dict({"train/flow": self.flow.detach(), "train/balance": balance.detach().mean()}, batch_size=1)
        return balance.square().mean()

    @torch.no_grad()
    def drawn(self, prompts: list[str], generator: Generator) -> Tensor:
        """Paths (steps + 1, n, c, h, w) from noise to pictures of anchored prompts."""
        embeds = self.diffusion.encode_prompts([self.concept.anchored(prompt) for prompt in prompts])
        noise = self.diffusion.predict_fn(embeds, self.guidance_scale)
        shape = (len(prompts), *self.diffusion.latent_shape)
        states = [torch.randn(shape, generator=generator).to(self.device)]
        for step in self.path:
            fresh, here = torch.randn(shape, generator=generator).to(self.device), states[-1]
            states.append(ddim_eta_step(here, noise(here, step.timestep), fresh, step, self.eta))
        return torch.stack(states)

    def chosen(self, generator: Generator) -> list[int]:
        """The steps S by number: the last, and some of the others; never one that is certain."""
        others, last = self.uncertain[: -self.late or None], self.uncertain[-self.late :] if self.late else []
        drawn = torch.randperm(len(others), generator=generator)[: self.early].tolist()
        return [*(others[i] for i in drawn), *last]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the flow and the paths too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"]["flow"] = self.flow.detach()
        checkpoint["drawn"] = self._drawn

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same paths."""
        drawn = checkpoint["drawn"]
        self._drawn = drawn and (list(drawn[0]), drawn[1].to(self.device))
