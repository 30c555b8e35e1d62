"""Shipped models are found where they are: here, in the checkout, or in the package beside this one, sound."""

import hashlib
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_memories.diffusion import Diffusion
from lit_memories.storage import shipped as module
from lit_memories.storage.hub import fetch
from lit_memories.storage.shipped import model_folder, shipped
from lit_memories.worlds.classifier import load_classifier

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


@pytest.fixture
def installed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This package as a wheel leaves it, and one of models; gives the folder of the latter."""
    library = tmp_path / "site/lit_memories/shipped/checkpoints"
    models = tmp_path / "site/lit_memories_models"
    shutil.copytree(tiny, models / "small")
    library.mkdir(parents=True)
    (library.parent / "recipes").mkdir()
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(models).as_posix()}\n"
        for file in sorted(models.rglob("*"))
        if file.is_file()
    ]
    (library / "SHA256SUMS").write_text("".join(lines))
    found = SimpleNamespace(version="3", locate_file=lambda name: tmp_path / "site" / name)
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "site/lit_memories")
    monkeypatch.setattr(module, "distribution", lambda name: found)
    return models


def test_a_checkout_has_them_wherever_one_stands() -> None:
    assert model_folder("checkpoints/pictograms") == ROOT / "checkpoints/pictograms"
    assert model_folder(Path("checkpoints/pictograms/vae")) == ROOT / "checkpoints/pictograms/vae"
    assert load_classifier(Path("checkpoints/classifier")) is not None
    assert shipped("recipes") == ROOT / "recipes"


@pytest.mark.parametrize("name", ["runs/esd", "user/model", "checkpoints", "/checkpoints/x", "checkpoints/../x", "x"])
def test_other_names_stay(name: str) -> None:
    assert model_folder(name) == Path(name)


def test_what_is_here_wins(installed: Path) -> None:
    Path("checkpoints/small").mkdir(parents=True)
    assert model_folder("checkpoints/small") == Path("checkpoints/small")


def test_a_wheel_of_models_has_them(installed: Path) -> None:
    """The model is called by its name, so that what is recorded of it holds on another machine."""
    assert model_folder("checkpoints/small/vae") == installed / "small/vae"
    assert fetch("checkpoints/small", lambda files: files).folder == installed / "small"
    assert Diffusion("checkpoints/small").base == "checkpoints/small"


@pytest.mark.parametrize("change", ["damaged", "missing", "unknown"])
def test_one_that_is_not_the_shipped_one_is_refused(change: str, installed: Path) -> None:
    file = installed / "small/unet/diffusion_pytorch_model.safetensors"
    if change == "damaged":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif change == "missing":
        file.unlink()
    else:
        (installed / "small").rename(installed / "newer")
    name, said = ("newer", "is not of the models of this release") if change == "unknown" else ("small", str(file))
    with pytest.raises(ValueError, match=said) as error:
        Diffusion(f"checkpoints/{name}")
    assert "install lit-memories-models" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_model_says_how_to_get_it(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"lit-memories-models 3 has small: name one of them .* or train this"):
        Diffusion("checkpoints/large")

    def none(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", none)
    for load in (Diffusion, load_classifier, lambda name: fetch(name, lambda files: files)):
        with pytest.raises(FileNotFoundError, match=r"install the wheel lit-memories-models, .* make checkpoints"):
            load("checkpoints/small")


def test_the_checksums_are_those_of_the_checkout() -> None:
    """As `make checkpoints` wrote them, whatever was committed since."""
    for name in ("classifier", "pictograms", "without-umbrella", "without-striped"):
        module.check_sums(ROOT / "checkpoints", name, ROOT / "checkpoints/SHA256SUMS")
