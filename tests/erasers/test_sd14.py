"""Recipes for Stable Diffusion 1.4, run on a small model whose parameters bear the same names."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from smoke import QUIET, ROOT, STEPS, command, is_closed_form, method, moved, small, smoke
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure
from lit_memories.ops.adapters import attention_layers, initial_factors, projections
from lit_memories.ops.attention import cross_attentions
from lit_memories.ops.bottlenecks import initial_bottlenecks
from lit_memories.ops.gated import shut_maps, ways_out
from lit_memories.ops.select import select
from lit_memories.ops.tokens import find
from lit_memories.worlds.tokenizer import build_tokenizer

FOLDER = ROOT / "recipes/sd14"
RECIPES = {file.stem: file for file in sorted((FOLDER / "erase").glob("*.yaml"))}
CONCEPTS = {file.stem: Concept(**yaml.safe_load(file.read_text())) for file in sorted(FOLDER.glob("concepts/*.yaml"))}
SIZES = {
    "ac": (32, 19.17),
    "age": (598, 813.50),
    "ant": (686, 859.52),
    "advunlearn": (12 * 16 + 2, 85.06),
    "eap": (598, 813.50),
    "eraseflow": (2 * 128, 0.80),
    "erasediff": (598, 813.50),
    "esd": (80, 43.96),
    "fmn": (686, 859.52),
    "gloce": (9 * 16, 0.07),
    "mace": (32, 19.17),
    "rece": (32, 19.17),
    "receler": (4 * 16, 3.21),
    "salun": (686, 859.52),
    "scissorhands": (686, 859.52),
    "speed": (16, 9.58),
    "spm": (2 * 192, 0.42),
    "stereo": (598, 813.50),
    "uce": (32, 19.17),
}
"""What the official code trains: tensors, and millions of parameters."""
FEWER = {"num_inference_steps": 2, "probe_size": 1, "trim_batches": 1}
"""Options with which this larger model takes less time."""
QUICK = ("esd", "spm", "uce")
RUNS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
"""What the quick suite runs; the conformance of all methods is that of the pictograms' recipes."""
UNTOUCHED = {"fmn": 15}
"""Tensors without a gradient: what comes after the last attention. SalUn's mask may leave out whole tensors too."""


def unet(width: int, channels: tuple[int, ...], heads: int, groups: int, size: int) -> UNet2DConditionModel:
    """SD 1.4's network, in any size."""
    return UNet2DConditionModel(
        sample_size=size,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=2,
        cross_attention_dim=width,
        attention_head_dim=heads,
        norm_num_groups=groups,
    )


def text_encoder(width: int, heads: int, words: int, **tokens: int) -> CLIPTextModel:
    """SD 1.4's text encoder, in any width."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=12,
            num_attention_heads=heads,
            max_position_embeddings=77,
            projection_dim=width,
            **tokens,
        )
    )


@pytest.fixture(scope="module")
def real() -> nn.Module:
    """SD 1.4's U-Net and text encoder, without weights."""
    with torch.device("meta"):
        parts = {
            "unet": unet(768, (320, 640, 1280, 1280), 8, 32, 64),
            "text_encoder": text_encoder(768, 12, 49408, bos_token_id=49406, eos_token_id=49407),
        }
    return nn.ModuleDict(parts)


@pytest.fixture(scope="module")
def sd14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Stable Diffusion 1.4, narrow, for images of 128 pixels, that knows the presets' words."""
    torch.manual_seed(0)
    texts = " ".join(text for c in CONCEPTS.values() for text in c.prompts + c.retain + c.anchor_prompts)
    tokenizer = build_tokenizer(sorted(set(re.findall(r"\w+|,", texts.lower()))), 77)
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 8, 8, 8),
            norm_num_groups=4,
            sample_size=128,
            scaling_factor=0.18215,
        ),
        text_encoder=text_encoder(32, 4, len(tokenizer), **tokens),
        tokenizer=tokenizer,
        unet=unet(32, (8, 16, 24, 24), 4, 4, 16),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # Of a random network a prompt changes the prediction by little more than half precision rounds off. All that
    # erasers train on are such changes, and Adam's first steps go by the signs of what is left: rounding's, then.
    for name, parameter in pipeline.unet.named_parameters():
        if name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
            parameter.data *= 2.5
    folder = tmp_path_factory.mktemp("sd14") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=RUNS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def run(name: str, sd14: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run, in the recipe's precision."""
    return smoke(RECIPES[name], sd14, tmp_path_factory.mktemp(name) / "run", **FEWER)


def selection(name: str, model: nn.Module) -> dict[str, Tensor]:
    """What a recipe trains of a model."""
    rule = yaml.safe_load(RECIPES[name].read_text())["model"]["init_args"].get("train", "attn2-kv")
    if name == "receler":
        layers = initial_bottlenecks(cross_attentions(model.unet), 128, torch.Generator())
        return {f"unet.{layer}": tensor for layer, tensor in layers.items()}
    if name == "gloce":
        return {f"unet.{layer}": tensor for layer, tensor in shut_maps(ways_out(model.unet), 1, 1, 1).items()}
    if name not in ("spm", "eraseflow"):
        return select(model, rule)
    layers, rank = (attention_layers(model.unet), 1) if name == "spm" else (projections(model.unet), 4)
    factors = initial_factors(layers, rank, torch.Generator())
    return {f"unet.{layer}": factor for layer, factor in factors.items()}


def test_there_is_a_recipe_for_every_method() -> None:
    assert RECIPES.keys() == SIZES.keys()
    methods = {file.stem for file in (ROOT / "recipes/pictograms/erase").glob("*.yaml")}
    assert RECIPES.keys() >= methods & SIZES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_sizes_are_the_official_ones(name: str, real: nn.Module) -> None:
    chosen = selection(name, real)
    tensors, millions = SIZES[name]
    assert len(chosen) == tensors
    assert sum(tensor.numel() for tensor in chosen.values()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_spm_adapts_192_layers(real: nn.Module) -> None:
    assert len(attention_layers(real.unet)) == 192
    assert sum(factor.numel() for factor in selection("spm", real).values()) == 423_936


def test_scissorhands_trims_two_self_attentions(real: nn.Module) -> None:
    scope = yaml.safe_load(RECIPES["scissorhands"].read_text())["model"]["init_args"]["scope"]
    chosen = select(real, scope)
    assert {name.split(".transformer")[0] for name in chosen} == {
        "unet.up_blocks.1.attentions.1",
        "unet.up_blocks.2.attentions.1",
    }
    assert sum(parameter.numel() for parameter in chosen.values()) / 1e6 == pytest.approx(8.19, abs=0.005)


def test_the_small_model_bears_the_same_names(sd14: Path, real: nn.Module) -> None:
    small = Diffusion.from_pretrained(sd14)
    for part in ("unet", "text_encoder"):
        names = [[name for name, _ in getattr(model, part).named_parameters()] for model in (small, real)]
        assert names[0] == names[1]


@torch.no_grad()
def test_a_prompt_says_more_than_half_precision_rounds_off(sd14: Path) -> None:
    """Or nothing that is trained in half precision could be compared with the same in full."""
    small, x = Diffusion.from_pretrained(sd14), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    concept, empty = (small.predict_noise(x, 481, small.encode_prompts([prompt])) for prompt in ("nudity", ""))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = small.predict_noise(x, 481, small.encode_prompts(["nudity"]))
    assert (concept - empty).norm() > 5 * (rounded - concept).norm()


def test_its_scheduler_is_run_as_ddim(sd14: Path) -> None:
    """PNDM's own list has a timestep twice; runs end at the first alpha, not at 1."""
    diffusion = Diffusion.from_pretrained(sd14)
    steps = diffusion.schedule.ddim_steps(50)
    assert [step.timestep for step in steps] == list(range(981, 0, -20))
    assert steps[-1].alpha_prev == diffusion.schedule.alpha(0) < 1
    reference = DDIMScheduler.from_pretrained(sd14, subfolder="scheduler")
    reference.set_timesteps(50)
    assert reference.timesteps.tolist() == [step.timestep for step in steps]
    assert diffusion.image_size == (128, 128)


def test_every_recipe_runs(name: str, sd14: Path, run: Path, real: nn.Module) -> None:
    """It trains what the official code trains and nothing else, and its artefact changes the prediction."""
    erasure = Erasure.load(run)
    assert set(erasure.tensors) == set(selection(name, real))
    assert all(tensor.dtype == torch.float32 for tensor in erasure.tensors.values())
    assert erasure.provenance.method == method(RECIPES[name]).__name__
    assert erasure.provenance.steps == (1 if is_closed_form(RECIPES[name]) else STEPS)
    base, erased = Diffusion(str(sd14)), Diffusion(str(sd14), erasure=run)
    before, after = base.state_dict(), erased.state_dict()
    differs = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    prompts = [erasure.provenance.concept["phrase"]]
    plain, changed = (predicted(model, prompts) for model in (base, erased))
    assert not torch.equal(plain, changed)
    if not erasure.is_adapter:
        assert differs <= set(erasure.tensors)
        still = len(erasure.tensors) - len(differs)
        assert still <= 0.1 * len(erasure.tensors) if name == "salun" else still == UNTOUCHED.get(name, 0)
        return
    assert bool(differs) == (erasure.mergeable and erasure.provenance.gate is None)
    if not erasure.mergeable:
        return
    merged = Diffusion(str(sd14), erasure=run, gated=False)
    torch.testing.assert_close(predicted(merged, prompts), changed)
    weights = {f"{key.rsplit('.', 1)[0]}.weight" for key in erasure.tensors}
    assert {key for key, tensor in merged.state_dict().items() if not torch.equal(tensor, before[key])} == weights


@torch.no_grad()
def predicted(model: Diffusion, prompts: list[str]) -> Tensor:
    x = model.draw_seeds([torch.Generator().manual_seed(0)])
    return model.predict_noise(x, 981, model.encode_prompts(prompts))


HALVED = ("esd",)
"""Recipes of which the quick suite asks it; the conformance of all methods asks it of the pictograms' too."""


@pytest.mark.parametrize(
    "name",
    [name if name in HALVED else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
    scope="module",
    indirect=True,
)
def test_half_precision_goes_where_full_precision_goes(name: str, sd14: Path, run: Path, tmp_path: Path) -> None:
    full = smoke(RECIPES[name], sd14, tmp_path / "run", "--trainer.precision=32-true", **FEWER)
    moves = [moved(folder, sd14) for folder in (run, full)]
    assert torch.cosine_similarity(*moves, dim=0) > 0.8
    alike = is_closed_form(RECIPES[name]) or "trainer-float32" in RECIPES[name].read_text()
    assert torch.equal(*moves) == alike, "the control: the recipe's precision is another"


def test_a_recipe_keeps_a_checkpoint_and_its_cost(tiny: Path, tmp_path: Path) -> None:
    """With the recipe's own callbacks, for as many steps as the first checkpoint takes, of the least model there is."""
    quiet = [option for option in QUIET if "accelerator" in option or "logger" in option]
    arguments = command(RECIPES["ac"], tiny, tmp_path / "run", steps=50, probe_size=1)
    main(["fit", *arguments, *quiet, "--trainer.precision=32-true"])
    assert (tmp_path / "run" / "cost.json").is_file()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_presets_find_their_phrase_among_the_tokens(concept: Concept, sd14: Path) -> None:
    """Methods that look for the concept's tokens find them, in capitals, before an apostrophe or a comma."""
    diffusion = Diffusion.from_pretrained(sd14)
    phrase = diffusion.words(concept.phrase)
    named = [prompt for prompt in concept.prompts if prompt not in concept.pairs]
    named += [concept.put_into(prompt, number) for prompt in concept.anchors for number in range(3)]
    assert all(find(diffusion.words(prompt), phrase) for prompt in named)
    assert not any(find(diffusion.words(prompt), phrase) for prompt in concept.retain)


OPTIONS = re.compile(r"# (?P<label>[^:]+): (?P<options>--[^(]+) \(.+\)")


def lines(stem: str) -> Iterator[Any]:
    """The lines of options of a recipe, whole: one that begins with "and" goes on from the one before."""
    before = ""
    for number, line in enumerate(RECIPES[stem].read_text(encoding="utf-8").splitlines()):
        if number and (found := OPTIONS.fullmatch(line)):
            before = f"{before} {found['options']}" if found["label"].startswith("and ") else found["options"]
            yield pytest.param(stem, before, id=f"{stem}: {found['label']} {number}")


LINES = [line for stem in RECIPES for line in lines(stem)]


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "options"), LINES)
def test_a_comments_options_are_trained_with(
    stem: str, options: str, sd14: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line that says what to pass is run, and what it says is what the artefact was made with."""
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(options)
    short = [f"--model.{name}={value}" for name, value in small(RECIPES[stem]).items()]
    folder = smoke(RECIPES[stem], sd14, tmp_path / "run", *arguments, *short, "--trainer.precision=32-true")
    erasure = Erasure.load(folder)
    assert moved(folder, sd14).any()
    settings, concept = erasure.provenance.settings, erasure.provenance.concept
    for name, value in dict(zip(arguments[::2], arguments[1::2], strict=True)).items():
        _, option, *field = name.removeprefix("--").split(".")
        wanted = yaml.safe_load(value)
        if name.startswith("--trainer.") or option in small(RECIPES[stem]):
            continue
        if option == "concept" and not field:
            wanted = yaml.safe_load(Path(value).read_text(encoding="utf-8"))["name"]
            assert concept["name"] == wanted
        elif option == "concept":
            assert concept[field[0]] == ("" if wanted is None else wanted), name
        elif wanted is not None:
            assert settings[option] == wanted or float(settings[option]) == float(wanted), name
