"""What a question costs, told before it is asked: network evaluations a sample, by what decides them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from lit_memories.inverters.base import Calls, Inverter
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.records import SetName


@dataclass(frozen=True)
class Price:
    """Network evaluations of a sample; what depends on the answers lies between two numbers.

    Args:
        least: that it costs.
        most: that it may cost; infinity where nothing says.
        shared: that all samples of a set cost together besides, once.
    """

    least: int = 0
    most: float = 0
    shared: int = 0

    @classmethod
    def of(cls, evaluations: int) -> Self:
        """A price that is known."""
        return cls(evaluations, evaluations)

    def __add__(self, other: "Price") -> "Price":
        return Price(self.least + other.least, self.most + other.most, self.shared + other.shared)

    def __mul__(self, samples: int) -> "Price":
        return Price(self.least * samples, self.most * samples, self.shared)


@dataclass(frozen=True)
class Terms:
    """How a sample is asked, as far as its price depends on it.

    Args:
        set: it belongs to.
        inverter: the audit's.
        steps: the audit's, noise first.
        schedule: the model's noise levels.
        evaluations: what a prediction with a guidance costs.
        guidance_scale: of inversion and regeneration.
        asked_guidance: that its conditioning says, if it does.
        conditioned: whether it is an image under another prompt, or another guidance, than its own.
    """

    set: SetName
    inverter: Inverter
    steps: Sequence[DDIMStep]
    schedule: NoiseSchedule
    evaluations: Callable[[float], int]
    guidance_scale: float = 1.0
    asked_guidance: float | None = None
    conditioned: bool = False

    def run(self, guidance_scale: float) -> Price:
        """Of a run of the sampler."""
        return Price.of(len(self.steps) * self.evaluations(guidance_scale))

    def calls(self, *ways: Callable[[Sequence[DDIMStep]], Calls]) -> Price:
        """Of ways of the inverter, one after the other, under the guidance of inversion."""
        cost, counts = self.evaluations(self.guidance_scale), [way(self.steps) for way in ways]
        return Price(cost * sum(count[0] for count in counts), cost * sum(count[1] for count in counts))
