"""Two processes train one model: the ordinary methods stay in step, the others refuse."""

from importlib import import_module
from pathlib import Path

import pytest
from forked import forked
from lightning import Trainer
from safetensors.torch import load_file, save_file

from lit_memories.concept import Concept
from lit_memories.data.erasure import ErasureData
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser

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
ALONE = {
    "erasediff.EraseDiff": ({"train": "full"}, "it needs the two gradients apart"),
    "scissorhands.Scissorhands": ({"train": "full", "scope": "attn1"}, "it needs the two gradients apart"),
    "rece.RECE": ({}, "its only step solves one system of equations"),
}
CONCEPT = Concept("umbrella", "object", ["umbrella", "a red umbrella"], ["a blue star", "a red gear"], anchor="star")


def fit(path: str, options: dict[str, object], tiny: Path, folder: Path) -> tuple[Eraser, int]:
    """Train a method as one of two processes; the method, and which process this is."""
    module, name = path.split(".")
    cls = getattr(import_module(f"lit_memories.erasers.{module}"), name)
    method = cls(Diffusion.from_pretrained(tiny), CONCEPT, **options)
    needs = method.forget_images is not None
    data = ErasureData(count=4, num_inference_steps=2, cache=folder / "cache") if needs else None
    strategy = "ddp_find_unused_parameters_true" if name == "FMN" else "ddp"
    shown = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, logger=False, default_root_dir=folder / name,
        **shown,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return method, trainer.global_rank


def fit_all(tiny: Path, folder: Path) -> None:
    for path, options in METHODS.items():
        method, rank = fit(path, options, tiny, folder)
        tensors = {key: tensor.detach().clone() for key, tensor in method.selected.items()}
        save_file(tensors, folder / f"{path.split('.')[1]}-{rank}.safetensors")


def refuse_all(tiny: Path, folder: Path) -> None:
    for path, (options, reason) in ALONE.items():
        with pytest.raises(ValueError, match=f"{path.split('.')[1]} runs on one device: {reason}") as refused:
            fit(path, {"probe_size": 2, **options}, tiny, folder)
        assert "pass --trainer.devices 1" in str(refused.value)


@pytest.mark.distributed
def test_ordinary_methods_stay_in_step(tiny: Path, tmp_path: Path) -> None:
    """Each process draws its own samples; after the steps both hold the same weights, which are not the base's."""
    for process in forked(fit_all, tiny, tmp_path, processes=2):
        assert process.code == 0, process.said[-2000:]
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
def test_the_others_refuse(tiny: Path, tmp_path: Path) -> None:
    for process in forked(refuse_all, tiny, tmp_path, processes=2):
        assert process.code == 0, process.said[-2000:]
    assert not list(tmp_path.rglob("erasure.safetensors"))
