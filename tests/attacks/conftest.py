"""Attacks by recipe, on the tiny pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from attack_helpers import RECIPES, SMALL, STEPS, Attacked

from lit_memories.attacks import ATTACKS
from lit_memories.data.sources import save_images
from lit_memories.worlds import pictograms


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with image folders ``concept`` (5 umbrellas) and ``reference`` (4 other things)."""
    folder = tmp_path_factory.mktemp("pictures")
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("attacks", 200, keep=umbrella, limit=5), folder / "concept")
    save_images(pictograms.build("attacks", 20, withhold=[umbrella], limit=4), folder / "reference")
    return folder


@pytest.fixture(scope="session")
def attacked(tiny: Path, tiny_control: Path, pictures: Path) -> Attacked:
    """The command line of an attack: ``attacked("plain", run_folder, "--more=options", draws=2)``.

    Judged by how light pictures are; nothing counts as the concept unless `least` says from where.
    """

    def build(
        name: str, folder: Path, *more: str, least: float = 2.0, batch_size: int = 5, **options: Any
    ) -> list[str]:
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        said = recipe["model"]["init_args"]["probes"]
        probes = [probe for probe in said if ".attacks." in probe["class_path"]]
        for probe in probes:
            own = next(n for n, kind in ATTACKS.items() if probe["class_path"].endswith(f".{kind.__name__}"))
            options_said = probe.get("init_args", {})
            other = {"vanilla": {"base": str(tiny_control)}} if "vanilla" in options_said else {}
            probe["init_args"] = options_said | SMALL[own] | other | (options if own == name else {})
        judge = {"class_path": "attack_helpers.Bright", "init_args": {"least": least}}
        sets = {
            side: f"{{class_path: ImageSource, init_args: {{path: {pictures / side}}}}}"
            for side in ("concept", "reference")
        }
        return [
            "predict",
            f"--config={RECIPES / name}.yaml",
            f"--model.diffusion.base={tiny}",
            f"--model.judge={json.dumps(judge)}",
            f"--model.probes={json.dumps(probes)}",
            f"--model.num_inference_steps={STEPS}",
            "--model.block_size=4",
            *(f"--data.{side}_images={source}" for side, source in sets.items()),
            f"--data.batch_size={batch_size}",
            "--trainer.callbacks=[]",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={folder}",
            *more,
        ]

    return build
