"""The surprise of a model against closed forms of Gaussian data, whose best denoiser is linear."""

import math
from collections.abc import Sequence

import pytest
import torch
from far import FAR, far_away
from torch import Generator, Tensor

from lit_memories.ops.denoising import denoise, log_snr
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import RowPredictFn
from lit_memories.ops.schedule import BetaSchedule

SHAPE = (3, 4, 4)
D = math.prod(SHAPE)
SCHEDULE = BetaSchedule(torch.linspace(8, -8, 1000, dtype=torch.float64).sigmoid(), 1.0)


def generators(count: int, seed: int = 0) -> list[Generator]:
    return [Generator().manual_seed(1000 * seed + row) for row in range(count)]


def gaussian(variance: float) -> RowPredictFn:
    """The best denoiser of data from N(0, variance)."""

    def predict(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        alpha = SCHEDULE.alpha(timestep)
        return (1 - alpha) ** 0.5 / (alpha * variance + 1 - alpha) * x

    return predict


def expected(latents: Tensor, variance: float, steps: Sequence[DDIMStep]) -> Tensor:
    """Its surprise between two levels: 1/2 [d (log(S + 1) + 1/(S + 1)) - |z|^2/s^2 1/(S + 1)], with S = s^2 snr."""

    def at(alpha: float) -> Tensor:
        s = variance * alpha / (1 - alpha)
        size = latents.double().flatten(1).square().sum(1) / variance
        return (D * (math.log(s + 1) + 1 / (s + 1)) - size / (s + 1)) / 2

    return at(steps[-1].alpha) - at(steps[0].alpha)


@pytest.mark.parametrize("variance", [1.0, 0.1])
def test_it_is_that_of_gaussian_data(variance: float) -> None:
    latents = variance**0.5 * torch.randn(2, *SHAPE, generator=Generator().manual_seed(0))
    steps = SCHEDULE.ladder(60)
    found = denoise(gaussian(variance), latents.double(), steps, generators(2), noises=400, antithetic=True)
    error = torch.trapezoid(found.errors.std(0) / 400**0.5, found.log_snr)
    assert (found.surprise - expected(latents, variance, steps)).abs().max() < 3 * error.max()


def test_between_models_it_is_the_difference_of_log_densities() -> None:
    """Of a model that knows the law of the data and one that takes them for twice as wide; the noise is shared."""
    latents = torch.randn(4, *SHAPE, generator=Generator().manual_seed(1)).double()
    steps = SCHEDULE.ladder(60)
    surprise = {v: denoise(gaussian(v), latents, steps, generators(4), 600, True).surprise for v in (1.0, 2.0)}
    size = latents.flatten(1).square().sum(1)
    wanted = (D * math.log(2.0) + size / 2 - size) / 2
    assert torch.allclose(surprise[2.0] - surprise[1.0], wanted, atol=0.25)


def test_models_share_their_noise_and_a_sample_does_not_see_its_neighbours() -> None:
    latents, steps = torch.randn(3, *SHAPE, generator=Generator().manual_seed(2)), SCHEDULE.ladder(5)
    whole = denoise(gaussian(1.0), latents, steps, generators(3), 2)
    assert torch.equal(denoise(gaussian(1.0), latents, steps, generators(3), 2).errors, whole.errors)
    alone = denoise(gaussian(1.0), latents[1:2], steps, generators(3)[1:2], 2)
    assert torch.equal(alone.errors, whole.errors[:, 1:2])
    other = denoise(gaussian(1.0), latents, steps, generators(3, seed=1), 2)
    assert not torch.equal(other.errors, whole.errors), "the control"
    single = denoise(gaussian(1.0), latents, steps, generators(3), 4, antithetic=True)
    assert single.errors.shape == (4, 3, len(steps))


def test_antithetic_noise_takes_off_what_is_odd_in_it() -> None:
    """What is left is even in the noise; of latents this far out nearly all of the scatter is not."""
    latents, steps = 30 * torch.ones(1, *SHAPE).double(), SCHEDULE.ladder(9)

    def found(antithetic: bool) -> Tensor:
        runs = [denoise(gaussian(1.0), latents, steps, generators(1, seed), 2, antithetic) for seed in range(40)]
        return torch.stack([run.surprise for run in runs])

    plain, pairs = found(False), found(True)
    assert pairs.std() < plain.std() / 2


def test_levels_are_weighed_by_their_distance() -> None:
    """Uneven levels give the integral too: of a constant error, the range."""
    steps = [DDIMStep(t, alpha, 1.0) for t, alpha in ((900, 0.01), (500, 0.3), (100, 0.99))]
    found = denoise(lambda x, t, rows: torch.zeros_like(x), torch.zeros(1, *SHAPE), steps, generators(1), 2000)
    assert float(found.surprise) == pytest.approx(D / 2 * (log_snr(0.99) - log_snr(0.01)), rel=0.02)


def test_the_host_waits_for_the_result_alone() -> None:
    latents, steps = torch.randn(2, *SHAPE), SCHEDULE.ladder(6)
    wanted = denoise(gaussian(1.0), latents, steps, generators(2), 2)
    with far_away() as waits:
        there = latents.to(FAR)
        waits.places.clear()
        found = denoise(gaussian(1.0), there, steps, generators(2), 2)
    assert torch.equal(found.errors, wanted.errors)
    assert sum(waits.places.values()) == 2, f"noise there, errors back: {waits.places}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": 1}, "2 or more, got 1"),
        ({"count": 3}, "give 2 generators"),
        ({"noises": 0}, "a noise or more"),
        ({"noises": 3, "antithetic": True}, "an even number"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options: dict[str, int], said: str) -> None:
    steps = SCHEDULE.ladder(4)[: options.get("levels", 4)]
    with pytest.raises(ValueError, match=said) as error:
        denoise(
            gaussian(1.0),
            torch.zeros(2, *SHAPE),
            steps,
            generators(options.get("count", 2)),
            options.get("noises", 1),
            bool(options.get("antithetic")),
        )
    assert "\n" not in str(error.value)
