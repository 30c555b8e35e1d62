"""No command writes through a link or to a pipe, wherever among its files that stands."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_memories.cli import main
from lit_memories.data import pictograms
from lit_memories.data.sources import save_images
from lit_memories.diffusion import Diffusion

sys.path.append(str(Path(__file__).parents[1] / "report"))
from synthetic_runs import Model, write

RECIPES = Path(__file__).parents[2] / "recipes/pictograms"
Refused = Callable[..., str]
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


WRITTEN = {
    "fit": {"erasure.safetensors", "erasure.json", "README.md", "cost.json", "config.yaml", "metrics.csv"},
    "pretrain": {"config.json", "config.yaml"},
    "predict": {"run.json", "records.jsonl", "seeds.safetensors", "cost.json", "config.yaml"},
    "report": {"report.html", "results.json", "main.csv", "main.tex", "forgetting.png"},
    "convert": {"erasure.safetensors", "erasure.json", "README.md"},
    "export": {"model_index.json", "diffusion_pytorch_model.safetensors"},
    "generate": {"0_0.png", "metadata.jsonl", "settings.json"},
    "draw": {"000000.png", "metadata.jsonl"},
    "draw-parquet": {"rows.parquet"},
    "measure": {"figures.json"},
}
"""Some of the files that each command writes."""


@pytest.mark.parametrize("command", WRITTEN)
def test_no_command_writes_through_a_link(command: str, commands: Commands, refused: Refused, tmp_path: Path) -> None:
    arguments, outside = commands[command], tmp_path / "outside"
    main(arguments(tmp_path / "first"))
    paths = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*"))
    files = [path for path in paths if (tmp_path / "first" / path).is_file()]
    assert {file.name for file in files} >= WRITTEN[command]
    assert {(tmp_path / "first" / file).stat().st_mode & 0o777 for file in files} == {0o666 & ~_umask()}
    outside.mkdir()
    (outside / "precious").write_text("mine")
    for number, path in enumerate(paths):
        out = tmp_path / str(number)
        (out / path).parent.mkdir(parents=True)
        (out / path).symlink_to(outside / "precious" if path in files else outside)
        assert str(out / path) in refused(*arguments(out))
        assert (out / path).is_symlink()
    out = tmp_path / "pipe"
    (out / files[-1]).parent.mkdir(parents=True)
    os.mkfifo(out / files[-1])
    assert f"{out / files[-1]} is neither a file nor a folder" in refused(*arguments(out))
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "mine"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_status_and_probes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path, Model("vanilla", "vanilla"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    main(["status", str(run)])
    main(["probes"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
