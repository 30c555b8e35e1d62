"""What every erasing recipe keeps, with the tiny model in the shipped one's place; exceptions are class attributes."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.erasure import Erasure

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*/erase/*.yaml"))
pytestmark = pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: f"{file.parts[-3]}-{file.stem}")


def method(recipe: Path) -> type[Eraser]:
    module, name = yaml.safe_load(recipe.read_text())["model"]["class_path"].rsplit(".", 1)
    return getattr(import_module(module), name)


def smoke(recipe: Path, tiny: Path, folder: Path, *more: str, **model: Any) -> Path:
    """Run a recipe for three steps on the tiny model and return its folder."""
    cls = method(recipe)
    accepted = {name for part in cls.__mro__ for name in inspect.signature(part.__init__).parameters}
    small = {"probe_size": 2, "batch_size": 1, "num_inference_steps": 4} | model
    main(
        [
            "fit",
            f"--config={recipe}",
            f"--model.diffusion.base={tiny}",
            *(f"--model.{name}={value}" for name, value in small.items() if name in accepted),
            "--trainer.limit_train_batches=3",
            "--trainer.val_check_interval=3",
            "--trainer.callbacks=[]",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.logger=false",
            f"--trainer.default_root_dir={folder}",
            *more,
        ]
    )
    return folder


def test_it_erases(recipe: Path, tiny: Path, tmp_path: Path) -> None:
    """The artefact fits, changes the prediction, and leaves everything outside the selection as it was."""
    erasure = Erasure.load(smoke(recipe, tiny, tmp_path))
    base, erased = Diffusion.from_pretrained(tiny), Diffusion.from_pretrained(tiny, erasure=tmp_path)
    original = base.state_dict()
    differs = {name for name, tensor in erased.state_dict().items() if not torch.equal(tensor, original[name])}
    assert differs
    assert differs <= set(erasure.tensors)
    x = base.draw_seeds([torch.Generator().manual_seed(0)])
    prompt = erasure.provenance.concept["prompts"][:1]
    with torch.no_grad():
        noise = [model.predict_noise(x, 500, model.encode_prompts(prompt)) for model in (base, erased)]
    assert not torch.equal(*noise)
    assert erasure.provenance.method == method(recipe).__name__
    assert erasure.provenance.steps == 3
    for file in ("README.md", "config.yaml"):
        assert (tmp_path / file).is_file()


def test_twice_is_the_same(recipe: Path, tiny: Path, tmp_path: Path) -> None:
    one, two = (load_file(smoke(recipe, tiny, tmp_path / n) / "erasure.safetensors") for n in "ab")
    assert set(one) == set(two)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_its_documentation_names_paper_and_equation(recipe: Path) -> None:
    cls = method(recipe)
    text = f"{inspect.getmodule(cls).__doc__} {cls.__doc__}"
    assert "arXiv" in text
    assert ":math:" in text or ".. math::" in text


def test_its_comment_says_what_it_is(recipe: Path) -> None:
    assert recipe.read_text().startswith("# ")
