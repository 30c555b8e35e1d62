"""Safe Latent Diffusion (Schramowski et al. 2023, arXiv:2211.05105)."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from lit_memories.guards.base import Guard, named, official_step

Strength = Literal["weak", "medium", "strong", "max"]


class Configuration(NamedTuple):
    """Hyper-parameters of one strength.

    Attributes:
        warmup: delta, steps of 50 from the beginning that are left alone.
        scale: s_S, by which the difference to the concept is raised before it is cut at 1.
        threshold: lambda, from which difference on an element is left alone.
        momentum_scale: s_m, share of the momentum in the guidance.
        momentum_beta: beta_m, share of the momentum that stays from step to step.
    """

    warmup: int
    scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float


CONFIGURATIONS: dict[Strength, Configuration] = {
    "weak": Configuration(15, 20, 0.0, 0.0, 0.0),
    "medium": Configuration(10, 1000, 0.01, 0.3, 0.4),
    "strong": Configuration(7, 2000, 0.025, 0.5, 0.7),
    "max": Configuration(0, 5000, 1.0, 0.5, 0.7),
}
"""The four of the paper's table, as diffusers' ``SafetyConfig`` has them."""


class SLD(Guard):
    r"""Guide towards the prompt and, element by element, away from the concept where the prompt comes near it.

    .. math::
        \mu &= \min(1, s_S |\epsilon_c - \epsilon_s|) \text{ where } \epsilon_c - \epsilon_s < \lambda
            \text{, else } 0 && (6)\\
        \gamma &= \mu\, (\epsilon_s - \epsilon_\emptyset) + s_m \nu_t && (4, 7)\\
        \nu_{t+1} &= \beta_m \nu_t + (1 - \beta_m) \gamma && (8)\\
        \hat\epsilon &= \epsilon_\emptyset + w\, (\epsilon_c - \epsilon_\emptyset - \gamma) && (3)

    with the prompt c and the concept s; :math:`\gamma` is left out during the warm-up, in which the momentum
    :math:`\nu` is gathered already. Its cost is a third evaluation. Steps of the warm-up are counted in 50: it ends
    where that step of 50 is on the way, however many steps a run has. Predictions that are on no picture's way, one at
    a time at some level, have no momentum.

    Args:
        concept: s, in words.
        strength: which of the paper's configurations.

    Raises:
        ValueError: if the concept is empty, or the strength is none of the four.
    """

    remembers = True

    def __init__(self, concept: str, strength: Strength = "medium") -> None:
        if strength not in CONFIGURATIONS:
            raise ValueError(f"strength must be one of {', '.join(get_args(Strength))}, got {strength!r}")
        self.concept, self.strength = named(concept), strength

    @property
    def beside(self) -> list[str]:
        """The empty prompt and the concept."""
        return ["", self.concept]

    def guide(
        self, conditional: Tensor, others: tuple[Tensor, ...], guidance_scale: float, left: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Equations 3 to 8; the memory is the momentum."""
        empty, concept = others
        warmup, scale, threshold, momentum_scale, momentum_beta = CONFIGURATIONS[self.strength]
        apart = conditional - concept
        mu = (scale * apart.abs()).clamp(max=1).where(apart < threshold, 0)
        away = mu * (concept - empty) + momentum_scale * memory
        momentum = momentum_beta * memory + (1 - momentum_beta) * away
        applied = away.where((official_step(left) >= warmup)[:, None, None, None], 0)
        return empty + guidance_scale * (conditional - empty - applied), momentum
