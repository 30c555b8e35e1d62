"""The model under study against diffusers' own pipeline, and what it refuses."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.ops.fingerprint import fingerprint

PROMPTS = ["a red umbrella on a blue background, solid style", "star"]


def seeds(diffusion: Diffusion, count: int = 2) -> Tensor:
    return diffusion.draw_seeds([Generator().manual_seed(i) for i in range(count)])


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """The tiny pipeline's folder, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "pipeline"))


def damage(file: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_generates_what_the_pipeline_generates(diffusion: Diffusion, tiny: Path, guidance_scale: float) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        PROMPTS,
        latents=seeds(diffusion),
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        height=64,
        width=64,
        output_type="pt",
    ).images
    images = diffusion.generate(PROMPTS, seeds(diffusion), 6, guidance_scale)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


@torch.no_grad()
def test_guidance_is_its_formula(diffusion: Diffusion) -> None:
    x, embeds = seeds(diffusion), diffusion.encode_prompts(PROMPTS)
    empty, other = diffusion.encode_prompts(["", ""]), diffusion.encode_prompts(["anchor"] * 2)
    conditional, free = diffusion.predict_noise(x, 500, embeds), diffusion.predict_noise(x, 500, empty)
    torch.testing.assert_close(diffusion.predict_noise(x, 500, embeds, 3.0), free + 3 * (conditional - free))
    against = diffusion.predict_noise(x, 500, other)
    guided = diffusion.predict_noise(x, 500, embeds, 3.0, other)
    torch.testing.assert_close(guided, against + 3 * (conditional - against))
    torch.testing.assert_close(diffusion.predict_fn(embeds, 3.0)(x, 500), free + 3 * (conditional - free))
    assert torch.equal(diffusion.predict_fn(embeds)(x, 500), conditional)


@torch.no_grad()
def test_a_timestep_a_row(diffusion: Diffusion) -> None:
    x, embeds = seeds(diffusion), diffusion.encode_prompts(PROMPTS)
    rows = [diffusion.predict_noise(x[i : i + 1], t, embeds[i : i + 1]) for i, t in enumerate((3, 900))]
    together = diffusion.predict_noise(x, torch.tensor([3, 900]), embeds)
    torch.testing.assert_close(together, torch.cat(rows))


@torch.no_grad()
def test_velocity_becomes_noise(copy: Path, diffusion: Diffusion) -> None:
    scheduler = DDIMScheduler.from_pretrained(copy / "scheduler", prediction_type="v_prediction")
    scheduler.save_pretrained(copy / "scheduler")
    model = Diffusion.from_pretrained(copy)
    x, embeds = seeds(diffusion), diffusion.encode_prompts(PROMPTS)
    velocity = diffusion.predict_noise(x, 500, embeds)
    alpha = diffusion.schedule.alpha(500)
    torch.testing.assert_close(model.predict_noise(x, 500, embeds), alpha**0.5 * velocity + (1 - alpha) ** 0.5 * x)
    assert model.schedule.prediction_type == "v_prediction"


@torch.no_grad()
def test_images_and_latents(diffusion: Diffusion) -> None:
    images = torch.rand(2, 3, 64, 64, generator=Generator().manual_seed(0))
    latents = diffusion.encode_images(images)
    assert latents.shape == (2, *diffusion.latent_shape) == (2, 4, 16, 16)
    assert diffusion.image_size == (64, 64)
    vae = diffusion.vae
    torch.testing.assert_close(latents, vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor)
    restored = diffusion.decode_latents(latents)
    assert restored.shape == images.shape
    assert restored.min() >= 0
    assert restored.max() <= 1
    sample = diffusion.encode_images(images, Generator().manual_seed(0))
    assert not torch.equal(sample, latents)
    assert torch.equal(sample, diffusion.encode_images(images, Generator().manual_seed(0)))


def test_seeds_come_one_from_each_generator(diffusion: Diffusion) -> None:
    assert torch.equal(seeds(diffusion, 3)[:2], seeds(diffusion, 2))
    assert torch.equal(seeds(diffusion, 1)[0], torch.randn(4, 16, 16, generator=Generator().manual_seed(0)))


def test_long_prompts_are_cut_and_nothing_is_trained(diffusion: Diffusion) -> None:
    assert diffusion.encode_prompts(["red " * 100]).shape == (1, 16, 32)
    assert not any(parameter.requires_grad for parameter in diffusion.parameters())
    assert not diffusion.training


def test_fingerprints_are_of_the_weights(tiny: Path, tiny_control: Path, copy: Path) -> None:
    one = Diffusion.from_pretrained(tiny)
    assert Diffusion.from_pretrained(copy).fingerprint == one.fingerprint, "not of the path"
    assert Diffusion.from_pretrained(tiny_control).fingerprint != one.fingerprint
    for component in ("unet", "text_encoder"):
        before = fingerprint(one.unet, one.text_encoder)
        parameter = next(getattr(one, component).parameters())
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-6
        assert fingerprint(one.unet, one.text_encoder) != before


def test_random_weights_are_others_and_always_the_same(tiny: Path, diffusion: Diffusion) -> None:
    state = torch.random.get_rng_state()
    one, two = (Diffusion(str(tiny), weights="random") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are left alone"
    assert fingerprint(one.unet) == fingerprint(two.unet) != fingerprint(diffusion.unet)
    assert fingerprint(one.vae, one.text_encoder) == fingerprint(diffusion.vae, diffusion.text_encoder)
    assert one.fingerprint == diffusion.fingerprint, "that of the base, whose configuration it has"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@torch.no_grad()
def test_weights_may_be_stored_short(dtype: str, tiny: Path, diffusion: Diffusion) -> None:
    model = Diffusion(str(tiny), torch_dtype=dtype)
    assert model.unet.dtype == getattr(torch, dtype)
    x = seeds(model)
    noise = model.predict_noise(x, 500, model.encode_prompts(PROMPTS))
    assert noise.dtype == torch.float32
    torch.testing.assert_close(
        noise, diffusion.predict_noise(x, 500, diffusion.encode_prompts(PROMPTS)), rtol=0, atol=0.05
    )


def test_a_pipeline_comes_back_whole(diffusion: Diffusion, tmp_path: Path) -> None:
    diffusion.pipeline().save_pretrained(tmp_path)
    again = Diffusion.from_pretrained(tmp_path)
    assert again.fingerprint == diffusion.fingerprint
    assert again.schedule.ddim_steps(7) == diffusion.schedule.ddim_steps(7)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("component", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(component: str, value: float, copy: Path) -> None:
    (file,) = (copy / component).glob("*.safetensors")
    name = sorted(load_file(file))[3]
    damage(file, lambda tensors: tensors[name].view(-1)[:1].fill_(value))
    with pytest.raises(ValueError, match="not finite") as error:
        Diffusion.from_pretrained(copy)
    message = one_line(error)
    assert name.removeprefix("text_model.") in message
    assert f"{component} of {copy}" in message


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_a_pickle_is_refused_and_not_opened(name: str, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(ValueError, match="single file: say with config") as error:
        Diffusion.from_pretrained(file)
    assert str(file) in one_line(error)
    with pytest.raises(ValueError, match="pickle that needs code to be run") as error:
        Diffusion.from_pretrained(file, config=str(tiny))
    assert str(file) in one_line(error)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("component", ["unet", "text_encoder", "vae"])
def test_a_pickle_inside_a_pipeline_is_refused(component: str, copy: Path, tmp_path: Path) -> None:
    (file,) = (copy / component).glob("*.safetensors")
    file.unlink()
    name = "pytorch_model.bin" if component == "text_encoder" else "diffusion_pytorch_model.bin"
    (copy / component / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(ValueError, match="a pickle that needs code to be run") as error:
        Diffusion.from_pretrained(copy)
    assert str(copy / component / name) in one_line(error)
    assert not (tmp_path / "executed").exists()


def test_what_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no model_index\.json") as error:
        Diffusion.from_pretrained(tmp_path)
    assert str(tmp_path) in one_line(error)
    with pytest.raises(FileNotFoundError, match="there is no such file or folder") as error:
        Diffusion.from_pretrained(tmp_path / "missing")
    assert "missing" in one_line(error)
