"""A pipeline in Stable Diffusion's layout, for converters."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from lit_memories import diffusion
from lit_memories.diffusion import Diffusion
from lit_memories.worlds.fresh import unet_pipeline
from lit_memories.worlds.pictograms import GRAMMAR


@pytest.fixture(scope="session")
def base(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random pipeline whose U-Net has Stable Diffusion's blocks."""
    torch.manual_seed(2)
    pipeline = unet_pipeline(GRAMMAR, tiny_autoencoder, (8, 16), 32)
    pipeline.register_modules(
        unet=UNet2DConditionModel(
            sample_size=16,
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            block_out_channels=(8, 16, 24, 24),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    )
    folder = tmp_path_factory.mktemp("layout") / "pipeline"
    pipeline.save_pretrained(folder)
    assert len(pipeline.unet.state_dict()) == 686, "as many tensors as in Stable Diffusion 1"
    return str(folder)


@pytest.fixture(scope="session")
def original(base: str) -> Iterator[Diffusion]:
    """The base, which nothing may change."""
    model = Diffusion(base)
    yield model
    assert model.weights_fingerprint() == model.fingerprint


@pytest.fixture
def read_once(base: str, original: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is read once: `convert` gets the original, which it must leave alone, models of tests are copies."""
    load, pipeline = diffusion.load_pipeline, original.pipeline()
    frozen = {id(part): part for part in (pipeline.vae, pipeline.tokenizer)}

    def cached(folder: str, *rest: Any) -> Any:
        return (copy.deepcopy(pipeline, dict(frozen)), None) if folder == base else load(folder, *rest)

    def same(folder: str, **options: Any) -> Diffusion:
        return original if folder == base else Diffusion(folder, **options)

    monkeypatch.setattr(diffusion, "load_pipeline", cached)
    monkeypatch.setattr("lit_memories.tools.convert.Diffusion", same)
