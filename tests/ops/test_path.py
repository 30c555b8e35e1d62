"""Gaussian paths: one algebra for DDIM and for rectified flows, sound where there is no signal."""

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.denoising import denoise
from lit_memories.ops.flow import FlowSchedule
from lit_memories.ops.likelihood import log_likelihood
from lit_memories.ops.path import (
    DDIMStep,
    PredictionType,
    coefficients,
    ddim_eta_step,
    ddim_inverse_coefficients,
    ddim_step,
    frame,
    log_densities,
)
from lit_memories.ops.rollout import rollout, rollout_rows
from lit_memories.ops.schedule import BetaSchedule, NoiseSchedule
from lit_memories.storage.schedules import noise_schedule

KINDS = get_args(PredictionType)
SOUND = ("v_prediction", "flow_prediction")
"""Predictions that say something at noise alone."""


def parts(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    return tuple(torch.randn(2, 4, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3, 0.9999])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_says_what_latents_are_made_of(kind: PredictionType, alpha: float) -> None:
    if alpha == 0 and kind == "epsilon":
        return
    clean, noise = parts()
    here = frame(kind, alpha)
    latents, said = here.cosine * clean + here.sine * noise, here.prediction(clean, noise)
    torch.testing.assert_close(here.clean(said, latents), clean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(here.noise(said, latents), noise, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("ends", [(0.0, 0.2), (0.2, 0.5), (0.5, 1.0), (0.2, 0.2), (0.7, 0.1)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_keeps_both_parts(kind: PredictionType, ends: tuple[float, float]) -> None:
    if ends[0] == 0 and kind == "epsilon":
        return
    clean, noise = parts()
    here, there = (frame(kind, alpha) for alpha in ends)
    latents, said = here.cosine * clean + here.sine * noise, here.prediction(clean, noise)
    a, b = coefficients(kind, *ends)
    torch.testing.assert_close(a * latents + b * said, there.cosine * clean + there.sine * noise)


def test_steps_of_noise_are_those_of_former_releases_to_the_bit() -> None:
    """As `ops.schedule` had them, of which records were made."""
    for alpha, other in pairwise(torch.rand(200, generator=Generator().manual_seed(0), dtype=torch.float64).tolist()):
        a = (other / alpha) ** 0.5
        before = a, (1 - other) ** 0.5 - a * (1 - alpha) ** 0.5
        assert coefficients("epsilon", alpha, other) == before
        assert ddim_inverse_coefficients(DDIMStep(5, other, alpha)) == before
        clean, noise = parts()
        step, here = DDIMStep(5, alpha, other), frame("epsilon", alpha)
        assert torch.equal(here.cosine * clean + here.sine * noise, alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise)
        assert torch.equal(here.prediction(clean, noise), noise)
        assert here.cosine / here.determinant == 1
        before_clean = (clean - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        assert torch.equal(here.clean(noise, clean), before_clean)
        if other > alpha:
            kept = other**0.5 * before_clean + abs(1 - other) ** 0.5 * noise
            assert torch.equal(ddim_eta_step(clean, noise, noise, step, 0.0), kept + 0.0 * noise)


def flow(**options: object) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)


SHIFTS = (
    {},
    {"shift": 3.0},
    {"shift": 0.5, "num_train_timesteps": 500},
    {"shift": 3.0, "shift_terminal": 0.1},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    {"use_dynamic_shifting": True, "base_shift": 0.1, "max_shift": 2.0, "max_image_seq_len": 900},
)


@pytest.mark.parametrize("count", [1, 2, 7, 28, 50])
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_a_flows_steps_are_the_schedulers(shift: dict[str, object], even: bool, count: int) -> None:
    """Euler's steps of (1 - s) x + s e, in the path's own scale: at every level the same latents."""
    theirs, places = flow(**shift), 400
    config = theirs.config
    width = config.max_image_seq_len - config.base_image_seq_len
    mu = config.base_shift + (config.max_shift - config.base_shift) * (places - config.base_image_seq_len) / width
    sigmas = torch.linspace(1, 1 / count, count).tolist() if even else None
    if count == 1 and shift.get("shift_terminal"):
        return  # of a single level there is nothing to stretch, which theirs divides by
    theirs.set_timesteps(count, sigmas=sigmas, mu=mu if shift.get("use_dynamic_shifting") else None)
    schedule = noise_schedule(config, places, even)
    latents = euler = parts()[0]
    for number, step in enumerate(schedule.ddim_steps(count)):
        assert step.timestep == pytest.approx(float(theirs.timesteps[number]), rel=1e-5)
        said = parts(number)[1]
        euler = theirs.step(said, theirs.timesteps[number], euler).prev_sample
        latents = ddim_step(latents, said, step)
        s = float(theirs.sigmas[number + 1])
        torch.testing.assert_close(latents * ((1 - s) ** 2 + s**2) ** 0.5, euler.double(), rtol=1e-4, atol=1e-5)


def test_flows_that_are_not_known_are_refused() -> None:
    for options in ({"use_karras_sigmas": True}, {"invert_sigmas": True}, {"stochastic_sampling": True}):
        with pytest.raises(ValueError, match=f"has {next(iter(options))}, which is not supported"):
            noise_schedule(flow(**options).config)
    with pytest.raises(ValueError, match="unknown shift: time_shift_type 'cubic'"):
        noise_schedule({**flow(use_dynamic_shifting=True).config, "time_shift_type": "cubic"})
    with pytest.raises(ValueError, match="unknown shift: 0, ending"):
        noise_schedule({**flow().config, "shift": 0.0})
    with pytest.raises(ValueError, match="neither DDIM's nor a flow's"):
        noise_schedule({"_class_name": "EDMEulerScheduler", "sigma_min": 0.002})


ZERO = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing",
}  # fmt: skip


@pytest.mark.parametrize("count", [2, 7, 50])
def test_steps_from_noise_alone_are_the_schedulers(count: int) -> None:
    """v-prediction with betas rescaled to zero terminal SNR (Lin et al. 2024)."""
    theirs = DDIMScheduler(**ZERO)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.set_timesteps(count)
    schedule = noise_schedule(theirs.config)
    steps = schedule.ddim_steps(count)
    assert steps[0].alpha == 0
    assert schedule.predicts == "v_prediction"
    for number, step in enumerate(steps):
        latents, output = parts(number)
        expected = theirs.step(output, step.timestep, latents).prev_sample
        moved = ddim_step(latents, schedule.from_network(output, latents, torch.tensor([step.timestep] * 2)), step)
        torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-7)


def test_noise_predicted_at_noise_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="predicted noise says nothing"):
        noise_schedule(DDIMScheduler(**{**ZERO, "prediction_type": "epsilon"}).config)
    with pytest.raises(ValueError, match="a single step from noise to image"):
        ddim_inverse_coefficients(DDIMStep(999, 0.0, 1.0, "v_prediction"))


class Gaussian:
    """A perfect model of normal latents of one variance, at any level of a path."""

    def __init__(self, schedule: NoiseSchedule, variance: float) -> None:
        self.schedule, self.variance = schedule, variance

    def __call__(self, latents: Tensor, timestep: float, rows: Tensor) -> Tensor:
        here = frame(self.schedule.predicts, self.schedule.alpha(timestep))
        total = here.cosine**2 * self.variance + here.sine**2
        return here.prediction(here.cosine * self.variance / total * latents, here.sine / total * latents)


SCHEDULES = (noise_schedule(DDIMScheduler(**ZERO).config), FlowSchedule(), FlowSchedule(shift=3.0))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["zero-snr", "flow", "shifted"])
def test_seeds_come_back_through_noise_alone(schedule: NoiseSchedule) -> None:
    model, steps = Gaussian(schedule, 0.25), schedule.ddim_steps(20)
    seeds = parts()[1]
    made = rollout_rows(model, seeds, steps)
    found = FixedPoint(60, 1e-12)(model, made, steps)
    assert found.converged.all()
    torch.testing.assert_close(found.seeds, seeds, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["zero-snr", "flow", "shifted"])
def test_a_likelihood_begins_at_noise_alone(schedule: NoiseSchedule) -> None:
    """Of normal data the density is known: what is left is the discretisation's error."""
    variance, latents = 0.25, 0.5 * parts()[0]
    steps = schedule.ladder(60, whole=True)
    assert steps[0].alpha == 0
    found = log_likelihood(Gaussian(schedule, variance), latents, steps, [Generator().manual_seed(i) for i in (0, 1)])
    size = latents[0].numel()
    true = -latents.flatten(1).square().sum(1) / (2 * variance) - size / 2 * math.log(2 * math.pi * variance)
    assert ((found.log_likelihood - true) / size).abs().max() < 0.01


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["zero-snr", "flow", "shifted"])
def test_a_surprise_counts_errors_of_the_noise(schedule: NoiseSchedule) -> None:
    """Whatever is predicted, half the squared error of the noise that follows from it."""
    latents, model, steps = parts()[0], Gaussian(schedule, 1.0), schedule.ladder(5)
    found = denoise(model, latents, steps, [Generator().manual_seed(i) for i in (0, 1)])
    # A perfect model of unit variance predicts sin z: its error has the variance cos^2.
    expected = torch.tensor([step.alpha / 2 * latents[0].numel() for step in steps], dtype=torch.float64)
    torch.testing.assert_close(found.profile.mean(0), expected, rtol=0.35, atol=1e-6)


def test_a_rollout_with_perfect_predictions_ends_at_the_clean_latents() -> None:
    clean, noise = parts()
    for schedule in SCHEDULES:
        for count in (2, 10):
            steps = schedule.ddim_steps(count)

            def perfect(latents: Tensor, timestep: float, schedule: NoiseSchedule = schedule) -> Tensor:
                return frame(schedule.predicts, schedule.alpha(timestep)).prediction(clean, noise)

            end = steps[-1].alpha_prev
            expected = end**0.5 * clean + (1 - end) ** 0.5 * noise
            torch.testing.assert_close(rollout(perfect, noise, steps), expected, rtol=1e-8, atol=1e-8)


def test_what_is_to_be_predicted_follows_from_both_parts() -> None:
    clean, noise = (x.float() for x in parts())
    schedule, timesteps = FlowSchedule(shift=3.0), torch.tensor([0.0, 1000.0])
    torch.testing.assert_close(schedule.target(clean, noise, timesteps), noise - clean)
    noisy = schedule.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(noisy, torch.stack([clean[0], noise[1]]))
    torch.testing.assert_close(schedule.to_noise(noise - clean, noisy, timesteps), noise)
    middle = torch.tensor([500.0, 250.0])
    mixed = schedule.network_latents(schedule.add_noise(clean, noise, middle), middle)
    torch.testing.assert_close(mixed[0], (clean[0] + noise[0]) / 2)
    torch.testing.assert_close(mixed[1], 0.75 * clean[1] + 0.25 * noise[1])


def test_levels_are_drawn_as_training_draws_them() -> None:
    drawn = FlowSchedule().draw_timesteps(20_000, Generator().manual_seed(0)) / 1000
    logits = (drawn / (1 - drawn)).log()
    assert abs(float(logits.mean())) < 0.03
    assert abs(float(logits.std()) - 1) < 0.03
    shifted = FlowSchedule(shift=3.0).draw_timesteps(20_000, Generator().manual_seed(0)) / 1000
    torch.testing.assert_close(shifted, 3 * drawn / (1 + 2 * drawn))


def test_betas_are_drawn_as_in_former_releases() -> None:
    schedule = BetaSchedule(torch.linspace(0.999, 0.01, 1000, dtype=torch.float64), 1.0)
    latents = parts()[0].float()
    one, other = Generator().manual_seed(3), Generator().manual_seed(3)
    noisy, timesteps, target = schedule.noised(latents, one)
    assert torch.equal(timesteps, torch.randint(1000, (2,), generator=other))
    noise = torch.randn(latents.shape, generator=other)
    alpha = schedule.alphas_cumprod[timesteps][:, None, None, None]
    assert torch.equal(target, noise)
    assert torch.equal(noisy, alpha.sqrt().float() * latents + (1 - alpha).sqrt().float() * noise)


@pytest.mark.parametrize("predicts", ["epsilon", "flow_prediction"])
def test_densities_of_a_step_are_normal_ones(predicts: PredictionType) -> None:
    """Against torch's own normal law, about the mean that the step has without fresh noise, and about diffusion."""
    step, eta = DDIMStep(500, 0.2, 0.6, predicts), 0.7
    z, prediction, fresh = (torch.randn(3, 2, 4, 4, generator=Generator().manual_seed(i)).double() for i in range(3))
    reached = ddim_eta_step(z, prediction, fresh, step, eta)
    forward, backward = log_densities(z, prediction, reached, step, eta)
    mean = ddim_eta_step(z, prediction, torch.zeros_like(z), step, eta)
    deviation = eta * ((1 - 0.6) / (1 - 0.2) * (1 - 0.2 / 0.6)) ** 0.5
    torch.testing.assert_close(forward, torch.distributions.Normal(mean, deviation).log_prob(reached).mean((1, 2, 3)))
    back = torch.distributions.Normal((0.2 / 0.6) ** 0.5 * reached, (1 - 0.2 / 0.6) ** 0.5)
    torch.testing.assert_close(backward, back.log_prob(z).mean((1, 2, 3)))
    assert not torch.allclose(forward, log_densities(z, prediction, reached, step, 1.0)[0]), "the control"


def test_a_perfect_models_path_is_in_balance() -> None:
    """Of data that is one point DDPM is diffusion run backwards, so that all densities between the ends cancel."""
    generator = Generator().manual_seed(0)
    point, start, *_ = (torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    alphas = [0.001, 0.05, 0.2, 0.4, 0.6, 0.75, 0.86, 0.93, 0.97, 0.99]
    z, balance = start, torch.zeros(4, dtype=torch.float64)
    for alpha, alpha_prev in pairwise(alphas):
        step = DDIMStep(1, alpha, alpha_prev)
        noise = (z - alpha**0.5 * point) / (1 - alpha) ** 0.5
        reached = ddim_eta_step(z, noise, torch.randn(z.shape, generator=generator).double(), step, 1.0)
        forward, backward = log_densities(z, noise, reached, step, 1.0)
        balance, z = balance + forward - backward, reached

    def marginal(x: Tensor, alpha: float) -> Tensor:
        law = torch.distributions.Normal(alpha**0.5 * point, (1 - alpha) ** 0.5)
        return law.log_prob(x).mean((1, 2, 3))

    torch.testing.assert_close(balance, marginal(z, alphas[-1]) - marginal(start, alphas[0]))
    assert balance.abs().min() > 0.1, "the control"


def test_a_certain_step_has_no_density() -> None:
    z = torch.zeros(1, 1, 2, 2)
    for step, eta in ((DDIMStep(1, 0.5, 1.0), 1.0), (DDIMStep(1, 0.5, 0.6), 0.0)):
        with pytest.raises(ValueError, match="is certain, and has no density"):
            log_densities(z, z, z, step, eta)
