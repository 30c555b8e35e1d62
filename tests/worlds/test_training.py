"""Pretraining for a few steps: the parts, and each recipe from the command line to a folder plain diffusers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.images import grid, to_pil, to_tensor
from lit_memories.worlds import pictograms
from lit_memories.worlds.classifier import load_classifier
from lit_memories.worlds.data import Exposure, LatentWorldData, WorldData
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.muon import MuonAdamW, is_matrix, orthogonalise
from lit_memories.worlds.pictograms import (
    COLORS,
    FACTORS,
    GRAMMAR,
    OBJECTS,
    STYLES,
    PictogramWorld,
    draw,
    render,
    shows,
)
from lit_memories.worlds.text_to_image import TextToImage
from lit_memories.worlds.tokenizer import build_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes/pictograms/pretrain"
WORLD = PictogramWorld()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (40, 12), (12, 40)])
def test_orthogonalise_keeps_the_directions_and_levels_their_strengths(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert values.max() / values.min() > 1.5
    result = orthogonalise(matrix)
    core = left.T @ result @ right.T
    assert (core - core.diagonal().diag()).abs().max() < 1e-3, "same singular vectors"
    assert core.diagonal().min() > 0.3
    assert core.diagonal().max() < 1.3
    torch.testing.assert_close(orthogonalise(1000 * matrix), result, rtol=1e-3, atol=1e-3)


def test_muon_takes_matrices_and_kernels_and_adam_the_rest() -> None:
    module = nn.ModuleDict({"conv": nn.Conv2d(8, 16, 3), "norm": nn.GroupNorm(4, 16), "head": nn.Linear(16, 4)})
    optimizer = MuonAdamW(module.parameters(), lr=1e-3, ratio=5)
    muon, adam = optimizer.param_groups
    assert [id(p) for p in muon["params"]] == [id(module["conv"].weight)]
    assert len(adam["params"]) == 5
    assert muon["lr"] == pytest.approx(5 * adam["lr"])
    assert is_matrix(torch.zeros(8, 8))
    assert not is_matrix(torch.zeros(4, 64))
    assert not is_matrix(torch.zeros(64))


def test_its_adam_is_torchs() -> None:
    ours, theirs = (nn.Parameter(normal(5)) for _ in range(2))
    mine = MuonAdamW([ours], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, eps=1e-8)
    for step in range(5):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            parameter.grad = normal(5, seed=step + 1)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_descends_and_resumes_to_the_bit() -> None:
    target = normal(12, 12, seed=1)

    def run(parameter: nn.Parameter, optimizer: MuonAdamW, steps: int) -> float:
        for _ in range(steps):
            loss = (parameter - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    whole = nn.Parameter(normal(12, 12))
    optimizer = MuonAdamW([whole], lr=3e-3)
    start = float((whole - target).square().mean().detach())
    assert run(whole, optimizer, 40) < 0.8 * start
    half = nn.Parameter(normal(12, 12))
    first = MuonAdamW([half], lr=3e-3)
    run(half, first, 20)
    second = MuonAdamW([half], lr=3e-3)
    second.load_state_dict(first.state_dict())
    run(half, second, 20)
    assert torch.equal(half, whole)


def test_every_word_is_one_token() -> None:
    tokenizer = build_tokenizer(GRAMMAR.words)
    words = [*COLORS, *OBJECTS, *STYLES, "a", "on", "background", "style"]
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    assert len({tokenizer(word, add_special_tokens=False).input_ids[0] for word in words}) == len(words)
    caption = draw("test", 0)[0].caption
    encoded = tokenizer(caption, padding="max_length", truncation=True).input_ids
    assert len(encoded) == tokenizer.model_max_length == 16
    assert encoded[0] == tokenizer.bos_token_id
    assert encoded[-1] == tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer(caption).input_ids, skip_special_tokens=True).replace(" ", "") == caption.replace(
        " ", ""
    )


def test_other_words_fall_apart_and_are_told_apart() -> None:
    tokenizer = build_tokenizer(GRAMMAR.words)
    one, two = (tokenizer(word, add_special_tokens=False).input_ids for word in ("painting", "paintings"))
    assert len(one) > 1
    assert one != two
    assert tokenizer.unk_token_id not in tokenizer("zebra", add_special_tokens=False).input_ids or len(one) > 1


def test_a_tokenizer_survives_saving(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(GRAMMAR.words)
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    for index in range(20):
        caption = draw("test", index)[0].caption
        assert again(caption).input_ids == tokenizer(caption).input_ids
    assert again("zebra 7!").input_ids == tokenizer("zebra 7!").input_ids


def test_withheld_concepts_are_never_shown() -> None:
    withheld = [{"object": "umbrella"}, {"style": "striped"}]
    data = WorldData(WORLD, train_size=120, validation_size=30, batch_size=8, withhold=withheld)
    data.prepare_data()
    data.setup("fit")
    captions = [row for batch in data.train_dataloader() for row in batch["captions"]]
    assert captions
    assert not any("umbrella" in caption or "striped" in caption for caption in captions)
    kept = [draw("train", i)[0] for i in range(120)]
    assert len(data.train) == sum(p.object != "umbrella" and p.style != "striped" for p in kept)
    batch = next(iter(data.val_dataloader()))
    assert batch["images"].shape == (8, 3, 64, 64)
    assert 0 <= batch["images"].min() <= batch["images"].max() <= 1
    picture = pictograms.parse_caption(batch["captions"][0])
    assert all(FACTORS[factor][int(batch[factor][0])] == getattr(picture, factor) for factor in FACTORS)


def test_so_many_pictures_of_a_concept_are_shown_and_all_of_everything_else() -> None:
    umbrella, red = {"object": "umbrella"}, {"color": "red"}
    rows = [p for p in (draw("other", i)[0] for i in range(240)) if p.style != "solid"]
    assert sum(shows(p.labels, umbrella) for p in rows) > 3 < sum(shows(p.labels, red) for p in rows)
    shown = []
    for exposures in ([], [Exposure(umbrella, 3)], [Exposure(umbrella, 3), Exposure(red, 2)]):
        data = WorldData(WORLD, 240, 30, withhold=[{"style": "solid"}], exposures=exposures, split="other")
        data.setup("fit")
        shown.append(data.train["caption"])
    everything, few, fewer = shown
    others = [caption for caption in everything if "umbrella" not in caption]
    assert [caption for caption in few if "umbrella" not in caption] == others
    umbrellas = [caption for caption in everything if "umbrella" in caption]
    assert [caption for caption in few if "umbrella" in caption] == umbrellas[:3], "the first, so that few are in more"
    assert sum(caption.startswith("a red") for caption in fewer) == 2
    limited = WorldData(WORLD, 240, 30, exposures=[Exposure(umbrella, 3)], split="other", limit=100)
    limited.setup("fit")
    assert len(limited.train) == 100
    assert sum("umbrella" in caption for caption in limited.train["caption"]) == 3
    with pytest.raises(
        ValueError, match=r"240 rows of the split 'other' leave [0-9]+ to show, not 239: raise train_size"
    ):
        WorldData(WORLD, 240, 30, withhold=[umbrella], split="other", limit=239).setup("fit")
    with pytest.raises(ValueError, match=r"240 rows of the split 'other' hold [0-9]+ pictures of umbrella, not 100"):
        WorldData(WORLD, 240, 30, exposures=[Exposure(umbrella, 100)], split="other").setup("fit")


def test_latents_are_encoded_once(tiny_autoencoder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "autoencoder": tiny_autoencoder,
        "cache": tmp_path,
        "train_size": 20,
        "validation_size": 8,
    }
    data = LatentWorldData(world=WORLD, **options)
    data.prepare_data()
    data.setup("fit")
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 2
    control = LatentWorldData(world=WORLD, **options, withhold=[{"color": "red"}])
    control.prepare_data()
    control.setup("fit")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    assert 0 < len(control.train) < len(data.train) == 20
    vae = AutoencoderKL.from_pretrained(tiny_autoencoder)
    image = to_tensor(render(*draw("train", 0)))[None]
    with torch.no_grad():
        posterior = vae.encode(image * 2 - 1).latent_dist
    row, scale = data.train[0], vae.config.scaling_factor
    torch.testing.assert_close(row["mean"], scale * posterior.mean[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(row["std"], scale * posterior.std[0], rtol=1e-3, atol=1e-4)
    assert row["captions"] == draw("train", 0)[0].caption


def run(recipe: str, folder: Path, *more: str, steps: int = 4) -> None:
    """Train by recipe for a few steps, with its averaging and checkpoints."""
    callbacks = (
        "--trainer.callbacks=["
        "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}, "
        "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, "
        f"init_args: {{save_last: true, every_n_train_steps: 2, save_top_k: 0, dirpath: {folder}/kept}}}}]"
    )
    main(
        [
            "fit",
            f"--config={RECIPES / f'{recipe}.yaml'}",
            f"--model.save_to={folder}/saved",
            "--model.warmup_steps=2",
            "--data.train_size=24",
            "--data.validation_size=8",
            "--data.batch_size=4",
            f"--trainer.max_steps={steps}",
            "--trainer.val_check_interval=2",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={folder}",
            callbacks,
            *more,
        ]
    )


def same(one: Path, two: Path) -> bool:
    files = sorted(file.relative_to(one) for file in one.rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(one / file), load_file(two / file)
        if set(ours) != set(theirs) or not all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()):
            return False
    return True


SMALL_VAE = ("--model.block_out_channels=[8, 8, 8]",)


def test_the_autoencoder_recipe(tmp_path: Path) -> None:
    run("autoencoder", tmp_path, *SMALL_VAE)
    vae = AutoencoderKL.from_pretrained(tmp_path / "saved")
    images = torch.stack([to_tensor(render(*draw("validation", i))) for i in range(8)])
    with torch.no_grad():
        latents = vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    assert latents.shape == (8, 4, 16, 16)
    assert latents.square().mean().sqrt() == pytest.approx(1, abs=0.5), "latents of unit scale"
    assert list((tmp_path / "samples").glob("autoencoder-*.png"))


def test_the_autoencoder_is_saved_even_without_validation(tmp_path: Path) -> None:
    run("autoencoder", tmp_path, *SMALL_VAE, "--trainer.limit_val_batches=0", steps=2)
    assert AutoencoderKL.from_pretrained(tmp_path / "saved").config.scaling_factor > 0


def test_a_training_that_diverged_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"training diverged: .* lower"):
        run("classifier", tmp_path, "--model.lr=1e30", "--model.weight_decay=0", steps=2)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_two_runs_of_the_classifier_recipe_are_the_same(tmp_path: Path) -> None:
    run("classifier", tmp_path / "one", steps=4)
    run("classifier", tmp_path / "again", steps=4)
    assert same(tmp_path / "one/saved", tmp_path / "again/saved")
    classifier = load_classifier(tmp_path / "one/saved")
    assert set(classifier.predict(torch.rand(2, 3, 64, 64))) == set(FACTORS)


def test_the_text_to_image_recipe(
    tiny_autoencoder: Path, tiny_classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, interrupted, resumed, branched: the folder is an ordinary pipeline each time."""
    judge = TextToImage.judge_samples
    monkeypatch.setattr(TextToImage, "judge_samples", lambda self: judge(self, count=2))
    parts = (
        f"--model.autoencoder={tiny_autoencoder}",
        f"--model.classifier={tiny_classifier}",
        f"--data.autoencoder={tiny_autoencoder}",
        f"--data.cache={tmp_path / 'latents'}",
    )
    small = (*parts, "--model.block_out_channels=[8, 16]", "--model.text_width=32")
    run("text_to_image", tmp_path / "run", *small, steps=2)
    first = {file: file.read_bytes() for file in (tmp_path / "run/saved").rglob("*.safetensors")}
    run("text_to_image", tmp_path / "run", *small, f"--ckpt_path={tmp_path}/run/kept/last.ckpt", steps=4)
    assert any(file.read_bytes() != content for file, content in first.items()), "resuming trained on"
    checkpoint = torch.load(tmp_path / "run/kept/last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 4
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "run/saved")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red star on a blue background, solid style", num_inference_steps=2).images[0]
    assert image.size == (64, 64)
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    stored = load_file(tmp_path / "run/saved/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert list((tmp_path / "run/samples").glob("samples-*.png"))
    branch = (*parts, f"--model.init_from={tmp_path / 'run/saved'}")
    run("text_to_image_branch", tmp_path / "branch", *branch, steps=2)
    assert not same(tmp_path / "run/saved", tmp_path / "branch/saved")


def test_prompts_vary_as_told(tiny_autoencoder: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    model = TextToImage(WORLD, tmp_path, tiny_autoencoder, tiny_classifier, block_out_channels=(8, 16), text_width=32)
    picture = draw("test", 0)[0]
    shorter = GRAMMAR.say_less(picture.labels)
    torch.manual_seed(0)
    seen = [model.vary(picture.caption) for _ in range(2000)]
    assert seen.count("") / 2000 == pytest.approx(model.drop_prompt, abs=0.03)
    shortened = [prompt for prompt in seen if prompt in shorter]
    assert len(shortened) / 2000 == pytest.approx(model.shorten_prompt, abs=0.04)
    assert set(shortened) == set(shorter)
    assert set(seen) == {"", picture.caption, *shorter}


@torch.no_grad()
def test_the_loss_is_the_weighted_error(tiny_autoencoder: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    """min(SNR, gamma) / SNR times the squared error of the noise."""
    model = TextToImage(
        WORLD, tmp_path, tiny_autoencoder, tiny_classifier, block_out_channels=(8, 16), text_width=32
    ).eval()
    latents, noise, timesteps = normal(3, 4, 16, 16), normal(3, 4, 16, 16, seed=1), torch.tensor([1, 400, 990])
    prompts = ["umbrella", "", "star"]
    diffusion = model.diffusion
    noisy = diffusion.schedule.add_noise(latents, noise, timesteps)
    error = (
        (diffusion.predict_noise(noisy, timesteps, diffusion.encode_prompts(prompts)) - noise).square().mean((1, 2, 3))
    )
    alpha = diffusion.schedule.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    expected = error * (snr.clamp(max=5) / snr).float()
    torch.testing.assert_close(model.loss(latents, noise, timesteps, prompts), expected)


def test_a_judge_compares_with_the_prompt(tiny_classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a classifier that sees what is there, verdicts are true; on other prompts there is none."""
    judge = WorldJudge(tiny_classifier)
    pictures = [draw("test", i)[0] for i in range(3)]
    answers = iter([{factor: [getattr(p, factor)] for factor in FACTORS} for p in pictures])
    monkeypatch.setattr(judge.classifier, "likeliest", lambda logits: next(answers))
    prompts = [pictures[0].caption, pictures[0].caption, "something else"]
    concept = Concept("this", "object", prompts[:1], factors={"object": pictures[0].object})
    verdicts = judge(torch.rand(3, 3, 64, 64), prompts, concept)
    del verdicts[0]["probability"]
    assert verdicts[0] == {"shows_concept": 1.0, "correct": dict.fromkeys(FACTORS, True)}
    expected = {factor: getattr(pictures[0], factor) == getattr(pictures[1], factor) for factor in FACTORS}
    del verdicts[1]["probability"]
    assert verdicts[1] == {"shows_concept": float(pictures[0].object == pictures[1].object), "correct": expected}
    assert verdicts[2]["correct"] is None


def test_a_verdict_does_not_depend_on_its_neighbours(tiny_classifier: Path) -> None:
    judge, images = (
        WorldJudge(tiny_classifier),
        torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    prompts = [draw("test", i)[0].caption for i in range(5)]
    star = Concept("star", "object", ["a star"], factors={"object": "star"})
    together = judge(images, prompts, star)
    assert together == [judge(images[i : i + 1], prompts[i : i + 1], star)[0] for i in range(5)]


def test_pictures_and_tensors_convert_back() -> None:
    picture = render(*draw("test", 0))
    assert to_pil(to_tensor(picture)).tobytes() == picture.tobytes()
    sheet = grid(torch.stack([to_tensor(picture)] * 5), columns=3, gap=2)
    assert sheet.size == (3 * 66 - 2, 2 * 66 - 2)
    assert sheet.crop((66, 66, 130, 130)).tobytes() == picture.tobytes()
