"""Pictures with a hole, filled by a model."""

import pytest
import torch
from given_group import SCHEDULE, given
from torch import Tensor

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.inpainting import Inpainting, centre, fill
from lit_memories.ops.rollout import rollout, rollout_rows


def model(latents: Tensor, timestep: int, prompt: str) -> Tensor:
    """Looks at the whole picture, so that what is held matters."""
    return latents.mean((1, 2, 3), keepdim=True) * 0.01 * len(prompt) + 0.3 * latents


def test_the_outside_is_the_picture_and_the_inside_is_the_models() -> None:
    group = given(["a cat", "two dogs"], model, 6)
    seeds, attack = group.draw_seeds(group.generators(FIRST)), Inpainting([1.0, 0.5, 0.25], guidance_scale=1.0)
    for hole, size, attempt, cost in zip(
        [1.0, 0.5, 0.25], [8, 4, 2], attack.attempts(group), attack.plan(6), strict=True
    ):
        assert len(group.asked) == 2 * cost  # type: ignore[attr-defined]
        torch.testing.assert_close(attempt.artefacts["hole"], torch.full((2,), hole))
        first = (8 - size) // 2
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[first : first + size, first : first + size] = True
        assert torch.equal(attempt.latents[..., ~inside], group.latents[..., ~inside]), "to the bit"
        for row, prompt in enumerate(group.prompts):  # by hand
            latents = seeds[row : row + 1]
            for step in group.steps:
                latents = rollout(lambda x, t, p=prompt: model(x, t, p), latents, [step])
                outside = step.alpha_prev**0.5 * group.latents[row] + (1 - step.alpha_prev) ** 0.5 * seeds[row]
                latents = torch.where(inside, latents, outside)
            torch.testing.assert_close(attempt.latents[row : row + 1], latents)


def test_a_hole_of_everything_is_a_plain_draw() -> None:
    group = given(["a cat"], model)
    seeds = group.draw_seeds(group.generators(FIRST))
    attempt = next(Inpainting([1.0], guidance_scale=1.0).attempts(group))
    assert torch.equal(attempt.latents, rollout_rows(group.predictor(1.0), seeds, group.steps))


def test_a_model_that_knows_the_picture_fills_it_in() -> None:
    """Whose noise is that of the seed: so the level of the outside is that of the inside at every step."""
    group = given(["a cat"], model)
    picture, seed = group.latents, group.draw_seeds(group.generators(FIRST))
    seen = []

    def knows(latents: Tensor, timestep: int, rows: Tensor) -> Tensor:
        alpha = SCHEDULE.alpha(timestep)
        expected = alpha**0.5 * picture + (1 - alpha) ** 0.5 * seed
        seen.append(float((latents - expected)[..., 0, :].abs().max()))
        return (latents - alpha**0.5 * picture) / (1 - alpha) ** 0.5

    found = fill(knows, picture, centre(picture, 0.5), seed, group.steps)
    torch.testing.assert_close(found, picture, rtol=1e-4, atol=1e-4)
    assert max(seen[1:]) < 1e-5, "after the first step the outside is the picture, noised to that very level"


@pytest.mark.parametrize(
    ("size", "hole", "open_"), [((8, 8), 0.5, (4, 4)), ((5, 9), 0.4, (2, 4)), ((4, 4), 1.0, (4, 4))]
)
def test_the_hole_is_in_the_middle(size: tuple[int, int], hole: float, open_: tuple[int, int]) -> None:
    inside = centre(torch.zeros(1, 4, *size), hole)
    for axis, wide in enumerate(open_):
        line = inside.any(1 - axis)
        assert int(line.sum()) == wide
        before = int(line.int().argmax())
        assert before == (size[axis] - wide) // 2


@pytest.mark.parametrize("holes", [[], [0.5, 0.6], [1.1, 0.5], [0.5, 0.0], [0.5, 0.5], [float("nan")]])
def test_holes_are_shares_that_fall(holes: list[float]) -> None:
    with pytest.raises(ValueError, match="holes must"):
        Inpainting(holes)


def test_holes_of_one_size_or_none_are_refused(diffusion: object) -> None:
    for holes in ([1.0, 0.999], [0.5, 0.01]):
        with pytest.raises(ValueError, match="each must be 1 or more a side"):
            Inpainting(holes).check(diffusion, 4)  # type: ignore[arg-type]
    assert Inpainting().plan(50)[-1] == 100, "as its cost says"
