r"""How surprised is the model by a picture? The number that reads how much of a memory is left.

.. math:: \text{surprise}(z, c) = \frac12 \int \mathbb{E}_{e \sim N(0, I)}
    \big\| e - \epsilon(\sqrt{\bar\alpha}\, z + \sqrt{1 - \bar\alpha}\, e,\, t,\, c) \big\|^2 d\lambda

the variational bound of -log p(latents | prompt) up to what no model changes (Kingma et al. 2021, arXiv:2107.00630, eq.
17), by `ops.denoising`. Nothing is inverted, nothing has to converge, and no gradient is taken.
"""

from collections.abc import Sequence
from typing import Any

from lit_memories.numbers import Number
from lit_memories.ops import denoising as ops
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price, Terms

GUIDANCE = 1.0
"""Of the predictions, unless a conditioning says another: the bound is that of the model's own conditional law."""


class Denoising(Probe):
    """How surprised the model is by an image under its own prompt and under none, by noise level.

    Every image's noise is its own and the same for every model, so that what is left of a difference is the models'.

    Args:
        levels: noise levels, even in the logarithm of the signal-to-noise ratio. Nine with an antithetic pair of noises
            scatter less than seventeen with one (docs/results/denoising.md).
        noises: a level. An even number is made of antithetic pairs.
        empty: whether to ask again without the prompt, for as many evaluations: an eraser that cut the words only loses
            what the prompt tells, and keeps the picture.

    Raises:
        ValueError: if there are fewer than two levels or no noise.
    """

    question = "How surprised is the model by the picture, by noise level? (arXiv:2107.00630, eq. 17)"
    numbers = (
        Number("surprise", "surprise", "forgetting", "nats", one="a model that never saw the concept"),
        Number("surprise_empty", "surprise without the prompt", "forgetting", "nats", one="as without the concept"),
        Number("gap", "what the prompt tells", "paired", "nats", "down", zero="the prompt tells nothing"),
        Number("profile", "surprise by noise level", unit="nats by unit of log SNR"),
    )
    conditioned = True
    says = (
        "How much is left: it orders models right by how long they were taught, needs no convergence, and sees a "
        "wrecked model as damaged. It does not say whether a prompt or an attack brings the picture back."
    )
    cost = "levels x noises, twice with empty: 36"

    def __init__(self, levels: int = 9, noises: int = 2, empty: bool = True) -> None:
        if levels < 2 or noises < 1:
            raise ValueError(
                f"a surprise is an integral over noise levels: levels must be 2 or more and noises 1 or more, got "
                f"{levels} and {noises}"
            )
        self.levels, self.noises, self.empty = levels, noises, empty

    def settings(self, schedule: NoiseSchedule) -> dict[str, Any]:
        """Its options, and the levels they lead to."""
        found = [round(ops.log_snr(step.alpha), 6) for step in schedule.ladder(self.levels)]
        return {**super().settings(schedule), "log_snr": found}

    def price(self, terms: Terms) -> Price:
        """An evaluation a level and noise; as many again without the prompt."""
        guidance = GUIDANCE if terms.asked_guidance is None else terms.asked_guidance
        return looks(terms, self.levels, self.noises, guidance) * (1 + (self.empty and not terms.conditioned))

    def __call__(self, group: Group) -> Answers:
        """Surprise under the prompt, by level, and without it."""
        own = surprise(group, self.levels, self.noises)
        numbers = {"surprise": own.surprise, "profile": own.profile}
        if self.empty and not group.conditioned:
            empty = surprise(group, self.levels, self.noises, [""] * len(group.prompts))
            numbers["surprise_empty"] = empty.surprise
            numbers["gap"] = numbers["surprise_empty"] - own.surprise
        return Answers(numbers)


def surprise(group: Group, levels: int, noises: int, prompts: Sequence[str] | None = None) -> ops.Denoising:
    """How surprised a model is by samples, from noise that is the samples' own.

    Args:
        group: the samples.
        levels: noise levels.
        noises: a level; an even number is made of antithetic pairs.
        prompts: to ask under, the samples' own if None.
    """
    predict = group.predictor(GUIDANCE if group.asked_guidance is None else group.asked_guidance, prompts)
    steps, generators = group.schedule.ladder(levels), group.generators("/denoising")
    return ops.denoise(predict, group.latents, steps, generators, noises, antithetic=noises % 2 == 0)


def looks(terms: Terms, levels: int, noises: int, guidance: float = GUIDANCE) -> Price:
    """What `surprise` takes of a sample."""
    return Price.of(len(terms.schedule.ladder(levels)) * noises * terms.evaluations(guidance))
