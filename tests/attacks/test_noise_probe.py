"""Steps with raised noise against diffusers' own and by closed form, and the grid that is tried."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Generator, Tensor

from lit_memories.attacks.noise_probe import NoiseProbe
from lit_memories.ops.path import DDIMStep, ddim_eta_coefficients, ddim_eta_step, ddim_step
from lit_memories.ops.rollout import rollout_eta, rollout_rows
from lit_memories.storage.schedules import noise_schedule


def drawn(seed: int, count: int = 3) -> Tensor:
    return torch.randn(count, 2, 4, 8, 8, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_is_diffusers_up_to_an_eta_of_one(eta: float, to_one: bool) -> None:
    theirs = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=to_one, steps_offset=1)
    theirs.set_timesteps(10)
    latents, noise, fresh = drawn(0)
    for step in noise_schedule(theirs.config).ddim_steps(10):
        expected = theirs.step(noise, step.timestep, latents, eta=eta, variance_noise=fresh).prev_sample
        torch.testing.assert_close(ddim_eta_step(latents, noise, fresh, step, eta), expected, rtol=1e-5, atol=1e-5)


def test_beyond_one_the_direction_comes_back_by_its_absolute_value() -> None:
    step = DDIMStep(timestep=500, alpha=0.2, alpha_prev=0.6)
    sigma = math.sqrt(0.4 / 0.8 * (1 - 0.2 / 0.6))
    assert 0.4 - (2 * sigma) ** 2 < 0, "as DDPM would not go on"
    kept, direction, added = ddim_eta_coefficients(step, 2.0)
    assert kept == pytest.approx(math.sqrt(0.6))
    assert direction == pytest.approx(math.sqrt((2 * sigma) ** 2 - 0.4))
    assert added == pytest.approx(2 * sigma)


def test_the_scale_raises_the_fresh_noise_alone() -> None:
    step, (latents, noise, fresh) = DDIMStep(timestep=500, alpha=0.2, alpha_prev=0.6), drawn(1)
    once, twice = (ddim_eta_step(latents, noise, fresh, step, 1.2, scale) for scale in (1.0, 2.0))
    torch.testing.assert_close(twice - once, ddim_eta_coefficients(step, 1.2)[2] * fresh)
    assert torch.allclose(ddim_eta_step(latents, noise, fresh, step, 0.0), ddim_step(latents, noise, step))


def test_a_run_without_noise_is_ddims_and_a_sample_draws_for_itself_alone() -> None:
    steps = [DDIMStep(3, 0.1, 0.3), DDIMStep(2, 0.3, 0.7), DDIMStep(1, 0.7, 0.99)]
    seeds = drawn(2)[0].float()

    def model(latents: Tensor, timestep: int, rows: Tensor) -> Tensor:
        return latents * 0.1 * timestep

    def generators() -> list[Generator]:
        return [Generator().manual_seed(number) for number in range(len(seeds))]

    plain = rollout_eta(model, seeds, steps, generators(), 0.0)
    torch.testing.assert_close(plain, rollout_rows(model, seeds, steps))
    noisy = rollout_eta(model, seeds, steps, generators(), 1.3, 1.02)
    alone = rollout_eta(model, seeds[1:], steps, generators()[1:], 1.3, 1.02)
    assert torch.equal(noisy[1:], alone)
    assert not torch.allclose(noisy, plain, atol=0.1)


def test_every_pair_is_a_picture() -> None:
    assert NoiseProbe().plan(50) == [100 * number for number in range(1, 25)], "24 pictures, officially"
    with pytest.raises(ValueError, match="each between 0 and 100"):
        NoiseProbe(etas=[-1.0])
    with pytest.raises(ValueError, match="one number or more"):
        NoiseProbe(scales=[])
