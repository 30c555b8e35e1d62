"""ReNoise: the faithful form against the official loop, the corrected one against what it promises."""

import pytest
import torch
from official_renoise import OfficialReNoise, patch_loss, roll_loss
from small_models import SCHEDULE, STEPS, Counted, curved, latents
from torch import Generator, Tensor

from lit_memories.inverters.base import relative_norm
from lit_memories.inverters.renoise import ReNoise, autocorrelation_gradient, patch_gradient
from lit_memories.ops.path import ddim_inverse_coefficients

NEVER = (99, 100)
"""A range beyond every iterate: plain substitution."""
FEW = [step for step in STEPS if step.timestep in (101, 201, 301, 501)]


def sick(x: Tensor, timestep: int) -> Tensor:
    """`curved`, and as far from white as its input: the regularisers have something to do."""
    return curved(x, timestep) + 0.5 * x.roll(1, -2)


@pytest.mark.parametrize("size", [8, 16])
def test_the_faithful_form_is_the_official_loop(size: int) -> None:
    z = latents(2, size=size)
    found = ReNoise(faithful=True)(Counted(sick, 2), z, FEW)
    for row in range(2):
        expected = OfficialReNoise()(sick, z[row : row + 1], FEW)
        assert (found.seeds[row] - expected[0]).abs().max() < 1e-4


@pytest.mark.parametrize("other", [{"draws": 0}, {"lowest": 1}, {"noised": True}], ids=str)
def test_every_quirk_shows(other: dict[str, int]) -> None:
    """The comparison above would notice each of them."""
    z, low = latents(1), FEW[-1:]
    assert relative_norm(OfficialReNoise(**other)(sick, z, low) - OfficialReNoise()(sick, z, low), z) > 1e-3


def test_what_the_official_code_throws_away_is_not_computed() -> None:
    official = OfficialReNoise()
    official(sick, latents(1), FEW)
    assert official.calls == 7 * len(FEW)
    steps = SCHEDULE.ddim_steps(50)
    inverter = ReNoise(faithful=True, regularization_steps=0, measure_residual=False)
    assert inverter(Counted(curved, 1), latents(1), steps).evaluations.tolist() == [300], "of 350"
    assert ReNoise(measure_residual=False)(Counted(curved, 1), latents(1), steps).evaluations.tolist() == [300]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 16), (32, 16), (18, 21)])
def test_gradients_are_those_of_the_losses(height: int, width: int) -> None:
    generator = Generator().manual_seed(0)
    noise, reference = (torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64) for _ in range(2))
    levels = {8: 1, 16: 2, 18: 3, 32: 3}[height]
    rolls = torch.randint(0, 4, (3 * levels,), generator=generator).tolist()
    for row in range(2):
        one, remaining = noise[row : row + 1].clone().requires_grad_(), list(rolls)
        (patches,) = torch.autograd.grad(patch_loss(one, reference[row : row + 1]), one)
        (correlations,) = torch.autograd.grad(roll_loss(one, lambda _: remaining.pop(0)), one)  # noqa: B023
        torch.testing.assert_close(patch_gradient(noise, reference)[row], patches[0])
        torch.testing.assert_close(autocorrelation_gradient(noise, rolls)[row], correlations[0])


def test_averaging_acts_where_iterates_alternate_and_nowhere_else() -> None:
    z, step = latents(dtype=torch.float64), STEPS[0]
    a, b = ddim_inverse_coefficients(step)
    for slope, helps in ((-0.8, True), (-0.2, False), (0.8, False)):
        exact, model = a * z / (1 - slope), Counted(lambda x, t: slope / b * x, len(z))  # noqa: B023
        plain = relative_norm(ReNoise(average=NEVER)(model, z, [step]).seeds - exact, exact)
        found = relative_norm(ReNoise()(model, z, [step]).seeds - exact, exact)
        always = relative_norm(ReNoise(average=(4, 6))(model, z, [step]).seeds - exact, exact)
        assert torch.equal(found, always if helps else plain)
        assert ((found < plain / 4) if helps else (always > plain)).all()


def test_each_sample_is_averaged_for_itself() -> None:
    z, step = latents(2, torch.float64), STEPS[0]
    b = ddim_inverse_coefficients(step)[1]

    def model(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        return torch.tensor([-0.8, 0.8])[rows, None, None, None] / b * x

    found, plain = ReNoise()(model, z, [step]).seeds, ReNoise(average=NEVER)(model, z, [step]).seeds
    assert not torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])


@pytest.mark.parametrize("faithful", [False, True])
def test_the_reference_is_noised_unless_faithful(faithful: bool) -> None:
    z, seen = latents(), []

    def model(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        seen.append((timestep, x))
        return curved(x, timestep)

    ReNoise(lambda_kl=0.01, average=(0, 5), measure_residual=False, faithful=faithful)(model, z, STEPS)
    for step in STEPS:
        reference = next(x for timestep, x in seen if timestep == step.timestep)
        if faithful:
            assert torch.equal(reference, z)
        else:
            noise = (reference - step.alpha**0.5 * z) / (1 - step.alpha) ** 0.5
            assert 0.8 < noise.std() < 1.2
            torch.testing.assert_close(noise, noise[:1].expand_as(noise), rtol=1e-3, atol=1e-3)


def test_the_corrected_form_never_rolls_by_nothing() -> None:
    for faithful in (False, True):
        inverter = ReNoise(lambda_ac=1.0, faithful=faithful)
        drawn = [roll for one in inverter._draw(Generator().manual_seed(0), latents(size=16)) for roll in one]
        assert len(drawn) == 4 * 5 * 4 * 2
        assert min(drawn) == (0 if faithful else 1)
        assert max(drawn) == 7


def test_regularisation_draws_noise_towards_white() -> None:
    """What it is for: less correlation, and patch statistics nearer to those aimed at."""
    generator = Generator().manual_seed(1)
    white = torch.randn(3, 4, 16, 16, generator=generator)
    stripes = white + white.roll(1, -1)
    rolls = [3] * 8
    for _ in range(20):
        stripes = stripes - 20 * autocorrelation_gradient(stripes, rolls)
    assert (stripes * stripes.roll(3, -1)).mean().abs() < 0.02
    target = torch.randn(3, 4, 16, 16, generator=generator)
    moved = white
    for _ in range(100):
        moved = moved - 0.065 * patch_gradient(moved, target).clamp(-100, 100)
    before, after = (sum(patch_loss(x[i : i + 1], target[i : i + 1]) for i in range(3)) for x in (white, moved))
    assert after < before / 3


@pytest.mark.parametrize(
    "options",
    [{"average": (3, 3)}, {"average_first": (-1, 2)}, {"rolls": 0}, {"num_renoise_steps": -1}],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ReNoise(**options)
