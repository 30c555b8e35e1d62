"""Latents are found that decode to a given image, a sample at a time."""

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.inverters.decoder import DecoderInversion


@pytest.fixture
def task(diffusion: Diffusion) -> tuple[Tensor, Tensor]:
    """Images that the decoder can make, and latents some way off those it makes them of."""
    latents = torch.randn(3, 4, 16, 16, generator=Generator().manual_seed(0))
    with torch.no_grad():
        images = diffusion.decode_unscaled(latents).clamp(0, 1)
    return images, latents + 0.3 * torch.randn(latents.shape, generator=Generator().manual_seed(1))


def test_it_reaches_the_image_and_says_how_well(diffusion: Diffusion, task: tuple[Tensor, Tensor]) -> None:
    images, start = task
    calls = []

    def decode(latents: Tensor) -> Tensor:
        calls.append(latents.requires_grad)
        return diffusion.decode_unscaled(latents)

    found = DecoderInversion(60)(decode, images, start)
    with torch.no_grad():
        errors = (
            diffusion.decode_unscaled(torch.cat([start, found.latents])).clamp(0, 1) - images.repeat(2, 1, 1, 1)
        ) ** 2
    before, after = (-10 * errors.flatten(1).mean(1).log10()).chunk(2)
    assert (after > before + 10).all()
    assert found.psnr.tolist() == pytest.approx(after.tolist(), abs=0.01)
    assert sum(calls) == int(found.passes.sum())
    assert not any(p.requires_grad or p.grad is not None for p in diffusion.vae.parameters())


def test_faithful_is_adam_written_by_hand(diffusion: Diffusion, task: tuple[Tensor, Tensor]) -> None:
    images, start = (x[:1] for x in task)
    found = DecoderInversion(5, faithful=True, lr=0.02)(diffusion.decode_unscaled, images, start)
    z, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 6):
        z.requires_grad_()
        loss = torch.nn.functional.mse_loss(diffusion.vae.decode(z).sample / 2 + 0.5, images)
        (grad,) = torch.autograd.grad(loss, z)
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        change = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        z = z.detach() - 0.02 * change
    assert found.passes.tolist() == [5]
    assert torch.allclose(found.latents, z, atol=1e-5)
    assert DecoderInversion(faithful=True).max_passes == 3000


@pytest.mark.parametrize("faithful", [False, True])
def test_a_sample_does_not_depend_on_its_batch(
    faithful: bool, diffusion: Diffusion, task: tuple[Tensor, Tensor]
) -> None:
    images, start = task
    inversion = DecoderInversion(12, faithful=faithful)
    together = inversion(diffusion.decode_unscaled, images, start)
    alone = inversion(diffusion.decode_unscaled, images[1:2], start[1:2])
    assert torch.equal(together.latents[1:2], alone.latents)
    assert torch.equal(together.psnr[1:2], alone.psnr)


def test_it_stops_when_there_is_no_more_to_gain(diffusion: Diffusion, task: tuple[Tensor, Tensor]) -> None:
    images, start = (x[:1] for x in task)
    eager, patient = (
        DecoderInversion(80, tolerance=tolerance)(diffusion.decode_unscaled, images, start) for tolerance in (1e6, 1e-9)
    )
    assert int(eager.passes) < 40 < int(patient.passes)
    assert float(eager.psnr) < float(patient.psnr)


def test_within_inference_mode(diffusion: Diffusion, task: tuple[Tensor, Tensor]) -> None:
    """Lightning predicts in it, where nothing has a gradient."""
    with torch.inference_mode():
        images, start = (x[:1] * 1 for x in task)
        inside = DecoderInversion(5)(diffusion.decode_unscaled, images, start)
    outside = DecoderInversion(5)(diffusion.decode_unscaled, task[0][:1], task[1][:1])
    assert torch.equal(inside.latents, outside.latents)


def test_what_is_not_finite_ends(diffusion: Diffusion, task: tuple[Tensor, Tensor]) -> None:
    images, start = (x[:1] for x in task)
    assert DecoderInversion(200)(diffusion.decode_unscaled, images * torch.nan, start).psnr.isnan().all()


@pytest.mark.parametrize("options", [{"max_passes": 0}, {"lr": 0.0}, {"tolerance": -1.0}])
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        DecoderInversion(**options)


def test_every_image_needs_a_start(diffusion: Diffusion, task: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="a start for every image, got 2 for 3"):
        DecoderInversion()(diffusion.decode_unscaled, task[0], task[1][:2])
