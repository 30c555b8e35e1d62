"""The tiny flow models in folders."""

import sys
from pathlib import Path

import pytest
import yaml
from flow_pipelines import flux_pipeline, sd3_pipeline

from lit_memories.concept import Concept

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/erasers"))  # smoke.py and small_runs.py run erasers here too


@pytest.fixture(scope="session")
def van_gogh() -> Concept:
    return Concept(**yaml.safe_load((ROOT / "recipes/sd14/concepts/van_gogh.yaml").read_text()))


@pytest.fixture(scope="session")
def flows(van_gogh: Concept, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny pipelines, by name."""
    root = tmp_path_factory.mktemp("flows")
    made = {
        "sd3": sd3_pipeline(van_gogh, root / "a"),
        "sd3-without-t5": sd3_pipeline(van_gogh, root / "b", with_t5=False),
        "flux-dev": flux_pipeline(van_gogh, root / "c"),
        "flux-schnell": flux_pipeline(van_gogh, root / "d", distilled=False),
    }
    for name, pipeline in made.items():
        pipeline.save_pretrained(root / name)
    return {name: root / name for name in made}
