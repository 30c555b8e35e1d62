"""Every inverter with every kind of prediction and spacing, against diffusers' own schedulers in double."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from small_models import predictor, rescheduled
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.inverters.belm import BELM
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.inverters.renoise import ReNoise
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import rollout

SPACINGS = ("leading", "linspace", "trailing")
KINDS = list(product(("epsilon", "v_prediction"), SPACINGS))
QUICK = {("epsilon", "leading"), ("epsilon", "linspace"), ("v_prediction", "trailing")}
"""Every kind and every spacing, though not each with each."""
PROMPTS = ["umbrella", "a red star", ""]
COUNT = 5


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS],
    ids=[" ".join(kind) for kind in KINDS],
)
def diffusion(request: pytest.FixtureRequest, tiny: Path) -> Diffusion:
    """The tiny pipeline in double, its network tamed so that steps contract."""
    kind, spacing = request.param
    made = rescheduled(tiny, prediction_type=kind, timestep_spacing=spacing)
    made.unet.conv_out.weight.mul_(0.3)
    return made.double()


@pytest.fixture
def steps(diffusion: Diffusion) -> list[DDIMStep]:
    return diffusion.schedule.ddim_steps(COUNT)


@pytest.fixture
def seeds(diffusion: Diffusion) -> Tensor:
    return diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(3)]).double()


Raw = Callable[[Tensor, int], Tensor]


def raw(diffusion: Diffusion) -> Raw:
    """What the network says, as its scheduler takes it."""
    embeds = diffusion.encode_prompts(PROMPTS)
    return lambda x, t: diffusion.unet(x, t, embeds).sample


def scheduled(diffusion: Diffusion, model: Raw, seeds: Tensor, count: int = COUNT) -> Tensor:
    """Latents that diffusers makes of seeds by the first steps."""
    scheduler = DDIMScheduler.from_config(diffusion.scheduler_config)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(COUNT)
    for t in scheduler.timesteps[:count]:
        seeds = scheduler.step(model(seeds, t), t, seeds).prev_sample
    return seeds


@torch.no_grad()
@pytest.mark.parametrize(
    ("inverter", "within"),
    [(FixedPoint(40, 1e-9), 1e-6), (ReNoise(10), 1e-3), (ReNoise(faithful=True), 0.3), (DDIMInversion(), 0.3)],
    ids=lambda x: f"{type(x).__name__}{' faithful' * getattr(x, 'faithful', False)}" if isinstance(x, Inverter) else "",
)
def test_seeds_are_those_from_which_diffusers_makes_the_latents(
    inverter: Inverter, within: float, diffusion: Diffusion, steps: list[DDIMStep], seeds: Tensor
) -> None:
    predict = predictor(diffusion, PROMPTS)
    made = scheduled(diffusion, raw(diffusion), seeds)
    found = inverter(predict, made, steps)
    assert relative_norm(found.seeds - seeds, seeds).max() < within
    again = inverter.regenerate(predict, found, steps)
    torch.testing.assert_close(again, scheduled(diffusion, raw(diffusion), found.seeds), rtol=1e-5, atol=1e-6)
    if isinstance(inverter, DDIMInversion):
        assert relative_norm(found.seeds - seeds, seeds).min() > 1e-3, "plain inversion is not exact"


@torch.no_grad()
def test_guided_predictions_are_inverted_too(diffusion: Diffusion, steps: list[DDIMStep], seeds: Tensor) -> None:
    own, empty = raw(diffusion), diffusion.encode_prompts([""]).expand(3, -1, -1)

    def guided(x: Tensor, t: int) -> Tensor:
        other = diffusion.unet(x, t, empty).sample
        return other + 3 * (own(x, t) - other)

    made = scheduled(diffusion, guided, seeds)
    found = FixedPoint(40, 1e-9)(predictor(diffusion, PROMPTS, guidance_scale=3.0), made, steps)
    assert found.converged.all()
    assert relative_norm(found.seeds - seeds, seeds).max() < 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_null_text_follows_diffusers_guided_run(diffusion: Diffusion, steps: list[DDIMStep], seeds: Tensor) -> None:
    """Its embeddings, one set a timestep, in a guided run of diffusers' own: the same latents, near those inverted."""
    predict, own = predictor(diffusion, PROMPTS), raw(diffusion)
    made = scheduled(diffusion, own, seeds)
    inverter = NullText(3.0, inner_steps=3, early_stop=1e-12, pivot=FixedPoint(40, 1e-9))
    found = inverter(predict, made, steps)
    at = {step.timestep: number for number, step in enumerate(steps)}

    def guided(x: Tensor, t: Tensor) -> Tensor:
        other = diffusion.unet(x, t, found.state[:, at[int(t)]]).sample
        return other + 3 * (own(x, t) - other)

    again = inverter.regenerate(predict, found, steps)
    torch.testing.assert_close(again, scheduled(diffusion, guided, found.seeds), rtol=1e-5, atol=1e-6)
    assert relative_norm(found.seeds - seeds, seeds).max() < 1e-6


@torch.no_grad()
def test_official_null_text_is_plain_between_the_timesteps(
    diffusion: Diffusion, steps: list[DDIMStep], seeds: Tensor
) -> None:
    """Latents that diffusers makes without its last step, to seeds that are near but not the same."""
    predict, inverter = predictor(diffusion, PROMPTS), NullText(faithful=True)
    found = inverter(predict, scheduled(diffusion, raw(diffusion), seeds, COUNT - 1), steps)
    assert 1e-3 < relative_norm(found.seeds - seeds, seeds).max() < 0.5
    expected = scheduled(diffusion, raw(diffusion), found.seeds, COUNT - 1)
    torch.testing.assert_close(
        inverter.regenerate(predict, found, steps), expected, rtol=1e-5, atol=1e-6, check_dtype=False
    )


@torch.no_grad()
def test_belm_comes_back(diffusion: Diffusion, steps: list[DDIMStep], seeds: Tensor) -> None:
    predict, inverter = predictor(diffusion, PROMPTS), BELM(40, 1e-12)
    made = scheduled(diffusion, raw(diffusion), seeds)
    found: Inversion = inverter(predict, made, steps)
    assert found.converged.all()
    assert relative_norm(inverter.regenerate(predict, found, steps) - made, made).max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_plain_inversion_is_diffusers_inverse_scheduler(spacing: str, tiny: Path) -> None:
    """Of noise only: of v it takes the levels the other way round. It knows no linspace."""
    diffusion = rescheduled(tiny, timestep_spacing=spacing).double()
    model, z = raw(diffusion), diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(3)]).double()
    inverse = DDIMInverseScheduler.from_config(diffusion.scheduler_config)
    inverse.alphas_cumprod = inverse.alphas_cumprod.double()
    inverse.set_timesteps(COUNT)
    expected = z
    for t in inverse.timesteps:
        expected = inverse.step(model(expected, t), t, expected).prev_sample
    found = DDIMInversion()(predictor(diffusion, PROMPTS), z, diffusion.schedule.ddim_steps(COUNT))
    torch.testing.assert_close(found.seeds, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("inverter", [FixedPoint(), ReNoise(), BELM()], ids=lambda x: type(x).__name__)
def test_single_precision_finds_the_same_seeds(inverter: Inverter, tiny: Path) -> None:
    """What the rest of the package computes in."""
    found = []
    for diffusion in (rescheduled(tiny), rescheduled(tiny).double()):
        steps = diffusion.schedule.ddim_steps(8)
        dtype = diffusion.unet.dtype
        seeds = diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(3)]).to(dtype)
        predict = predictor(diffusion, PROMPTS)
        rows = torch.arange(3)
        made = rollout(lambda x, t: predict(x, t, rows), seeds, steps)  # noqa: B023
        found.append(inverter(predict, made, steps).seeds.double())
    assert relative_norm(found[0] - found[1], found[1]).max() < 1e-4
