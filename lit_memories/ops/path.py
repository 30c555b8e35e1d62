r"""Gaussian paths: from latents to noise, what networks predict on the way, and steps along it, as pure functions.

At a level of the path latents are :math:`z = \cos\phi\, x + \sin\phi\, \epsilon`, with :math:`\cos^2\phi =
\bar\alpha` the cumulative alpha, so that their scale is that of the prior everywhere. A network predicts :math:`p =
a_x x + a_\epsilon \epsilon` of them:

| prediction | what it is | in |
|---|---|---|
| ``epsilon`` | :math:`\epsilon` | DDPM, Stable Diffusion 1 and XL |
| ``v_prediction`` | :math:`\cos\phi\,\epsilon - \sin\phi\, x` | Salimans & Ho 2022, appendix D |
| ``sample`` | :math:`x` | |
| ``flow_prediction`` | :math:`\epsilon - x` | rectified flow, Liu et al. 2022 |

Two such equations give x and :math:`\epsilon`, and so everything else. A deterministic step to another level puts both
together again (DDIM: Song et al. 2021, eq. 12, :math:`\eta=0`). **A step of a rectified flow is the same step**: there
latents are :math:`(1-s)\, x + s\, \epsilon`, which is z times :math:`\sqrt{(1-s)^2 + s^2} = 1 / (\cos\phi + \sin\phi)`,
and Euler's step along :math:`\epsilon - x` from s to s' ends where DDIM's ends.

What is divided by is :math:`\cos\phi\, a_\epsilon - \sin\phi\, a_x`: the signal for ``epsilon``, which therefore says
nothing at a level of noise alone; 1 for ``v_prediction`` and :math:`\cos\phi + \sin\phi` for ``flow_prediction``, which
are sound at both ends.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True)
class Frame:
    """What a prediction is made of at a level: numbers, or tensors that multiply latents.

    Args:
        cosine: root of the cumulative alpha, the share of the clean latents.
        sine: root of its complement, the share of the noise.
        of_clean: share of the clean latents in a prediction.
        of_noise: share of the noise in a prediction.
        determinant: what solving for either divides by.
    """

    cosine: Any
    sine: Any
    of_clean: Any
    of_noise: Any
    determinant: Any

    def prediction(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What a perfect network would predict for latents of which both parts are known (n, c, h, w)."""
        return self.of_clean * clean + self.of_noise * noise

    def noise(self, prediction: Tensor, latents: Tensor) -> Tensor:
        """The noise that a prediction says is in latents (n, c, h, w)."""
        return (self.cosine * prediction - self.of_clean * latents) / self.determinant

    def clean(self, prediction: Tensor, latents: Tensor) -> Tensor:
        """The clean latents (n, c, h, w) that a prediction says latents are made of."""
        return (self.of_noise * latents - self.sine * prediction) / self.determinant


def frame(prediction_type: PredictionType, alpha: Any) -> Frame:
    """What predictions are made of at a cumulative alpha.

    Args:
        prediction_type: of the predictions.
        alpha: a number in [0, 1], or a tensor of such.

    Example:
        >>> frame("flow_prediction", 0.0).determinant
        1.0
    """
    cosine, sine = alpha**0.5, (1 - alpha) ** 0.5
    of_clean, of_noise, determinant = {
        "epsilon": (0.0, 1.0, cosine),
        "v_prediction": (-sine, cosine, 1.0),
        "sample": (1.0, 0.0, -sine),
        "flow_prediction": (-1.0, 1.0, cosine + sine),
    }[prediction_type]
    return Frame(cosine, sine, of_clean, of_noise, determinant)


@dataclass(frozen=True)
class DDIMStep:
    """One transition of a deterministic run: from `alpha` (at `timestep`) down to `alpha_prev`; both cumulative.

    Args:
        timestep: what the network is told of the level; a whole number for networks of discrete levels.
        alpha: of the level the step starts from.
        alpha_prev: of the level it ends at.
        predicts: what is predicted there.
    """

    timestep: float
    alpha: float
    alpha_prev: float
    predicts: PredictionType = "epsilon"

    @property
    def frame(self) -> Frame:
        """What predictions are made of where the step starts."""
        return frame(self.predicts, self.alpha)


def coefficients(predicts: PredictionType, alpha_from: float, alpha_to: float) -> tuple[float, float]:
    """Coefficients (a, b) of ``a * latents + b * prediction``, which moves latents between two levels.

    Args:
        predicts: what is predicted for the latents.
        alpha_from: cumulative alpha of the level the latents are at, in [0, 1]; above 0 for ``epsilon``.
        alpha_to: cumulative alpha of the level to reach, in [0, 1].

    Example:
        >>> coefficients("epsilon", 0.25, 1.0)
        (2.0, -1.7320508075688772)
        >>> coefficients("flow_prediction", 0.0, 1.0)  # from s = 1 to s = 0
        (1.0, -1.0)
    """
    if predicts == "epsilon":  # the same as below, to the bit as records of former releases have it
        a = (alpha_to / alpha_from) ** 0.5
        return a, (1 - alpha_to) ** 0.5 - a * (1 - alpha_from) ** 0.5
    here, cosine, sine = frame(predicts, alpha_from), alpha_to**0.5, (1 - alpha_to) ** 0.5
    a = (cosine * here.of_noise - sine * here.of_clean) / here.determinant
    return a, (here.cosine * sine - here.sine * cosine) / here.determinant


def ddim_step(latents: Tensor, prediction: Tensor, step: DDIMStep) -> Tensor:
    """One step towards the image: latents (n, c, h, w) at ``step.alpha`` to ``step.alpha_prev``."""
    a, b = coefficients(step.predicts, step.alpha, step.alpha_prev)
    return a * latents + b * prediction


def ddim_inverse_coefficients(step: DDIMStep) -> tuple[float, float]:
    """Coefficients (a, b) of the inverse step ``z_t = a * z_prev + b * p(z_t)``: implicit, as z_t is unknown.

    Raises:
        ValueError: of a step whose end holds nothing of where it began: one from noise alone to the image.
    """
    if step.predicts == "epsilon":
        return coefficients(step.predicts, step.alpha_prev, step.alpha)
    a, b = coefficients(step.predicts, step.alpha, step.alpha_prev)
    if abs(a) < 1e-6:
        raise ValueError("a single step from noise to image cannot be inverted: choose more num_inference_steps")
    return 1 / a, -b / a


def ddim_eta_step(
    latents: Tensor, prediction: Tensor, fresh: Tensor, step: DDIMStep, eta: float, scale: float = 1.0
) -> Tensor:
    r"""One DDIM step that adds fresh noise, more of it than the model was trained to take away if `eta` is above 1.

    .. math:: z_{t'} = \sqrt{\bar\alpha_{t'}}\, \hat z_0 + \sqrt{|1 - \bar\alpha_{t'} - \eta^2 \sigma^2|}\; \epsilon
        + s\, \eta\, \sigma\, z, \qquad
        \sigma^2 = \frac{1 - \bar\alpha_{t'}}{1 - \bar\alpha_t} \Big(1 - \frac{\bar\alpha_t}{\bar\alpha_{t'}}\Big)

    With a scale s of 1 and eta of at most 1 it is that of Song et al. 2021 (eq. 12 and 16): DDIM at 0, DDPM at 1.
    Beyond, what is left for the direction towards :math:`z_t` can be below zero, hence the absolute value: the
    noise-based probe of Lu et al. 2025, "When Are Concepts Erased From Diffusion Models?" (arXiv:2505.17013).

    Args:
        latents: z_t (n, c, h, w).
        prediction: for them (n, c, h, w).
        fresh: z, of the prior (n, c, h, w).
        step: from which level to which.
        eta: share of DDPM's noise, 0 or more.
        scale: s, by which the fresh noise alone is raised.
    """
    kept, direction, added = ddim_eta_coefficients(step, eta)
    here = step.frame
    noise = prediction if step.predicts == "epsilon" else here.noise(prediction, latents)
    return kept * here.clean(prediction, latents) + direction * noise + scale * added * fresh


def ddim_eta_coefficients(step: DDIMStep, eta: float) -> tuple[float, float, float]:
    """Coefficients of the clean latents, the predicted and the fresh noise in `ddim_eta_step` with a scale of 1.

    Example:
        >>> ddim_eta_coefficients(DDIMStep(timestep=500, alpha=0.25, alpha_prev=1.0), 1.0)
        (1.0, 0.0, 0.0)
    """
    variance = eta**2 * (1 - step.alpha_prev) / (1 - step.alpha) * (1 - step.alpha / step.alpha_prev)
    return step.alpha_prev**0.5, abs(1 - step.alpha_prev - variance) ** 0.5, variance**0.5


def log_densities(
    latents: Tensor, prediction: Tensor, reached: Tensor, step: DDIMStep, eta: float
) -> tuple[Tensor, Tensor]:
    r"""How likely a stochastic step is, and how likely noise is to undo it: log-densities, a mean over elements.

    The step of `ddim_eta_step` is normal about what it does without fresh noise; diffusion from where it ends back to
    where it began is :math:`N(\sqrt{r}\, z_{t'}, 1 - r)` with :math:`r = \bar\alpha_t / \bar\alpha_{t'}`.

    Args:
        latents: z_t (n, c, h, w).
        prediction: for them (n, c, h, w); the first density is differentiable in it.
        reached: z_t' (n, c, h, w).
        step: from which level to which.
        eta: share of DDPM's noise, above 0 and at most 1.

    Returns:
        Two tensors (n,), in nats an element.

    Raises:
        ValueError: of a step that is certain: to the picture itself, or without noise.
    """
    kept, direction, added = ddim_eta_coefficients(step, eta)
    if added == 0:
        raise ValueError("a step to the picture itself, or without fresh noise, is certain, and has no density")
    here = step.frame
    noise = prediction if step.predicts == "epsilon" else here.noise(prediction, latents)
    mean, ratio = kept * here.clean(prediction, latents) + direction * noise, step.alpha / step.alpha_prev
    return _log_normal(reached, mean, added), _log_normal(latents, ratio**0.5 * reached, (1 - ratio) ** 0.5)


def _log_normal(values: Tensor, mean: Tensor, deviation: float) -> Tensor:
    squares = ((values - mean) / deviation).square().flatten(1).mean(1)
    return -0.5 * squares - math.log(deviation) - 0.5 * math.log(2 * math.pi)
