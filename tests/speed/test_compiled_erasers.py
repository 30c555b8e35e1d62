"""Erasers on a compiled model: their hooks act, and weights that are swapped for the teacher's are seen."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["esd", "spm", "fmn"])
def test_the_artefact_is_the_same(method: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPM hooks an adapter onto the U-Net, FMN recordings of its attention."""
    monkeypatch.syspath_prepend(TESTS / "erasers")
    smoke = import_module("smoke").smoke
    recipe = TESTS.parent / "recipes" / "pictograms" / "erase" / f"{method}.yaml"
    options = {"plain": (), "compiled": ("--model.diffusion.speed.compile=eager",)}
    runs = {name: smoke(recipe, tiny, tmp_path / name / "run", *more, scope="attn1") for name, more in options.items()}
    plain, compiled = (load_file(run / "erasure.safetensors") for run in runs.values())
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, atol=1e-6, rtol=0)
