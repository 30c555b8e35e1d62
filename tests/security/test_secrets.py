"""Tokens of the hub stay where they are: in no file, no log, no error."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "SecretSecretSecretSecretSecret0123"  # nobody's
PICTOGRAMS = ROOT / "recipes/pictograms"
Refused = Callable[..., str]

SCRIPT = """
import sys
from lit_memories.cli import main
tiny, classifier, folder = sys.argv[1:]
quiet = ["--trainer.callbacks=[]", "--trainer.enable_model_summary=false"]
audit = ["predict", "--config=recipes/pictograms/audit/umbrella.yaml", f"--model.diffusion.base={tiny}",
    f"--model.judge.classifier={classifier}", "--model.num_inference_steps=2", "--data.known=1", "--data.prompted=1",
    "--data.concept_images.limit=1", "--data.reference_images.limit=1", "--data.concept_images.size=100", *quiet]
try:
    main([*audit, "--print_config"])
except SystemExit:
    pass
main(["fit", "--config=recipes/pictograms/erase/esd.yaml", f"--model.diffusion.base={tiny}", "--model.steps=1",
    "--model.num_inference_steps=2",
    f"--trainer.default_root_dir={folder}/erasure", *quiet])
main([*audit, f"--model.diffusion.erasure={folder}/erasure", f"--trainer.default_root_dir={folder}/run"])
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_a_token_in_the_environment_is_written_nowhere(tiny: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    """An erasure, its audit, their configurations and all that is said meanwhile, with every log turned on."""
    environment = os.environ | {
        "HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN, "WANDB_API_KEY": TOKEN, "HF_DEBUG": "1",
        "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug", "DIFFUSERS_VERBOSITY": "debug",
        "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, str(tiny), str(tiny_classifier), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    there = {file.name for file in files}
    assert {"erasure.safetensors", "erasure.json", "README.md", "run.json", "records.jsonl"} <= there
    assert "class_path" in done.stdout, "the configuration was printed"
    for said in (done.stdout, done.stderr):
        assert TOKEN not in said
    for file in files:
        assert TOKEN.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_recipe_has_no_place_for_a_token(command: str, refused: Refused) -> None:
    recipe = PICTOGRAMS / ("erase/esd.yaml" if command == "fit" else "audit/umbrella.yaml")
    for option in ("token", "use_auth_token"):
        message = refused(command, f"--config={recipe}", f"--model.diffusion.{option}={TOKEN}")
        assert option in message
        assert TOKEN not in message


@pytest.mark.parametrize("base", ["https://user:{}@huggingface.co/some/model", "https://host/model?token={}"])
def test_an_address_with_a_token_is_refused_and_not_repeated(base: str, tmp_path: Path, refused: Refused) -> None:
    message = refused(
        "predict", f"--config={PICTOGRAMS / 'audit/umbrella.yaml'}", f"--model.diffusion.base={base.format(TOKEN)}",
        "--trainer.callbacks=[]", f"--trainer.default_root_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert TOKEN not in message
    assert not (tmp_path / "run").exists()
