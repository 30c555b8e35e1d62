"""The audit recipes for Stable Diffusion 1.4, run from a prompt list to a report on a small model."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from recipe_costs import counted, said
from safetensors.torch import load_file
from torch import Tensor

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance
from lit_memories.inverters.renoise import ReNoise
from lit_memories.ops.schedule import BetaSchedule
from lit_memories.runs import read_run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes/sd14/audit"
OPTION = re.compile(r"# (?P<label>\w+): (?P<options>--[^(]+) \((?P<origin>.+)\)")
QUIET = ("--trainer.callbacks=[]", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@pytest.fixture(scope="module")
def sets(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``images``, drawn by the model from a list of three prompts, and ``coco`` in COCO's layout."""
    folder = tmp_path_factory.mktemp("sets")
    lines = ["case_number,prompt,evaluation_seed", *(f"{case},a red umbrella {case},{case}" for case in (0, 2, 10))]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    options = ("--num_inference_steps=2", "--batch_size=3", f"--base={calm}", f"--out={folder / 'images'}")
    main(["generate", str(folder / "list.csv"), *options])
    (folder / "coco" / "val2017").mkdir(parents=True)
    (folder / "coco" / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "coco" / "val2017" / f"{number:012d}.jpg")
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(5)],
        "annotations": [{"image_id": n, "caption": "a star" + " and another" * 20 * (n // 2)} for n in range(5)],
    }
    (folder / "coco" / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    return folder


def arguments(recipe: str, base: Path, sets: Path, run: Path, *more: str) -> list[str]:
    """A recipe's command line with a small model and small sets in the place of the real ones."""
    names = ("query_images", "support_images") if recipe == "image" else ("concept_images", "reference_images")
    small = {
        "image": (
            f"--model.cache={sets / 'cache'}",
            "--model.decoder.max_passes=2",
            "--data.queries=2",
            "--data.supports=2",
        ),
        "paper": ("--model.judge=null", "--data.known=1", "--data.prompted=1"),
        "concept": ("--data.known=1", "--data.prompted=1"),
    }
    return [
        "predict",
        f"--config={FOLDER / recipe}.yaml",
        f"--model.diffusion.base={base}",
        "--model.num_inference_steps=3",
        "--model.block_size=3",
        f"--data.{names[0]}.path={sets / 'images'}",
        f"--data.{names[1]}.root={sets / 'coco'}",
        f"--trainer.default_root_dir={run}",
        "--trainer.accelerator=cpu",
        *small[recipe],
        *QUIET,
        *more,
    ]


@pytest.fixture(scope="module")
def paper_run(calm: Path, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the recipe with the paper's settings."""
    run = tmp_path_factory.mktemp("runs") / "vanilla"
    with pytest.warns(UserWarning, match="longer than the text encoder's window"):
        main(arguments("paper", calm, sets, run, "--data.reference_images.limit=3"))
    return run


def test_the_papers_recipe_has_its_settings(paper_run: Path) -> None:
    run = read_run(paper_run)
    assert run.info.complete
    assert run.info.probes["seed"]["settings"]["inverter"]["name"] == "ReNoise"
    assert run.info.probes["seed"]["settings"]["inverter"]["faithful"]
    assert run.info.probes["seed"]["settings"]["guidance_scale"] == 1
    assert run.info.settings["posterior_seed"] == 42
    assert run.info.settings["precision"] == "32-true"
    counts = [len([r for r in run.records if r.set == name]) for name in ("concept", "reference", "known", "prompted")]
    assert counts == [3, 3, 1, 1]
    assert [r.prompt for r in run.records if r.set == "concept"] == [f"a red umbrella {case}" for case in (0, 10, 2)]


def test_run_json_says_what_was_read(paper_run: Path) -> None:
    data = read_run(paper_run).info.data
    assert data["reference"]["names"] == [f"{number:012d}.jpg" for number in range(3)]
    assert data["reference"]["source"].endswith("first captions, squeezed")
    assert data["reference"]["cut"] == 1
    assert data["concept"]["cut"] == 0


def test_pictures_are_squeezed(paper_run: Path, sets: Path) -> None:
    with Image.open(sets / "coco" / "val2017" / "000000000000.jpg") as opened:
        expected = np.array(opened.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    with Image.open(paper_run / "images" / "reference-0000-original.png") as kept:
        assert (np.array(kept) == expected).all()


@pytest.mark.slow
def test_an_erased_model_is_compared_with_vanilla(calm: Path, sets: Path, tmp_path: Path) -> None:
    """One command a model, one for the report; the official distance is in it. By our inverter: the official one's
    regulariser, made for maps of 64 x 64, takes the seeds of 16 x 16 to infinity, and what is not finite is flagged."""
    diffusion = Diffusion.from_pretrained(calm)
    name, weight = next((n, p) for n, p in diffusion.named_parameters() if n.endswith("attn2.to_k.weight"))
    provenance = Provenance("ESD", {"name": "church"}, str(calm), None, diffusion.fingerprint, {}, 1, None, {})
    Erasure({name: weight.detach() * 3}, provenance).save(tmp_path / "erasure")
    ours = ("--model.inverter=lit_memories.inverters.fixed_point.FixedPoint", "--data.reference_images.limit=2")
    for name, erased in {"vanilla": [], "esd": [f"--model.diffusion.erasure={tmp_path / 'erasure'}"]}.items():
        main(arguments("paper", calm, sets, tmp_path / name, *ours, *erased))
    main(["report", str(tmp_path / "vanilla"), str(tmp_path / "esd"), f"--out={tmp_path / 'report'}"])
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [run["name"] for run in results["runs"]] == ["vanilla", "esd"]
    assert all(run["paper"]["relative_distance_w2_squared"]["value"] > 0 for run in results["runs"])


@pytest.mark.slow
def test_the_recipe_to_rest_a_verdict_on(calm: Path, clip: Path, sets: Path, tmp_path: Path) -> None:
    """All that it asks, of a vanilla and an erased model, up to what the report says of the door."""
    diffusion = Diffusion.from_pretrained(calm)
    changed = {n: p.detach() * 3 for n, p in diffusion.named_parameters() if n.endswith("attn2.to_k.weight")}
    provenance = Provenance("ESD", {"name": "church"}, str(calm), None, diffusion.fingerprint, {}, 1, None, {})
    Erasure(changed, provenance).save(tmp_path / "erasure")
    judge = ("--model.judge=lit_memories.judges.clip.CLIPJudge", f"--model.judge.model_id={clip}")
    few = (*judge, "--data.reference_images.limit=3", "--model.num_inference_steps=10")
    for name, erased in {"vanilla": [], "esd": [f"--model.diffusion.erasure={tmp_path / 'erasure'}"]}.items():
        with pytest.warns(UserWarning, match="longer than the text encoder's window"):
            main(arguments("concept", calm, sets, tmp_path / name, *few, *erased))
    run = read_run(tmp_path / "vanilla")
    assert run.info.complete
    assert run.info.probes["seed"]["settings"]["inverter"]["name"] == "FixedPoint"
    assert run.info.settings["posterior_seed"] is None
    wanted = {"denoising", "judging", "samples", "seed", "known", "plain", "image_prompt"}
    assert set(run.info.probes) == wanted
    assert {probe for record in run.records for probe in record.probes} == wanted
    main(["report", str(tmp_path / "vanilla"), str(tmp_path / "esd"), f"--out={tmp_path / 'report'}"])
    esd = json.loads((tmp_path / "report" / "results.json").read_text())["runs"][1]
    assert esd["forgetting"]["value"] != 0
    assert esd["probes"]["image_prompt"]["numbers"]["success"]


def test_its_comments_are_what_a_plan_counts(calm: Path, tmp_path: Path) -> None:
    assert counted(FOLDER / "concept.yaml", calm, tmp_path) == said(FOLDER / "concept.yaml")


@pytest.mark.parametrize("reencode", [True, False])
def test_the_image_recipe_runs_both_ways(reencode: bool, calm: Path, sets: Path, tmp_path: Path) -> None:
    more = () if reencode else ("--model.reencode=false",)
    main(arguments("image", calm, sets, tmp_path / "run", "--data.support_images.limit=4", *more))
    run = read_run(tmp_path / "run")
    assert run.info.complete
    assert run.info.probes["memories"]["settings"]["reencode"] == reencode
    assert run.info.probes["memories"]["settings"]["decoder"] == {
        "name": "DecoderInversion",
        "max_passes": 2,
        "faithful": True,
        "lr": 1e-2,
    }
    assert [r.support for r in run.records if r.set == "memory"] == [0, 1, 2, 3], "ten a query, of its own"
    assert len(load_file(tmp_path / "run" / "seeds.safetensors")) == 2 * 4


def test_the_image_recipe_is_the_papers() -> None:
    """What the run above had to make smaller."""
    model, data = (yaml.safe_load((FOLDER / "image.yaml").read_text())[part]["init_args"] for part in ("model", "data"))
    assert (data["queries"], data["supports"], data["support_images"]["init_args"]["limit"]) == (5, 10, 50)
    assert model["decoder"]["init_args"] == {"faithful": True, "lr": 1e-2, "max_passes": 3000}
    assert model["num_inference_steps"] == 50
    assert model["diffusion"]["base"] == "CompVis/stable-diffusion-v1-4"


WEAK = {"lambda_ac": 0.1, "lambda_kl": 1e-3}
"""For maps of 16 x 16; those for 64 x 64 take them to infinity in three steps."""
COMMENTS = {
    (recipe, found["label"]): shlex.split(found["options"])
    for recipe in ("paper", "image")
    for line in (FOLDER / f"{recipe}.yaml").read_text().splitlines()
    if (found := OPTION.fullmatch(line))
}


class Restated:
    """What official code does to one picture, with diffusers' parts and nothing of ours, but for ReNoise's loop.

    Args:
        folder: of the pipeline.
        picture: file.
        prompt: its own.
    """

    def __init__(self, folder: Path, picture: Path, prompt: str) -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        self.unet, self.vae = pipeline.unet.requires_grad_(False), pipeline.vae.requires_grad_(False)
        self.scale = self.vae.config.scaling_factor
        self.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        self.scheduler.set_timesteps(3)
        tokens = pipeline.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            self.text = pipeline.text_encoder(tokens.input_ids)[0]
            with Image.open(picture) as opened:
                self.pixels = torch.from_numpy(np.array(opened)).movedim(2, 0)[None] / 127.5 - 1
            self.posterior = self.vae.encode(self.pixels).latent_dist

    def mean(self) -> Tensor:
        """nti.py's start."""
        return self.posterior.mean * self.scale

    def sampled(self) -> Tensor:
        """renoise_inversion.py's start."""
        return self.posterior.sample(torch.Generator().manual_seed(42)) * self.scale

    def found(self) -> Tensor:
        """vae_inversion_tools.py: two steps of Adam from the mean."""
        latents = self.posterior.mean.clone().requires_grad_()
        adam = torch.optim.Adam([latents], lr=1e-2)
        for _ in range(2):
            adam.zero_grad()
            F.mse_loss(self.vae.decode(latents).sample / 2 + 0.5, self.pixels / 2 + 0.5).backward()
            adam.step()
        return latents.detach() * self.scale

    def encoded_again(self) -> Tensor:
        """many_memories_of_an_ablated_image.py with ReNoise: the latent decoded to 8 bit, and a sample of that."""
        found = self.found()
        with torch.no_grad():
            image = (self.vae.decode(found / self.scale).sample / 2 + 0.5).clamp(0, 1)
            posterior = self.vae.encode((image * 255).round() / 127.5 - 1).latent_dist
        return posterior.sample(torch.Generator().manual_seed(42)) * self.scale

    def explicit(self, latents: Tensor) -> Tensor:
        """nti.py, ddim_inversion: transitions between neighbours of the timesteps, one fewer than there are of them."""
        timesteps = self.scheduler.timesteps.flip(0)
        for low, high in pairwise(timesteps):
            noise, now, then = self.noise(latents, low), *(self.scheduler.alphas_cumprod[t] for t in (low, high))
            original = (latents - (1 - now).sqrt() * noise) / now.sqrt()
            latents = then.sqrt() * original + (1 - then).sqrt() * noise
        return latents

    def solved(self, latents: Tensor) -> Tensor:
        """Seeds from which DDIMScheduler makes the latents, each step solved by substitution."""
        before = self.scheduler.final_alpha_cumprod
        for timestep in self.scheduler.timesteps.flip(0):
            x, now = latents, self.scheduler.alphas_cumprod[timestep]
            for _ in range(10):
                reached = self.scheduler.step(self.noise(x, timestep), timestep, x).prev_sample
                x = x + (now / before).sqrt() * (latents - reached)
            latents, before = x, now
        return latents

    def renoised(self, latents: Tensor) -> Tensor:
        """renoise_inversion.py; tests/inverters has its loop beside the official one."""
        schedule = BetaSchedule(self.scheduler.alphas_cumprod.double(), float(self.scheduler.final_alpha_cumprod))
        steps = schedule.ddim_steps(3)
        return ReNoise(faithful=True, **WEAK)(lambda x, t, rows: self.noise(x, t), latents, steps).seeds

    def noise(self, latents: Tensor, timestep: Tensor | int) -> Tensor:
        """Conditional predictions, a row at a time."""
        with torch.no_grad():
            return self.unet(latents, timestep, self.text).sample


CLAIMS = {
    ("paper", "ours"): (Restated.solved, Restated.mean, Restated.sampled),
    ("paper", "nti"): (Restated.explicit, Restated.mean, Restated.sampled),
    ("image", "latent"): (Restated.renoised, Restated.found, Restated.encoded_again),
    ("image", "nti"): (Restated.explicit, Restated.found, Restated.encoded_again),
    ("image", "ours"): (Restated.solved, Restated.found, Restated.encoded_again),
}
"""What a comment of a recipe says: how seeds are found, of which latents, and of which the recipe itself finds them."""


@pytest.mark.parametrize(("recipe", "label"), COMMENTS)
def test_a_comment_does_what_it_says(recipe: str, label: str, calm: Path, sets: Path, tmp_path: Path) -> None:
    few = ("concept_images.limit=1", "reference_images.limit=1", "known=0", "prompted=0")
    if recipe == "image":
        few = ("queries=1", "supports=1", "support_images.limit=1")
    options = [f"--data.{option}" for option in few] + COMMENTS[recipe, label]
    if label == "latent":
        options += [f"--model.inverter.{name}={value}" for name, value in WEAK.items()]
    main(arguments(recipe, calm, sets, tmp_path / "run", *options))
    run, seeds = read_run(tmp_path / "run"), load_file(tmp_path / "run" / "seeds.safetensors")
    (record,) = run.of("concept", "seed") if recipe == "paper" else run.of("own", "memories")
    invert, start, plain = CLAIMS[recipe, label]
    restated = Restated(calm, run.image(record.set, 0, "original"), record.prompt)
    expected, recipes = invert(restated, start(restated)), invert(restated, plain(restated))
    seed = seeds[record.key][None]
    assert (seed - expected).norm() < 2e-3 * expected.norm()
    assert (seed - recipes).norm() > 2e-2 * expected.norm(), "the recipe's own latents lead elsewhere"
    if label == "nti":
        found = record.probes["seed" if recipe == "paper" else "memories"]
        assert found["evaluations"] == 2 * (3 - 1), "a transition fewer than there are timesteps, each measured"


@pytest.mark.parametrize("recipe", ["concept", "paper", "image"])
def test_every_value_has_an_origin(recipe: str) -> None:
    for line in (FOLDER / f"{recipe}.yaml").read_text().splitlines():
        if re.search(r"^    (  )?\w+: [^{]*\d|^    \w+: \w+$|diffusion: ", line) and "class_path" not in line:
            assert re.search(r" # .*(paper|\.py|ours|README)", line), line
