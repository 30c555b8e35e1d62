"""What an attacker would send, harmless: payloads that leave a marker file if they ever run."""

import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_memories.cli import main
from lit_memories.data.sources import save_images
from lit_memories.diffusion import Diffusion
from lit_memories.worlds import pictograms

sys.path.append(str(Path(__file__).parents[1] / "report"))
from synthetic_runs import Model, write


class Payload:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that a payload makes."""
    return tmp_path / "executed"


def plain(file: Path, content: Any) -> None:
    file.write_bytes(pickle.dumps(content))


def archive(file: Path, content: Any) -> None:
    torch.save(content, file)


def old_torch(file: Path, content: Any) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def nested(file: Path, content: Any) -> None:
    torch.save({"state_dict": {"deep": [{"deeper": content}]}, "epoch": 1}, file)


def compressed(file: Path, content: Any) -> None:
    """A torch archive packed again, as torch never does."""
    torch.save(content, file)
    with zipfile.ZipFile(file) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)


DISGUISES = {"plain": plain, "archive": archive, "old": old_torch, "nested": nested, "compressed": compressed}
Disguise = Callable[[Path, Any], None]


@pytest.fixture(params=DISGUISES.values(), ids=DISGUISES.keys())
def pickled(request: pytest.FixtureRequest, marker: Path) -> Callable[[Path], Path]:
    """Writes a pickle with a payload beside a tensor, in one of several disguises; proven to be armed."""

    def write(file: Path) -> Path:
        request.param(file, {"conv_in.bias": torch.ones(8), "config": Payload(marker)})
        return file

    return write


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with an error of one line, without a traceback; gives the line."""

    def run(*argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        said = capsys.readouterr().err
        line = stop.value.code if isinstance(stop.value.code, str) else said.strip().splitlines()[-1]
        assert stop.value.code not in (0, None)
        assert "\n" not in line
        assert "Traceback" not in said
        return line

    return run


RECIPES = Path(__file__).parents[2] / "recipes/pictograms"
Commands = dict[str, Callable[[Path], list[str]]]
SETS = {"concept": "umbrella", "reference": "star"}
QUIET = "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"


@pytest.fixture(scope="module")
def commands(tiny: Path, tiny_classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The command lines of small runs, by what they are of; each writes to a folder, and to nothing else."""
    made = tmp_path_factory.mktemp("made")
    for name, concept in SETS.items():
        save_images(pictograms.build("audits", 200, keep={"object": concept}, limit=1), made / name)
    (made / "list.csv").write_text("case_number,prompt,evaluation_seed\n0,a heart,5\n")
    name = "unet.conv_out.bias"
    save_file({name: Diffusion(str(tiny)).state_dict()[name] + torch.ones(4)}, made / "esd.safetensors")
    runs = [str(write(made / "runs", Model(role, role), count=8)) for role in ("vanilla", "control")]
    fit = [
        "fit", f"--config={RECIPES / 'erase/esd.yaml'}", f"--model.diffusion.base={tiny}", "--model.steps=1",
        "--model.num_inference_steps=2", "--model.probe_size=1", "--trainer.enable_checkpointing=true",
        "--trainer.callbacks=[{class_path: lit_memories.erasers.cost.Cost}]", *QUIET,
    ]  # fmt: skip
    main([*fit, f"--trainer.default_root_dir={made / 'erasure'}"])
    predict = [
        "predict", f"--config={RECIPES / 'audit/umbrella.yaml'}", f"--model.diffusion.base={tiny}",
        f"--model.judge.classifier={tiny_classifier}", "--model.num_inference_steps=2", "--model.keep_images=1",
        *(f"--data.{name}_images={{class_path: ImageSource, init_args: {{path: {made / name}}}}}" for name in SETS),
        "--data.known=1", "--data.prompted=1",
        "--model.probes=[{class_path: lit_memories.probes.seed.Seed}]", "--trainer.callbacks=[]", *QUIET,
    ]  # fmt: skip
    pretrain = [
        "fit", f"--config={RECIPES / 'pretrain/classifier.yaml'}", "--trainer.max_steps=1", "--trainer.max_epochs=1",
        "--data.train_size=4", "--data.batch_size=4", "--data.validation_size=4", "--trainer.callbacks=[]", *QUIET,
    ]  # fmt: skip
    generate = ["generate", str(made / "list.csv"), f"--base={tiny}", "--num_inference_steps=2"]
    measure = ["measure", str(tiny), f"--classifier={tiny_classifier}", "--prompts=4", "--images=1"]
    return {
        "fit": lambda out: [*fit, f"--trainer.default_root_dir={out}"],
        "pretrain": lambda out: [*pretrain, f"--trainer.default_root_dir={out}", f"--model.save_to={out}"],
        "predict": lambda out: [*predict, f"--trainer.default_root_dir={out}"],
        "report": lambda out: ["report", *runs, f"--out={out}", "--draws=20"],
        "convert": lambda out: ["convert", str(made / "esd.safetensors"), str(tiny), str(out)],
        "export": lambda out: ["export", str(tiny), str(made / "erasure"), str(out)],
        "generate": lambda out: [*generate, f"--out={out}"],
        "draw": lambda out: ["draw", str(out), "--size=2"],
        "draw-parquet": lambda out: ["draw", str(out / "rows.parquet"), "--size=2"],
        "measure": lambda out: [*measure, "--num_inference_steps=2", f"--out={out / 'figures.json'}"],
    }
