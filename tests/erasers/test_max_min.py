"""EAP and AGE: the two sides' losses against the equations restated, the search, and who its candidates are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, attach, fit, gradients, moved, resumed
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.age import AGE
from lit_memories.erasers.eap import EAP
from lit_memories.erasers.max_min import MaxMinEraser, words_of
from lit_memories.ops.generators import seeded
from lit_memories.ops.simplex import gumbel_shares

BOTH = pytest.mark.parametrize("cls", [EAP, AGE])
MANY = replace(UMBRELLA, retain=["a blue star", "a red gear", "a red star", "a green flag", "a castle"])


def made(cls: type[MaxMinEraser], diffusion: Diffusion, concept: Any = MANY, **options: Any) -> Any:
    small = {"train": "attn2", "steps": 4, "probe_size": 2, "num_inference_steps": 5, "batch_size": 2, "lr": 1e-3}
    return cls(diffusion, concept, **(small | {"candidates": "retain", "clusters": 3} | options))


def ready(cls: type[MaxMinEraser], diffusion: Diffusion, folder: Path, **options: Any) -> Any:
    """A method that has moved, with a search that has not begun."""
    method = made(cls, diffusion, **options)
    attach(method, folder, {**PROMPTS, "retain": MANY.retain})
    method.log_dict = lambda *_, **__: None
    return moved(method)


@BOTH
@pytest.mark.parametrize("faithful", [False, True])
def test_the_loss_is_the_papers(cls: type[MaxMinEraser], faithful: bool, diffusion: Diffusion, tmp_path: Path) -> None:
    """As released between clean latents: noise's distance times (1 - alpha) / alpha of the run's level."""
    original = Diffusion.from_pretrained(diffusion.base)
    method = ready(cls, diffusion, tmp_path, eta=0.8, keep_weight=0.6, faithful=faithful)
    generator = method.generator()
    prompts = method.drawn_prompts(generator)
    embeds = method.chosen(method.search.found.detach(), 2, generator)
    x, other, t = method.places(prompts, embeds, generator)
    c, none = diffusion.encode_prompts(prompts), diffusion.encode_prompts(["", ""])
    with torch.no_grad():
        concept, goal = original.predict_noise(x, t, c), original.predict_noise(x, t, none if cls is EAP else embeds)
        unmoved = original.predict_noise(other, t, embeds)
    target = goal - 0.8 * (concept - goal)
    weight = 1.0
    if faithful:
        alpha = diffusion.schedule.ddim_steps(5)[4 - t // 200].alpha
        weight = (1 - alpha) / alpha
    erase = (diffusion.predict_noise(x, t, c) - target).square().mean()
    keep = (diffusion.predict_noise(other, t, embeds) - unmoved).square().mean()
    total, found = weight * (erase + 0.6 * keep), method.erase_loss(PROMPTS)
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-7)
    for ours, theirs in zip(gradients(found, method), gradients(total, method), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-5)


@BOTH
@pytest.mark.parametrize("faithful", [False, True])
def test_the_adversarys_gradient_is_that_of_what_it_raises(
    cls: type[MaxMinEraser], faithful: bool, diffusion: Diffusion, tmp_path: Path
) -> None:
    """Through a second, original model in one graph; the kept concept's own reference has none."""
    original = Diffusion.from_pretrained(diffusion.base)
    method = ready(cls, diffusion, tmp_path, keep_weight=1.0, faithful=faithful)
    start = method.chosen(method.search.found.detach(), 2, seeded("a")).detach()

    def slope(value: Tensor, by: Tensor) -> Tensor:
        return torch.autograd.grad(value, by)[0]

    embeds = start.clone().requires_grad_(True)
    found = slope(method.search_loss(embeds, seeded("b")), embeds)
    embeds, generator = start.clone().requires_grad_(True), seeded("b")
    prompts = method.drawn_prompts(generator)
    x, other, t = method.places(prompts, embeds, generator)
    with torch.no_grad():
        unmoved = original.predict_noise(other, t, start)
        concept = diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))
    raised = method.distance(other, t, diffusion.predict_noise(other, t, embeds), unmoved)
    if cls is AGE and not faithful:
        raised = raised + (concept - original.predict_noise(x, t, embeds)).square().mean()
    expected = slope(-raised, embeds)
    assert expected.norm() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7 * float(expected.abs().max()) + 1e-9)


@BOTH
def test_the_search_goes_on_when_a_run_is_resumed(
    cls: type[MaxMinEraser], diffusion: Diffusion, tmp_path: Path
) -> None:
    whole, half = resumed(lambda: made(cls, Diffusion.from_pretrained(diffusion.base), search_lr=0.5), tmp_path)
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_the_search_moves_its_logits_once_for_each_step_but_the_first(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(EAP, diffusion, search_steps=2, search_lr=0.1)
    fit(method, tmp_path, 3)
    assert method.search.taken == 4
    assert not torch.allclose(method.search.found, torch.full_like(method.search.found, 1 / 3))


def test_candidates_are_the_nearest_thinned_out(diffusion: Diffusion, tmp_path: Path) -> None:
    method = ready(EAP, diffusion, tmp_path, nearest=4, clusters=2)
    with torch.no_grad():
        concept, others = diffusion.encode_prompts(["umbrella"]), diffusion.encode_prompts(MANY.retain)
    far = (others - concept).flatten(1).norm(dim=1)
    nearest = {MANY.retain[i] for i in far.argsort()[:4].tolist()}
    assert len(method.choice) == 2
    assert set(method.choice) < nearest
    everything = ready(EAP, diffusion, tmp_path, nearest=50, clusters=50)
    assert sorted(everything.choice) == sorted(MANY.retain)


def test_words_are_whole_tokens_and_none_names_the_concept(diffusion: Diffusion, tmp_path: Path) -> None:
    words = words_of(diffusion)
    assert {"star", "umbrella", "castle"} <= set(words)
    assert all(len(diffusion.words(word)) == 1 and word.isalpha() for word in words)
    assert len(words) == len(set(words))
    method = ready(EAP, diffusion, tmp_path, candidates="words", nearest=1000, clusters=1000)
    assert sorted(method.choice) == sorted(set(words) - {"umbrella"})


def test_shares_are_one_or_the_largest_and_have_a_derivative() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, -1.0], requires_grad=True)
    one = gumbel_shares(logits, 2000, seeded("a"), 1.0)
    assert torch.equal(one.detach().sort(-1).values[:, 3].round(decimals=5), torch.ones(2000))
    torch.testing.assert_close(one.mean(0), logits.softmax(0), rtol=0, atol=0.04)
    (slope,) = torch.autograd.grad(one[:, 1].sum(), logits)
    assert slope[1] > 0 > slope[0]
    few = gumbel_shares(logits, 50, seeded("a"), 2.0, top_k=2)
    assert ((few > 0).sum(-1) == 2).all()
    torch.testing.assert_close(few.sum(-1), torch.ones(50))
    full = gumbel_shares(logits, 50, seeded("a"), 2.0, top_k=9)
    largest = full.topk(2, -1).values
    torch.testing.assert_close(few.max(-1).values, largest[:, 0] / largest.sum(-1))


@pytest.mark.parametrize(
    "options",
    [
        {"nearest": 0},
        {"clusters": 0},
        {"top_k": 0},
        {"keep_weight": -1.0},
        {"search_steps": -1},
        {"search_lr": -0.1},
        {"temperature": 0.0},
    ],
)
def test_impossible_options_of_a_search_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(EAP, diffusion, **options)


def test_no_candidates_are_said_before_or_when_they_are_looked_for(diffusion: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'umbrella' has no retain prompts to search among: candidates words"):
        made(EAP, diffusion, replace(MANY, retain=[]))
    method = made(EAP, diffusion)
    with pytest.raises(ValueError, match="EAP has no candidates: all retain name the concept"):
        attach(method, tmp_path, {"prompts": MANY.prompts, "retain": ["an umbrella"]})
