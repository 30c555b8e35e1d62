"""An erasure method is one file and one recipe: the contributors' example as it is printed, and one with images."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from smoke import QUIET, ROOT

import lit_memories.erasers
from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure

SECTION = re.search(r"## How to add an erasure method\n(.*?)\n## ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
BLOCKS = re.findall(r"```(?:python|yaml)\n(# (\S+\.(?:py|yaml))\b.*?)```", SECTION[1], re.DOTALL)
EXAMPLE = {name: text for text, name in BLOCKS}

WITH_IMAGES = {
    "lit_memories/erasers/bar.py": '''
from torch import Tensor

from lit_memories.data.erasure import Batch
from lit_memories.erasers.base import Eraser
from lit_memories.ops.targets import match


class Bar(Eraser):
    """Learns its images of the concept under the anchor's name."""

    forget_images = "concept"

    def erase_loss(self, batch: Batch) -> Tensor:
        latents, captions = self.rows(batch["forget_set"], self.batch_size)
        noisy, timesteps, noise = self.noised(latents, self.generator())
        return match(self.predict(noisy, timesteps, [self.concept.anchored(c) for c in captions]), noise)
''',
    "recipes/pictograms/erase/bar.yaml": """
model:
  class_path: lit_memories.erasers.bar.Bar
  init_args: {diffusion: {base: checkpoints/pictograms}, concept: ../concepts/umbrella.yaml, steps: 90}
data: ../images.yaml
trainer: ../trainer.yaml
""",
}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place that looks like the repository to what is written there: the package finds it, and so do recipes."""
    recipes = ROOT / "recipes/pictograms", tmp_path / "recipes/pictograms"
    shutil.copytree(recipes[0] / "concepts", recipes[1] / "concepts")
    for name in ("trainer.yaml", "images.yaml"):
        shutil.copy(recipes[0] / name, recipes[1] / name)
    monkeypatch.setattr(
        lit_memories.erasers, "__path__", [*lit_memories.erasers.__path__, str(tmp_path / "lit_memories/erasers")]
    )
    yield tmp_path
    for name in ("foo", "bar"):
        sys.modules.pop(f"lit_memories.erasers.{name}", None)
        vars(lit_memories.erasers).pop(name, None)


def added(files: dict[str, str], clone: Path, tiny: Path, *more: str) -> Path:
    """The folder of a run of a method that these files, and nothing else, add."""
    for name, text in files.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    recipe = next(clone / name for name in files if name.endswith(".yaml"))
    small = ["--model.probe_size=2", "--model.batch_size=2", "--model.steps=3"]
    folder = f"--trainer.default_root_dir={clone / 'run'}"
    main(["fit", f"--config={recipe}", f"--model.diffusion.base={tiny}", folder, *small, *QUIET, *more])
    return clone / "run"


def check(folder: Path, tiny: Path, name: str) -> Erasure:
    """The artefact is like any other."""
    erasure, base = Erasure.load(folder), Diffusion.from_pretrained(tiny)
    assert erasure.provenance.method == name
    assert erasure.provenance.steps == 3
    assert erasure.provenance.settings["batch_size"] == 2
    assert erasure.provenance.settings["train"] == "attn2"
    assert erasure.provenance.concept["name"] == "umbrella"
    state, erased = base.state_dict(), Diffusion.from_pretrained(tiny, erasure=folder).state_dict()
    differs = {key for key, tensor in erased.items() if not torch.equal(tensor, state[key])}
    assert differs == {key for key in state if ".attn2." in key} == set(erasure.tensors)
    assert (folder / "config.yaml").is_file()
    assert (folder / "README.md").read_text().startswith("---\n")
    return erasure


def test_the_contributors_example_is_one_file_and_one_recipe() -> None:
    assert sorted(EXAMPLE) == ["lit_memories/erasers/foo.py", "recipes/pictograms/erase/foo.yaml"]
    assert not any((ROOT / name).exists() for name in EXAMPLE), "the example's names are taken"


def test_the_contributors_example_erases(clone: Path, tiny: Path) -> None:
    settings = check(added(EXAMPLE, clone, tiny, "--model.num_inference_steps=4"), tiny, "Foo").provenance.settings
    assert settings["alpha"] == 2.0
    assert settings["num_inference_steps"] == 4
    assert settings["eta"] == 1.0


def test_a_method_with_images_is_one_file_and_one_recipe(clone: Path, tiny: Path) -> None:
    images = ("--data.count=3", "--data.num_inference_steps=2", f"--data.cache={clone / 'cache'}")
    settings = check(added(WITH_IMAGES, clone, tiny, *images), tiny, "Bar").provenance.settings
    assert settings["steps"] == 3
    assert len(list((clone / "cache").glob("*.safetensors"))) == 1


def test_an_option_that_the_new_method_has_not_is_named(
    clone: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        added(EXAMPLE, clone, tiny, "--model.alhpa=1.0")
    assert stop.value.code == 2
    assert "alhpa" in capsys.readouterr().err
