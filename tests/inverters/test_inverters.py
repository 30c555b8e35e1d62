"""Inverters against closed forms, float64 references, and their own claims."""

import json
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from small_models import STEPS, Counted, Prompted, curved, latents
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.inverters.belm import BELM
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.inverters.renoise import ReNoise
from lit_memories.metrics import gaussian_nll
from lit_memories.ops.path import DDIMStep, coefficients, ddim_inverse_coefficients
from lit_memories.ops.rollout import rollout
from lit_memories.probes.quality import quality

INVERTERS = [
    DDIMInversion(),
    FixedPoint(4, 1e-4),
    ReNoise(),
    ReNoise(faithful=True),
    NullText(guidance_scale=3, inner_steps=3, pivot=FixedPoint(4, 1e-4)),
    NullText(faithful=True),
    BELM(8),
]
NAMES = [f"{type(i).__name__}{', faithful' if getattr(i, 'faithful', False) else ''}" for i in INVERTERS]
each_inverter = pytest.mark.parametrize("inverter", INVERTERS, ids=NAMES)


def linear(c: float) -> Callable[[Tensor, int], Tensor]:
    return lambda x, timestep: c * x


def closed_form(z: Tensor, c: float) -> Tensor:
    """The exact inverse of DDIM for epsilon = c x: each step is a multiplication by a + b c."""
    for step in reversed(STEPS):
        a, b = coefficients("epsilon", step.alpha, step.alpha_prev)
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
        a, b = coefficients("epsilon", step.alpha_prev, step.alpha)
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
        a, b = coefficients("epsilon", step.alpha_prev, step.alpha)
        x = plain
        for _ in range(4):
            x = a * plain + b * curved(x, step.timestep)
        plain = x
    found = FixedPoint(max_evaluations=4, tolerance=1e-9)(Counted(curved, len(z)), z, STEPS)
    assert 3 * relative_norm(found.seeds - exact, exact).max() < relative_norm(plain - exact, exact).min()


@pytest.mark.parametrize("inverter", [*INVERTERS, DDIMInversion(False), ReNoise(measure_residual=False)])
def test_evaluations_are_counted_truly(inverter: Inverter) -> None:
    z = latents() * torch.tensor([1, 1, 3, 0.1, 0])[:, None, None, None]
    model = Prompted(len(z))
    found = inverter(model, z, STEPS)
    assert int(found.evaluations.sum()) == model.total
    if not isinstance(inverter, NullText):
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


@each_inverter
def test_neighbours_change_no_bit(inverter: Inverter) -> None:
    """Alone, in company, or in another order: a row's result is the same."""
    z = latents(6) * torch.tensor([0.01, 1, 3, 1, 10, 0.3])[:, None, None, None]
    model, order = Prompted(len(z)), torch.tensor([4, 0, 5, 3, 1, 2])

    def results(rows: Tensor) -> list[Tensor]:
        found = inverter(model.of(rows), z[rows], STEPS)
        again = inverter.regenerate(model.of(rows), found, STEPS)
        state = [] if found.state is None else [found.state]
        return [found.seeds, found.residual, found.evaluations, found.converged, again, *state]

    together, shuffled = results(torch.arange(len(z))), results(order)
    for row in range(len(z)):
        place = int((order == row).nonzero())
        for whole, other, alone in zip(together, shuffled, results(torch.tensor([row])), strict=True):
            assert torch.equal(alone[0], whole[row])
            assert torch.equal(other[place], whole[row])


@each_inverter
@pytest.mark.parametrize(
    ("broken", "illness"),
    [("latent", math.nan), ("latent", -math.inf), ("model", math.nan), ("model", math.inf)],
)
def test_a_row_that_is_not_finite_infects_no_other(inverter: Inverter, broken: str, illness: float) -> None:
    z = latents(3)
    clean = inverter(Prompted(3), z, STEPS)
    if broken == "latent":
        z[1, 0, 0, 0] = illness
    model = Prompted(3, sick=None if broken == "latent" else 1, illness=illness)
    found = inverter(model, z, STEPS)
    again = inverter.regenerate(model, found, STEPS)
    for row in (0, 2):
        assert torch.equal(found.seeds[row], clean.seeds[row])
        assert torch.equal(again[row], inverter.regenerate(Prompted(3), clean, STEPS)[row])
        assert found.evaluations[row] == clean.evaluations[row]
        assert found.converged[row] == clean.converged[row]
        assert found.residual[row] == clean.residual[row]
    assert not found.converged[1]
    sound = bool(found.seeds[1].isfinite().all() and again[1].isfinite().all())
    numbers, flags = quality(inverter, found)
    assert not sound or flags[1] == "diverged", "it does not count"
    json.dumps(numbers, allow_nan=False)


@pytest.mark.parametrize(
    "inverter",
    [
        DDIMInversion(False),
        ReNoise(measure_residual=False),
        NullText(inner_steps=1, pivot=DDIMInversion(False)),
        NullText(measure_residual=False, faithful=True),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_residual_that_was_not_measured_is_no_divergence(inverter: Inverter) -> None:
    z = latents(3)
    z[2] = torch.nan
    found = inverter(Prompted(3), z, STEPS)
    assert not found.measured
    assert not found.converged.any()
    numbers, flags = quality(inverter, found)
    assert numbers == {"residual": [None] * 3, "evaluations": found.evaluations.tolist(), "converged": [None] * 3}
    assert flags == [None] * 3, "what is not finite is flagged by its numbers"
    whole = DDIMInversion()(Prompted(3), z, STEPS)
    assert whole.measured
    assert torch.equal(whole.seeds[:2], DDIMInversion(False)(Prompted(3), z, STEPS).seeds[:2])


@pytest.mark.parametrize("inverter", [ReNoise(faithful=True), NullText(faithful=True)], ids=lambda x: type(x).__name__)
def test_what_official_code_keeps_counts(inverter: Inverter) -> None:
    """The same inversion is left out where the inverter promises to solve its steps; what is no number always is."""
    found = Inversion(
        seeds=latents(3),
        residual=torch.tensor([0.05, 0.7, math.nan]),
        evaluations=torch.full((3,), 9),
        converged=torch.tensor([False] * 3),
    )
    numbers, flags = quality(inverter, found)
    assert numbers["residual"] == [pytest.approx(0.05), pytest.approx(0.7), None]
    assert numbers["evaluations"] == [9] * 3
    assert numbers["converged"] == [False] * 3
    assert flags == [None, None, "diverged"]
    assert quality(type(inverter)(), found) == (numbers, [None, "diverged", "diverged"])
    assert quality(FixedPoint(), found)[1][0] is None


@pytest.mark.parametrize("inner_steps", [0, 5])
def test_null_text_converges_as_its_pivot_does(inner_steps: int) -> None:
    z, sound, poor = latents(3), FixedPoint(30, 1e-4), DDIMInversion()
    for pivot, converged in ((sound, True), (poor, False)):
        inverter = NullText(guidance_scale=3, inner_steps=inner_steps, early_stop=1e-12, pivot=pivot)
        found = inverter(Prompted(3), z, STEPS)
        assert found.converged.tolist() == [converged] * 3
        assert (found.residual < 1e-4).all() == converged


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


@pytest.mark.parametrize("gain", [1e3, 1e12, 1e25, 1e38, math.inf, math.nan])
@pytest.mark.parametrize("below", [1001, 500])
def test_of_a_network_that_explodes_the_seeds_are_finite(gain: float, below: int) -> None:
    """Weights as if training had diverged, at every timestep or at the end of the inversion only."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 64, generator=generator)

    def exploding(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        strength = gain if timestep >= 1001 - below else 0.1
        return strength * (x.flatten(2) @ mix).view_as(x)

    for tolerance in (1e-4, 0.5):
        found = FixedPoint(8, tolerance)(exploding, latents(), STEPS)
        assert found.seeds.isfinite().all()
        assert not found.converged.any()
        assert not (found.residual <= 0.1).any(), "the audit flags what is above 0.1 or unknown"
    calm = FixedPoint(8, 1e-4)(lambda x, t, rows: 0.001 * (x.flatten(2) @ mix).view_as(x), latents(), STEPS)
    assert calm.converged.all(), "the control"


@pytest.mark.parametrize("slope", [1.1, 1.3, 1.6])
def test_damping_helps_where_iterates_overshoot(slope: float) -> None:
    """Slopes below minus one: plain iteration goes to and fro, and does not come nearer."""
    z, step = latents(), STEPS[0]
    a, b = ddim_inverse_coefficients(step)

    def model(x: Tensor, timestep: int) -> Tensor:
        return torch.tanh(-slope / b * x) + 0.1 * x.roll(1, -1)

    x = z
    for _ in range(30):
        x = a * z + b * model(x, step.timestep)
    plain = relative_norm(a * z + b * model(x, step.timestep) - x, x)
    found = FixedPoint(30, 1e-4)(Counted(model, len(z)), z, [step])
    assert plain.min() > 0.05
    assert found.residual.max() < 2e-3


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
    assert NullText(pivot=FixedPoint(5, 1e-3)).settings()["pivot"] == FixedPoint(5, 1e-3).settings()


@each_inverter
def test_settings_go_into_json_and_name_a_sampler_that_is_not_ddim(inverter: Inverter) -> None:
    settings = inverter.settings()
    assert json.loads(json.dumps(settings))["name"] == type(inverter).__name__
    assert settings.get("sampler", "ddim") == ("belm" if isinstance(inverter, BELM) else "ddim")


@torch.no_grad()
def test_known_seeds_are_found_again(diffusion: Diffusion) -> None:
    """The tiny network, prompts and all: from seeds to latents and back."""
    seeds = diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(3)])
    predict = diffusion.predict_fn(diffusion.encode_prompts(["umbrella", "a red star", ""]))
    steps = diffusion.schedule.ddim_steps(20)
    made = rollout(predict, seeds, steps)
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
