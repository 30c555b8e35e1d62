"""Small audits of both kinds, and ways to run them in many processes, some of which die."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pytest
import torch
from diffusers import StableDiffusionPipeline
from few_levels import FEW_LEVELS
from forked import free_port

from lit_memories.data.sources import save_images
from lit_memories.worlds import pictograms

ROOT = Path(__file__).parents[2]
Command = Callable[..., list[str]]
Together = Callable[[Sequence[list[str]], int], list[str]]
ONE_AFTER_ANOTHER = """
import json, os, sys, traceback
import torch
import lit_memories.audit.concept, lit_memories.audit.image, lit_memories.worlds.classifier, lit_memories.recipes
from lit_memories.cli import main
torch.set_num_threads(1)
commands, ranks = json.loads(sys.argv[1]), {}
for rank in range(int(os.environ["WORLD_SIZE"])):
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = os.open(f"{sys.argv[2]}/{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            for argv in commands:
                main(argv)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    ranks[child] = rank
for child in ranks:
    assert os.waitpid(child, 0)[1] == 0, f"process {ranks[child]}"
"""
"""Imports everything once, then forks the processes of a group, each with the ranks that torchrun would give it."""
MORTAL = """
import os, signal, sys, time
import torch
from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main
torch.set_num_threads(1)
rank, batches, death = os.environ["DIES"].split()
write, written = RecordWriter.write, []
def mortal(self, *batch):
    write(self, *batch)
    written.append(batch)
    if self.rank != int(rank):
        time.sleep(0.5)  # still at work when the other dies
    elif len(written) == int(batches):
        if death == "raise":
            raise RuntimeError("something of its own")
        os.kill(os.getpid(), getattr(signal, death))
RecordWriter.write = mortal
main(sys.argv[1:])
"""


@pytest.fixture(scope="session")
def still(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with a prediction so small that every inversion converges."""
    folder = tmp_path_factory.mktemp("still")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(0.05)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with image folders ``concept`` (4 umbrellas) and ``reference`` (4 other things)."""
    folder = tmp_path_factory.mktemp("pictures")
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("devices", 200, keep=umbrella, limit=4), folder / "concept")
    save_images(pictograms.build("devices", 20, withhold=[umbrella], limit=4), folder / "reference")
    return folder


def source(folder: Path, limit: int) -> str:
    return f"{{class_path: ImageSource, init_args: {{path: {folder}, limit: {limit}}}}}"


@pytest.fixture(scope="session")
def concept_audit(still: Path, pictures: Path) -> Command:
    """The command line of a concept-level audit of 3 + 2 images, under two more prompts each, 3 seeds: 18 records."""

    def build(folder: Path, *more: str) -> list[str]:
        return [
            "predict",
            f"--config={ROOT / 'recipes/pictograms/audit/umbrella.yaml'}",
            f"--data.concept_images={source(pictures / 'concept', 3)}",
            f"--data.reference_images={source(pictures / 'reference', 2)}",
            FEW_LEVELS,
            "--data.conditionings=[empty, own@2]",
            "--data.known=1",
            "--data.prompted=1",
            "--data.batch_size=2",
            *_common(still, folder),
            *more,
        ]

    return build


@pytest.fixture(scope="session")
def image_audit(still: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command line of an image-level audit of 4 queries by way of one support each: 12 records."""
    cache = tmp_path_factory.mktemp("cache")

    def build(folder: Path, *more: str) -> list[str]:
        return [
            "predict",
            f"--config={ROOT / 'recipes/pictograms/audit/image.yaml'}",
            f"--data.query_images={source(pictures / 'concept', 4)}",
            f"--data.support_images={source(pictures / 'reference', 4)}",
            "--data.queries=4",
            "--data.supports=1",
            "--model.decoder.max_passes=4",
            f"--model.cache={cache}",
            *_common(still, folder),
            *more,
        ]

    return build


def _common(model: Path, folder: Path) -> tuple[str, ...]:
    return (
        f"--model.diffusion.base={model}",
        "--model.judge=null",
        "--model.name=small",
        "--model.num_inference_steps=3",
        "--model.keep_images=1",
        "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={folder}",
    )


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a process that runs an audit."""
    cache = str(datasets.config.HF_DATASETS_CACHE)
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": cache}


@pytest.fixture(scope="session")
def together(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Runs commands one after another in several processes of one group; what each of these says."""

    def run(commands: Sequence[list[str]], processes: int) -> list[str]:
        logs = tmp_path_factory.mktemp("logs")
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        # Lightning takes the cluster's word for ranks if these are set, as torchrun sets them.
        group |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
        options = [f"--trainer.devices={processes}", "--trainer.strategy=ddp"]
        many = json.dumps([[*command, *options] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_ANOTHER, many, str(logs)],
            cwd=ROOT, env=environment | group, timeout=500, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = [(logs / str(rank)).read_text() for rank in range(processes)]
        assert done.returncode == 0, f"{done.stderr[-500:]}\n" + "\n".join(text[-2000:] for text in said)
        return said

    return run


@pytest.fixture(scope="session")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script like ``lit-memories`` of which one process dies.

    ``DIES="1 2 SIGKILL"`` in the environment: process 1, after its second batch, by a signal or a ``raise``.
    """
    script = tmp_path_factory.mktemp("mortal") / "mortal.py"
    script.write_text(MORTAL)
    return script
