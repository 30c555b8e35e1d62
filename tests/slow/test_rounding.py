"""What mixed precision leaves of a gradient in which a weight multiplies the distance of nearly equal predictions."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import ROUNDING
from lit_memories.erasers.spm import SPM

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def gradient(anchor_weight: float, low: bool) -> Tensor:
    """Of SPM's loss at its start: factors of 1e-4, four images, two anchors."""
    concept = Concept(**yaml.safe_load((ROOT / "recipes/pictograms/concepts/umbrella.yaml").read_text()))
    options = {"direction": "phrase", "anchors": 2, "batch_size": 4, "num_inference_steps": 20, "steps": 10}
    diffusion = Diffusion.from_pretrained(ROOT / "checkpoints/pictograms")
    method = SPM(diffusion, concept, eta=2.0, anchor_weight=anchor_weight, **options)
    method.log_dict = lambda *_, **__: None
    generator = Generator().manual_seed(1)
    for name, factor in method.selected.items():
        if name.endswith("lora_up"):
            factor.data = 1e-4 * torch.randn(factor.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        method.erase_loss({"prompts": concept.prompts, "retain": concept.retain}).backward()
    return torch.cat([factor.grad.flatten() for factor in method.selected.values() if factor.grad is not None])


@pytest.mark.parametrize(("weight", "least", "most"), [(ROUNDING, 0.97, 1), (100, 0.3, 0.8), (1000, -0.3, 0.5)])
def test_a_gradient_in_bfloat16_is_noise_above_the_weight_that_is_allowed(
    weight: float, least: float, most: float
) -> None:
    cosine = torch.cosine_similarity(gradient(weight, True), gradient(weight, False), dim=0)
    assert least <= float(cosine) <= most
