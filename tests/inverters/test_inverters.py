"""Inverters against closed forms, float64 references, and their own claims."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.metrics import gaussian_nll
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.rollout import rollout
from lit_memories.ops.schedule import DDIMStep, NoiseSchedule, ddim_coefficients

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULE = NoiseSchedule((1 - BETAS).cumprod(0), float(1 - BETAS[0]))
STEPS = SCHEDULE.ddim_steps(10)
INVERTERS = [DDIMInversion(), FixedPoint(4, 1e-4)]


def latents(count: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


class Counted:
    """A model that keeps count of the evaluations each row cost."""

    def __init__(self, function: Callable[[Tensor, int], Tensor], rows: int) -> None:
        self.function, self.calls = function, torch.zeros(rows, dtype=torch.long)

    def __call__(self, x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        assert len(x) == len(rows)
        self.calls[rows] += 1
        return self.function(x, timestep)


def curved(x: Tensor, timestep: int) -> Tensor:
    """A smooth nonlinear model, different at every timestep; in blocks, as the audit calls its network."""
    return in_blocks(lambda y: torch.tanh(0.8 * y + 0.3 * y.roll(1, -1)) * (0.5 + timestep / 2000), 4, x)


def linear(c: float) -> Callable[[Tensor, int], Tensor]:
    return lambda x, timestep: c * x


def closed_form(z: Tensor, c: float) -> Tensor:
    """The exact inverse of DDIM for epsilon = c x: each step is a multiplication by a + b c."""
    for step in reversed(STEPS):
        a, b = ddim_coefficients(step.alpha, step.alpha_prev)
        z = z / (a + b * c)
    return z


@pytest.mark.parametrize("c", [-0.5, 0.0, 0.3, 0.9])
def test_fixed_point_is_exact_on_a_linear_model(c: float) -> None:
    z = latents(dtype=torch.float64)
    model = Counted(linear(c), len(z))
    found = FixedPoint(max_evaluations=50, tolerance=1e-13)(model, z, STEPS)
    torch.testing.assert_close(found.seeds, closed_form(z, c), rtol=1e-11, atol=1e-12)
    assert found.converged.all()
    torch.testing.assert_close(rollout(linear(c), found.seeds, STEPS), z, rtol=1e-10, atol=1e-11)


def test_anderson_solves_a_linear_step_in_three_evaluations() -> None:
    """With memory one the secant is exact for epsilon = c x: without it fifty would not do for c b near one."""
    z = latents(dtype=torch.float64)
    model = Counted(linear(0.9), len(z))
    found = FixedPoint(max_evaluations=3, tolerance=1e-12)(model, z, STEPS)
    torch.testing.assert_close(found.seeds, closed_form(z, 0.9), rtol=1e-10, atol=1e-10)


def test_plain_ddim_is_its_formula() -> None:
    z, model = latents(dtype=torch.float64), linear(0.3)
    found = DDIMInversion()(Counted(model, len(z)), z, STEPS)
    expected = z
    for step in reversed(STEPS):
        signal = math.sqrt(step.alpha / step.alpha_prev)
        noise = math.sqrt(1 - step.alpha) - signal * math.sqrt(1 - step.alpha_prev)
        expected = signal * expected + noise * model(expected, step.timestep)
    torch.testing.assert_close(found.seeds, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found.seeds, closed_form(z, 0.3), rtol=1e-3), "naive inversion is not exact"
    assert not found.converged.any()


def test_naive_inversion_is_exact_where_the_noise_is_constant() -> None:
    z = latents(dtype=torch.float64)
    noise = latents(dtype=torch.float64).flip(0)
    seeds = rollout(lambda x, t: noise, z, STEPS)
    for inverter in (DDIMInversion(), FixedPoint()):
        found = inverter(lambda x, t, rows: noise[rows], seeds, STEPS)
        torch.testing.assert_close(found.seeds, z, rtol=1e-12, atol=1e-12)
        assert found.converged.all()


def reference(z: Tensor, iterations: int = 400) -> Tensor:
    """Plain fixed-point iteration to the end of float64."""
    for step in reversed(STEPS):
        a, b = ddim_coefficients(step.alpha_prev, step.alpha)
        x = z
        for _ in range(iterations):
            x = a * z + b * curved(x, step.timestep)
        z = x
    return z


@pytest.mark.parametrize(("tolerance", "worst"), [(1e-4, 2e-3), (1e-8, 2e-7)])
def test_fixed_point_agrees_with_very_many_plain_iterations(tolerance: float, worst: float) -> None:
    z = latents(dtype=torch.float64)
    found = FixedPoint(max_evaluations=60, tolerance=tolerance)(Counted(curved, len(z)), z, STEPS)
    assert relative_norm(found.seeds - reference(z), reference(z)).max() < worst
    assert found.converged.all()
    assert found.residual.max() < tolerance


def test_start_and_acceleration_beat_as_many_plain_iterations() -> None:
    z = latents(dtype=torch.float64)
    exact, plain = reference(z), z
    for step in reversed(STEPS):
        a, b = ddim_coefficients(step.alpha_prev, step.alpha)
        x = plain
        for _ in range(4):
            x = a * plain + b * curved(x, step.timestep)
        plain = x
    found = FixedPoint(max_evaluations=4, tolerance=1e-9)(Counted(curved, len(z)), z, STEPS)
    assert 3 * relative_norm(found.seeds - exact, exact).max() < relative_norm(plain - exact, exact).min()


@pytest.mark.parametrize("inverter", [*INVERTERS, DDIMInversion(measure_residual=False), FixedPoint(7, 1e-6)])
def test_evaluations_are_counted_truly(inverter: Inverter) -> None:
    z = torch.cat([latents(4), torch.zeros(1, 4, 8, 8)])
    model = Counted(curved, len(z))
    found = inverter(model, z, STEPS)
    assert found.evaluations.tolist() == model.calls.tolist()
    if isinstance(inverter, FixedPoint):
        assert found.evaluations.max() <= inverter.max_evaluations * len(STEPS)
        assert len(set(found.evaluations.tolist())) > 1, "samples stop on their own"


def test_residual_is_that_of_the_worst_step() -> None:
    z = latents(dtype=torch.float64)
    inverter = FixedPoint(max_evaluations=2, tolerance=1e-12)
    whole = inverter(Counted(curved, len(z)), z, STEPS)
    first = inverter(Counted(curved, len(z)), z, STEPS[-1:])
    assert (whole.residual >= first.residual).all()
    assert not whole.converged.any()


@pytest.mark.parametrize("inverter", INVERTERS)
def test_neighbours_change_no_bit(inverter: Inverter) -> None:
    """Alone, in company, or in another order: a row's result is the same."""
    z = latents(6) * torch.tensor([0.01, 1, 3, 1, 10, 0.3])[:, None, None, None]
    together = inverter(Counted(curved, len(z)), z, STEPS)
    order = torch.tensor([4, 0, 5, 3, 1, 2])
    shuffled = inverter(Counted(curved, len(z)), z[order], STEPS)
    for row in range(len(z)):
        alone = inverter(Counted(curved, 1), z[row : row + 1], STEPS)
        place = int((order == row).nonzero())
        for name in ("seeds", "residual", "evaluations", "converged"):
            value = getattr(together, name)[row]
            assert torch.equal(getattr(alone, name)[0], value), name
            assert torch.equal(getattr(shuffled, name)[place], value), name


@pytest.mark.parametrize("inverter", INVERTERS)
@pytest.mark.parametrize("broken", ["latent", "model"])
def test_a_row_of_nan_infects_no_other(inverter: Inverter, broken: str) -> None:
    z = latents(3)
    clean = inverter(Counted(curved, 3), z, STEPS)

    def sick(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        ill = (rows == 1) & (timestep > 500)
        return torch.where(ill[:, None, None, None], torch.nan, curved(x, timestep))

    if broken == "latent":
        z = z.clone()
        z[1, 0, 0, 0] = torch.nan
        found = inverter(Counted(curved, 3), z, STEPS)
    else:
        found = inverter(sick, z, STEPS)
    for row in (0, 2):
        assert torch.equal(found.seeds[row], clean.seeds[row])
        assert found.evaluations[row] == clean.evaluations[row]
        assert found.converged[row] == clean.converged[row]
    assert not found.converged[1]
    assert not (found.residual[1] <= 0.1), "a row without a solution says so"


def contraction(z: Tensor, slope: float) -> Inversion:
    """A model whose map has slopes of both signs, larger than one: no fixed-point iteration contracts."""
    sign = torch.ones(4, 8, 8)
    sign[:, ::2] = -1
    model = Counted(lambda x, timestep: torch.sin(slope * sign * x), len(z))
    return FixedPoint(max_evaluations=12, tolerance=1e-4)(model, z, STEPS)


def test_no_convergence_is_flagged_and_finite() -> None:
    found = contraction(latents(), slope=60.0)
    assert not found.converged.any()
    assert found.seeds.isfinite().all()
    assert (found.residual > 1e-2).all()
    assert contraction(latents(), slope=0.5).converged.all(), "the control"


def test_more_evaluations_never_make_the_residual_worse() -> None:
    z, step = latents(), STEPS[:1]
    model = Counted(lambda x, timestep: torch.sin(9 * x), len(z))
    residuals = [FixedPoint(max_evaluations=n, tolerance=1e-6)(model, z, step).residual for n in (1, 2, 4, 8, 16)]
    for fewer, more in pairwise(residuals):
        assert (more <= fewer).all()


@pytest.mark.parametrize("options", [{"max_evaluations": 0}, {"tolerance": 0.0}, {"tolerance": -1.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        FixedPoint(**options)


def test_settings_name_everything_a_record_depends_on() -> None:
    assert FixedPoint(5, 1e-3).settings() == {"name": "FixedPoint", "max_evaluations": 5, "tolerance": 1e-3}
    assert DDIMInversion().settings() == {"name": "DDIMInversion", "measure_residual": True, "tolerance": 1e-3}


@torch.no_grad()
def test_known_seeds_are_found_again(diffusion: Diffusion) -> None:
    """The tiny network, prompts and all: from seeds to latents and back."""
    seeds = diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(3)])
    predict_noise = diffusion.noise_fn(diffusion.encode_prompts(["umbrella", "a red star", ""]))
    steps = diffusion.schedule.ddim_steps(20)
    made = rollout(predict_noise, seeds, steps)
    embeds = diffusion.encode_prompts(["umbrella", "a red star", ""])

    def rowwise(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        return diffusion.predict_noise(x, timestep, embeds[rows])

    exact = FixedPoint(max_evaluations=10, tolerance=1e-5)(rowwise, made, steps)
    naive = DDIMInversion()(rowwise, made, steps)
    error = {name: relative_norm(found.seeds - seeds, seeds) for name, found in (("ex", exact), ("naive", naive))}
    assert error["ex"].max() < 2e-3
    assert (error["ex"] < error["naive"]).all()
    assert (gaussian_nll(exact.seeds) - gaussian_nll(seeds)).abs().max() < 0.5


def test_steps_of_a_run_join_without_a_gap() -> None:
    """What the inverse relies on: each transition starts where the one before ended."""
    for before, after in pairwise(STEPS):
        assert isinstance(before, DDIMStep)
        assert before.alpha_prev == after.alpha
