"""The denoising bound orders models of known truth, picture by picture, and sees damage as damage."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.data.samples import ImageRows
from lit_memories.diffusion import Diffusion
from lit_memories.metrics.inference import auc
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.denoising import denoise
from lit_memories.ops.generators import seeded
from lit_memories.records import SetName
from lit_memories.worlds.sources import PictogramSource

pytestmark = pytest.mark.slow
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
IMAGES = 12
OTHERS = [{"object": "umbrella"}, {"style": "striped"}]
SOURCES = {
    "concept": PictogramSource(keep={"object": "umbrella"}, withhold=[{"style": "striped"}], limit=IMAGES),
    "reference": PictogramSource(withhold=OTHERS, limit=IMAGES),
}


@torch.inference_mode()
def surprises(model: Diffusion, side: SetName) -> Tensor:
    """Of the pictures of a set, none of which shows stripes: 10 evaluations each."""
    rows = ImageRows(side, SOURCES[side], model.image_size)
    latents = in_blocks(model.encode_images, 1, torch.stack([rows.pixels(sample.index) for sample in rows.samples]))
    embeds = torch.cat([model.encode_prompts([sample.prompt]) for sample in rows.samples])
    predict = BlockwisePredictor(model, embeds, model.encode_prompts([""]), 1.0, 8)
    generators = [seeded(f"0/{side}/{sample.content}/denoising") for sample in rows.samples]
    return denoise(predict, latents, model.schedule.ladder(5), generators, 2, antithetic=True).surprise


def test_it_tells_never_knew_from_knows_and_wrecked_from_both() -> None:
    models = {
        "vanilla": Diffusion(str(CHECKPOINTS / "pictograms")),
        "knows": Diffusion(str(CHECKPOINTS / "without-striped")),
        "never knew": Diffusion(str(CHECKPOINTS / "without-umbrella")),
        "random": Diffusion(str(CHECKPOINTS / "pictograms"), weights="random"),
    }
    found = {
        name: {side: surprises(model, side) for side in ("concept", "reference")}  # type: ignore[arg-type]
        for name, model in models.items()
    }
    shift = {name: {side: sides[side] - found["vanilla"][side] for side in sides} for name, sides in found.items()}
    assert auc(shift["never knew"]["concept"], shift["knows"]["concept"]).value == 1
    assert 0.15 < auc(shift["never knew"]["reference"], shift["knows"]["reference"]).value < 0.85
    control = float(shift["never knew"]["concept"].mean())
    assert control > 150
    assert abs(float(shift["never knew"]["reference"].mean())) < control / 5
    for side in ("concept", "reference"):
        assert float(shift["random"][side].mean()) > 5 * control, "damage, and not forgetting"
