"""The tiny pipelines in folders and in memory."""

import sys
from pathlib import Path

import pytest
import yaml
from diffusers import StableDiffusionXLPipeline
from tiny_pipelines import sd21_pipeline, sdxl_pipeline

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/erasers"))  # smoke.py and small_runs.py run erasers here too


@pytest.fixture(scope="session")
def van_gogh() -> Concept:
    return Concept(**yaml.safe_load((ROOT / "recipes/sd14/concepts/van_gogh.yaml").read_text()))


@pytest.fixture(scope="session")
def sdxl(van_gogh: Concept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny SDXL."""
    folder = tmp_path_factory.mktemp("sdxl") / "pipeline"
    sdxl_pipeline(van_gogh).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd21(van_gogh: Concept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Stable Diffusion 2.1."""
    folder = tmp_path_factory.mktemp("sd21") / "pipeline"
    sd21_pipeline(van_gogh).save_pretrained(folder)
    return folder


@pytest.fixture
def model(sdxl: Path) -> Diffusion:
    """The tiny SDXL, fresh for every test."""
    return Diffusion.from_pretrained(sdxl)


@pytest.fixture
def pipeline(sdxl: Path) -> StableDiffusionXLPipeline:
    """The same in diffusers' hands."""
    loaded = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
    loaded.set_progress_bar_config(disable=True)
    return loaded
