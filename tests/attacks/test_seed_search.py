"""The distance of two models by hand, and what a search may and may not do to a seed."""

import pytest
import torch
from given_group import Other, given
from torch import Tensor

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.latents import SeedSearch, as_typical, discrepancy
from lit_memories.metrics.functional import combined_p_value, typicality
from lit_memories.ops.path import DDIMStep, coefficients
from lit_memories.ops.rollout import rollout

STEPS = [DDIMStep(2, 0.1, 0.3), DDIMStep(1, 0.3, 0.7)]


def audited(latents: Tensor, timestep: int, prompt: str = "") -> Tensor:
    return 0.5 * latents.tanh()


def before(latents: Tensor, timestep: int, prompt: str = "") -> Tensor:
    return 0.5 * latents.tanh() + 0.2 * latents * (latents > 0)


def rowless(model: object) -> object:
    return lambda latents, timestep, rows: model(latents, timestep)  # type: ignore[operator]


def seeds(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_distance_and_its_gradient_are_those_of_the_levels_one_by_one() -> None:
    start = seeds().requires_grad_(True)
    found = discrepancy(rowless(audited), rowless(before), start, STEPS)  # type: ignore[arg-type]
    first, second = start.detach(), rollout(audited, start.detach(), STEPS[:1])
    expected = [(0.2 * x * (x > 0)).flatten(1).square().mean(1) for x in (first, second)]
    torch.testing.assert_close(found.detach(), expected[0] + expected[1])
    (gradient,) = torch.autograd.grad(found.sum(), [start])
    a, _ = coefficients("epsilon", 0.1, 0.3)
    own = [2 * 0.2**2 * x * (x > 0) / x[0].numel() for x in (first, second)]
    torch.testing.assert_close(gradient, own[0] + a * own[1])


def test_a_typical_seed_keeps_mean_and_norm_and_a_draw_stays_itself() -> None:
    drawn = seeds()
    torch.testing.assert_close(as_typical(drawn, drawn), drawn)
    held = as_typical(drawn * 3 + torch.rand_like(drawn), drawn)
    torch.testing.assert_close(held.flatten(1).mean(1), drawn.flatten(1).mean(1))
    torch.testing.assert_close(held.flatten(1).norm(dim=1), drawn.flatten(1).norm(dim=1))
    assert not torch.allclose(held, drawn, atol=0.01)


def test_a_search_brings_the_models_together_and_holds_the_seed() -> None:
    group = given(["a cat", "two dogs"], audited)
    attack = SeedSearch(Other(before), looks=3, steps=10, lr=0.05, levels=2, guidance_scale=1.0)  # type: ignore[arg-type]
    drawn = group.draw_seeds(group.generators(FIRST))
    attempts, apart = attack.attempts(group), []
    for cost in attack.plan(len(group.steps)):
        attempt = next(attempts)
        assert len(group.asked) == 2 * cost  # type: ignore[attr-defined]
        found = attempt.artefacts["seed"]
        torch.testing.assert_close(found.flatten(1).norm(dim=1), drawn.flatten(1).norm(dim=1))
        torch.testing.assert_close(found.flatten(1).mean(1), drawn.flatten(1).mean(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(attempt.latents, rollout(audited, found, group.steps))
        torch.testing.assert_close(attempt.numbers["p_value"], combined_p_value(typicality(found)))
        apart.append(attempt.artefacts["discrepancy"])
    torch.testing.assert_close(apart[0][:, 0], apart[2][:, 0], msg="the plain draw's")
    assert (apart[2][:, 1] < 0.8 * apart[2][:, 0]).all()
    assert (apart[2][:, 1] < apart[0][:, 1]).all(), "later looks go on where earlier ones ended"


def test_a_model_that_breaks_on_one_sample_leaves_the_others_alone() -> None:
    def breaks(latents: Tensor, timestep: int, prompt: str) -> Tensor:
        return before(latents, timestep) * (torch.inf if prompt == "two dogs" else 1)

    def searched(other: object) -> Tensor:
        return next(SeedSearch(Other(other), levels=2).attempts(given(["a cat", "two dogs"], audited))).latents  # type: ignore[arg-type]

    broken, whole = searched(breaks), searched(before)
    assert torch.equal(broken[0], whole[0])
    assert not broken[1].isfinite().any()
    assert whole.isfinite().all()


def test_a_distance_beyond_all_numbers_is_told_though_its_gradient_is_finite() -> None:
    def far(latents: Tensor, timestep: int, prompt: str) -> Tensor:
        return latents * 1e25

    attempt = next(SeedSearch(Other(far), levels=1).attempts(given(["a cat"], audited)))  # type: ignore[arg-type]
    assert not attempt.latents.isfinite().any()


@pytest.mark.parametrize("options", [{"looks": 0}, {"steps": 0}, {"levels": 0}])
def test_a_search_of_nothing_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more each"):
        SeedSearch(**options)  # type: ignore[arg-type]


def test_more_levels_than_steps_are_refused(diffusion: object) -> None:
    with pytest.raises(ValueError, match="levels must be 4 or fewer"):
        SeedSearch(levels=5).check(diffusion, 4)  # type: ignore[arg-type]
    assert SeedSearch().plan(50)[-1] == 640, "as its cost says"
