"""The shipped models of photographs: what they draw, what they never saw, and the pictures they were made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from torch import Generator

from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.metrics import psnr
from lit_memories.worlds.base import labels_of
from lit_memories.worlds.classifier import load_classifier
from lit_memories.worlds.labelled import LabelledImages

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
WORLD = yaml.safe_load((ROOT / "recipes/fashion/world.yaml").read_text(encoding="utf-8"))["init_args"]
KINDS: list[str] = WORLD["values"]["kind"]
WITHHELD = ("sneaker", "bag")
NO_PICTURES = pytest.mark.skipif(
    not Path(WORLD["local"]).is_dir(),
    reason="no pictures here: .ci/run installs Debian's package dataset-fashion-mnist",
)

pytestmark = pytest.mark.slow


def measured(name: str) -> dict[str, Any]:
    return json.loads((CHECKPOINTS / name / "measured.json").read_text(encoding="utf-8"))


def drawn(model: str, kind: str, count: int = 10) -> list[str]:
    """What the judge sees in samples."""
    diffusion = Diffusion.from_pretrained(CHECKPOINTS / model)
    seeds = diffusion.draw_seeds([Generator().manual_seed(i) for i in range(count)])
    images = diffusion.generate([f"a photo of a {kind}"] * count, seeds, 20, 3.0)
    return load_classifier(CHECKPOINTS / "fashion-classifier").predict(images)["kind"]


def test_the_goals_were_met_when_they_were_measured() -> None:
    base = measured("fashion")
    assert base["classifier_accuracy"]["kind"] >= 0.93
    assert base["samples"]["held-out prompts"]["kind"]["rate"] >= 0.90
    for kind in WITHHELD:
        control = measured(f"fashion-without-{kind}")["samples"]
        assert control[f"{kind} prompts"]["kind"]["rate"] <= 0.10
        assert control[f"held-out, not {kind}"]["kind"]["rate"] >= 0.85


@pytest.mark.parametrize("kind", WITHHELD)
def test_the_base_draws_what_a_control_never_saw(kind: str) -> None:
    assert drawn("fashion", kind).count(kind) >= 8
    assert drawn(f"fashion-without-{kind}", kind).count(kind) <= 2


def test_unmodified_diffusers_loads_and_samples_it() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(CHECKPOINTS / "fashion")
    image = pipeline(
        "a photo of a dress", num_inference_steps=20, guidance_scale=3.0, generator=Generator().manual_seed(0)
    ).images[0]
    assert load_classifier(CHECKPOINTS / "fashion-classifier").predict(to_tensor(image)[None])["kind"] == ["dress"]


@NO_PICTURES
@torch.no_grad()
def test_autoencoder_and_judge_are_as_good_as_the_card_says() -> None:
    world, judge = LabelledImages(**WORLD), load_classifier(CHECKPOINTS / "fashion-classifier")
    rows = world.rows("test", 1000)
    assert {split: len(world.rows(split)) for split in ("train", "validation", "test")} == {
        "train": 59_488,
        "validation": 512,
        "test": 10_000,
    }
    images = torch.stack([to_tensor(image) for image in rows["image"]])
    right = [
        seen == labels["kind"]
        for seen, labels in zip(judge.predict(images)["kind"], labels_of(rows, world.grammar.factors), strict=True)
    ]
    assert sum(right) / 1000 == pytest.approx(measured("fashion")["classifier_accuracy"]["kind"], abs=0.02)
    diffusion = Diffusion.from_pretrained(CHECKPOINTS / "fashion")
    assert psnr(diffusion.decode_latents(diffusion.encode_images(images[:100])), images[:100]).mean() > 35
