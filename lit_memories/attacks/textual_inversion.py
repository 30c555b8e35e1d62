r"""Textual inversion against erasure, CCE (Pham et al. 2023, arXiv:2308.01508): a new word for what was erased.

One vector is learnt on a few pictures of the concept, by the loss that trains the model, while all weights stay
(Gal et al. 2022, arXiv:2208.01618, eq. 2):

.. math:: v_* = \arg\min_v \mathbb{E}_{x, \epsilon, t} \lVert \epsilon - \epsilon_{\theta'}(x_t, t, c(v)) \rVert^2

It can teach a model what it never knew. Therefore others of the concept's pictures give the prompts, it is looked at
on the way, and how many steps it takes is to be compared with a model that never saw the concept.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_memories.attacks.base import FIRST, VECTOR, Attack, Attempt
from lit_memories.attacks.tokens import finite_rows, picture
from lit_memories.numbers import LEARNING, check_range
from lit_memories.ops.attack import Descent
from lit_memories.ops.gradients import gradients
from lit_memories.probes.base import Group, check_lesson
from lit_memories.words import WORD, Caption, Words, beginning

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class TextualInversion(Attack):
    """Learn one vector on a lesson's pictures, and draw the others' prompts with it in place of the concept's words.

    The vector takes the place of the phrase where the caption has it first, and the phrase is left out where it comes
    again; a caption without the phrase is replaced by `template`. At each look a picture is drawn from noise of its
    own.

    All samples share the lesson: its evaluations are in each sample's plan, as an attacker pays for them also for one
    picture, and spent once.

    Args:
        lesson: how many pictures of the concept, its first that can be read, are learnt from. No prompt is theirs.
        steps: of the lesson after which it is looked at, growing.
        lr: learning rate of Adam.
        batch_size: pictures a step, drawn from the lesson.
        start: words with whose mean vector it begins; empty for the mean of all ordinary tokens.
        template: caption in place of those that lack the phrase, with ``{}`` for the vector.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: of how many pictures of the concept, the first, those of the lesson among them; None attacks with all.

    Raises:
        ValueError: if a number is out of range, or the template has no place.
    """

    question = "Does a new word, learnt on pictures of the concept, bring it back? (Pham et al. 2023)"
    needs = ("judge", "steps", "gradients", "lesson", "concept")
    threat = "white box with pictures"
    leaves_artefacts = True
    says = (
        "That a vector makes the model draw the concept. It may have been learnt from the lesson: what was left "
        "is told only by the steps that a model needs which never knew it."
    )
    cost = "a set: steps x batch_size with gradients; a picture: a guided DDIM run a look"

    def __init__(
        self,
        lesson: int = 8,
        steps: Sequence[int] = (0, 250, 500, 1000, 2000, 3000),
        lr: float = 5e-3,
        batch_size: int = 4,
        start: str = "",
        template: str = "a photo of {}",
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        check_range("lr", lr, *LEARNING)
        if min(lesson, batch_size) < 1 or lr <= 0:
            raise ValueError(f"lesson, batch_size and lr must be positive, got {lesson}, {batch_size} and {lr}")
        if not steps or steps[0] < 0 or list(steps) != sorted(set(steps)):
            raise ValueError(f"steps must be numbers of 0 or more that grow, got {list(steps)}")
        if template.count("{}") != 1:
            raise ValueError(f"template must have one {{}} for the vector, got {template!r}")
        check_lesson(lesson, limit)
        self.lesson, self.steps, self.lr, self.batch_size = lesson, list(steps), lr, batch_size
        self.start, self.template = start, template
        self._learnt: tuple[Group, list[Tensor]] | None = None

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse encoders of different words, words to begin with that are none, and a budget that pays for no picture.

        Args:
            diffusion: the model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying why.
        """
        super().check(diffusion, num_inference_steps)
        Words(diffusion)
        if self.start and not diffusion.words(self.start):
            raise ValueError(f"the attack {self.name} cannot begin with {self.start!r}, which has no token")
        if diffusion.exceeds_window(self.template.format(WORD)):
            raise ValueError(
                f"the attack's template is longer than the model's text encoder reads: {self.template[:60]!r}"
            )

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """The lesson so far, and a DDIM run a look."""
        run = self.run_cost(num_inference_steps)
        return [step * self.batch_size + (1 + number) * run for number, step in enumerate(self.steps)]

    def shared(self, num_inference_steps: int) -> int:
        """The lesson."""
        return self.steps[len(self.affordable(num_inference_steps)) - 1] * self.batch_size

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Learn, or remember what was learnt, and draw with it."""
        captions = [Caption.of(group.words, group.concept, prompt, self.template) for prompt in group.prompts]
        prompts, seeds = [caption.text for caption in captions], group.generators(FIRST)
        for vector in self._course(group):
            embeds = torch.cat([caption.embeds(group.words, vector) for caption in captions])
            sound = finite_rows(vector[None]).expand(len(captions))
            latents = picture(group, embeds, self.guidance_scale, seeds, sound)
            yield Attempt(latents, {VECTOR: vector.expand(len(captions), -1)}, prompts)

    def _course(self, group: Group) -> list[Tensor]:
        """The vector (width,) at each look that is paid for; kept until there is another lesson."""
        lesson = group.lesson
        if self._learnt is None or self._learnt[0] is not lesson:
            looks = self.steps[: len(self.affordable(len(group.steps)))]
            with gradients():
                descent = Descent(beginning(lesson.words, self.start), self.lr)
                loss = self._loss(lesson)
                self._learnt = lesson, [descent.run(loss, step - descent.taken) for step in looks]
        return self._learnt[1]

    def _loss(self, lesson: Group) -> Callable[[Tensor, int], Tensor]:
        """The training loss of a step's rows of the lesson, by the noise and the levels drawn for it."""
        words, prompts = lesson.words, lesson.prompts[: self.lesson]
        captions = [Caption.of(words, lesson.concept, prompt, self.template) for prompt in prompts]
        latents, (generator, *_) = lesson.latents.clone(), lesson.generators("/textual_inversion")

        def loss(vector: Tensor, step: int) -> Tensor:
            rows = torch.randint(len(captions), (self.batch_size,), generator=generator)
            noisy, timesteps, wanted = lesson.schedule.noised(latents[rows.to(latents.device)], generator)
            embeds = torch.cat([captions[row].embeds(words, vector) for row in rows.tolist()])
            found = lesson.predictor_of(embeds, 1.0)(noisy, timesteps, torch.arange(len(rows), device=latents.device))
            return (found - wanted).square().mean()

        return loss
