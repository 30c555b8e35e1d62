"""Models that are interpolated, quantised or pruned after their erasure, audited as what they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_errors import refused
from torch import Generator

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance
from lit_memories.ops.transforms import Interpolated, Pruned, Quantised, Transform
from lit_memories.runs import read_run

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
Saved = Callable[..., Path]


@pytest.fixture
def erased(calm: Path, tmp_path: Path) -> Saved:
    """An erasure that changes two matrices, or an adapter with a gate, saved."""

    def save(gate: list[str] | None = None) -> Path:
        base = Diffusion.from_pretrained(calm)
        state = base.state_dict()
        weight = state[f"{LAYER}.weight"]
        rows, columns = weight.shape
        shapes = {f"{LAYER}.lora_down": (1, columns), f"{LAYER}.lora_up": (rows, 1)}
        if gate is None:
            names = (f"{LAYER}.weight", "text_encoder.text_model.final_layer_norm.weight")
            shapes = {name: tuple(state[name].shape) for name in names if name in state}
        tensors = {name: torch.randn(shape, generator=Generator().manual_seed(0)) for name, shape in shapes.items()}
        origin = Provenance(
            "Test", {"name": "umbrella"}, base.base, None, base.fingerprint, {}, steps=1, seed=0, versions={}, gate=gate
        )
        Erasure(tensors, origin).save(tmp_path / "erasure")
        return tmp_path / "erasure"

    return save


def loaded(base: Path, erasure: Path | None, transform: Transform | None, **options: bool) -> Diffusion:
    return Diffusion(str(base), erasure, transform=transform, **options)  # type: ignore[arg-type]


def test_the_line_between_erased_and_base_has_both_ends_to_the_bit(calm: Path, erased: Saved) -> None:
    folder = erased()
    base, plain = loaded(calm, None, None), loaded(calm, folder, None)
    prints = [loaded(calm, folder, Interpolated(share)).weights_fingerprint() for share in (0.0, 0.5, 1.0)]
    assert prints[0] == plain.weights_fingerprint()
    assert prints[2] == base.weights_fingerprint()
    assert len(set(prints)) == 3


@pytest.mark.parametrize("transform", [Quantised(4), Pruned(0.5)])
def test_networks_are_transformed_and_the_autoencoder_is_not(calm: Path, transform: Transform) -> None:
    before, after = (loaded(calm, None, one).state_dict() for one in (None, transform))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {name.split(".")[0] for name in changed} == {"unet", "text_encoder"}
    matrices = {name for name, tensor in before.items() if tensor.ndim > 1 and not name.startswith("vae.")}
    assert changed <= matrices
    assert f"{LAYER}.weight" in changed


def test_a_gated_adapter_cannot_be_transformed_and_a_merged_one_can(calm: Path, erased: Saved) -> None:
    folder = erased(gate=["umbrella"])
    with pytest.raises(ValueError, match=r"merge it by --model\.diffusion\.gated false"):
        loaded(calm, folder, Quantised(8))
    merged = loaded(calm, folder, Interpolated(1.0), gated=False)
    assert merged.weights_fingerprint() == loaded(calm, None, None).weights_fingerprint()


def test_a_run_says_how_its_model_was_transformed(
    arguments: Callable[..., list[str]], erased: Saved, tmp_path: Path
) -> None:
    options = [
        f"--model.diffusion.erasure={erased()}",
        "--model.diffusion.transform=Quantised",
        "--model.probes=[{class_path: lit_memories.probes.denoising.Denoising, init_args: {levels: 4}}]",
    ]
    run = tmp_path / "run"
    main(arguments(run, *options, "--model.diffusion.transform.bits=4"))
    info = read_run(run).info
    assert info.model["transform"] == {"name": "Quantised", "bits": 4}
    assert info.role == "erased"
    said = refused(arguments(run, *options, "--model.diffusion.transform.bits=8"))
    assert "holds records of another audit" in said
    assert "model.transform.bits: 4 | 8" in said
    assert "transform" not in read_run(run).info.settings
