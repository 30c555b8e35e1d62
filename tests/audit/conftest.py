"""An audit by recipe, small enough to be run many times."""

import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from diffusers import StableDiffusionPipeline
from few_levels import FEW_LEVELS

from lit_memories.cli import main
from lit_memories.data.sources import save_images
from lit_memories.worlds import pictograms

ROOT = Path(__file__).parents[2]
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="session")
def calm(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with a prediction so small that every inversion converges."""
    folder = tmp_path_factory.mktemp("calm")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(0.05)
    pipeline.vae.register_to_config(scaling_factor=3.0)  # latents of about unit size
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with image folders ``concept`` (4 umbrellas) and ``reference`` (5 other things)."""
    folder = tmp_path_factory.mktemp("images")
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("audits", 200, keep=umbrella, limit=4), folder / "concept")
    save_images(pictograms.build("audits", 20, withhold=[umbrella], limit=5), folder / "reference")
    return folder


@pytest.fixture(scope="session")
def arguments(calm: Path, tiny_classifier: Path, images: Path) -> Arguments:
    """The command line of a small audit: ``arguments(run_folder, "--more=options", batch_size=3)``.

    A set is one batch unless a test says otherwise.
    """

    def build(folder: Path, *more: str, batch_size: int = 5) -> list[str]:
        return [
            "predict",
            f"--config={ROOT / 'recipes/pictograms/audit/umbrella.yaml'}",
            f"--model.diffusion.base={calm}",
            f"--model.judge.classifier={tiny_classifier}",
            "--model.name=tiny",
            "--model.num_inference_steps=4",
            "--model.block_size=4",
            FEW_LEVELS,
            "--model.keep_images=1",
            f"--data.concept_images={{class_path: ImageSource, init_args: {{path: {images / 'concept'}}}}}",
            f"--data.reference_images={{class_path: ImageSource, init_args: {{path: {images / 'reference'}}}}}",
            "--data.known=3",
            "--data.prompted=2",
            f"--data.batch_size={batch_size}",
            "--trainer.callbacks=[]",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={folder}",
            *more,
        ]

    return build


@pytest.fixture(scope="session")
def undisturbed(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an audit that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    main(arguments(folder))
    return folder


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a process that runs an audit."""
    cache = str(datasets.config.HF_DATASETS_CACHE)
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": cache}
