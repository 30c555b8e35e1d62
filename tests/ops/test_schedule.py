"""The DDIM algebra against diffusers' own scheduler, and against itself."""

import pytest
import torch
from diffusers import DDIMScheduler

from lit_memories.ops.path import coefficients, ddim_inverse_coefficients, ddim_step
from lit_memories.ops.rollout import rollout
from lit_memories.ops.schedule import BetaSchedule, ddim_timesteps
from lit_memories.storage.schedules import noise_schedule

SPACINGS = ("leading", "linspace", "trailing")


def scheduler(
    spacing: str = "leading", to_one: bool = False, prediction: str = "epsilon", offset: int = 1
) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=to_one,
        steps_offset=offset,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_are_the_schedulers(spacing: str, offset: int) -> None:
    theirs = scheduler(spacing, offset=offset)
    for count in range(1, 1000):
        theirs.set_timesteps(count)
        ours = ddim_timesteps(count, 1000, spacing, offset)
        assert len(ours) == count
        assert ours == theirs.timesteps.tolist()[:count], count


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [1, 4, 7, 50, 333])
def test_steps_are_the_schedulers(count: int, spacing: str, to_one: bool, prediction: str) -> None:
    theirs = scheduler(spacing, to_one, prediction)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.set_timesteps(count)
    schedule = noise_schedule(theirs.config)
    for number, step in enumerate(schedule.ddim_steps(count)):
        latents, output = pair(number)
        assert step.timestep == int(theirs.timesteps[number])
        expected = theirs.step(output, step.timestep, latents).prev_sample
        noise = schedule.from_network(output, latents, torch.tensor([step.timestep] * 2))
        torch.testing.assert_close(ddim_step(latents, noise, step), expected, rtol=1e-8, atol=1e-8)


def test_noise_is_added_as_by_the_scheduler() -> None:
    theirs = scheduler()
    latents, noise = (x.float() for x in pair())
    timesteps = torch.tensor([3, 871])
    ours = noise_schedule(theirs.config).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(ours, theirs.add_noise(latents, noise, timesteps))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_predictions_become_the_noise_that_was_added(prediction: str) -> None:
    theirs = scheduler(prediction=prediction)
    schedule = noise_schedule(theirs.config)
    clean, noise = pair()
    timesteps = torch.tensor([3, 871])
    noisy = schedule.add_noise(clean, noise, timesteps)
    output = clean if prediction == "sample" else theirs.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(schedule.from_network(output, noisy, timesteps), noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_inverse_undoes_a_step_for_constant_noise(spacing: str) -> None:
    latents, noise = pair()
    for step in noise_schedule(scheduler(spacing, to_one=True).config).ddim_steps(20):
        a, b = ddim_inverse_coefficients(step)
        torch.testing.assert_close(a * ddim_step(latents, noise, step) + b * noise, latents, rtol=1e-10, atol=1e-10)


def test_two_moves_are_one() -> None:
    a, b = coefficients("epsilon", 0.2, 0.5)
    c, d = coefficients("epsilon", 0.5, 0.9)
    assert coefficients("epsilon", 0.2, 0.9) == pytest.approx((a * c, b * c + d))
    assert coefficients("epsilon", 0.3, 0.3) == pytest.approx((1, 0))


def test_a_perfect_model_brings_back_the_image() -> None:
    """With the noise that was added as its prediction, a run ends at the clean latents, whatever the steps."""
    schedule = noise_schedule(scheduler(to_one=True).config)
    clean, noise = pair()
    for count in (1, 5, 50):
        steps = schedule.ddim_steps(count)
        noisy = schedule.add_noise(clean, noise, torch.tensor([steps[0].timestep] * 2))
        torch.testing.assert_close(rollout(lambda x, t: noise, noisy, steps), clean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"num_inference_steps must be in 1\.\.1000"):
        ddim_timesteps(count)
    with pytest.raises(ValueError, match="num_inference_steps"):
        BetaSchedule(torch.linspace(0.999, 0.01, 1000), 1.0).ddim_steps(count)


def test_an_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="'karras'"):
        ddim_timesteps(4, timestep_spacing="karras")
