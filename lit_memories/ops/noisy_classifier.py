r"""A classifier of noisy latents, and noise predictions that its gradient guides (Dhariwal & Nichol 2021).

The noise that a diffusion model predicts is its score times :math:`-\sqrt{1 - \bar\alpha_t}`; by Bayes' rule that of
the latents which show a concept y is (arXiv:2105.05233, eq. 14, with a scale s as there)

.. math:: \hat\epsilon(z_t) = \epsilon_\theta(z_t) - \sqrt{1 - \bar\alpha_t}\; s\, \nabla_{z_t} \log p(y \mid z_t, t)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.generators import seeded
from lit_memories.ops.gradients import gradients
from lit_memories.ops.path import frame
from lit_memories.ops.rollout import RowPredictFn
from lit_memories.ops.schedule import NoiseSchedule

Logit = Callable[[Tensor, Tensor], Tensor]
"""Log odds (n,) that noisy latents (n, c, h, w) with cumulative alphas (n,) show the concept."""
BATCH, RATE = 64, 1e-3
"""Latents of a training step, and Adam's learning rate."""


class NoisyClassifier(nn.Module):
    """A small convolutional network: whether noisy latents show a concept.

    It has no memory of its batch, so that a latent's logit depends on nothing else.

    Args:
        channels: of the latents.
        widths: channels after each halving, multiples of 8.
    """

    def __init__(self, channels: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        pairs = zip((channels + 1, *widths), widths, strict=False)
        self.features = nn.Sequential(*(layer for pair in pairs for layer in _block(*pair)))
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, latents: Tensor, alphas: Tensor) -> Tensor:
        """Log odds (n,) of noisy latents (n, c, h, w) with cumulative alphas (n,) in [0, 1]."""
        level = torch.logit(alphas).clamp(-10, 10).to(latents) / 10  # hardly ever cut by the usual schedules
        plane = level[:, None, None, None].expand(-1, 1, *latents.shape[2:])
        odds: Tensor = self.head(self.features(torch.cat([latents, plane], 1)).mean((2, 3)))
        return odds[:, 0]


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
    return convolution, nn.GroupNorm(8, channels_out), nn.SiLU()


def trained(latents: Tensor, shows: Tensor, schedule: NoiseSchedule, steps: int, purpose: str) -> NoisyClassifier:
    """A classifier taught on latents that are noised to uniform random levels, by the cross entropy.

    Args:
        latents: clean ones (n, c, h, w).
        shows: whether each shows the concept (n,), bool.
        schedule: of the noise.
        steps: of Adam.
        purpose: what its weights and noise are drawn from: the same one gives the same classifier.
    """
    generator = seeded(purpose)
    with gradients():
        network, latents, shows = _drawn(latents.shape[1], generator).to(latents.device), latents.clone(), shows.clone()
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        for _ in range(steps):
            rows = torch.randint(len(latents), (BATCH,), generator=generator).to(latents.device)
            noisy, timesteps, _ = schedule.noised(latents[rows], generator)
            logits = network(noisy, schedule.alphas_at(timesteps))
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(logits, shows[rows].to(logits)).backward()
            optimizer.step()
    return network.requires_grad_(False)


def _drawn(channels: int, generator: Generator) -> NoisyClassifier:
    with torch.device("meta"):  # so that nothing is drawn twice, or from elsewhere
        network = NoisyClassifier(channels)
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)  # as torch does by itself
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    return network


def guided(plain: RowPredictFn, logit: Logit, schedule: NoiseSchedule, scale: float) -> RowPredictFn:
    """Predictions that a classifier guides towards the concept, each latent by its own gradient alone.

    Args:
        plain: the model.
        logit: the classifier's.
        schedule: of the noise.
        scale: s, 0 or more.
    """

    def predict(latents: Tensor, timestep: float, rows: Tensor) -> Tensor:
        alpha = schedule.alpha(timestep)
        if alpha == 0:  # of noise alone a classifier can say nothing
            return plain(latents, timestep, rows)
        here, gradient = frame(schedule.predicts, alpha), in_blocks(lambda x: log_gradient(logit, x, alpha), 1, latents)
        noise_to_prediction = here.determinant / here.cosine  # of predicted noise, exactly 1
        return plain(latents, timestep, rows) - noise_to_prediction * here.sine * scale * gradient

    return predict


def log_gradient(logit: Logit, latents: Tensor, alpha: float) -> Tensor:
    """The gradient (n, c, h, w) of log p(y | z_t, t) by noisy latents (n, c, h, w), all at one cumulative alpha."""
    with gradients():
        noisy = latents.detach().clone().requires_grad_(True)
        alphas = torch.full((len(noisy),), alpha, dtype=torch.float64, device=noisy.device)
        (gradient,) = torch.autograd.grad(functional.logsigmoid(logit(noisy, alphas)).sum(), [noisy])
    return gradient
