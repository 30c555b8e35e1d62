"""What all methods inherit: settings, rows, randomness, latents on the way, and what is refused before long work."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from small_runs import PROMPTS, UMBRELLA, Given, fit, moved, noisy, normal, pictures, sets, snapshot, trainer
from torch import Generator, Tensor

from lit_memories.data.erasure import ErasureData, Latents
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.ac import AC
from lit_memories.erasers.advunlearn import AdvUnlearn
from lit_memories.erasers.age import AGE
from lit_memories.erasers.ant import ANT
from lit_memories.erasers.base import Eraser, draw
from lit_memories.erasers.cost import Cost
from lit_memories.erasers.eap import EAP
from lit_memories.erasers.erasediff import EraseDiff
from lit_memories.erasers.esd import ESD
from lit_memories.erasers.fmn import FMN
from lit_memories.erasers.rece import RECE
from lit_memories.erasers.salun import SalUn
from lit_memories.erasers.scissorhands import Scissorhands
from lit_memories.erasers.speed import SPEED
from lit_memories.erasers.spm import SPM
from lit_memories.erasers.stereo import STEREO
from lit_memories.erasers.uce import UCE
from lit_memories.erasure import Erasure
from lit_memories.ops.generators import seeded
from lit_memories.ops.rollout import rollout

COMMON = {"steps": 7, "lr": 0.25, "batch_size": 3}
ROLLOUT = {"eta": 1.25, "direction": "phrase", "num_inference_steps": 9, "start_guidance": 2.5}
CLOSED = {
    "tokens": "all",
    "preserve_tokens": "following",
    "lamb": 0.75,
    "erase_scale": 1.5,
    "preserve_scale": 0.125,
}
SEARCH = {
    "train": "attn1", "candidates": "retain", "nearest": 5, "clusters": 4, "keep_weight": 0.5, "search_steps": 3,
    "search_lr": 0.25, "temperature": 0.75, "top_k": 2, "faithful": True,
}  # fmt: skip
OPTIONS: dict[type[Eraser], dict[str, Any]] = {
    ESD: {**COMMON, **ROLLOUT, "train": "attn1", "rollout_with": "student", "faithful": True},
    ANT: {
        **COMMON, **ROLLOUT, "train": "attn1", "before": 3, "attract_weight": 0.75, "empty_weight": 0.25,
        "mask_ratio": 0.125, "mask_seeds": 2, "mask_batches": 4, "faithful": True,
    },
    EAP: {**COMMON, **ROLLOUT, **SEARCH},
    AGE: {**COMMON, **ROLLOUT, **SEARCH},
    STEREO: {
        **COMMON, **ROLLOUT, "train": "attn1", "anchor_eta": 0.5, "rounds": 3, "search_steps": 5, "search_lr": 0.125,
        "search_eta": 0.75, "word_steps": 6, "word_lr": 0.0625, "word_start": "red", "template": "{} here",
        "faithful": True,
    },
    UCE: CLOSED,
    RECE: {
        **CLOSED, "rounds": 3, "adversary_lamb": 0.5, "round_lamb": 0.0625, "round_preserve_scale": 0.375,
        "round_tokens": "eot",
    },
    SPEED: {
        "train": "attn2-kv", "tokens": "all", "preserve_tokens": "all", "threshold": 0.25, "retain_scale": 0.75,
        "lamb": 0.5, "augmentations": 3, "prior_filter": False, "invariants": 2,
    },
    AC: {
        **COMMON, "train": "attn2-kv", "target": "noise", "prior_weight": 0.5, "weight_decay": 0.125,
        "max_grad_norm": 2.0,
    },
    FMN: {**COMMON, "train": "attn2", "weight_decay": 0.125, "max_grad_norm": 2.0, "faithful": True},
    SalUn: {**COMMON, "train": "full", "alpha": 0.5, "mask_ratio": 0.25, "mask_guidance": 1.0},
    EraseDiff: {**COMMON, "train": "full", "eta": 0.5, "lamb": 0.25, "faithful": "nudity", "inner_passes": 2},
    Scissorhands: {
        **COMMON, "train": "full", "trim_ratio": 0.125, "trim_batches": 4, "scope": "attn1", "margin": 0.25,
        "lamb": 0.5, "faithful": "objects",
    },
    SPM: {
        **COMMON, **ROLLOUT, "rank": 2, "anchor_weight": 3.0, "anchors": 5, "warmup_steps": 2, "cycles": 4,
        "faithful": True,
    },
    AdvUnlearn: {
        **COMMON, **ROLLOUT, "train": "text-mlp", "retain_weight": 0.5, "retain_batch_size": 2, "warmup_steps": 6,
        "attack_steps": 8, "attack_lr": 0.125, "pool_size": 11, "faithful": True,
    },
}  # fmt: skip
METHODS = pytest.mark.parametrize("cls", list(OPTIONS), ids=lambda cls: cls.__name__)


@METHODS
def test_settings_hold_every_hyper_parameter_and_nothing_else(cls: type[Eraser], diffusion: Diffusion) -> None:
    """By the names that a recipe gives them; what the method fixes itself is told by `train`."""
    method = cls(diffusion, UMBRELLA, **OPTIONS[cls])
    fixed = {SPM: {"train": None}, UCE: {"train": "attn2-kv"}, RECE: {"train": "attn2-kv"}}.get(cls, {})
    assert method.settings() == OPTIONS[cls] | fixed
    assert json.loads(json.dumps(method.settings())) == method.settings()
    assert method.erasure().provenance.settings == method.settings()


@METHODS
def test_default_settings_are_all_there(cls: type[Eraser], diffusion: Diffusion) -> None:
    needed = {"train": "full", "scope": "attn1"} if cls is Scissorhands else {}
    assert set(cls(diffusion, UMBRELLA, **needed).settings()) == set(OPTIONS[cls]) | {"train"}


@METHODS
def test_methods_that_need_images_are_refused_without(
    cls: type[Eraser], diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In setup, before a network is called."""
    method = cls(diffusion, UMBRELLA, **OPTIONS[cls] | ({"faithful": False} if "faithful" in OPTIONS[cls] else {}))
    needs = {
        AC: "anchor",
        FMN: "concept",
        SalUn: "concept",
        STEREO: "concept",
        EraseDiff: "concept",
        Scissorhands: "concept",
    }
    assert method.forget_images == needs.get(cls)
    assert method.retain_images == (cls in {SalUn, EraseDiff, Scissorhands})
    monkeypatch.setattr(diffusion.unet, "forward", lambda *_, **__: pytest.fail("the network was called"))
    if cls not in needs:
        method.trainer = trainer(tmp_path, 1)
        method.setup("fit")
        return
    with pytest.raises(ValueError, match=rf"{cls.__name__} needs images: add `data: .*ErasureData"):
        trainer(tmp_path, 1).fit(method)
    method.trainer = trainer(tmp_path, 1)
    method.trainer.datamodule = ErasureData()
    method.setup("fit")


@pytest.mark.parametrize("options", [{"steps": 0}, {"batch_size": 0}, {"probe_size": 0}, {"lr": -1.0}])
def test_options_of_all_methods_out_of_range_are_named(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        ESD(diffusion, UMBRELLA, **options)


@pytest.mark.parametrize("count", [0, 1001])
@pytest.mark.parametrize("cls", [ESD, SPM, AdvUnlearn])
def test_a_run_of_an_impossible_length_is_refused_at_once(cls: type[Eraser], count: int, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=rf"num_inference_steps must be in 1\.\.1000, got {count}"):
        cls(diffusion, UMBRELLA, num_inference_steps=count)


def stream(images: Latents, start: int, count: int, seed: int = 0) -> list[str]:
    latents, captions = images.rows(start, count, seed)
    numbers = [images.captions.index(caption) for caption in captions]
    assert torch.equal(latents, images.latents[numbers]), "rows and captions belong together"
    return captions


def test_passes_over_a_set_are_shuffled_and_complete() -> None:
    images = pictures(list("abcdefg"))
    passes = [stream(images, 7 * number, 7) for number in range(4)]
    assert all(sorted(letters) == images.captions for letters in passes)
    assert len({tuple(letters) for letters in passes}) == 4
    assert stream(images, 0, 7, seed=1) != passes[0], "another seed, another order"
    assert stream(images, 0, 7) == passes[0]


@pytest.mark.parametrize("sizes", [[3] * 7, [5, 1, 8, 7], [21], [1] * 21])
def test_rows_do_not_depend_on_how_the_steps_are_cut(sizes: list[int]) -> None:
    """Batches go over the ends of passes, and may be longer than the set."""
    images, found = pictures(list("abcde")), []
    for size in sizes:
        found += stream(images, len(found), size)
    assert found == stream(images, 0, 21)
    assert Counter(found[:20]) == dict.fromkeys("abcde", 4)


def test_steps_and_processes_share_a_set_without_overlap(
    diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of two processes with two rows each are twelve rows of the one stream."""
    images, seen = pictures(list("abcdefghijkl")), []
    method = FMN(diffusion, UMBRELLA, train="attn2")
    method.trainer = trainer(tmp_path, 1)
    monkeypatch.setattr(Trainer, "world_size", 2)
    for step in range(3):
        for rank in range(2):
            monkeypatch.setattr(FMN, "global_step", step)
            monkeypatch.setattr(FMN, "global_rank", rank)
            seen += method.rows(images, 2)[1]
    assert seen == images.rows(0, 12, 0)[1]
    assert sorted(seen) == images.captions


def first(method: Eraser, purpose: str = "") -> float:
    return float(torch.rand(1, generator=method.generator(purpose)))


def test_randomness_is_a_function_of_seed_step_process_and_purpose(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion = Diffusion.from_pretrained(tiny)
    method, other = ESD(diffusion, UMBRELLA), ESD(diffusion, UMBRELLA, seed=1)
    drawn = [first(method), first(method, "x"), first(other)]
    assert first(method) == drawn[0]
    monkeypatch.setattr(ESD, "global_step", 1)
    drawn.append(first(method))
    monkeypatch.setattr(ESD, "global_rank", 1)
    drawn.append(first(method))
    assert len(set(drawn)) == 5
    assert float(torch.rand(1, generator=seeded("a"))) == float(torch.rand(1, generator=seeded("a")))


def test_the_global_generator_is_neither_read_nor_moved(tiny: Path, tmp_path: Path) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        method = ESD(Diffusion.from_pretrained(tiny), UMBRELLA, lr=1e-3, num_inference_steps=4, probe_size=2)
        fit(method, tmp_path, 2)
        results.append(method.erasure().tensors)
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_prompts_are_drawn_with_replacement_from_all() -> None:
    found = Counter(draw(["a", "b", "c"], 300, Generator().manual_seed(0)))
    assert set(found) == {"a", "b", "c"}
    assert min(found.values()) > 70


def test_noised_latents_are_the_schedules(diffusion: Diffusion) -> None:
    """At uniform timesteps, one a row, from the given generator."""
    method = ESD(diffusion, UMBRELLA)
    latents = normal(200, 4, 2, 2)
    x, t, noise = method.noised(latents, Generator().manual_seed(0))
    alpha = diffusion.schedule.alphas_cumprod[t][:, None, None, None].float()
    torch.testing.assert_close(x, alpha.sqrt() * latents + (1 - alpha).sqrt() * noise)
    assert 0 <= t.min() < 30
    assert 970 <= t.max() < 1000
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(method.noised(latents, Generator().manual_seed(0))[0], x)


class Noted(ESD):
    """Writes down when it is prepared and steps."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.notes: list[Any] = []

    def prepare(self, batch: Any) -> None:
        self.notes.append(("prepare", self.global_step, dict(batch)))

    def erase_loss(self, batch: Any) -> Tensor:
        self.notes.append(("step", self.global_step, dict(batch)))
        return super().erase_loss(batch)


def noted(tiny: Path) -> Noted:
    return Noted(Diffusion.from_pretrained(tiny), UMBRELLA, steps=3, probe_size=2, num_inference_steps=4)


def test_an_epoch_has_as_many_steps_as_the_method_says(tiny: Path, tmp_path: Path) -> None:
    method = noted(tiny)
    run = fit(method, tmp_path, -1, max_epochs=1)
    assert run.global_step == 3
    assert method.notes == [("prepare", 0, PROMPTS)] + [("step", step, PROMPTS) for step in range(3)]
    assert Erasure.load(tmp_path).provenance.steps == 3


def test_a_method_is_prepared_again_when_it_is_resumed(tiny: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2, save_top_k=0)
    trainer(tmp_path, 2, keep).fit(noted(tiny))
    method = noted(tiny)
    trainer(tmp_path, 3).fit(method, ckpt_path=tmp_path / "last.ckpt")
    assert [note[:2] for note in method.notes] == [("prepare", 2), ("step", 2)]


def test_data_take_the_place_of_the_methods_own(tiny: Path, tmp_path: Path) -> None:
    method, batch = noted(tiny), sets()
    fit(method, tmp_path, 1, batch)
    for _, _, seen in method.notes:
        assert set(seen) == {"prompts", "retain", "forget_set", "retain_set"}
        assert seen["forget_set"] is batch["forget_set"]


def test_without_a_norm_gradients_are_not_clipped(tiny: Path, tmp_path: Path) -> None:
    """Unless the trainer is asked to."""

    def step(folder: str, **options: Any) -> float:
        method = moved(ESD(Diffusion.from_pretrained(tiny), UMBRELLA, probe_size=2, num_inference_steps=4), 0.3)
        method.configure_optimizers = lambda: torch.optim.SGD(method.selected.values(), lr=1.0)
        before = snapshot(method.diffusion)
        fit(method, tmp_path / folder, 1, **options)
        after = method.diffusion.state_dict()
        return float(torch.cat([(after[name] - before[name]).flatten() for name in method.selected]).norm())

    free = step("free")
    assert step("clipped", gradient_clip_val=free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert step("loose", gradient_clip_val=free * 10) == pytest.approx(free, rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_short_precision_is_refused(precision: str, diffusion: Diffusion, tmp_path: Path) -> None:
    method = ESD(diffusion, UMBRELLA)
    method.trainer = trainer(tmp_path, 1)
    method.trainer.strategy.precision_plugin.precision = precision
    with pytest.raises(ValueError, match=rf"small steps vanish in weights stored as {precision}.*bf16-mixed"):
        method.setup("fit")


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precision_that_keeps_small_steps_is_not(precision: str, diffusion: Diffusion, tmp_path: Path) -> None:
    method = ESD(diffusion, UMBRELLA)
    method.trainer = trainer(tmp_path, 1, precision=precision)
    method.setup("fit")


def test_short_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    method = ESD(Diffusion(str(tiny), torch_dtype="bfloat16"), UMBRELLA)
    with pytest.raises(ValueError, match="small steps vanish in weights stored as bfloat16"):
        trainer(tmp_path, 1).fit(method)


@pytest.mark.parametrize("k", [0, 1, 3])
@torch.no_grad()
def test_a_stopped_run_has_made_its_steps(k: int, diffusion: Diffusion) -> None:
    """With guidance on the prompts, from seeds out of the given generator, to the timestep that comes next."""
    method = ESD(diffusion, UMBRELLA, num_inference_steps=4, start_guidance=2.0)
    prompts = ["umbrella", "a red gear"]
    latents, timestep = method.stopped(prompts, Generator().manual_seed(5), k)
    steps = diffusion.schedule.ddim_steps(4)
    embeds, empty = diffusion.encode_prompts(prompts), diffusion.encode_prompts(["", ""])

    def guided(x: Tensor, t: int) -> Tensor:
        without = diffusion.predict_noise(x, t, empty)
        return without + 2.0 * (diffusion.predict_noise(x, t, embeds) - without)

    torch.testing.assert_close(latents, rollout(guided, normal(2, 4, 16, 16, seed=5), steps[:k]))
    assert timestep == steps[k].timestep


def test_runs_stop_everywhere(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ESD(diffusion, UMBRELLA, num_inference_steps=4)
    monkeypatch.setattr("lit_memories.erasers.rollout.rollout", lambda noise, x, steps: x)
    found = Counter(method.stopped(["umbrella"], Generator().manual_seed(i))[1] for i in range(200))
    assert set(found) == {step.timestep for step in diffusion.schedule.ddim_steps(4)}
    assert min(found.values()) > 30


@torch.no_grad()
def test_one_call_predicts_for_several_lists_of_prompts(diffusion: Diffusion) -> None:
    """At one timestep for all, or at each row's own."""
    method, x = ESD(diffusion, UMBRELLA), noisy(diffusion)
    groups = [["umbrella", "a red umbrella"], ["", ""], ["a red gear", "star"]]
    for timesteps in (500, torch.tensor([900, 20])):
        found = method.predict_all(x, timesteps, *groups)
        for prediction, prompts in zip(found, groups, strict=True):
            expected = diffusion.predict_noise(x, timesteps, diffusion.encode_prompts(prompts))
            torch.testing.assert_close(prediction, expected)


@pytest.mark.parametrize("direction", ["prompt", "phrase"])
@torch.no_grad()
def test_the_negated_target_takes_each_rows_own_timestep(direction: str, diffusion: Diffusion) -> None:
    method, x = ESD(diffusion, UMBRELLA, eta=1.5, direction=direction), noisy(diffusion)
    prompts = ["a red umbrella", "a blue umbrella"]
    together = method.negated(x, torch.tensor([900, 20]), prompts)
    for row, timestep in enumerate((900, 20)):
        alone = method.negated(x[row : row + 1], timestep, prompts[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


@torch.no_grad()
def test_the_common_target_is_the_anchors_prediction(diffusion: Diffusion) -> None:
    method, x = FMN(diffusion, UMBRELLA, train="attn2"), noisy(diffusion, 3)
    found = method.probe_target(x, 500, ["umbrella", "a red umbrella", "a red gear"])
    expected = diffusion.predict_noise(x, 500, diffusion.encode_prompts(["star", "a red star", "star"]))
    assert torch.equal(found, expected)


class Count(Callback):
    """Counts the rows that the U-Net sees, in another way."""

    def __init__(self) -> None:
        self.rows = 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        forward = pl_module.diffusion.unet.forward

        def counting(latents: Tensor, *args: Any, **options: Any) -> Any:
            self.rows += latents.shape[0]
            return forward(latents, *args, **options)

        pl_module.diffusion.unet.forward = counting

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        del pl_module.diffusion.unet.forward  # a look at the result is no cost of the method


def test_cost_counts_the_networks_evaluations_and_counts_on_in_a_resumed_run(tiny: Path, tmp_path: Path) -> None:
    def run(folder: str, steps: int, *more: Callback, **options: Any) -> tuple[int, dict[str, float]]:
        count = Count()
        trainer(tmp_path / folder, steps, Cost(), count, *more).fit(noted(tiny), **options)
        return count.rows, json.loads((tmp_path / folder / "cost.json").read_text())

    rows, cost = run("whole", 3)
    assert cost["evaluations"] == rows > 0
    assert cost["seconds"] > 0
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2, save_top_k=0)
    first_rows, first_cost = run("half", 2, keep)
    more_rows, both = run("half", 3, ckpt_path=tmp_path / "last.ckpt")
    assert first_cost["evaluations"] == first_rows
    assert both["evaluations"] == first_rows + more_rows
    assert more_rows > 0


def test_cost_takes_its_hook_back(diffusion: Diffusion, tmp_path: Path) -> None:
    trainer(tmp_path, 1, Cost()).fit(
        ESD(diffusion, UMBRELLA, lr=1e-3, probe_size=2, num_inference_steps=4), datamodule=Given(PROMPTS)
    )
    assert not diffusion.unet._forward_pre_hooks
