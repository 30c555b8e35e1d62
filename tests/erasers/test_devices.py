"""Two processes train one model: the ordinary methods stay in step, the others refuse."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SMALL = {"probe_size": 2, "num_inference_steps": 4}
METHODS = {
    "esd.ESD": {"steps": 2, "lr": 1e-3, **SMALL},
    "spm.SPM": {"steps": 2, "lr": 1e-2, "anchors": 2, **SMALL},
    "advunlearn.AdvUnlearn": {
        "steps": 2, "lr": 1e-3, "pool_size": 4, "retain_batch_size": 2, "warmup_steps": 1, "attack_steps": 2, **SMALL
    },
    "ac.AC": {"steps": 2, "lr": 1e-3, "probe_size": 2},
    "fmn.FMN": {"steps": 2, "lr": 1e-3, "probe_size": 2},
    "salun.SalUn": {"steps": 2, "lr": 1e-3, "train": "full", "probe_size": 2},
}  # fmt: skip
SCRIPT = """
import sys
from importlib import import_module
from pathlib import Path
import torch
from lightning import Trainer
from safetensors.torch import save_file
from lit_memories.concept import Concept
from lit_memories.data.erasure import ErasureData
from lit_memories.diffusion import Diffusion
from lit_memories.recipes import quiet

quiet()
torch.set_num_threads(1)
methods, tiny, folder = eval(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
concept = Concept("umbrella", "object", ["umbrella", "a red umbrella"], ["a blue star", "a red gear"], anchor="star")
for path, options in methods.items():
    module, name = path.split(".")
    cls = getattr(import_module(f"lit_memories.erasers.{module}"), name)
    method = cls(Diffusion.from_pretrained(tiny), concept, **options)
    needs = method.forget_images is not None
    data = ErasureData(count=4, num_inference_steps=2, cache=folder / "cache") if needs else None
    strategy = "ddp_find_unused_parameters_true" if name == "FMN" else "ddp"
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder / name)
    trainer.fit(method, datamodule=data)
    tensors = {key: tensor.detach().clone() for key, tensor in method.selected.items()}
    save_file(tensors, folder / f"{name}-{trainer.global_rank}.safetensors")
    print("fitted", name, flush=True)
"""


def run(methods: dict[str, dict[str, object]], tiny: Path, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """The script on two ranks, as torchrun would start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SCRIPT, repr(methods), str(tiny), str(folder)]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    # Lightning takes the cluster's word for ranks if these are set, as torchrun sets them.
    common |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    finished = []
    for process in started:
        out, err = process.communicate(timeout=300)
        finished.append(subprocess.CompletedProcess(command, process.returncode, out, err))
    return finished


@pytest.mark.distributed
def test_ordinary_methods_stay_in_step(tiny: Path, tmp_path: Path) -> None:
    """Each process draws its own samples; after the steps both hold the same weights, which are not the base's."""
    for process in run(METHODS, tiny, tmp_path):
        assert process.returncode == 0, process.stderr[-2000:]
    for path in METHODS:
        name = path.split(".")[1]
        one, two = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in range(2))
        saved = load_file(tmp_path / name / "erasure.safetensors")
        assert one.keys() == two.keys() == saved.keys()
        for key, tensor in one.items():
            assert tensor.equal(two[key]), f"{name}: {key} differs between processes"
            assert tensor.equal(saved[key]), f"{name}: {key} was saved differently"
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3, "concept, anchor and retain images"


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("erasediff.EraseDiff", {"train": "full"}, "it needs the two gradients apart"),
        pytest.param(
            *("scissorhands.Scissorhands", {"train": "full", "scope": "attn1"}, "it needs the two gradients apart"),
            marks=pytest.mark.slow,
        ),
        ("rece.RECE", {}, "its only step solves one system of equations"),
    ],
)
def test_the_others_refuse(path: str, options: dict[str, object], reason: str, tiny: Path, tmp_path: Path) -> None:
    (first, _) = run({path: {"probe_size": 2, **options}}, tiny, tmp_path)
    assert first.returncode != 0
    assert f"{path.split('.')[1]} runs on one device: {reason}" in first.stderr
    assert "pass --trainer.devices 1" in first.stderr
    assert "fitted" not in first.stdout
