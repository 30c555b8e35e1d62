"""What the documentation claims of the shipped models, measured again."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import Generator

from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.metrics import gaussian_nll, psnr
from lit_memories.ops.rollout import rollout
from lit_memories.tools.quickstart import quickstart
from lit_memories.worlds.classifier import load_classifier
from lit_memories.worlds.pictograms import FACTORS, draw, render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
FAMILIES = {"unet": "", "flow": "flow-"}
"""What the names of a family's models begin with."""


@pytest.fixture(scope="module", autouse=True)
def _from_the_root() -> Iterator[None]:
    """Before everything else of this module: the quickstart is run for all tests at once, and on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield
    torch.set_num_threads(threads)


def _measured(model: str) -> dict:
    return json.loads((CHECKPOINTS / model / "measured.json").read_text())


def test_the_files_are_the_ones_that_were_measured() -> None:
    listed = dict(line.split("  ")[::-1] for line in (CHECKPOINTS / "SHA256SUMS").read_text().splitlines())
    assert {name for name in listed if name.endswith(".safetensors")} == {
        str(file.relative_to(CHECKPOINTS)) for file in CHECKPOINTS.rglob("*.safetensors")
    }
    for name, digest in listed.items():
        assert hashlib.sha256((CHECKPOINTS / name).read_bytes()).hexdigest() == digest, name


def test_all_weights_together_stay_below_100_mb() -> None:
    assert sum(file.stat().st_size for file in CHECKPOINTS.rglob("*.safetensors")) < 100e6


@pytest.mark.parametrize(
    ("kind", "model", "left_out"),
    [
        (StableDiffusionPipeline, "pictograms", {}),
        (StableDiffusion3Pipeline, "flow-pictograms", {"text_encoder_3": None, "tokenizer_3": None}),
    ],
    ids=FAMILIES,
)
def test_unmodified_diffusers_loads_and_samples_the_base_model(kind: type, model: str, left_out: dict) -> None:
    pipeline = kind.from_pretrained(CHECKPOINTS / model, **left_out)
    image = pipeline(
        "a red umbrella on a blue background, solid style",
        num_inference_steps=30,
        guidance_scale=3.0,
        generator=Generator().manual_seed(0),
    ).images[0]
    seen = load_classifier(CHECKPOINTS / "classifier").predict(to_tensor(image)[None])
    assert {factor: value[0] for factor, value in seen.items()} == {
        "object": "umbrella",
        "color": "red",
        "background": "blue",
        "style": "solid",
    }


@torch.no_grad()
def test_the_autoencoder_and_the_classifier_are_as_good_as_the_card_says() -> None:
    images = torch.stack([to_tensor(render(*draw("test", index))) for index in range(5000, 5200)])
    diffusion = Diffusion.from_pretrained(CHECKPOINTS / "pictograms")
    restored = torch.cat([diffusion.decode_latents(diffusion.encode_images(part)) for part in images.split(20)])
    assert psnr(restored, images).mean() > 29
    predicted = load_classifier(CHECKPOINTS / "classifier").predict(images)
    for factor in FACTORS:
        right = [seen == getattr(draw("test", 5000 + i)[0], factor) for i, seen in enumerate(predicted[factor])]
        assert sum(right) >= 0.98 * len(right), factor


@pytest.mark.parametrize("prefix", FAMILIES.values(), ids=FAMILIES)
def test_the_base_model_draws_what_it_is_asked_for(prefix: str) -> None:
    samples = _measured(f"{prefix}pictograms")["samples"]["held-out prompts"]
    wanted = {"object": 0.95, "color": 0.95, "background": 0.95, "style": 0.90}
    assert {factor: samples[factor]["rate"] >= least for factor, least in wanted.items()} == dict.fromkeys(
        FACTORS, True
    )


@pytest.mark.parametrize("prefix", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize(("concept", "withheld"), [("umbrella", "object"), ("striped", "style")])
def test_a_control_never_shows_its_concept_and_keeps_the_rest(concept: str, withheld: str, prefix: str) -> None:
    samples, base = (_measured(f"{prefix}{name}")["samples"] for name in (f"without-{concept}", "pictograms"))
    assert samples[f"{concept} prompts"][withheld]["rate"] <= 0.10
    for factor in FACTORS:
        rest = samples[f"held-out, not {concept}"][factor]["rate"], base[f"held-out, not {concept}"][factor]["rate"]
        assert abs(rest[0] - rest[1]) <= 0.03, factor


@torch.no_grad()
@pytest.mark.parametrize(("model", "count"), [("pictograms", 50), ("flow-pictograms", 28), ("flow-pictograms", 50)])
def test_the_fixed_point_finds_known_seeds_and_plain_ddim_is_biased(model: str, count: int) -> None:
    diffusion = Diffusion.from_pretrained(CHECKPOINTS / model)
    seeds = diffusion.draw_seeds([Generator().manual_seed(100 + i) for i in range(16)])
    embeds = diffusion.encode_prompts([draw("test", 100 + i)[0].caption for i in range(16)])
    steps = diffusion.schedule.ddim_steps(count)
    latents = rollout(diffusion.predict_fn(embeds), seeds, steps)
    bias = {}
    for inverter in (FixedPoint(), DDIMInversion(measure_residual=False)):
        found = inverter(lambda x, t, rows: diffusion.predict(x, t, embeds[rows]), latents, steps)
        assert found.evaluations.max() <= 150
        bias[type(inverter).__name__] = float((gaussian_nll(found.seeds) - gaussian_nll(seeds)).mean())
    assert abs(bias["FixedPoint"]) <= 0.5
    assert abs(bias["DDIMInversion"]) > 20 * abs(bias["FixedPoint"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The quickstart's results, run once."""
    out = tmp_path_factory.mktemp("quickstart")
    quickstart(out)
    assert (out / "report.html").stat().st_size > 50_000
    return json.loads((out / "results.json").read_text())


def _run(results: dict, name: str) -> dict:
    return next(run for run in results["runs"] if run["name"] == name)


def _decibels(run: dict) -> float:
    return run["probes"]["seed"]["numbers"]["psnr"]["sets"]["concept"]["value"]["value"]


def test_the_quickstart_shows_what_the_readme_says(results: dict) -> None:
    vanilla, esd, control, random = (_run(results, name) for name in ("vanilla", "esd", "never-knew", "random"))
    decibels = [_decibels(run) for run in (vanilla, esd, control)]
    assert max(decibels) - min(decibels) < 1, "PSNR tells the models apart after all"
    assert abs(_decibels(random) - decibels[0]) < 3
    assert vanilla["forgetting"]["value"] == 0
    assert control["forgetting"]["low"] > 0
    assert control["fraction"]["value"] == 1
    assert vanilla["prompted"]["value"] >= 0.9
    assert esd["prompted"]["value"] <= 0.1
    assert control["prompted"]["value"] <= 0.2  # 16 samples
    assert esd["retained_by_factor"]["object"]["value"] >= 0.9 * vanilla["retained_by_factor"]["object"]["value"]
    assert esd["fraction"]["high"] < 0.25, "ESD refuses and remembers"
    assert esd["forgetting"]["low"] > 0, "and is told from vanilla with certainty"
    assert random["damage"]["low"] > 10 * control["forgetting"]["value"]
    assert {run["headline"] for run in results["runs"]} == {"denoising.surprise"}


def test_no_inversion_of_the_quickstart_is_in_doubt(results: dict) -> None:
    for name in ("vanilla", "esd", "never-knew"):
        inverter = _run(results, name)["inverter"]
        assert inverter["converged"]["value"] >= 0.9, name
