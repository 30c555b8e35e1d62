"""Recipes for Stable Diffusion 3.5, FLUX and the flow pictograms, run on small pipelines of the same classes."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from few_levels import FEW_LEVELS
from flow_pipelines import sd3_pipeline
from noise_pictures import noise_pictures
from recipe_costs import counted, said
from small_runs import changed, snapshot
from smoke import QUIET, STEPS, is_closed_form, method, smoke
from torch import Generator, Tensor

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure
from lit_memories.runs import Run, read_run

ROOT = Path(__file__).parents[2]
TINY = {"sd35": "sd3", "flux": "flux-dev", "pictograms/flow": "pictograms"}
RECIPES = {
    f"{family}-{file.stem}": file
    for family in TINY
    for file in sorted((ROOT / "recipes" / family / "erase").glob("*.yaml"))
}
QUICK = ("sd35-erase_anything", "flux-esd", "flux-uce", "pictograms/flow-esd")
"""What the quick suite runs; test_flow_erasers.py and test_erase_anything.py run all methods."""
METHODS = {"ac", "erase_anything", "erasediff", "esd", "fmn", "salun", "scissorhands", "spm", "uce"}


@pytest.fixture(scope="module")
def bases(flows: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny models by family; that of the pictograms knows their words."""
    folder = tmp_path_factory.mktemp("pictograms")
    umbrella = Concept(**yaml.safe_load((ROOT / "recipes/pictograms/concepts/umbrella.yaml").read_text()))
    sd3_pipeline(umbrella, folder / "t5", with_t5=False).save_pretrained(folder / "pipeline")
    found = flows | {"pictograms": folder / "pipeline"}
    return {family: found[name] for family, name in TINY.items()}


def family(name: str) -> str:
    return name.rsplit("-", 1)[0]


def erase(name: str, base: Path, folder: Path) -> Path:
    return smoke(RECIPES[name], base, folder, "--model.diffusion.image_size=32", "--trainer.precision=32-true")


@torch.no_grad()
def predicted(model: Diffusion, prompts: list[str]) -> Tensor:
    x = model.draw_seeds([Generator().manual_seed(0)])
    return model.predict(x, 900.0, model.encode_prompts(prompts))


def test_every_method_has_a_recipe_everywhere() -> None:
    for name in TINY:
        assert {file.stem for key, file in RECIPES.items() if family(key) == name} == METHODS


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_every_recipe_runs(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """It trains, and its artefact is applied, changes the prediction for the concept, and is exported."""
    base = bases[family(name)]
    erase(name, base, tmp_path / "run")
    erasure = Erasure.load(tmp_path / "run")
    assert erasure.provenance.method == method(RECIPES[name]).__name__
    assert erasure.provenance.steps == (1 if is_closed_form(RECIPES[name]) else STEPS)
    assert all(tensor.dtype == torch.float32 for tensor in erasure.tensors.values())
    plain = Diffusion(str(base), image_size=32)
    erased = Diffusion(str(base), erasure=tmp_path / "run", gated=False, image_size=32)
    differs = changed(snapshot(plain), erased)
    assert differs
    weights = {f"{name.rsplit('.', 1)[0]}.weight" for name in erasure.tensors}
    assert differs <= (weights if erasure.is_adapter else set(erasure.tensors))
    prompts = [erasure.provenance.concept["phrase"]]
    assert not torch.equal(predicted(plain, prompts), predicted(erased, prompts))
    assert json.loads((tmp_path / "run" / "erasure.json").read_text())["prediction_type"] == "flow_prediction"
    main(["export", str(base), str(tmp_path / "run"), str(tmp_path / "exported")])
    left_out = {"text_encoder_3": None, "tokenizer_3": None} if family(name) == "pictograms/flow" else {}
    theirs = DiffusionPipeline.from_pretrained(tmp_path / "exported", **left_out)
    assert not changed(snapshot(theirs.text_encoder_2), plain.text_encoder_2), "diffusers reads what was written"
    exported = Diffusion(str(tmp_path / "exported"), image_size=32)
    torch.testing.assert_close(predicted(exported, prompts), predicted(erased, prompts))


@pytest.mark.parametrize("name", ["sd35-erase_anything", "flux-erase_anything"])
def test_factors_are_trained_beside_weights_in_half_precision(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """As the recipe has it: weights in bfloat16, factors in float32, computed in bf16-mixed."""
    settings = yaml.safe_load(RECIPES[name].read_text())["model"]["init_args"]["diffusion"]
    assert settings["torch_dtype"] == "bfloat16"
    smoke(RECIPES[name], bases[family(name)], tmp_path / "run", "--model.diffusion.image_size=32")
    factors = Erasure.load(tmp_path / "run").tensors
    assert all(factor.dtype == torch.float32 and factor.isfinite().all() for factor in factors.values())
    assert any(factor.any() for key, factor in factors.items() if key.endswith("lora_up"))


# An audit.


@pytest.fixture(scope="module")
def images(van_gogh: Concept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``concept`` and ``reference`` with two pictures of noise each."""
    sets = {"concept": van_gogh.prompts[:2], "reference": van_gogh.retain[:2]}
    return noise_pictures(tmp_path_factory.mktemp("images"), sets, 40)


def audit(name: str, base: Path, images: Path, folder: Path, *more: str, kind: str = "concept") -> Run:
    """The recipe, for few samples and steps, with photographs as its comment says."""
    recipe = ROOT / f"recipes/{name}/audit/{kind}.yaml"
    (photographs,) = re.findall(r"# photographs in place of COCO: (.+)", recipe.read_text())
    options = [
        f"--config={recipe}",
        f"--model.diffusion.base={base}",
        "--model.diffusion.image_size=32",
        "--model.diffusion.torch_dtype=float32",
        "--model.name=tiny",
        "--model.num_inference_steps=3",
        f"--data.concept_images.path={images / 'concept'}",
        *photographs.replace("FOLDER", str(images / "reference")).split(),
        "--data.known=1",
        "--data.prompted=1",
        *(option for option in QUIET if "checkpointing" not in option and "logger" not in option),
        f"--trainer.default_root_dir={folder}",
        *more,
    ]
    main(["predict", *options])
    return read_run(folder)


@pytest.mark.parametrize("name", [pytest.param("sd35", marks=pytest.mark.slow), "flux"])
def test_an_erased_flow_model_is_audited(name: str, bases: dict[str, Path], images: Path, tmp_path: Path) -> None:
    """The same samples of both models pair, and are denoised differently."""
    base = bases[name]
    erase(f"{name}-esd", base, tmp_path / "esd")
    usual = ("--model.judge=null", FEW_LEVELS)  # doors need many steps, and a judge
    vanilla = audit(name, base, images, tmp_path / "vanilla", *usual)
    erased = audit(name, base, images, tmp_path / "erased", *usual, f"--model.diffusion.erasure={tmp_path / 'esd'}")
    assert vanilla.info.complete
    assert erased.info.complete
    assert erased.info.role == "erased"
    assert erased.info.settings_hash == vanilla.info.settings_hash
    before, after = (
        {record.key: record.number("denoising.surprise") for record in run.of("concept", "denoising")}
        for run in (vanilla, erased)
    )
    assert before.keys() == after.keys()
    assert len(before) == 2
    assert all(before[key] is not None and before[key] != after[key] for key in before)
    (known,) = vanilla.of("known", "known")
    assert known.number("known.seed_error") is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd35", "flux"])
def test_the_recipe_to_rest_a_verdict_on(
    name: str, bases: dict[str, Path], clip: Path, images: Path, tmp_path: Path
) -> None:
    """All that it asks, the door among it."""
    more = ("--model.num_inference_steps=10", f"--model.judge.model_id={clip}", "--model.inverter.tolerance=3e-4")
    run = audit(name, bases[name], images, tmp_path, *more)
    assert run.info.complete
    wanted = {"denoising", "judging", "samples", "seed", "known", "plain", "image_prompt"}
    assert {probe for record in run.records for probe in record.probes} == wanted
    assert len(run.of("concept", "image_prompt")) == 2


@pytest.mark.parametrize("name", ["sd35", "flux"])
def test_its_comments_are_what_a_plan_counts(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    recipe = ROOT / f"recipes/{name}/audit/concept.yaml"
    assert counted(recipe, bases[name], tmp_path, "--model.diffusion.image_size=32") == said(recipe)


@pytest.mark.parametrize("name", [pytest.param("sd35", marks=pytest.mark.slow), "flux"])
def test_the_papers_settings_are_beside_it(name: str, bases: dict[str, Path], images: Path, tmp_path: Path) -> None:
    """As far as a flow can have them: nothing predicts noise that could be regularised."""
    run = audit(name, bases[name], images, tmp_path, "--data.prompted=0", kind="paper")
    assert run.info.complete
    assert run.info.settings["posterior_seed"] == 42
    inverter = run.info.probes["seed"]["settings"]["inverter"]
    assert (inverter["name"], inverter["num_renoise_steps"], inverter["faithful"]) == ("ReNoise", 5, False)
    assert len(run.of("concept", "seed")) == 2


# What the recipes say.


@pytest.mark.parametrize("name", [name for name in RECIPES if family(name) in ("sd35", "flux")])
def test_every_number_has_an_origin(name: str) -> None:
    for line in RECIPES[name].read_text().splitlines():
        if re.match(r"    \w+: ", line) and "diffusion:" not in line and "concept:" not in line:
            assert re.search(r" # .*(paper|README|config|prompt|ours|\.py|\.sh|\.yaml|code|projection)", line), line


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_options_in_comments_are_understood(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    def configuration(*more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            main(["fit", f"--config={RECIPES[name]}", *more, "--print_config"])
        assert stop.value.code == 0
        found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        return found

    plain = configuration()
    for line in RECIPES[name].read_text().splitlines():
        if found := re.fullmatch(r"# [^:]+: (?P<options>--[^(]+) \(.+\)", line):
            assert configuration(*shlex.split(found["options"])) != plain, line
        else:
            assert not line.startswith("#") or "--" not in line, line
