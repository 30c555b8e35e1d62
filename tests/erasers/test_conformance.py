"""What every erasing recipe keeps, with the tiny model in the shipped one's place; exceptions are class attributes."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer
from safetensors.torch import load_file
from smoke import ROOT, STEPS, is_closed_form, method, moved, small, smoke
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import ErasureData
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.erasure import Erasure

ALL = sorted((ROOT / "recipes").glob("*/erase/*.yaml"))
RECIPES = [recipe for recipe in ALL if recipe.parts[-3] == "pictograms"]
TINY = {"scope": "attn1"}
"""Options that the tiny model needs: it has not the blocks that are trimmed by default."""
CLOSED = [recipe for recipe in RECIPES if is_closed_form(recipe)]
GRADIENT = [recipe for recipe in RECIPES if recipe not in CLOSED]


LONG = {
    "advunlearn", "age", "ant", "eap", "erasediff", "eraseflow", "mace", "receler", "salun", "scissorhands", "spm",
    "stereo",
}  # fmt: skip
"""Methods that take longest, of which the quick suite has their own tests."""


def label(recipe: Path) -> str:
    return f"{recipe.parts[-3]}-{recipe.stem}"


def marked(recipes: list[Path]) -> list[Any]:
    return [pytest.param(r, marks=pytest.mark.slow if r.stem in LONG else ()) for r in recipes]


@pytest.fixture(scope="module", params=marked(RECIPES), ids=label)
def recipe(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def base(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with prompts that say more than half precision rounds off, which methods train on."""
    diffusion, folder = Diffusion.from_pretrained(tiny), tmp_path_factory.mktemp("loud") / "pipeline"
    for name, parameter in diffusion.network.named_parameters():
        if name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
            parameter.data *= 3
    diffusion.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(recipe: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run in full precision, for looking at."""
    return smoke(recipe, base, tmp_path_factory.mktemp(recipe.stem) / "run", **TINY)


def test_it_erases(recipe: Path, base: Path, run: Path) -> None:
    """The artefact fits, changes the prediction, and leaves everything outside the selection as it was."""
    erasure = Erasure.load(run)
    vanilla = Diffusion.from_pretrained(base)
    original = vanilla.state_dict()
    erased = Diffusion.from_pretrained(base, erasure=run, gated=not erasure.mergeable)
    found = erased.state_dict()
    differs = {name for name, tensor in original.items() if not torch.equal(tensor, found[name])}
    weights = {f"{name.rsplit('.', 1)[0]}.weight" for name in erasure.tensors}
    assert bool(differs) == erasure.mergeable, "what no weights can hold acts from beside"
    assert differs <= (weights if erasure.is_adapter else set(erasure.tensors))
    prompts = [erasure.provenance.concept["phrase"]]
    noise = [predicted(model, prompts) for model in (vanilla, erased)]
    assert not torch.equal(*noise)
    if erasure.is_adapter and (erasure.provenance.gate is not None or not erasure.mergeable):
        gated = Diffusion.from_pretrained(base, erasure=run)
        state = gated.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in original.items()), "it acts from beside"
        torch.testing.assert_close(predicted(gated, prompts), noise[1])
    assert erasure.provenance.method == method(recipe).__name__
    assert erasure.provenance.steps == (1 if is_closed_form(recipe) else STEPS)
    for file in ("README.md", "config.yaml"):
        assert (run / file).is_file()


@torch.no_grad()
def predicted(model: Diffusion, prompts: list[str]) -> Tensor:
    x = model.draw_seeds([torch.Generator().manual_seed(0)])
    return model.predict_noise(x, 500, model.encode_prompts(prompts))


def artefact(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("erasure.safetensors", "erasure.json")]


@pytest.mark.parametrize("recipe", CLOSED, ids=label, scope="module", indirect=True)
def test_twice_is_the_same(recipe: Path, base: Path, run: Path, tmp_path: Path) -> None:
    """Of the others, the run that is resumed below is the second; images for it are drawn anew."""
    assert artefact(smoke(recipe, base, tmp_path / "run", **TINY)) == artefact(run)


KEEP = (
    "--trainer.enable_checkpointing=true",
    "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, "
    "init_args: {save_last: true, every_n_train_steps: 2, save_top_k: 0, dirpath: %s}}]",
)


@pytest.mark.parametrize("recipe", marked(GRADIENT), ids=label, scope="module", indirect=True)
def test_resumed_is_uninterrupted(recipe: Path, base: Path, run: Path, tmp_path: Path) -> None:
    keep = [option.replace("%s", str(tmp_path / "kept")) for option in KEEP]
    smoke(recipe, base, tmp_path / "half", *keep, "--trainer.max_steps=2", **TINY)
    assert artefact(tmp_path / "half") != artefact(run), "the control: it stopped in the middle"
    smoke(recipe, base, tmp_path / "half", *keep, f"--ckpt_path={tmp_path / 'kept' / 'last.ckpt'}", **TINY)
    assert artefact(tmp_path / "half") == artefact(run)


def test_half_precision_computes_and_float32_stores(recipe: Path, base: Path, run: Path, tmp_path: Path) -> None:
    """What is trained in bf16-mixed goes where it goes in full precision, roughly."""
    smoke(recipe, base, tmp_path / "run", "--trainer.precision=bf16-mixed", **TINY)
    tensors = load_file(tmp_path / "run" / "erasure.safetensors").values()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors)
    full, half = moved(run, base), moved(tmp_path / "run", base)
    assert torch.cosine_similarity(full, half, dim=0) > 0.8
    if not is_closed_form(recipe):
        assert not torch.equal(full, half), "the control: it did compute in half precision"


def built(recipe: Path, base: Path) -> Eraser:
    """A recipe's method, small, on the tiny model."""
    settings = yaml.safe_load(recipe.read_text())["model"]["init_args"]
    concept = Concept(**yaml.safe_load((recipe.parent / settings.pop("concept")).read_text()))
    settings = settings | small(recipe, **TINY) | {"diffusion": Diffusion.from_pretrained(base), "concept": concept}
    return method(recipe)(**settings)


def test_the_teacher_is_the_original_in_half_precision_too(recipe: Path, base: Path) -> None:
    """Autocast keeps rounded copies of weights: without care the student goes on with the teacher's."""
    eraser, original = built(recipe, base), Diffusion.from_pretrained(base)
    for parameter in eraser.selected.values():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    prompts = [eraser.concept.phrase]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student, truth = predicted(eraser.diffusion, prompts), predicted(original, prompts)
        with eraser.teacher():
            assert torch.equal(predicted(eraser.diffusion, prompts), truth)
        assert torch.equal(predicted(eraser.diffusion, prompts), student)
    assert not torch.equal(student, truth), "the control"


def test_the_probe_starts_at_one_in_half_precision_too(recipe: Path, base: Path, tmp_path: Path) -> None:
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", precision="bf16-mixed", default_root_dir=tmp_path, **options)
    (ratios,) = trainer.validate(built(recipe, base), verbose=False)
    assert ratios == {"val/erase_ratio": 1, "val/retain_drift": 0}


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(Trainer, "world_size", 2)
    monkeypatch.setattr(trainer, "datamodule", ErasureData(), raising=False)
    return trainer


def test_methods_for_one_process_refuse_two(recipe: Path, base: Path, two_devices: Trainer) -> None:
    """Before anything is loaded or drawn; the others do not."""
    eraser = built(recipe, base)
    eraser.trainer = two_devices
    if method(recipe).one_process is None:
        eraser.setup("fit")
        return
    with pytest.raises(
        ValueError, match=rf"{method(recipe).__name__} runs on one device: .*; pass --trainer.devices 1"
    ):
        eraser.setup("fit")


def test_some_methods_run_on_one_device_only() -> None:
    assert {method(file).__name__ for file in RECIPES if method(file).one_process} >= {"EraseDiff", "Scissorhands"}


@pytest.mark.parametrize("file", ALL, ids=label)
def test_its_documentation_names_paper_and_equation(file: Path) -> None:
    cls = method(file)
    text = f"{inspect.getmodule(cls).__doc__} {cls.__doc__}"
    assert "arXiv" in text
    assert ":math:" in text or ".. math::" in text


@pytest.mark.parametrize("file", ALL, ids=label)
def test_its_comment_says_what_it_is(file: Path) -> None:
    assert file.read_text().startswith("# ")
