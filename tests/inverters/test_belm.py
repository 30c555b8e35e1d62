"""O-BELM: exact both ways, of second order, and what it cannot do."""

import math
from itertools import pairwise

import pytest
import torch
from small_models import SCHEDULE, STEPS, Counted, curved, latents
from torch import Tensor

from lit_memories.inverters.base import Inversion, relative_norm
from lit_memories.inverters.belm import BELM, _Grid
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.rollout import rollout


def wild(x: Tensor, timestep: int) -> Tensor:
    """No fixed-point iteration inverts this one. Over many steps it is chaos, where no rounding is small enough."""
    return torch.sin(40 * x + timestep) * torch.cos(60 * x.roll(1, -1))


@pytest.mark.parametrize(
    ("model", "steps"), [(curved, 2), (curved, 10), (curved, 50), (wild, 2), (wild, 3), (wild, 10)]
)
def test_what_went_in_comes_out(model: object, steps: int) -> None:
    z, inverter, schedule = latents(), BELM(), SCHEDULE.ddim_steps(steps)
    predict = Counted(model, len(z))
    found = inverter(predict, z, schedule)
    again = inverter.regenerate(predict, found, schedule)
    if model is curved:
        assert found.converged.all()
        assert relative_norm(again - z, z).max() < 3e-7
    else:
        assert relative_norm(again - z, z).max() < 3 * max(found.residual.max(), 1e-7), "as exact as its last step"
        naive = FixedPoint()(predict, z, schedule)
        assert relative_norm(rollout(model, naive.seeds, schedule) - z, z).min() > 0.05, "the control"


def test_the_formula() -> None:
    """One step down, in the words of the paper: x, alpha, sigma."""
    a, b, noise = latents(3).double()[:, None].unbind(0)
    grid = _Grid(lambda x, t, rows: noise, STEPS)
    signal = [step.alpha**0.5 for step in STEPS]
    t = [(1 - s**2) ** 0.5 / s for s in signal]
    for i in (1, 5, 8):
        h, k = t[i] - t[i + 1], t[i - 1] - t[i]  # h_i and h_{i+1} of the paper, both positive
        expected = (
            h**2 / k**2 * signal[i + 1] / signal[i - 1] * a
            + (k**2 - h**2) / k**2 * signal[i + 1] / signal[i] * b
            - h * (h + k) / k * signal[i + 1] * noise
        )
        state = grid.up(expected / signal[i + 1], b / signal[i], i)
        torch.testing.assert_close(state * signal[i - 1], a)


def test_it_is_of_second_order() -> None:
    """For epsilon = c x the flow is known: y grows with exp(c asinh(s)). Twice the steps, a quarter of the error."""
    c, z, errors = 0.6, latents(2).double(), []
    for count in (50, 100, 200):
        steps = SCHEDULE.ddim_steps(count)
        first, last = steps[0].alpha, steps[-1].alpha_prev
        growth = math.exp(c * (math.asinh(_ratio(first)) - math.asinh(_ratio(last))))
        exact = z / last**0.5 * growth * first**0.5
        found = {type(i).__name__: i(lambda x, t, rows: c * x, z, steps) for i in (BELM(), FixedPoint(20, 1e-9))}
        errors.append({name: float(relative_norm(one.seeds - exact, exact).max()) for name, one in found.items()})
    for coarse, fine in pairwise(errors):
        assert fine["BELM"] < coarse["BELM"] / 2.5
        assert fine["FixedPoint"] > coarse["FixedPoint"] / 2.5, "DDIM is of first order"
    assert errors[-1]["BELM"] < errors[-1]["FixedPoint"] / 5


def _ratio(alpha: float) -> float:
    return ((1 - alpha) / alpha) ** 0.5


@pytest.mark.parametrize("count", [20, 50])
def test_an_error_of_the_start_grows_two_hundredfold(count: int) -> None:
    """Why it begins with a trapezoid. Constant noise, so that nothing but the recursion acts."""
    steps = SCHEDULE.ddim_steps(count)
    grid = _Grid(lambda x, t, rows: torch.zeros_like(x), steps)
    low, high = latents(1).double(), latents(1).double()
    wrong_low, wrong_high = low, high + 1e-6
    changes = []
    for i in range(count - 2, 0, -1):
        low, high = high, grid.up(low, high, i)
        wrong_low, wrong_high = wrong_high, grid.up(wrong_low, wrong_high, i)
        changes.append(float((wrong_high - high).mean() - (wrong_low - low).mean()) / 1e-6)
    assert 150 < abs(changes[-1]) < 250
    assert all(one * other < 0 for one, other in pairwise(changes)), "it alternates"


def test_seeds_of_its_own_sampler_are_found_better_than_those_of_ddim() -> None:
    seeds, inverter, steps = latents(), BELM(), SCHEDULE.ddim_steps(100)
    model = Counted(curved, len(seeds))
    own, other = inverter.sample(model, seeds, steps), rollout(curved, seeds, steps)
    errors = [relative_norm(inverter(model, z, steps).seeds - seeds, seeds) for z in (own, other)]
    assert (errors[0] < errors[1] / 2).all()


def test_a_start_that_fails_is_said() -> None:
    found = BELM(3)(Counted(wild, 5), latents(), STEPS)
    assert not found.converged.any()
    assert (found.residual > 1e-3).all()


def test_one_step_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        BELM()(Counted(curved, 5), latents(), STEPS[:1])


def test_seeds_alone_do_not_regenerate() -> None:
    empty = torch.zeros(5)
    with pytest.raises(ValueError, match="no pair of states"):
        BELM().regenerate(Counted(curved, 5), Inversion(latents(), empty, empty, empty), STEPS)
