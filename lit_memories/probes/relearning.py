r"""How soon is it back? A model is taught few pictures again, and what it then makes of others tells what it had kept.

Ebbinghaus (1885) measured memories that nothing recalled by *savings*: what was once known is learnt again in less
time. Here the lesson is ordinary fine-tuning on the first pictures of a set, with the same rows, noise and timesteps
for every model; the others are looked at on the way, by how surprised the model is (`ops.denoising`) and by what it
draws. The reference set, which nothing erased, is taught in the same way: learning that is no memory of the concept
cancels.

The network is not changed: it computes with other weights (`ops.lessons`) while it is taught and looked at.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_memories.numbers import LEARNING, STRONGEST, Number, check_range
from lit_memories.ops.gradients import gradients
from lit_memories.ops.lessons import Learner, check_teachable, computing_with
from lit_memories.ops.rollout import rollout_rows
from lit_memories.ops.targets import match
from lit_memories.probes.base import Answers, Column, Group, Probe, check_lesson
from lit_memories.probes.denoising import looks, surprise
from lit_memories.probes.prices import Price, Terms

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion

RATES = {False: 3e-3, True: 1e-4}
"""Learning rates of factors, and of all weights (docs/results/relearning.md)."""

LARGEST_BATCH = 256
"""Pictures of a step, whose graph is held at once."""


class Relearning(Probe):
    """How soon a model that is taught few pictures of a set makes of the set's others what it once did.

    Args:
        lesson: how many pictures of each set, its first that can be read, are taught. It is not asked about these.
        steps: of the lesson. It is looked at before the first and after 1, 2, 4, 8, ... steps.
        rank: of the factors beside the attention's weights that are taught (LoRA); None teaches all weights.
        lr: learning rate of Adam; if None, `RATES` says.
        batch_size: pictures a step, drawn from the lesson.
        levels: noise levels of a look, as `Denoising` has them.
        noises: a level.
        draw: whether to draw a picture at each look too, under the prompts of the concept's pictures, for the judge.
        guidance_scale: of what is drawn.
        limit: how many images of each set to take, the first, those of the lesson among them; None takes all.

    Raises:
        ValueError: if a number is out of range.
    """

    question = "How soon is it back when the model is taught a few pictures again?"
    numbers = (
        Number("area", "surprise while relearning", "forgetting", "nats", one="relearns as one that never saw it"),
        Number("after", "surprise once relearnt", "forgetting", "nats", one="what one that never saw it comes to"),
        Number("curve", "surprise by step of the lesson", unit="nats"),
        Number("shown", "shows the concept once relearnt", "rate", percent=True, digits=0, direction="down"),
        Number("shows", "shows the concept, by step"),
    )
    needs = ("lesson", "gradients")
    uses = ("judge", "steps")
    says = (
        "Whether what was lost comes back sooner than it was learnt: savings are one less the fraction of the area. "
        "What is still there counts too: compare the fraction with that of the surprise before the lesson."
    )
    cost = "a set: steps x batch_size with gradients; a picture: levels x noises a look, 144, and as many DDIM runs"

    def __init__(
        self,
        lesson: int = 8,
        steps: int = 64,
        rank: int | None = 4,
        lr: float | None = None,
        batch_size: int = 8,
        levels: int = 9,
        noises: int = 2,
        draw: bool = True,
        guidance_scale: float = 7.5,
        limit: int | None = None,
    ) -> None:
        if min(lesson, steps, batch_size, noises, 1 if rank is None else rank) < 1 or levels < 2:
            raise ValueError(
                "lesson, steps, rank, batch_size and noises must be 1 or more and levels 2 or more, got "
                f"{lesson}, {steps}, {rank}, {batch_size}, {noises} and {levels}"
            )
        if lr is not None:
            check_range("lr", lr, *LEARNING)
        check_lesson(lesson, limit)
        check_range("guidance_scale", guidance_scale, 0, STRONGEST)
        if batch_size > LARGEST_BATCH:
            raise ValueError(f"batch_size must be {LARGEST_BATCH} or less, as a step holds all of it: got {batch_size}")
        self.lesson, self.steps, self.rank, self.batch_size = lesson, steps, rank, batch_size
        self.lr = RATES[rank is None] if lr is None else lr
        self.levels, self.noises, self.draw, self.guidance_scale = levels, noises, draw, guidance_scale
        self.limit = limit
        self._taught: tuple[Group, Learner, list[dict[str, Tensor]]] | None = None

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse a model whose network cannot be taught.

        Args:
            diffusion: the model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying why.
        """
        check_teachable(diffusion.network, self.rank)

    def price(self, terms: Terms) -> Price:
        """A look at the picture each time, of the concept a drawn one too; and the lesson, once a set."""
        once = looks(terms, self.levels, self.noises)
        if self.draw and terms.set == "concept":
            once = once + terms.run(self.guidance_scale)
        return once * len(self.looks) + Price(shared=self.steps * self.batch_size * terms.evaluations(1.0))

    def __call__(self, group: Group) -> Answers:
        """Teach, or remember what was taught, and look."""
        learner, course = self._course(group.lesson)
        curve, shows = [], []
        for taught in course:
            weights = {name: tensor.to(group.latents.device) for name, tensor in taught.items()}
            with computing_with(group.network, learner.weights(weights)):
                curve.append(surprise(group, self.levels, self.noises).surprise)
                if self.draw and group.set == "concept":
                    shows.append(self._drawn(group))
        surprises = torch.stack(curve, 1)
        numbers: dict[str, Column] = {"area": surprises.mean(1), "after": surprises[:, -1], "curve": surprises}
        if shows and all(seen is not None for seen in shows):
            shown = torch.tensor(shows, dtype=torch.float64).T
            numbers |= {"shown": shown[:, -1], "shows": shown}
        return Answers(numbers)

    @property
    def looks(self) -> list[int]:
        """After how many steps the model is looked at: 0, 1, 2, 4, ... and at the end."""
        return [0, *(2**power for power in range(self.steps.bit_length()) if 2**power < self.steps), self.steps]

    def _course(self, lesson: Group) -> tuple[Learner, list[dict[str, Tensor]]]:
        """What is taught of a lesson, at each look; kept until there is another."""
        if self._taught is None or self._taught[0] is not lesson:
            self._taught = None
            with gradients():
                learner = Learner(lesson.network, self.rank, lesson.generators("/factors")[0])
                course = learner.course(self._loss(lesson), self.lr, self.looks)
            self._taught = lesson, learner, course
        return self._taught[1:]

    def _loss(self, lesson: Group) -> Callable[[int], Tensor]:
        """The ordinary training loss of a step's rows of the lesson, by the noise and the levels drawn for it."""
        predict, latents = lesson.predictor(1.0), lesson.latents[: self.lesson].clone()
        (generator, *_), schedule = lesson.generators("/lesson"), lesson.schedule

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(latents), (self.batch_size,), generator=generator).to(latents.device)
            noisy, timesteps, wanted = schedule.noised(latents[rows], generator)
            return match(predict(noisy, timesteps, rows), wanted)

        return loss

    def _drawn(self, group: Group) -> Sequence[float] | None:
        """Whether what is drawn under the samples' prompts shows the concept, from the same noise at every look."""
        seeds = group.draw_seeds(group.generators("/relearning"))
        images = group.decode(rollout_rows(group.predictor(self.guidance_scale), seeds, group.steps))
        seen = group.judge(images).get("shows_concept")
        return None if seen is None else [float(value) for value in seen]
