"""Stable Diffusion 2.1: a network that predicts velocity, attention in float32, heads of one width."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from small_runs import changed, fit, snapshot
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.esd import ESD
from lit_memories.erasers.uce import UCE
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.adapters import attention_layers
from lit_memories.ops.attention import recorded_attention
from lit_memories.ops.select import select
from lit_memories.ops.targets import negate

PROMPTS = ["a painting by Van Gogh", "a photo of a church"]


@pytest.fixture
def model(sd21: Path) -> Diffusion:
    return Diffusion.from_pretrained(sd21)


def seeds(model: Diffusion, count: int = 2) -> Tensor:
    return model.draw_seeds([Generator().manual_seed(i) for i in range(count)])


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_generates_what_the_pipeline_generates(guidance_scale: float, model: Diffusion, sd21: Path) -> None:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(sd21, safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 6, "output_type": "pt", "height": 64, "width": 64}
    made = pipeline(PROMPTS, latents=seeds(model), guidance_scale=guidance_scale, **options).images
    assert model.schedule.prediction_type == "v_prediction"
    torch.testing.assert_close(model.generate(PROMPTS, seeds(model), 6, guidance_scale), made, rtol=0, atol=1e-4)


@torch.no_grad()
def test_esd_pulls_noise_and_not_velocity(model: Diffusion, van_gogh: Concept, sd21: Path, tmp_path: Path) -> None:
    """Its target is the same combination of noises, whatever the network gives."""
    method, x = ESD(model, van_gogh, steps=2, lr=1e-3, num_inference_steps=4, probe_size=2), seeds(model)
    with method.teacher():
        target = method.negated(x, 601, PROMPTS)
    alpha, text = model.schedule.alpha(601), model.encode_prompts([*PROMPTS, "", ""])
    velocity = model.unet(x.repeat(2, 1, 1, 1), 601, text).sample
    concept, empty = (alpha**0.5 * velocity + (1 - alpha) ** 0.5 * x.repeat(2, 1, 1, 1)).chunk(2)
    torch.testing.assert_close(target, negate(empty, concept, empty, 1.0))
    before = snapshot(model)
    with torch.enable_grad():
        fit(method, tmp_path)
    assert changed(before, model) == set(select(model, "attn2"))
    again = Diffusion.from_pretrained(sd21, erasure=tmp_path)
    assert again.erasure is not None
    assert again.erasure.provenance.prediction_type == "v_prediction"
    assert not changed(snapshot(model), again)


@torch.no_grad()
def test_uce_moves_the_concept_and_little_else(model: Diffusion, van_gogh: Concept, sd21: Path, tmp_path: Path) -> None:
    base, method = Diffusion.from_pretrained(sd21), UCE(model, van_gogh, probe_size=2)
    with torch.enable_grad():
        fit(method, tmp_path, -1, max_epochs=1)
    assert changed(snapshot(base), model) == set(select(base, "attn2-kv"))
    concepts, _ = method.rows_of(van_gogh.prompts)
    kept = method.preserved(van_gogh.retain)
    for name, original in select(base, "attn2-kv").items():
        moved = method.selected[name] - original
        assert (kept @ moved.T).norm(dim=1).mean() < 0.5 * (concepts @ moved.T).norm(dim=1).mean()


@torch.no_grad()
def test_known_seeds_are_found(model: Diffusion) -> None:
    """The inverter sees noise: of a small velocity it is a large part of the latents, and no less invertible."""
    model.unet.conv_out.weight.mul_(0.05)
    inverter, steps = FixedPoint(), model.schedule.ddim_steps(6)
    embeds = model.encode_prompts(PROMPTS)

    def noise(latents: Tensor, timestep: int, rows: Tensor) -> Tensor:
        return model.predict_noise(latents, timestep, embeds[rows])

    latents = inverter.sample(noise, seeds(model), steps)
    found = inverter(noise, latents, steps)
    assert bool(found.converged.all())
    assert (found.seeds - seeds(model)).norm() < 1e-2 * seeds(model).norm()
    torch.testing.assert_close(inverter.regenerate(noise, found, steps), latents, rtol=0, atol=1e-2)


@torch.no_grad()
def test_linear_projections_are_found_by_adapters_and_recorders(model: Diffusion) -> None:
    layers = attention_layers(model.unet)
    assert isinstance(layers["mid_block.attentions.0.proj_in"], torch.nn.Linear)
    with recorded_attention(model.unet) as probabilities:
        model.predict_noise(seeds(model), 500, model.encode_prompts(PROMPTS))
    assert [tuple(p.shape[1:]) for p in probabilities][:2] == [(1, 256, 24), (2, 64, 24)], "heads, pixels, tokens"
    assert all(torch.allclose(p.sum(-1), torch.ones(())) for p in probabilities)
