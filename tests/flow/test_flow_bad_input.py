"""What a flow model cannot be asked, or lacks: one line on the command line, before anything is asked or written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion

ROOT = Path(__file__).parents[2]
INVERTERS = "{class_path: lit_memories.inverters"


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code not in (0, None)
    line = str(stop.value.code) if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
    assert "\n" not in line
    assert "Traceback" not in line
    return line


def change(file: str, **entries: Any) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        config = json.loads((folder / file).read_text()) | entries
        (folder / file).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))

    return made


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


@pytest.mark.parametrize(
    ("name", "damage", "options", "wanted"),
    [
        ("sd3", None, [f"--model.inverter={INVERTERS}.belm.BELM}}"], "BELM divides by the share of signal"),
        ("flux-schnell", None, [], "guidance_scale must be 1 for"),
        (
            "flux-schnell",
            None,
            ["--data.conditionings=[own@2]", "--model.probes=[lit_memories.probes.seed.Seed]"],
            "must be 1 for",
        ),
        ("flux-dev", None, [f"--model.inverter={INVERTERS}.null_text.NullText}}"], "is distilled and not guided so: "),
        (
            "flux-dev",
            None,
            ["--model.diffusion.image_size=36"],
            "image_size must be multiples of 8 pixels, got 36 x 36",
        ),
        ("sd3", without("text_encoder_2"), [], "has no text_encoder_2: copy it from the model it was made of"),
        ("flux-dev", without("text_encoder_2"), [], "has no text_encoder_2: copy it from the model it was made of"),
        ("sd3", change("vae/config.json", shift_factor=...), [], "does not state shift_factor, which would be made up"),
        (
            "flux-dev",
            change("scheduler/scheduler_config.json", time_shift_type="cubic"),
            [],
            "time_shift_type` must either be",
        ),
        ("sd3", change("scheduler/scheduler_config.json", shift=0.0), [], "has an unknown shift: 0"),
    ],
)
def test_an_audit_is_refused_before_it_begins(
    name: str,
    damage: Callable[[Path], None] | None,
    options: list[str],
    wanted: str,
    flows: dict[str, Path],
    tiny_classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = flows[name]
    if damage is not None:
        folder = Path(shutil.copytree(folder, tmp_path / name))
        damage(folder)
    monkeypatch.setattr(Diffusion, "_ask", lambda *_, **__: pytest.fail("the network was asked"))
    line = said(
        capsys,
        *("predict", f"--config={ROOT}/recipes/pictograms/audit/umbrella.yaml", f"--model.diffusion.base={folder}"),
        *(f"--model.judge.classifier={tiny_classifier}", "--data.concept_images.limit=1", "--data.known=1"),
        *("--data.reference_images.limit=1", "--data.prompted=1", "--model.num_inference_steps=4"),
        *(f"--trainer.default_root_dir={tmp_path / 'run'}", *options),
    )
    assert wanted in line
    assert not list((tmp_path / "run").glob("*"))


def test_an_adapter_of_another_transformer_is_refused(
    flows: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{key}.lora_down.weight": torch.ones(4, 32)}, tmp_path / "lora.safetensors")
    line = said(capsys, "convert", str(tmp_path / "lora.safetensors"), str(flows["sd3"]), str(tmp_path / "out"))
    assert "it is for FLUX, and the base is Stable Diffusion 3" in line
    assert not (tmp_path / "out").exists()


def test_an_eraser_that_is_not_for_flows_is_refused(
    flows: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(
        capsys,
        *("fit", f"--config={ROOT}/recipes/pictograms/erase/rece.yaml", f"--model.diffusion.base={flows['sd3']}"),
        f"--trainer.default_root_dir={tmp_path / 'out'}",
    )
    assert "RECE attacks what cross-attention reads, and" in line
    assert "UCE edits" in line
    assert not (tmp_path / "out").exists()
