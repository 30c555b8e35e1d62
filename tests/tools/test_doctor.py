"""The doctor says what a machine has and whether a recipe fits, by its exit code too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_memories.cli import main
from lit_memories.storage import hub as hub_module
from lit_memories.tools import doctor as module
from lit_memories.tools import machine as machine_module
from lit_memories.tools.doctor import examined, trained
from lit_memories.tools.machine import Device

ROOT = Path(__file__).parents[2]
ESD = f"--config={ROOT / 'recipes/pictograms/erase/esd.yaml'}"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answered(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code: Any = 0
    try:
        main(["doctor", *argv])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_machine_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = answered(capsys, "--json")
    found = json.loads(said)
    assert (code, found["recipe"]) == (0, None)
    device = found["machine"]["devices"][-1]
    assert device["kind"] == "cpu"
    assert 0 < device["free"] <= device["memory"]
    assert found["machine"]["torch"] == torch.__version__
    assert set(found["machine"]["extras"]) == {"nudenet", "tensorboard", "wandb"}
    assert found["machine"]["hub"].startswith("offline")
    code, said, _ = answered(capsys)
    assert code == 0
    assert "cpu: " in said
    assert "recipe:" not in said


def test_an_eraser_fits_or_does_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, _ = answered(capsys, "--config=pictograms/erase/esd", "--json")
    found = json.loads(said)["recipe"]
    assert (code, found["fits"], found["lacking"]) == (0, True, [])
    small = Device("cpu", "a toy", 10**9, found["needs"] - 1, ("32-true",))
    monkeypatch.setattr(module, "devices", lambda: [small])
    code, said, _ = answered(capsys, "--config=pictograms/erase/esd")
    assert code == 1
    assert "are free on a toy: try a smaller" in said
    assert "recipe: it does not fit this machine" in said
    monkeypatch.setattr(module, "devices", lambda: [Device("cpu", "a toy", 10**9, found["needs"], ("32-true",))])
    assert answered(capsys, "--config=pictograms/erase/esd")[0] == 0


def test_what_an_eraser_holds_grows_with_what_it_trains(tiny: Path) -> None:
    """Weights once, what is trained four times over, and activations by the row."""
    base = f"--model.diffusion.base={tiny}"
    needs = {
        (train, rows): examined([ESD, base, f"--model.train={train}", f"--model.batch_size={rows}"])["needs"]
        for train in ("attn2", "full")
        for rows in (1, 2)
    }
    assert needs["attn2", 1] < needs["attn2", 2] < needs["full", 2]
    assert needs["full", 2] > needs["full", 1]


def test_a_call_with_gradients_is_in_it(diffusion: Any) -> None:
    from lit_memories.concept import Concept
    from lit_memories.erasers import esd

    weights = sum(parameter.numel() * 4 for parameter in diffusion.parameters())
    eraser = esd.ESD(diffusion.to("meta"), Concept("x", "object", ["x"]), train="attn2")
    copies = 4 * sum(parameter.numel() * 4 for parameter in eraser.selected.values())
    assert trained(eraser) > weights + copies


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trainer.accelerator=cuda"], "no cuda is here for --trainer.accelerator cuda: choose cpu or auto"),
        (["--trainer.precision=16-mixed"], "precision 16-mixed needs a GPU"),
        (["--trainer.logger=lightning.pytorch.loggers.WandbLogger"], "pip install 'lit-memories[wandb]'"),
        (["--model.diffusion.base=nobody/nothing"], "HF_HUB_OFFLINE keeps this process from the hub"),
        (["--model.diffusion.base=checkpoints/nothing"], "checkpoints/nothing is not here"),
    ],
)
def test_what_is_lacking_is_said(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "devices", lambda: [Device("cpu", "a toy", 10**12, 10**12, ("32-true",))])
    code, out, err = answered(capsys, "--config=pictograms/erase/esd", *options)
    assert code == 1
    assert said in out
    assert err == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config=pictograms/erase/esdd"], "the nearest recipes are pictograms/erase/esd"),
        (["--config=pictograms/erase/esd", "--model.steps=nan"], "steps"),
        (["--config=pictograms/erase/esd", "--modle.steps=1"], "did you mean --model?"),
        (["--trainer.devices=1"], "it needs a recipe"),
        (["--config=pictograms/pretrain/classifier"], "is not for predict"),
    ],
)
def test_bad_input_is_one_line_and_two(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answered(capsys, *options)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_a_container_bounds_the_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("300\n")
    for most, left in (("1000\n", 700), ("100\n", 0), ("max\n", 1 << 62)):
        (tmp_path / "memory.max").write_text(most)
        assert machine_module._allowed(tmp_path) == left
    assert machine_module._allowed(tmp_path / "nowhere") == 1 << 62


def test_the_hub_is_there_or_why_not(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_module.reach() == "reachable"
    hub.stop()
    assert hub_module.reach().startswith("cannot be reached: ")
