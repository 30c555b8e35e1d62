"""Pictures of `generate` under SLD are those of diffusers' own safe pipeline."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipelineSafe
from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig
from PIL import Image
from torch import Generator

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion

PROMPT, SEED = "a red umbrella", 1000
GUARD = Path(__file__).parents[2] / "recipes/pictograms/guard/sld.yaml"


def official(base: Path, configuration: dict[str, float]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionPipelineSafe.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    pipeline.safety_concept = "umbrella"  # not every release hands it on from there
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    latents = torch.randn((1, *Diffusion(str(base)).latent_shape), generator=Generator().manual_seed(SEED))
    options = {"num_inference_steps": 50, "guidance_scale": 7.5, "output_type": "np", **configuration}
    made = pipeline(PROMPT, latents=latents, **options)
    return (made.images[0] * 255).round()


@pytest.mark.slow
@pytest.mark.parametrize("strength", ["medium", "max"])
def test_pictures_are_those_of_the_safe_pipeline(strength: str, tiny: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "list.csv"
    prompts.write_text(f'case_number,prompt,evaluation_seed,evaluation_guidance\n0,"{PROMPT}",{SEED},3\n')
    options = ["--scheduler=ddim", "--num_inference_steps=50", f"--base={tiny}"]
    for out, more in (("safe", [f"--guard={GUARD}", f"--guard.strength={strength}"]), ("plain", [])):
        main(["generate", str(prompts), *options, f"--out={tmp_path / out}", *more])
    safe, plain = (np.array(Image.open(tmp_path / out / "0_0.png"), dtype=float) for out in ("safe", "plain"))
    wanted = official(tiny, getattr(SafetyConfig, strength.upper()))
    apart, moved = (np.abs(one - wanted).mean() for one in (safe, plain))
    assert apart < 0.5, "but for rounding, which decides on which side of the threshold an element is"
    assert moved > 10 * apart, "it does something"
