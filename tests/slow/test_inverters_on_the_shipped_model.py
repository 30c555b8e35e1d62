"""What docs/audit.md and the inverters' own pages claim, on the shipped model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.inverters.belm import BELM, _Grid
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.inverters.renoise import ReNoise
from lit_memories.metrics import gaussian_nll, psnr
from lit_memories.ops.path import DDIMStep
from lit_memories.worlds.pictograms import draw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
COUNT = 8


@dataclass
class World:
    """The shipped model, known seeds, and prompts."""

    diffusion: Diffusion
    seeds: Tensor
    embeds: Tensor

    def predictor(self, guidance_scale: float = 1.0) -> BlockwisePredictor:
        return BlockwisePredictor(
            self.diffusion, self.embeds, self.diffusion.encode_prompts([""]), guidance_scale, COUNT
        )

    def steps(self, count: int) -> list[DDIMStep]:
        return self.diffusion.schedule.ddim_steps(count)

    def flow(self, count: int) -> Tensor:
        """Latents of the seeds by very many steps that begin where a run of `count` steps does."""
        schedule, top = self.diffusion.schedule, self.steps(count)[0].timestep
        times = [*range(top, 0, -4), -1]
        steps = [DDIMStep(t, schedule.alpha(t), schedule.alpha(u)) for t, u in pairwise(times)]
        return FixedPoint().sample(self.predictor(), self.seeds, steps)

    def invert(self, inverter: Inverter, count: int, guidance_scale: float = 1.0) -> tuple[Inversion, Tensor]:
        """What an inverter finds of known seeds, and its bias in nats."""
        predict = self.predictor(guidance_scale)
        found = inverter(predict, inverter.sample(predict, self.seeds, self.steps(count)), self.steps(count))
        return found, gaussian_nll(found.seeds) - gaussian_nll(self.seeds)


@pytest.fixture(scope="module")
def world() -> World:
    diffusion = Diffusion.from_pretrained(Path(__file__).parents[2] / "checkpoints" / "pictograms")
    seeds = diffusion.draw_seeds([Generator().manual_seed(100 + i) for i in range(COUNT)])
    with torch.no_grad():
        return World(
            diffusion, seeds, diffusion.encode_prompts([draw("test", 100 + i)[0].caption for i in range(COUNT)])
        )


@torch.no_grad()
def test_the_fixed_point_meets_its_aims_and_the_official_path_is_far_from_them(world: World) -> None:
    found, bias = world.invert(FixedPoint(), 50)
    official, official_bias = world.invert(ReNoise(faithful=True, measure_residual=False), 50)
    assert found.converged.all()
    assert bias.abs().mean() <= 0.5
    assert found.evaluations.max() <= 150
    assert official.evaluations.min() >= 2 * found.evaluations.max()
    assert official_bias.abs().min() > 50


@torch.no_grad()
def test_every_weight_of_the_regulariser_costs_accuracy(world: World) -> None:
    """Why the corrected form has none."""
    plain = world.invert(ReNoise(measure_residual=False), 20)[1].abs().mean()
    for weights in ({"lambda_kl": 0.0065}, {"lambda_ac": 2.0}, {"average": (4, 6), "average_first": (4, 6)}):
        assert world.invert(ReNoise(measure_residual=False, **weights), 20)[1].abs().mean() > plain + 0.5


@torch.no_grad()
@pytest.mark.parametrize(("guidance_scale", "steps"), [(3.0, 20), (3.0, 50), (7.5, 20)])
def test_guided_inversion_says_whether_it_converged(guidance_scale: float, steps: int, world: World) -> None:
    found, bias = world.invert(FixedPoint(), steps, guidance_scale)
    assert found.seeds.isfinite().all()
    assert torch.equal(found.converged, found.residual < 3e-4)
    if guidance_scale == 3:
        assert found.converged.all()
        assert bias.abs().median() < 0.5
    else:
        assert not found.converged.all()
        assert bias.abs().mean() > 10, "seeds are no longer unique"


@torch.no_grad()
def test_null_text_regenerates_under_guidance(world: World) -> None:
    """Seeds are the pivot's; tuned embeddings bring the guided picture nearer to the image."""
    decibels = {}
    for inner_steps in (0, 10):
        inverter = NullText(3.0, inner_steps=inner_steps, pivot=FixedPoint())
        predict, steps = world.predictor(), world.steps(20)
        latents = inverter.sample(predict, world.seeds, steps)
        found = inverter(predict, latents, steps)
        again = inverter.regenerate(predict, found, steps)
        decibels[inner_steps] = psnr(world.diffusion.decode_latents(again), world.diffusion.decode_latents(latents))
    assert (gaussian_nll(found.seeds) - gaussian_nll(world.seeds)).abs().max() < 0.5
    assert decibels[10].mean() > decibels[0].mean() + 10


def edict(predict: BlockwisePredictor, latents: Tensor, steps: Sequence[DDIMStep]) -> tuple[Tensor, Tensor]:
    """EDICT run backwards (Wallace et al. 2022) in states y = x / alpha: both its sequences at the noisy end."""
    grid, p = _Grid(predict, steps), 0.93
    x = y = latents.double() / grid.signal[-1]
    for i in reversed(range(len(steps))):
        change = grid.ratio[i + 1] - grid.ratio[i]
        y_mixed = (y - (1 - p) * x) / p
        x_mixed = (x - (1 - p) * y_mixed) / p
        y = y_mixed - change * grid.noise(x_mixed * grid.signal[i], i)
        x = x_mixed - change * grid.noise(y * grid.signal[i], i)
    return x, y


@torch.no_grad()
@pytest.mark.parametrize(("steps", "near", "apart"), [(20, 0.08, 0.1), (50, 0.03, 0.25)])
def test_belm_is_exact_near_the_flow_and_steadier_than_edict(
    steps: int, near: float, apart: float, world: World
) -> None:
    predict, schedule = world.predictor(), world.steps(steps)
    latents = world.flow(steps)
    found = BELM()(predict, latents, schedule)
    assert found.converged.all()
    assert relative_norm(BELM().regenerate(predict, found, schedule) - latents, latents).max() < 1e-6
    error = relative_norm(found.seeds - world.seeds, world.seeds)
    assert error.median() < near
    discrete = FixedPoint()(predict, latents, schedule).seeds
    assert error.median() < relative_norm(discrete - world.seeds, world.seeds).median() / 2, "DDIM is of first order"
    x, y = edict(predict, latents, schedule)
    assert relative_norm(x - y, x).mean() > apart


@torch.no_grad()
def test_an_explicit_start_of_belm_excites_the_alternating_mode(world: World) -> None:
    """What the trapezoid is for: the same recursion from an explicit step across the last, short interval."""
    steps = world.steps(50)
    latents = world.flow(50)
    predict = world.predictor()
    grid, last = _Grid(predict, steps), len(steps) - 1
    low = latents.double() / grid.signal[-1]
    high = low - (grid.ratio[-1] - grid.ratio[last]) * grid.noise(low * grid.signal[last], last)
    for i in range(last, 0, -1):
        low, high = high, grid.up(low, high, i)
    official = relative_norm(high * grid.signal[0] - world.seeds, world.seeds)
    ours = relative_norm(BELM()(predict, latents, steps).seeds - world.seeds, world.seeds)
    assert (ours < 0.75 * official).all()
