"""A pipeline of Stable Diffusion's classes, small enough that a whole audit of it takes seconds."""

import gc
import os
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from diffusers import AutoencoderKL
from fake_hub import FakeHub
from small_clip import save_clip

from lit_memories.diffusion import Diffusion
from lit_memories.worlds.classifier import WorldClassifier
from lit_memories.worlds.fresh import unet_pipeline
from lit_memories.worlds.pictograms import GRAMMAR

torch.set_num_threads(1)
gc.disable()  # until tests are collected: imports make no garbage, and looking for it takes a quarter of their time
ROOT = Path(__file__).parent.parent


def pytest_collection_finish() -> None:
    """Collect garbage from here on, though not among the libraries, which stay."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data sets drawn in tests do not land in the user's cache."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A test that leaves its libraries changed, or at another hub, fails, and not whichever comes after it.

    What commands leave behind, who end with their process, is undone: Lightning's seed in the environment, and the
    form of warnings.
    """
    before, environment, form = _settings(), dict(os.environ), warnings.formatwarning
    yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    warnings.formatwarning = form
    assert _settings() == before, "settings of libraries were left changed"


def _settings() -> dict[str, object]:
    from datasets import config
    from huggingface_hub import constants

    return {
        "working directory": Path.cwd(),
        "hub": (constants.HF_HUB_OFFLINE, constants.ENDPOINT, config.HF_HUB_OFFLINE, config.HF_ENDPOINT),
        "data sets": config.HF_DATASETS_CACHE,
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32 products": torch.get_float32_matmul_precision(),
        "garbage": gc.isenabled(),
    }


@pytest.fixture(scope="session", autouse=True)
def _unsynced() -> Iterator[None]:
    """What tests write need not outlive a power cut; waiting for the disk would take a tenth of an audit's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random autoencoder, f = 4."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "autoencoder"
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_autoencoder: Path) -> Path:
    """Folder of a random pipeline with a few thousand parameters."""
    torch.manual_seed(0)
    folder = tiny_autoencoder.parent / "pipeline"
    unet_pipeline(GRAMMAR, tiny_autoencoder, (8, 16), 32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_control(tiny_autoencoder: Path) -> Path:
    """Another random pipeline around the same autoencoder."""
    torch.manual_seed(1)
    folder = tiny_autoencoder.parent / "control"
    unet_pipeline(GRAMMAR, tiny_autoencoder, (8, 16), 32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained classifier."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    WorldClassifier.of(GRAMMAR, (8, 8)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random CLIP, which judges anything that has words."""
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def _loaded(tiny: Path) -> Diffusion:
    return Diffusion.from_pretrained(tiny)


@pytest.fixture
def diffusion(_loaded: Diffusion) -> Diffusion:
    """The tiny pipeline, fresh for every test: a copy, which takes half as long as loading it.

    Its tokenizers are read anew: copies of these forget how words end.
    """
    readers = (reader.tokenizer for reader in _loaded.conditioning.readers)
    return deepcopy(_loaded, {id(old): type(old).from_pretrained(old.name_or_path) for old in readers})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub on loopback, which the libraries in this process take for the real one; caches are empty too."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    fake = FakeHub(tmp_path / "hf")
    try:
        with fake.serving():
            yield fake
            monkeypatch.undo()  # before the hub goes, or what a test set over its settings would come back after it
    finally:
        fake.stop()
