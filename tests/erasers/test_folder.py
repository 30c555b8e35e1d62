"""An erasure's folder: the same one may be made again in it, and nothing else that is there is replaced."""

import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from small_runs import UMBRELLA, trainer

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasers import esd
from lit_memories.erasers.folder import check_folder
from lit_memories.erasure import Erasure, Provenance
from lit_memories.lightning_files import CONFIG_HEAD
from lit_memories.records import LOCK
from lit_memories.runs import RunInfo

ESD = Provenance("ESD", {"name": "umbrella"}, "base", None, "f1", {"lr": 0.1, "train": ["a"]}, 0, 0, {"torch": "2"})
RECIPES = Path(__file__).parents[2] / "recipes/pictograms"
RECIPE = RECIPES / "erase/esd.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a whole erasure."""
    Erasure({"unet.x": torch.ones(2)}, replace(ESD, steps=90)).save(tmp_path / "erasure")
    return tmp_path / "erasure"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "UCE"}, {"concept": {"name": "star"}}, {"base_fingerprint": "f2"}, {"seed": 1}, {"gate": ["a"]},
        {"settings": {"lr": 0.2, "train": ["a"]}},
    ],
)  # fmt: skip
def test_another_erasure_is_not_replaced(change: dict[str, Any], folder: Path) -> None:
    made = replace(ESD, **change)
    with pytest.raises(ValueError, match="holds another erasure, ESD of umbrella and this is") as stop:
        check_folder(folder, made)
    line = str(stop.value)
    assert next(iter(change)) in line
    assert "choose another folder with --trainer.default_root_dir, or remove it" in line
    assert Erasure.load(folder).provenance.method == "ESD"


def test_the_same_may_be_made_again(folder: Path) -> None:
    """However its base is called, whatever made it, and whether or not it came to its end."""
    check_folder(folder, replace(ESD, base="/elsewhere/base", versions={}, settings={"lr": 0.1, "train": ("a",)}))
    (folder / "erasure.json").unlink()
    check_folder(folder, replace(ESD, method="UCE"))
    check_folder(folder.parent / "new", ESD)


def test_what_is_no_erasure_is_not_replaced_either(folder: Path, tmp_path: Path) -> None:
    (folder / "erasure.json").write_text("{")
    with pytest.raises(ValueError, match=r"erasure\.json is damaged .*remove it, or choose another folder"):
        check_folder(folder, ESD)
    RunInfo("vanilla", "vanilla", "umbrella", {}, "h", {"fingerprint": "f"}, 4, {}, {}).save(tmp_path / "run")
    with pytest.raises(ValueError, match="holds an audit: choose another folder"):
        check_folder(tmp_path / "run", ESD)


def test_what_a_killed_process_left_is_cleared(folder: Path) -> None:
    (folder / "erasure.0a1b2c3d.part").mkdir()
    (folder / "erasure.0a1b2c3d.part" / ".tmpAbCdEf").write_text("half")
    check_folder(folder, ESD)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "erasure.json", "erasure.safetensors"]


def test_a_recipe_is_refused_before_data_are_made(folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "fit", begun)
    command = ["fit", f"--config={RECIPE}", f"--model.diffusion.base={tiny}", "--trainer.callbacks=[]"]
    with pytest.raises(SystemExit, match="holds another erasure, ESD of umbrella"):
        main([*command, f"--trainer.default_root_dir={folder}"])
    with pytest.raises(AssertionError, match="training began"):
        main([*command, f"--trainer.default_root_dir={folder.parent / 'new'}"])


def test_a_configuration_of_somebody_elses_is_not_replaced(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a log, which has a folder of its own, it would stand in its place; one of an earlier run is replaced."""

    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "fit", begun)
    command = ["fit", f"--config={RECIPE}", f"--model.diffusion.base={tiny}", "--trainer.callbacks=[]"]
    command += ["--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}"]
    (tmp_path / "config.yaml").write_text("mine: true\n")
    with pytest.raises(SystemExit, match=r"config\.yaml is not of this program, which would replace it: move it"):
        main(command)
    (tmp_path / "config.yaml").write_text(f"{CONFIG_HEAD}\nmodel: null\n")
    with pytest.raises(AssertionError, match="training began"):
        main(command)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process writes to."""
    (tmp_path / "held").mkdir()
    with (tmp_path / "held" / LOCK).open("w+") as file:
        file.write("process 1 on elsewhere\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield tmp_path / "held"


@pytest.mark.parametrize("recipe", ["erase/esd", "pretrain/classifier"])
def test_a_second_training_in_a_folder_ends_at_its_start(
    recipe: str, held: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "fit", begun)
    model = f"--model.save_to={held}/weights" if "pretrain" in recipe else f"--model.diffusion.base={tiny}"
    command = ["fit", f"--config={RECIPES / recipe}.yaml", model, "--trainer.callbacks=[]"]
    with pytest.raises(SystemExit, match="held is being written by process 1 on elsewhere: wait for it or stop it"):
        main([*command, f"--trainer.default_root_dir={held}"])
    assert [path.name for path in held.iterdir()] == [LOCK]


def test_two_trainings_that_start_at_once_do_not_write_both(held: Path, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="is being written by process 1 on elsewhere"):
        trainer(held, 1).fit(esd.ESD(diffusion, UMBRELLA, steps=1))
    assert [path.name for path in held.iterdir()] == [LOCK]


class Locked(Callback):
    """Sees that a folder is locked while it is trained in, and may end the training."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert (Path(trainer.default_root_dir) / LOCK).read_text().startswith("process ")
        if self.fails:
            raise RuntimeError("failed")


def test_the_lock_is_free_after_a_training_however_it_ends(diffusion: Diffusion, tmp_path: Path) -> None:
    method = esd.ESD(diffusion, UMBRELLA, steps=1, num_inference_steps=2, probe_size=1)
    with pytest.raises(RuntimeError, match="failed"):
        trainer(tmp_path / "a", 1, Locked(True)).fit(method)
    assert not (tmp_path / "a" / LOCK).exists()
    trainer(tmp_path / "a", 1, Locked(False)).fit(method)
    assert Erasure.load(tmp_path / "a").provenance.method == "ESD"
    assert not (tmp_path / "a" / LOCK).exists()
