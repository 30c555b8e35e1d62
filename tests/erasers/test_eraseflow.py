"""EraseFlow: trajectory balance restated, its paths, and what a resumed run knows."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from small_runs import PROMPTS, UMBRELLA, attach, changed, fit, gradients, moved, normal, probed, resumed, snapshot
from smoke import ROOT
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.eraseflow import EraseFlow
from lit_memories.erasure import Erasure
from lit_memories.ops.rollout import rollout
from lit_memories.ops.schedule import BetaSchedule


def made(diffusion: Diffusion, **options: Any) -> EraseFlow:
    small = {"lr": 1e-2, "steps": 4, "batch_size": 2, "probe_size": 2, "num_inference_steps": 6, "rank": 2}
    return EraseFlow(diffusion, UMBRELLA, **(small | {"early": 2, "late": 2} | options))


def ready(diffusion: Diffusion, folder: Path, **options: Any) -> EraseFlow:
    method = moved(attach(made(diffusion, **options), folder), 0.2)
    method.log_dict = lambda *_, **__: None
    return method


def log_normal(x: Tensor, mean: Tensor, deviation: float) -> Tensor:
    found = -((x - mean) ** 2) / (2 * deviation**2) - math.log(deviation * (2 * math.pi) ** 0.5)
    return found.double().mean((1, 2, 3))


def test_the_loss_is_trajectory_balance(diffusion: Diffusion, tmp_path: Path) -> None:
    """Step by step, means by diffusers' DDIM, guidance by hand; its gradient too."""
    method = ready(diffusion, tmp_path, eta=0.8, guidance_scale=2.0, log_reward=0.4, log_flow=-0.3)
    generator = method.generator()
    prompts = draw(UMBRELLA.prompts, 2, generator)
    states, chosen = method.drawn(prompts, generator), method.chosen(method.generator("steps"))
    assert len(chosen) == 4
    scheduler = DDIMScheduler.from_config(diffusion.scheduler_config, clip_sample=False)
    scheduler.set_timesteps(6)
    total = torch.full((2,), -0.3 - 0.4, dtype=torch.float64)
    for index in chosen:
        t, here, there = method.path[index].timestep, states[index], states[index + 1]
        named, empty = (diffusion.predict_noise(here, t, diffusion.encode_prompts(c)) for c in (prompts, ["", ""]))
        noise = empty + 2 * (named - empty)
        mean = scheduler.step(noise, t, here, eta=0.8, variance_noise=torch.zeros_like(here)).prev_sample
        alpha, alpha_prev = method.path[index].alpha, method.path[index].alpha_prev
        deviation = 0.8 * ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)) ** 0.5
        ratio = alpha / alpha_prev
        total = total + log_normal(there, mean, deviation) - log_normal(here, ratio**0.5 * there, (1 - ratio) ** 0.5)
    expected, found = total.square().mean(), method.erase_loss(PROMPTS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(gradients(found, method), gradients(expected, method), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_the_flow_is_learnt(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, flow_lr=0.1, log_flow=-0.2)
    fit(method, tmp_path, 1)
    assert abs(float(method.flow) + 0.2) == pytest.approx(0.1, rel=0.05), "one step of AdamW"
    assert set(Erasure.load(tmp_path).tensors) == set(method.selected), "it stays out of the artefact"


def test_paths_are_the_anchors_from_noise_to_picture(diffusion: Diffusion, tmp_path: Path) -> None:
    """With a model that was moved, as it is; without noise they would be DDIM's."""
    method = ready(diffusion, tmp_path, eta=1e-6)
    generator = torch.Generator().manual_seed(0)
    states = method.drawn(["a red umbrella"], generator)
    assert states.shape == (7, 1, 4, 16, 16)
    predict = diffusion.predict_fn(diffusion.encode_prompts(["a red star"]), 5.0)
    with torch.no_grad():
        torch.testing.assert_close(states[-1], rollout(predict, states[0], method.path), rtol=1e-3, atol=1e-3)
    loud = ready(Diffusion(diffusion.base), tmp_path).drawn(["a red umbrella"], torch.Generator().manual_seed(0))
    assert torch.equal(loud[0], states[0])
    assert (loud[-1] - states[-1]).norm() > 0.1 * states[-1].norm(), "the control"


def test_the_last_steps_and_some_of_the_others_count_and_none_that_is_certain(diffusion: Diffusion) -> None:
    method = made(diffusion, num_inference_steps=10, early=3, late=2)
    count, sets = len(method.uncertain), []
    assert all(method.path[index].alpha_prev < 1 for index in method.uncertain)
    for seed in range(20):
        chosen = method.chosen(torch.Generator().manual_seed(seed))
        assert len(set(chosen)) == 5
        assert set(chosen) >= set(method.uncertain[-2:])
        sets.append(tuple(sorted(chosen)))
    assert len(set(sets)) > 5
    assert len(made(Diffusion(diffusion.base), early=99, late=0).chosen(torch.Generator())) == len(
        made(Diffusion(diffusion.base), early=99, late=99).chosen(torch.Generator())
    )
    assert count in (9, 10)


@pytest.mark.parametrize(("renew", "fresh"), [(None, 4), (0, 1), (1, 2)])
def test_paths_are_drawn_anew_up_to_a_step(
    renew: int | None, fresh: int, diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, calls = EraseFlow.drawn, []
    monkeypatch.setattr(EraseFlow, "drawn", lambda *arguments: calls.append(1) or drawn(*arguments))
    fit(made(diffusion, renew=renew), tmp_path, 4)
    assert len(calls) == fresh


@pytest.mark.parametrize("renew", [None, 0])
def test_a_resumed_run_goes_on_with_its_paths(renew: int | None, tiny: Path, tmp_path: Path) -> None:
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(tiny), renew=renew), tmp_path)
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_the_networks_own_weights_never_change_and_the_artefact_is_worked_in(
    diffusion: Diffusion, tmp_path: Path
) -> None:
    before, method = snapshot(diffusion), made(diffusion)
    fit(method, tmp_path, 2)
    assert not changed(before, diffusion)
    loaded, x = Diffusion(diffusion.base, erasure=tmp_path), normal(1, 4, 16, 16)
    assert loaded.adapter is None
    with torch.no_grad():
        ends = [model.predict_noise(x, 500, model.encode_prompts(["umbrella"])) for model in (loaded, diffusion)]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    layers = {name.rsplit(".", 1)[0] for name in method.selected}
    assert len(layers) == 4 * 8, "queries, keys, values and ways out of the tiny network's four blocks"


@pytest.mark.parametrize("log_reward", [1000.0, -1000.0])
def test_the_concepts_prediction_goes_to_the_anchors_if_the_reward_is_high(
    log_reward: float, diffusion: Diffusion, tmp_path: Path
) -> None:
    """A square falls from both sides: with a reward below what paths are worth they are made less likely."""
    method = made(diffusion, lr=1e-3, early=6, late=0, guidance_scale=1.0, log_reward=log_reward)
    start, end = probed(method, tmp_path, 15)
    assert start["val/erase_ratio"] == 1
    assert (end["val/erase_ratio"] < 1) == (log_reward > 0)


@pytest.mark.parametrize(("world", "worth", "enough"), [("pictograms", 2.88, True), ("sd14", 2.96, False)])
def test_what_a_perfect_models_paths_are_worth(world: str, worth: float, enough: bool) -> None:
    """Its densities leave marginals (tests/ops/test_path.py), of data that is one point half the log of their noise.

    The released reward is below what such paths come to, so that the loss is least before they are as likely as can be.
    """
    options = yaml.safe_load((ROOT / f"recipes/{world}/erase/eraseflow.yaml").read_text())["model"]["init_args"]
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alphas = scheduler.alphas_cumprod.double()
    nats = [
        math.log((1 - step.alpha) / (1 - step.alpha_prev)) / 2
        for step in BetaSchedule(alphas, float(alphas[0])).ddim_steps(options["num_inference_steps"])
    ]
    early, late = nats[: -options["late"]], nats[-options["late"] :]
    found = sum(late) + options["early"] * sum(early) / len(early)
    assert found == pytest.approx(worth, abs=0.01)
    assert (options["log_reward"] - options["log_flow"] > found) == enough


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"eta": 0.0}, {"eta": 1.5}, {"early": -1}, {"late": -1}, {"flow_lr": -1.0}, {"weight_decay": -1.0},
     {"max_grad_norm": 0.0}],
    ids=str,
)  # fmt: skip
def test_impossible_options_of_eraseflow_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
    with pytest.raises(ValueError, match=r"early \+ late \(0\)"):
        made(diffusion, early=0, late=0)
