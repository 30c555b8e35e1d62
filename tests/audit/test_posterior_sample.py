"""Inverting a sample of the encoder's posterior, as the official code does at the concept level."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Generator

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.metrics.functional import psnr
from lit_memories.runs import read_run

Arguments = Callable[..., list[str]]
FEW = ("--data.concept_images.limit=2", "--data.reference_images.limit=1", "--data.known=1", "--data.prompted=0")


@torch.no_grad()
def test_every_image_is_encoded_with_the_generator_anew(
    arguments: Arguments, calm: Path, undisturbed: Path, tmp_path: Path
) -> None:
    main(arguments(tmp_path, *FEW, "--model.posterior_seed=42", "--model.keep_images=2"))
    run, mean = read_run(tmp_path), read_run(undisturbed)
    assert run.info.settings["posterior_seed"] == 42
    assert mean.info.settings["posterior_seed"] is None
    diffusion = Diffusion.from_pretrained(calm)
    for record, other in zip(run.of("concept", "seed"), mean.of("concept", "seed"), strict=False):
        original = to_tensor(Image.open(run.image("concept", record.index, "original")))[None]
        sample = diffusion.encode_images(original, Generator().manual_seed(42))
        assert record.value("seed.psnr_ceiling") == pytest.approx(
            float(psnr(diffusion.decode_latents(sample), original)), abs=1e-3
        )
        assert record.value("seed.nll") != other.value("seed.nll")
