"""Null-text inversion: the empty prompt is tuned until guided sampling follows an unguided inversion."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from lit_memories.inverters.base import Calls, Inversion, Inverter, PromptedPredictor, relative_norm
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.ops.path import DDIMStep, coefficients, ddim_inverse_coefficients, ddim_step
from lit_memories.ops.rollout import RowPredictFn

BETAS = 0.9, 0.999
"""Adam's decay rates, torch's defaults."""
LATER = 1e-3
"""By how much the error at which a step is done has grown at the end of the steps: 2e-5 a step of the original's 50."""
TOLERANCE = 1e-3
"""Relative residual below which a step of the faithful form counts as converged."""


class NullText(Inverter):
    r"""Null-text inversion (Mokady et al. 2023, arXiv:2211.09794, alg. 1).

    A pivot inverter without guidance finds :math:`z^*_0 \dots z^*_T`. From :math:`\bar z_T = z^*_T` on, each step
    tunes the embeddings :math:`\varnothing_t` of the empty prompt by Adam so that the guided step meets the pivot,

    .. math:: \min_{\varnothing_t} \lVert z^*_{t-1} - z_{t-1}(\bar z_t, \varnothing_t, c)\rVert_2^2,

    and passes them on to the next. The seeds are the pivot's; they and the tuned embeddings, `Inversion.state`
    (n, steps, tokens, width), give the image back under guidance. As in the paper's code the learning rate falls to
    half over the steps, and the error at which a step is done grows by 2e-5 a step, of 50. Unlike there, a sample stops
    by itself, before it changes embeddings that are good enough, and keeps those of its smallest loss; in the paper's
    code each step has one update more than it has losses, and keeps the last.

    Residual and convergence are the pivot's, as the seeds are; of the tuning convergence says only that it stayed
    finite. How well the tuned embeddings lead back to the image is seen in what they regenerate.

    The audit must not guide on top: predictions are asked for at guidance 1 and, through `PromptedPredictor`, under the
    tuned embeddings. Evaluations count forward passes; all but the last of a step's tuning also go backward.

    Args:
        guidance_scale: of the tuned steps and of the regeneration.
        inner_steps: updates of the embeddings a step at most.
        lr: Adam's, at the first step.
        early_stop: mean squared error of the first step's latents at which a sample is done with it.
        pivot: finds the seeds; plain DDIM inversion if None.
        measure_residual: of the faithful form: spend one more evaluation a step to report by how much it fails.
            Otherwise the pivot says whether it measures.
        faithful: what the audit's official code amounts to. It tunes at guidance 7.5 and regenerates at 1, where the
            empty prompt cancels: the tuning has no effect and is left out, and so is every option above. Its inversion
            takes the noise at the lower level of a step, with the lower level's timestep, and an image's latents count
            as being at the last timestep, so that there is one step less, both ways.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        guidance_scale: float = 7.5,
        inner_steps: int = 10,
        lr: float = 0.01,
        early_stop: float = 1e-5,
        pivot: Inverter | None = None,
        measure_residual: bool = True,
        faithful: bool = False,
    ) -> None:
        if inner_steps < 0 or lr <= 0 or early_stop < 0:
            raise ValueError(
                f"inner_steps ({inner_steps}) and early_stop ({early_stop}) cannot be negative, lr ({lr}) not 0"
            )
        self.guidance_scale, self.inner_steps, self.lr, self.early_stop = guidance_scale, inner_steps, lr, early_stop
        self.pivot, self.measure_residual, self.faithful = pivot or DDIMInversion(), measure_residual, faithful
        if "sampler" in self.pivot.settings():
            raise ValueError(f"the pivot must invert plain DDIM, {type(self.pivot).__name__} inverts another sampler")

    def check(self, steps: Sequence[DDIMStep]) -> None:
        """Refuse what the pivot refuses."""
        self.pivot.check(steps)

    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents through `steps`.

        Raises:
            TypeError: if `predict` cannot predict under other embeddings.
            ValueError: if its own predictions are guided.
        """
        if self.faithful:
            return _explicit(predict, latents, steps, self.measure_residual)
        prompted = _prompted(predict)
        # An audit predicts in inference mode, where nothing can be differentiated, and its tensors stay marked by it.
        with torch.inference_mode(False), torch.no_grad():
            pivots, inversion = self._follow(prompted, latents.clone(), steps)
            found, null = pivots[0], prompted.empty.clone().expand(len(latents), -1, -1)
            evaluations, converged, tuned = inversion.evaluations, inversion.converged, []
            for number, (step, target) in enumerate(zip(steps, pivots[1:], strict=True)):
                passed = number / len(steps)
                lr, enough = self.lr * (1 - passed / 2), self.early_stop + LATER * passed
                found, null, loss, used = self._tune(prompted, found, target, null, step, lr, enough)
                evaluations, converged = evaluations + used, converged & loss.isfinite()
                tuned.append(null)
        return replace(inversion, evaluations=evaluations, converged=converged, state=torch.stack(tuned, 1))

    def regenerate(self, predict: RowPredictFn, inversion: Inversion, steps: Sequence[DDIMStep]) -> Tensor:
        """Latents that guided DDIM makes of the seeds with the tuned embeddings."""
        if self.faithful:
            return self.sample(predict, inversion.seeds, steps[:-1])
        if inversion.state is None:
            raise ValueError("the inversion has no tuned embeddings: it is not one of NullText")
        prompted, latents = _prompted(predict), inversion.seeds
        rows = torch.arange(len(latents), device=latents.device)
        for step, null in zip(steps, inversion.state.unbind(1), strict=True):
            own = prompted(latents, step.timestep, rows)
            latents = self._guided(prompted.under(latents, step.timestep, null, rows), own, latents, step)
        return latents

    def inverting(self, steps: Sequence[DDIMStep]) -> Calls:
        """The pivot's predictions, then in each step the prompt's and from one to all of those of the empty one."""
        if self.faithful:
            calls = (len(steps) - 1) * (1 + self.measure_residual)
            return calls, calls
        parts = [self.pivot.inverting([step]) for step in steps]
        least, most = sum(part[0] for part in parts), sum(part[1] for part in parts)
        return least + 2 * len(steps), most + (2 + self.inner_steps) * len(steps)

    def regenerating(self, steps: Sequence[DDIMStep]) -> Calls:
        """Two predictions a step, as it guides; officially the last step is left out, and nothing guided."""
        calls = len(steps) - 1 if self.faithful else 2 * len(steps)
        return calls, calls

    def _follow(
        self, prompted: PromptedPredictor, latents: Tensor, steps: Sequence[DDIMStep]
    ) -> tuple[list[Tensor], Inversion]:
        """The pivot's latents at every level, seeds first, and its inversion; it is asked step by step to have them."""
        pivots, parts = [latents], []
        for step in reversed(steps):
            parts.append(self.pivot(prompted, pivots[0], [step]))
            pivots.insert(0, parts[-1].seeds)
        inversion = Inversion(
            seeds=pivots[0],
            residual=torch.stack([part.residual for part in parts]).amax(0),
            evaluations=torch.stack([part.evaluations for part in parts]).sum(0),
            converged=torch.stack([part.converged for part in parts]).all(0),
            measured=all(part.measured for part in parts),
        )
        return pivots, inversion

    def _guided(self, null: Tensor, own: Tensor, latents: Tensor, step: DDIMStep) -> Tensor:
        return ddim_step(latents, null + self.guidance_scale * (own - null), step)

    def _tune(
        self,
        prompted: PromptedPredictor,
        latents: Tensor,
        target: Tensor,
        null: Tensor,
        step: DDIMStep,
        lr: float,
        enough: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step: latents it leads to, embeddings, loss and evaluations a sample."""
        rows = torch.arange(len(latents), device=latents.device)
        own, used = prompted(latents, step.timestep, rows), torch.ones_like(rows)
        moved, best = latents.clone(), null.clone()
        least = torch.full((len(latents),), torch.inf, device=latents.device, dtype=latents.dtype)
        embeds, adam = null, _Adam(null, lr)
        for count in range(self.inner_steps + 1):
            embeds = embeds.detach().requires_grad_()
            with torch.enable_grad():
                other = prompted.under(latents[rows], step.timestep, embeds, rows)
                reached = self._guided(other, own[rows], latents[rows], step)
                loss = (reached - target[rows]).square().flatten(1).mean(1)
            used[rows] += 1
            better = (loss < least[rows]) | (count == 0)  # the first even if it is NaN
            moved[rows] = torch.where(better[:, None, None, None], reached.detach(), moved[rows])
            best[rows] = torch.where(better[:, None, None], embeds.detach(), best[rows])
            least[rows] = torch.where(better, loss.detach(), least[rows])
            if count == self.inner_steps:
                break
            active = (~(loss.detach() < enough)).nonzero()[:, 0]  # all that the host waits for
            if len(active) == 0:
                break
            # Of the losses' sum, so that each sample's gradient is its own.
            (gradient,) = torch.autograd.grad(loss, embeds, torch.ones_like(loss))
            embeds = adam.step(embeds.detach(), gradient)[active]
            rows, adam = rows[active], adam.keep(active)
        return moved, best, least, used


class _Adam:
    """Adam with torch's defaults, of which samples can leave."""

    def __init__(self, values: Tensor, lr: float) -> None:
        self.lr, self.count = lr, 0
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)

    def step(self, values: Tensor, gradient: Tensor) -> Tensor:
        """The values after one step down the gradient."""
        self.count += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient.square()
        size = (self.second / (1 - BETAS[1] ** self.count)).sqrt() + 1e-8
        return values - self.lr / (1 - BETAS[0] ** self.count) * self.first / size

    def keep(self, rows: Tensor) -> "_Adam":
        """The same for some of the samples."""
        self.first, self.second = self.first[rows], self.second[rows]
        return self


def _prompted(predict: RowPredictFn) -> PromptedPredictor:
    if not isinstance(predict, PromptedPredictor):
        raise TypeError(
            f"NullText predicts under other embeddings than the prompt's and {type(predict).__name__} cannot: "
            "pass a PromptedPredictor, as audits do"
        )
    if predict.guidance_scale != 1:
        raise ValueError(
            f"NullText guides by itself and the predictions are guided already, by {predict.guidance_scale:g}: "
            "set the audit's guidance_scale to 1"
        )
    return predict


def _explicit(predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep], measure: bool) -> Inversion:
    """Inversion through the transitions between timesteps alone, each with noise from where it starts."""
    rows = torch.arange(len(latents), device=latents.device)
    residual = torch.full((len(latents),), 0.0 if measure else torch.nan, device=latents.device)
    for low, high in pairwise(reversed(steps)):
        a, b = coefficients(low.predicts, low.alpha, high.alpha)
        moved = a * latents + b * predict(latents, low.timestep, rows)
        if measure:
            a, b = ddim_inverse_coefficients(DDIMStep(high.timestep, high.alpha, low.alpha, high.predicts))
            again = a * latents + b * predict(moved, high.timestep, rows)
            residual = torch.maximum(residual, relative_norm(again - moved, again))
        latents = moved
    used = torch.full_like(rows, (2 if measure else 1) * (len(steps) - 1))
    return Inversion(latents, residual, used, residual < TOLERANCE, measured=measure)
