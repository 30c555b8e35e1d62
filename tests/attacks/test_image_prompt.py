"""Pictures noised to a strength and denoised again."""

import pytest
import torch
from given_group import SCHEDULE, given
from torch import Tensor

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.image_prompt import ImagePrompt
from lit_memories.ops.rollout import rollout


def model(latents: Tensor, timestep: int, prompt: str) -> Tensor:
    return latents * 0.01 * len(prompt)


def test_the_picture_is_noised_to_the_level_that_its_steps_begin_at() -> None:
    group = given(["a cat", "two dogs"], model, 10)
    noise = group.draw_seeds(group.generators(FIRST))
    attack = ImagePrompt([0.9, 0.5, 0.1], guidance_scale=1.0)
    for count, attempt, cost in zip([9, 5, 1], attack.attempts(group), attack.plan(10), strict=True):
        assert len(group.asked) == cost * 2  # type: ignore[attr-defined]
        torch.testing.assert_close(attempt.artefacts["strength"], torch.full((2,), count / 10))
        steps = SCHEDULE.ddim_steps(10)[-count:]
        noised = steps[0].alpha ** 0.5 * group.latents + (1 - steps[0].alpha) ** 0.5 * noise
        for row, prompt in enumerate(group.prompts):
            expected = rollout(lambda x, t, p=prompt: model(x, t, p), noised[row : row + 1], steps)
            torch.testing.assert_close(attempt.latents[row : row + 1], expected)


def test_a_model_that_knows_the_noise_gives_the_picture_back() -> None:
    """Whatever the strength: so that what is noised and what is denoised is one level."""
    group = given(["a cat"], model, 10)
    noise = group.draw_seeds(group.generators(FIRST))
    group = given(["a cat"], lambda latents, timestep, prompt: noise, 10)
    for attempt in ImagePrompt([1.0, 0.6, 0.2]).attempts(group):
        torch.testing.assert_close(attempt.latents, group.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strengths", [[], [0.5, 0.6], [1.1, 0.5], [0.5, 0.0], [0.5, 0.5]])
def test_strengths_are_shares_that_fall(strengths: list[float]) -> None:
    with pytest.raises(ValueError, match="strengths must be one or more, each above 0 and at most 1, and fall"):
        ImagePrompt(strengths)


def test_strengths_that_are_one_step_are_refused(diffusion: object) -> None:
    for strengths in ([1.0, 0.9], [0.5, 0.1]):
        with pytest.raises(ValueError, match="of 4 steps: each must be 1 or more"):
            ImagePrompt(strengths).check(diffusion, 4)  # type: ignore[arg-type]
    assert ImagePrompt().plan(50)[-1] == 390, "as its cost says"
