"""Every inverter in an audit by recipe: batches change nothing, and the run says whose seeds it holds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from lit_memories.cli import main
from lit_memories.metrics import gaussian_nll
from lit_memories.probes.quality import DIVERGED
from lit_memories.runs import read_run
from lit_memories.statistics.convergence import inversion_of

Arguments = Callable[..., list[str]]
INVERTERS = {
    "ddim.DDIMInversion": {},
    "renoise.ReNoise": {"lambda_ac": 0.1, "lambda_kl": 0.001},
    "null_text.NullText": {"guidance_scale": 3, "inner_steps": 1, "pivot": {"class_path": "FixedPoint"}},
    "belm.BELM": {},
}
QUICK = ("ddim.DDIMInversion", "belm.BELM")
"""Whose records `make test` compares; `.ci/run` does the others'."""
SEEDS = "--model.probes=[lit_memories.probes.seed.Seed, lit_memories.probes.known.Known]"
"""The probes that ask an inverter."""


def few(arguments: Arguments, folder: Path, name: str, options: dict[str, object], **more: int) -> list[str]:
    """The command line of an audit of a handful of samples with an inverter."""
    inverter = {"class_path": f"lit_memories.inverters.{name}", "init_args": options}
    limits = ("--data.concept_images.limit=2", "--data.reference_images.limit=1", "--data.known=1", "--data.prompted=0")
    return arguments(folder, f"--model.inverter={json.dumps(inverter)}", *limits, **more)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in INVERTERS]
)
def test_batch_size_changes_no_byte(name: str, arguments: Arguments, tmp_path: Path) -> None:
    for batch_size in (1, 3):
        main([*few(arguments, tmp_path / str(batch_size), name, INVERTERS[name], batch_size=batch_size), SEEDS])
    for file in ("records.jsonl", "seeds.safetensors"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()
    run = read_run(tmp_path / "1")
    assert run.info.complete
    settings = run.info.probes["seed"]["settings"]["inverter"]
    assert settings["name"] == name.split(".")[1]
    assert settings.get("sampler") == ("belm" if name == "belm.BELM" else None)
    seeds = load_file(tmp_path / "1" / "seeds.safetensors")
    for record in run.records:
        found = record.probes["known" if record.set == "known" else "seed"]
        assert found["nll"] == pytest.approx(float(gaussian_nll(seeds[record.key][None])), abs=1e-9)
        assert found["evaluations"] > 0
        if name == "belm.BELM":
            assert found["psnr_round_trip"] == 100, "an exact sampler returns the very latents"
    assert all(abs(record.value("known.nll_bias")) < 50 for record in run.of("known", "known"))


def test_null_text_refuses_an_audit_that_guides(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises((SystemExit, ValueError), match="set the audit's guidance_scale to 1"):
        main([*few(arguments, tmp_path / "run", "null_text.NullText", {}), "--model.guidance_scale=3"])


@pytest.mark.parametrize("strength", [30.0, 1e6])
def test_what_does_not_converge_is_flagged_and_finite(
    strength: float, arguments: Arguments, calm: Path, tmp_path: Path
) -> None:
    """A network whose weights have run away: seeds are numbers, and none of them counts."""
    pipeline = StableDiffusionPipeline.from_pretrained(calm, safety_checker=None, requires_safety_checker=False)
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(strength / 0.05)
    pipeline.save_pretrained(tmp_path / "wild")
    options = few(arguments, tmp_path / "run", "fixed_point.FixedPoint", {})
    main([*options, SEEDS, f"--model.diffusion.base={tmp_path / 'wild'}"])
    records = read_run(tmp_path / "run").records
    assert len(records) == 4
    for record in records:
        found = record.probes["known" if record.set == "known" else "seed"]
        assert found["flag"] == "diverged"
        assert "nll" in found
        assert found["converged"] is False


def test_what_a_faithful_inverter_finds_counts(arguments: Arguments, tiny: Path, tmp_path: Path) -> None:
    """On a network on which plain inversion leaves residuals above 0.1, where others leave the image out."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.vae.register_to_config(scaling_factor=3.0)
    pipeline.save_pretrained(tmp_path / "rough")
    run = tmp_path / "run"
    options = few(arguments, run, "null_text.NullText", {"faithful": True})
    main([*options, f"--model.diffusion.base={tmp_path / 'rough'}"])
    inverted = [found for record in read_run(run).records if (found := inversion_of(record))]
    assert len(inverted) == 4
    for found in inverted:
        assert found["residual"] > DIVERGED
        assert (found["converged"], found.get("flag")) == (False, None)
    main(["report", str(run), f"--out={tmp_path / 'report'}"])
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["runs"][0]["used"]["concept"] == 2
    worst = max(found["residual"] for found in inverted)
    assert f"4 of the 4 inversions that count did not converge (worst residual {worst:.2g})" in str(results["notes"])
