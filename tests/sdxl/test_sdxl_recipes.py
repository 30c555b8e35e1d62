"""Recipes for Stable Diffusion XL, and those for 1.4, run on a small SDXL."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionXLPipeline
from few_levels import FEW_LEVELS
from noise_pictures import noise_pictures
from PIL import Image
from recipe_costs import counted, said
from safetensors.torch import load_file
from small_runs import changed, fit, snapshot
from smoke import STEPS, command, is_closed_form, method, smoke
from torch import Generator, Tensor

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.uce import UCE
from lit_memories.erasure import Erasure
from lit_memories.metrics import gaussian_nll
from lit_memories.ops.select import select
from lit_memories.runs import Run, read_run
from lit_memories.statistics.convergence import inversion_of

ROOT = Path(__file__).parents[2]
AUDITS = ROOT / "recipes/sdxl/audit"
RECIPES = {file.stem: file for file in sorted((ROOT / "recipes/sdxl/erase").glob("*.yaml"))}
OTHERS = {file.stem: file for file in sorted((ROOT / "recipes/sd14/erase").glob("*.yaml")) if file.stem not in RECIPES}
"""Methods whose official code knows Stable Diffusion 1 only."""


@torch.no_grad()
def predicted(model: Diffusion, prompts: list[str]) -> Tensor:
    x = model.draw_seeds([Generator().manual_seed(0)])
    return model.predict_noise(x, 981, model.encode_prompts(prompts))


def test_there_are_recipes_of_the_methods_with_official_code() -> None:
    assert set(RECIPES) == {"esd", "uce"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs(name: str, sdxl: Path, tmp_path: Path) -> None:
    """It changes what it selects and nothing else; the artefact and the exported pipeline do the same."""
    smoke(RECIPES[name], sdxl, tmp_path / "run")
    base, erasure = Diffusion.from_pretrained(sdxl), Erasure.load(tmp_path / "run")
    assert set(erasure.tensors) == set(select(base, "attn2-kv"))
    assert erasure.provenance.method == method(RECIPES[name]).__name__
    assert erasure.provenance.steps == (1 if is_closed_form(RECIPES[name]) else STEPS)
    erased = Diffusion.from_pretrained(sdxl, erasure=tmp_path / "run")
    assert changed(snapshot(base), erased) == set(erasure.tensors)
    plain, other = (predicted(model, ["Van Gogh"]) for model in (base, erased))
    assert not torch.equal(plain, other)
    main(["export", str(sdxl), str(tmp_path / "run"), str(tmp_path / "exported")])
    exported = StableDiffusionXLPipeline.from_pretrained(tmp_path / "exported", add_watermarker=False)
    assert torch.equal(predicted(Diffusion.from_pipeline(exported), ["Van Gogh"]), other)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "spm" else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(OTHERS.keys() - {"advunlearn"})
    ],
)
def test_methods_for_stable_diffusion_1_work(name: str, sdxl: Path, tmp_path: Path) -> None:
    """Nothing in them is bound to one text encoder, and the pooled row comes and goes with the prompt's."""
    smoke(OTHERS[name], sdxl, tmp_path / "run", "--trainer.precision=32-true")
    base, erased = Diffusion.from_pretrained(sdxl), Diffusion.from_pretrained(sdxl, erasure=tmp_path / "run")
    erasure = Erasure.load(tmp_path / "run")
    prompts = [erasure.provenance.concept["phrase"]]
    plain, other = (predicted(model, prompts) for model in (base, erased))
    assert not torch.equal(plain, other)
    if name == "spm":
        main(["export", str(sdxl), str(tmp_path / "run"), str(tmp_path / "exported")])
        exported = predicted(Diffusion.from_pretrained(tmp_path / "exported"), prompts)
        assert (exported - other).norm() < 0.05 * (other - plain).norm()
        return
    found = erased.state_dict()
    differs = {name for name, tensor in base.state_dict().items() if not torch.equal(tensor, found[name])}
    weights = {f"{name.rsplit('.', 1)[0]}.weight" for name in erasure.tensors}
    assert bool(differs) == erasure.mergeable, "what no weights can hold acts from beside"
    assert differs <= (weights if erasure.is_adapter else set(erasure.tensors))


def test_advunlearn_is_refused_at_once(sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises((SystemExit, ValueError), match="one text encoder, this one has two") as stop:
        main(["fit", *command(OTHERS["advunlearn"], sdxl, tmp_path / "run")])
    assert "\n" not in str(stop.value)


# An audit.


@pytest.fixture(scope="module")
def calm(sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SDXL with latents of about unit size and a small prediction, so that every inversion converges."""
    folder = tmp_path_factory.mktemp("calm")
    model = Diffusion.from_pretrained(sdxl)
    with torch.no_grad():
        model.unet.conv_out.weight.mul_(0.05)
    model.vae.register_to_config(scaling_factor=3.0)
    model.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(van_gogh: Concept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``concept`` and ``reference`` with three pictures of noise each, of another size than the model's."""
    sets = {"concept": van_gogh.prompts[:3], "reference": van_gogh.retain[:3]}
    return noise_pictures(tmp_path_factory.mktemp("images"), sets, 80)


def command_line(
    base: Path, images: Path, folder: Path, *more: str, recipe: Path = AUDITS / "concept.yaml"
) -> list[str]:
    """The recipe, for few samples and steps, with photographs as its comment says."""
    (photographs,) = re.findall(r"# photographs in place of COCO: (.+)", recipe.read_text())
    return [
        "predict",
        f"--config={recipe}",
        f"--model.diffusion.base={base}",
        "--model.name=tiny",
        "--model.num_inference_steps=3",
        "--model.guidance_scale=2",
        f"--data.concept_images.path={images / 'concept'}",
        *photographs.replace("FOLDER", str(images / "reference")).split(),
        "--trainer.accelerator=cpu",
        "--data.known=3",
        "--data.prompted=1",
        "--trainer.callbacks=[]",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={folder}",
        *more,
    ]


def audit(base: Path, images: Path, folder: Path, *more: str) -> Run:
    """By the usual probes with few levels: doors need many steps, and a judge."""
    main(command_line(base, images, folder, "--model.judge=null", FEW_LEVELS, *more))
    return read_run(folder)


@pytest.mark.slow
def test_the_recipe_to_rest_a_verdict_on(calm: Path, clip: Path, images: Path, tmp_path: Path) -> None:
    """All that it asks, the door among it."""
    more = ("--model.num_inference_steps=10", "--model.guidance_scale=1", f"--model.judge.model_id={clip}")
    main(command_line(calm, images, tmp_path, *more))
    run = read_run(tmp_path)
    assert run.info.complete
    wanted = {"denoising", "judging", "samples", "seed", "known", "plain", "image_prompt"}
    assert {probe for record in run.records for probe in record.probes} == wanted
    assert not any(record.flags for record in run.records)
    assert len(run.of("concept", "image_prompt")) == 3


def test_its_comments_are_what_a_plan_counts(calm: Path, tmp_path: Path) -> None:
    assert counted(AUDITS / "concept.yaml", calm, tmp_path) == said(AUDITS / "concept.yaml")


@pytest.mark.slow
def test_the_papers_settings_are_beside_it(calm: Path, images: Path, tmp_path: Path) -> None:
    """With the official inverter; its regulariser, made for larger maps, takes seeds to infinity, which is flagged."""
    more = ("--model.num_inference_steps=2", "--model.guidance_scale=1", "--data.known=1", "--data.prompted=0")
    main(command_line(calm, images, tmp_path, *more, recipe=AUDITS / "paper.yaml"))
    run = read_run(tmp_path)
    assert run.info.complete
    assert run.info.settings["posterior_seed"] == 42
    inverter = run.info.probes["seed"]["settings"]["inverter"]
    assert (inverter["name"], inverter["faithful"]) == ("ReNoise", True)
    assert all(record.number("denoising.surprise") > 0 for record in run.of("concept", "denoising"))


@pytest.fixture(scope="module")
def audited(calm: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an audit."""
    folder = tmp_path_factory.mktemp("runs") / "vanilla"
    audit(calm, images, folder)
    return folder


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in ("records.jsonl", "seeds.safetensors"))


def test_an_audit_finds_known_seeds(audited: Path, calm: Path) -> None:
    run, seeds = read_run(audited), load_file(audited / "seeds.safetensors")
    assert run.info.complete
    assert "reference" in run.info.data["reference"]["source"], "the folder, not COCO"
    probes = {"concept": "seed", "reference": "seed", "known": "known", "prompted": "samples", "retained": "samples"}
    counts = {name: len(run.of(name, probe)) for name, probe in probes.items()}
    assert counts == {"concept": 3, "reference": 3, "known": 3, "prompted": 1, "retained": 1}
    for record in [record for record in run.records if inversion_of(record)]:
        found = inversion_of(record)
        assert record.flags == {}
        assert found["converged"]
        assert found["nll"] == pytest.approx(float(gaussian_nll(seeds[record.key][None])), abs=1e-9)
    for record in run.of("known", "known"):
        assert record.number("known.seed_error") < 1e-3
        assert abs(record.number("known.nll_bias")) < 1
    assert [r.number("denoising.surprise") > 0 for r in run.of("concept", "denoising")] == [True] * 3
    record = run.of("concept", "seed")[0]
    made = Diffusion.from_pretrained(calm).generate([record.prompt], seeds[record.key][None], 3, 2.0)
    with Image.open(run.image("concept", 0, "regenerated")) as picture:
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(64, 64, 3)
    assert (made[0].movedim(0, -1) * 255 - pixels).abs().max() <= 1, "plain generation makes this picture of the seed"


@pytest.mark.slow
def test_a_record_depends_on_no_other(audited: Path, calm: Path, images: Path, tmp_path: Path) -> None:
    audit(calm, images, tmp_path / "run", "--data.batch_size=3")
    assert results(tmp_path / "run") == results(audited)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_change_no_byte(audited: Path, calm: Path, images: Path, tmp_path: Path) -> None:
    two = ("--model.judge=null", FEW_LEVELS, "--trainer.devices=2", "--trainer.strategy=ddp")
    command = [sys.executable, "-m", "lit_memories", *command_line(calm, images, tmp_path / "run", *two)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == results(audited)


@pytest.mark.slow
def test_an_erased_model_has_other_seeds(
    audited: Path, calm: Path, van_gogh: Concept, images: Path, tmp_path: Path
) -> None:
    fit(UCE(Diffusion.from_pretrained(calm), van_gogh, probe_size=2), tmp_path / "uce", -1, max_epochs=1)
    vanilla = read_run(audited)
    few = ("--data.known=0", "--data.prompted=0", "--data.reference_images.limit=1")
    erased = audit(calm, images, tmp_path / "erased", *few, f"--model.diffusion.erasure={tmp_path / 'uce'}")
    assert erased.info.role == "erased"
    assert erased.info.settings_hash == vanilla.info.settings_hash
    before = {record.key: record.number("seed.nll") for record in vanilla.of("concept", "seed")}
    after = {record.key: record.number("seed.nll") for record in erased.of("concept", "seed")}
    assert before.keys() == after.keys()
    assert all(before[key] != after[key] for key in before)


@pytest.mark.slow
def test_null_text_tunes_rows_of_text_and_likelihoods_are_found(calm: Path, images: Path, tmp_path: Path) -> None:
    """The empty prompt's pooled row stays as it is while its text is tuned; gradients pass through both."""
    options = {"inner_steps": 1, "guidance_scale": 3, "pivot": {"class_path": "FixedPoint"}}
    inverter = {"class_path": "lit_memories.inverters.null_text.NullText", "init_args": options}
    few = ("--data.known=0", "--data.prompted=0", "--data.concept_images.limit=1", "--data.reference_images.limit=1")
    more = (f"--model.inverter={json.dumps(inverter)}", "--model.guidance_scale=1", "--model.probes+=Likelihood")
    for record in audit(calm, images, tmp_path / "run", *few, *more).records:
        assert record.flags == {}
        assert record.number("seed.psnr_round_trip") > 30
        assert record.number("likelihood.log_likelihood") is not None


def test_numbers_of_the_recipes_have_an_origin() -> None:
    for file in RECIPES.values():
        arguments = yaml.safe_load(file.read_text())["model"]["init_args"]
        for name in set(arguments) - {"diffusion", "concept"}:
            (line,) = (line for line in file.read_text().splitlines() if line.startswith(f"    {name}: "))
            assert ".py" in line or "README" in line or "ours" in line, line
