"""Stable Diffusion 3 and FLUX, tiny: the same pictures as diffusers' own pipelines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor

from lit_memories.denoisers import pack, unpack
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.likelihood import log_likelihood
from lit_memories.ops.rollout import rollout_rows

PROMPTS = ["Almond Blossoms by Vincent van Gogh", ""]
NAMES = ("sd3", "sd3-without-t5", "flux-dev", "flux-schnell")


def seeds(model: Diffusion, count: int = 2) -> Tensor:
    return model.draw_seeds([Generator().manual_seed(i) for i in range(count)])


def theirs(folder: Path, latents: Tensor, guidance: float, **options: Any) -> Tensor:
    """Images (n, 3, h, w) of diffusers' pipeline."""
    left_out = {"text_encoder_3": None, "tokenizer_3": None} if folder.name == "sd3-without-t5" else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **left_out)
    pipeline.set_progress_bar_config(disable=True)
    flux = "Flux" in type(pipeline).__name__
    size = [4 * side for side in latents.shape[2:]]
    return torch.as_tensor(
        pipeline(
            PROMPTS,
            height=size[0],
            width=size[1],
            latents=pack(latents) if flux else latents,
            guidance_scale=guidance,
            num_inference_steps=5,
            max_sequence_length=256 if left_out else 48,
            output_type="pt",
            **options,
        ).images
    )


@pytest.mark.parametrize(
    ("name", "guidance"),
    [("sd3", 1.0), ("sd3", 4.0), ("sd3-without-t5", 4.0), ("flux-dev", 1.0), ("flux-dev", 3.5), ("flux-schnell", 1.0)],
)
def test_pictures_are_those_of_diffusers_pipeline(flows: dict[str, Path], name: str, guidance: float) -> None:
    model = Diffusion(str(flows[name]), image_size=(48, 64))
    assert model.latent_shape == (4, 12, 16)
    latents = seeds(model)
    expected = theirs(flows[name], latents, guidance)
    torch.testing.assert_close(model.generate(PROMPTS, latents, 5, guidance), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_found_again(flows: dict[str, Path], name: str) -> None:
    """The implicit steps are solved for the velocity, from the picture to noise alone."""
    model = Diffusion(str(flows[name]))
    steps, start = model.schedule.ddim_steps(4), seeds(model)
    embeds = model.encode_prompts(PROMPTS)
    predict = model.predict_fn(embeds)
    made = rollout_rows(lambda x, t, rows: predict(x, t), start, steps)

    def some(latents: Tensor, timestep: float, rows: Tensor) -> Tensor:
        return model.predict(latents, timestep, embeds[rows])

    found = FixedPoint(40, 1e-6)(some, made, steps)
    assert found.converged.all()
    torch.testing.assert_close(found.seeds, start, rtol=1e-3, atol=1e-3)


def test_packing_is_undone() -> None:
    latents = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    assert pack(latents).shape == (2, 6, 12)
    assert torch.equal(unpack(pack(latents), 4, 6), latents)


def test_a_likelihood_is_finite_from_noise_alone(flows: dict[str, Path]) -> None:
    model = Diffusion(str(flows["sd3"]))
    embeds = model.encode_prompts(PROMPTS)
    steps = model.schedule.ladder(6, whole=True)
    assert steps[0].alpha == 0

    def some(latents: Tensor, timestep: float, rows: Tensor) -> Tensor:
        return model.predict(latents, timestep, embeds[rows])

    found = log_likelihood(some, seeds(model), steps, [Generator().manual_seed(i) for i in range(2)])
    assert found.log_likelihood.isfinite().all()


def test_what_a_distilled_model_cannot_be_asked_is_refused(flows: dict[str, Path]) -> None:
    schnell, dev = (Diffusion(str(flows[name])) for name in ("flux-schnell", "flux-dev"))
    with pytest.raises(ValueError, match=r"guidance_scale must be 1 .* distilled to few steps"):
        schnell.generate(PROMPTS, seeds(schnell), 2, 3.5)
    embeds = dev.encode_prompts(PROMPTS)
    with pytest.raises(ValueError, match="guidance is an input of this model"):
        dev.predict(seeds(dev), 500.0, embeds, 3.5, embeds)
    assert (dev.evaluations(3.5), dev.evaluations(1.0), schnell.evaluations(1.0)) == (1, 1, 1)


@pytest.mark.parametrize(("name", "unit"), [("sd3", 8), ("flux-dev", 8)])
def test_sizes_that_patches_do_not_divide_are_refused(flows: dict[str, Path], name: str, unit: int) -> None:
    with pytest.raises(ValueError, match=f"image_size must be multiples of {unit} pixels"):
        Diffusion(str(flows[name]), image_size=(64, 60))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_comes_back_as_a_pipeline(flows: dict[str, Path], name: str, tmp_path: Path) -> None:
    model = Diffusion(str(flows[name]))
    model.pipeline().save_pretrained(tmp_path)
    again = Diffusion(str(tmp_path))
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.encode_prompts(PROMPTS), model.encode_prompts(PROMPTS))
