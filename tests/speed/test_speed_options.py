"""Options of speed and memory: off by default, the same result where they are on, and told apart where it is not."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor
from torch.nn import functional

from lit_memories.diffusion import Diffusion
from lit_memories.speed import RECOMPILATIONS, Speed


@torch.inference_mode()
def noise(diffusion: Diffusion, rows: int = 4) -> Tensor:
    """What a model predicts of something fixed."""
    latents = torch.randn(rows, *diffusion.latent_shape, generator=torch.Generator().manual_seed(0))
    return diffusion.predict_noise(latents, 500, diffusion.encode_prompts(["a red umbrella"] * rows))


def compiled(diffusion: Diffusion) -> list[bool]:
    """Whether each repeated block is compiled."""
    blocks = [m for m in diffusion.unet.modules() if isinstance(m, BasicTransformerBlock)]
    return [block._compiled_call_impl is not None for block in blocks]


def test_nothing_is_on_by_default(diffusion: Diffusion) -> None:
    assert diffusion.speed == Speed()
    assert diffusion.speed.settings() == {}
    assert not any(compiled(diffusion))
    assert not diffusion.vae.use_slicing
    assert not diffusion.vae.use_tiling
    assert diffusion.unet.conv_in.weight.is_contiguous()


def test_attention_is_fused(diffusion: Diffusion) -> None:
    calls = len(diffusion.unet.attn_processors)
    assert calls > 0
    embeds = diffusion.encode_prompts([""])
    with patch.object(functional, "scaled_dot_product_attention", wraps=functional.scaled_dot_product_attention) as spy:
        diffusion.predict_noise(torch.zeros(1, *diffusion.latent_shape), 500, embeds)
    assert spy.call_count == calls


def test_compiled_blocks_compute_the_same_under_the_same_names(tiny: Path, diffusion: Diffusion) -> None:
    fast = Diffusion(str(tiny), speed=Speed(compile="eager"))
    assert all(compiled(fast))
    assert fast.fingerprint == diffusion.fingerprint == fast.weights_fingerprint()
    assert list(fast.state_dict()) == list(diffusion.state_dict())
    for rows in (2, 4):
        assert torch.equal(noise(fast, rows), noise(diffusion, rows))
    assert torch._dynamo.config.recompile_limit >= RECOMPILATIONS, "a shape too many would not be compiled"


def test_compiled_blocks_take_gradients(tiny: Path, diffusion: Diffusion) -> None:
    fast = Diffusion(str(tiny), speed=Speed(compile="eager"))
    latents = torch.randn(2, *fast.latent_shape, requires_grad=True)
    gradients = []
    for model in (fast, diffusion):
        predicted = model.predict_noise(latents, 500, model.encode_prompts(["a"] * 2))
        gradients.append(torch.autograd.grad(predicted.sum(), latents)[0])
    assert torch.equal(*gradients)


def test_what_is_hooked_on_after_the_first_call_acts(tiny: Path, diffusion: Diffusion) -> None:
    """As the adapters and the attention recordings of erasers are; by itself torch does not look."""
    fast = Diffusion(str(tiny), speed=Speed(compile="eager"))
    plain = noise(fast)
    name = next(name for name, _ in diffusion.unet.named_modules() if name.endswith("attn2.to_v"))
    for model in (fast, diffusion):
        model.unet.get_submodule(name).register_forward_hook(lambda layer, args, output: 2 * output)
    assert torch.equal(noise(fast), noise(diffusion))
    assert not torch.equal(noise(fast), plain)


def test_channels_last_changes_the_order_in_memory_only(tiny: Path, diffusion: Diffusion) -> None:
    fast = Diffusion(str(tiny), speed=Speed(channels_last=True))
    for module in (fast.unet.conv_in, fast.vae.decoder.conv_in):
        assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert fast.weights_fingerprint() == diffusion.fingerprint
    assert float((noise(fast) - noise(diffusion)).abs().max()) < 1e-5
    assert fast.speed.settings() == {"channels_last": True}


@torch.inference_mode()
def test_tiles_differ_on_pictures_beyond_the_models_size_only(tiny: Path, diffusion: Diffusion) -> None:
    tiled = Diffusion(str(tiny), speed=Speed(vae_tiling=True))
    small, large = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 96, 96)
    assert torch.equal(tiled.encode_images(small), diffusion.encode_images(small))
    assert not torch.equal(tiled.encode_images(large), diffusion.encode_images(large))
    assert tiled.speed.settings() == {"vae_tiling": True}


@torch.inference_mode()
def test_slices_are_single_images(tiny: Path, diffusion: Diffusion) -> None:
    sliced = Diffusion(str(tiny), speed=Speed(vae_slicing=True))
    latents = torch.randn(3, *sliced.latent_shape)
    alone = torch.cat([diffusion.decode_latents(x) for x in latents.split(1)])
    assert torch.equal(sliced.decode_latents(latents), alone)
    assert sliced.speed.settings() == {}


def test_a_backend_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no backend 'induktor': choose one of .*inductor"):
        Speed(compile="induktor")
