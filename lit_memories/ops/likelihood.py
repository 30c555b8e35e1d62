r"""How likely a model finds latents: log p(latents | prompt), where a seed's likelihood leaves out the map's volume.

DDIM without noise follows an ordinary differential equation, the probability flow, along which a density is known
(Song et al. 2021, arXiv:2011.13456, eq. 39): that of the seed, plus the divergence on the way. With
:math:`\cos\phi = \sqrt{\bar\alpha}` and :math:`\sin\phi = \sqrt{1 - \bar\alpha}` the flow is

.. math:: \frac{dx}{d\phi} = v = \cos\phi\, \epsilon(x) - \sin\phi\, x_0(x)
        = \frac{\epsilon(x) - \sin\phi\, x}{\cos\phi}, \qquad
    \log p(x_0) = \log N(x_T; 0, I) + \int \mathrm{tr}\, \frac{\partial v}{\partial x}\, d\phi

with v the velocity of Salimans and Ho (2022): a DDIM step is the rotation :math:`\cos h\, x + \sin h\, v`. In this
coordinate the range is finite at both ends, and v is 0 for standard normal data, which latents are scaled to resemble:
of the coordinates tried (also :math:`\sigma / \alpha` and its logarithm) it has the smallest errors.

**Discretisation.** Nodes are the noise levels of DDIM steps. Between nodes latents move by the trapezoidal rule, with
the value at the new node taken where an Adams-Bashforth step of order two lands; the divergence is integrated by the
trapezoidal rule over the same values. Both are of order two, and in the likelihood of typical data their leading errors
cancel. Each node costs one evaluation of the network and one vector-Jacobian product a probe: nothing is evaluated
twice, or for one purpose only. From the clean end to the lowest level, where the network cannot be asked, there is one
step of Euler's; being one, it keeps the order, and `NoiseSchedule.ladder` makes it short. Models that know noise alone
begin there: v is finite where the signal is 0.

**Off the data's support this is wrong, by any amount.** Between modes the score turns within a distance far smaller
than a step: the flow is stiff there, an explicit rule leaps into a mode, misses the divergence of the way, and calls
the point much too likely. More levels hardly help and do not tell. What tells is `Likelihood.gap`, which costs nothing:
how far the predicted and the corrected latents are from one another. docs/audit.md has the figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from lit_memories.ops.gradients import gradients
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import RowPredictFn


@dataclass(frozen=True)
class Likelihood:
    """How likely latents are, a row a sample; numbers in float64 on the CPU.

    Args:
        seeds: latents at the noisiest level (n, c, h, w), where the probability flow ends.
        log_det: log-determinant of the map from latents to seeds, nats (n,).
        log_likelihood: log-density of the latents, nats (n,).
        standard_error: of both, from the spread between probes, nats (n,); NaN with one probe.
        gap: how far from one another a step's two rules end, summed over the way, as the root mean square of an element
            (n,). Above 0.1 the levels are too far apart for these latents; see the module.
    """

    seeds: Tensor
    log_det: Tensor
    log_likelihood: Tensor
    standard_error: Tensor
    gap: Tensor

    @property
    def bits_per_dim(self) -> Tensor:
        """Minus the log-likelihood in bits an element (n,); of a density, so it may be negative."""
        return -self.log_likelihood / (math.log(2) * self.seeds[0].numel())


def log_likelihood(
    predict: RowPredictFn,
    latents: Tensor,
    steps: Sequence[DDIMStep],
    generators: Sequence[Generator],
    probes: int = 1,
) -> Likelihood:
    r"""Log-density of latents under a model, by its probability flow.

    The trace is estimated without bias (Hutchinson 1990): :math:`r^T (\partial\epsilon / \partial x)\, r` for random
    signs r, new ones at every node, so that their errors average out along the way. They come from the sample's own
    generator, on the CPU: a sample's result does not depend on its batch (as far as the network's does not), and two
    models that get equal generators share probes, which a difference of likelihoods gains from.

    Off the support of the data the result can be wrong by hundreds of nats: see the module, and `Likelihood.gap`.

    It works inside `torch.inference_mode` and `torch.no_grad`, both of which it suspends. Parameters get no gradient.

    Args:
        predict: the model; differentiable in the latents, each row depending on its own latents only.
        latents: at the clean end (n, c, h, w).
        steps: as the sampler takes them, noise first, from `NoiseSchedule.ladder` or `ddim_steps`. Their levels count,
            what is predicted there, and where the last one ends.
        generators: one a sample.
        probes: estimates of the trace at each node, 1 or more; 2 or more for a standard error.

    Raises:
        ValueError: if a count does not fit, or noise does not grow along the steps.
    """
    _check(latents, steps, generators, probes)
    levels = steps[-1].alpha_prev, *(step.alpha for step in reversed(steps))
    angles = [math.acos(math.sqrt(level)) for level in levels]
    widths = [end - start for start, end in pairwise(angles)]
    with gradients():
        log_det = _double(latents.new_zeros(len(latents), probes))
        gap = _double(latents.new_zeros(len(latents)))
        # Drawn before the first step, and moved once: a copy a step would have the host wait for the device.
        signs = torch.stack([_signs(generators, probes, latents.shape[1:]) for _ in steps]).to(latents.device)
        x = here = latents.detach().clone()  # here: where the network is asked, x: where it turned out to be
        before: Tensor | None = None
        for node, step in enumerate(reversed(steps)):
            width = widths[node]
            along, across = _turning(step, angles[node + 1])
            predicted, traces = _ask(predict, here, step.timestep, signs[node].to(latents) * 2 - 1)
            velocity = (predicted - across * here) / along
            divergence = (traces - across * latents[0].numel()) / along
            # Of the interval behind, the trapezoidal rule gives a node half; Euler's step has no other end.
            x = x + width * (velocity if before is None else (before + velocity) / 2)
            if before is not None:
                gap = gap + _double((x - here).flatten(1)).square().mean(1).sqrt()
            log_det = log_det + width * divergence * (1.0 if before is None else 0.5)
            if node + 1 < len(steps):
                ahead = widths[node + 1]
                log_det = log_det + ahead * divergence / 2
                slope = 0.0 if before is None else (velocity - before) / width
                here = x + ahead * (velocity + ahead / 2 * slope)
            before = velocity
    return _collect(x, log_det.cpu(), gap.cpu())


def _check(latents: Tensor, steps: Sequence[DDIMStep], generators: Sequence[Generator], probes: int) -> None:
    if latents.ndim != 4 or len(latents) == 0:
        raise ValueError(f"latents must be (n, c, h, w) with n > 0, got {tuple(latents.shape)}")
    if len(generators) != len(latents) or probes < 1:
        raise ValueError(f"give {len(latents)} generators and a probe or more, got {len(generators)} and {probes}")
    levels = [step.alpha for step in steps]
    if not levels or levels[0] < 0 or not all(noisier < cleaner for noisier, cleaner in pairwise([*levels, 1.0])):
        raise ValueError("steps must be given noise first, with alphas that grow and lie in [0, 1)")
    if levels[0] == 0 and steps[0].predicts == "epsilon":
        raise ValueError("noise predicted where there is nothing else says nothing: leave out the level without signal")
    if not levels[-1] <= steps[-1].alpha_prev <= 1:
        raise ValueError(f"the last step must end between its alpha {levels[-1]} and 1, got {steps[-1].alpha_prev}")


def _signs(generators: Sequence[Generator], probes: int, shape: Sequence[int]) -> Tensor:
    """Random signs (probes, n, c, h, w) of a node, as 0 and 1 in one byte each."""
    drawn = [torch.randint(0, 2, (probes, *shape), generator=g, dtype=torch.int8) for g in generators]
    return torch.stack(drawn, 1)


def _double(values: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none (Apple's)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _turning(step: DDIMStep, angle: float) -> tuple[float, float]:
    """Numbers (d, m) of the velocity ``(prediction - m * latents) / d`` where a step starts."""
    if step.predicts == "epsilon":
        return math.cos(angle), math.sin(angle)
    here = step.frame
    return here.determinant, here.cosine * here.of_clean + here.sine * here.of_noise


def _ask(predict: RowPredictFn, latents: Tensor, timestep: float, signs: Tensor) -> tuple[Tensor, Tensor]:
    """What is predicted of latents (n, c, h, w), and estimates (n, probes) of the trace of its derivative."""
    latents = latents.detach().requires_grad_()
    predicted = predict(latents, timestep, torch.arange(len(latents), device=latents.device))
    if not predicted.requires_grad:
        raise ValueError("predictions came without a gradient: they must be differentiable in the latents")
    traces = []
    for left, sign in zip(range(len(signs) - 1, -1, -1), signs, strict=True):
        (product,) = torch.autograd.grad(predicted, latents, sign, retain_graph=left > 0)
        traces.append(_double((product * sign).flatten(1)).sum(1))
    return predicted.detach(), torch.stack(traces, 1)


def _collect(seeds: Tensor, log_det: Tensor, gap: Tensor) -> Likelihood:
    estimate, probes = log_det.mean(1), log_det.shape[1]
    square = seeds.flatten(1).cpu().double().square().sum(1)
    prior = -(square + seeds[0].numel() * math.log(2 * math.pi)) / 2
    error = log_det.std(1) / math.sqrt(probes) if probes > 1 else torch.full_like(estimate, math.nan)
    return Likelihood(seeds, estimate, prior + estimate, error, gap)
