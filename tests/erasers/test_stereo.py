"""STEREO: its compositional target restated, the words it searches for, and that the search leaves no trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, attach, fit, gradients, moved, normal, resumed, sets, snapshot
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.stereo import STEREO
from lit_memories.ops.generators import seeded
from lit_memories.words import Caption, Words


def made(diffusion: Diffusion, **options: Any) -> STEREO:
    small = {"train": "attn2", "steps": 4, "probe_size": 2, "num_inference_steps": 5, "batch_size": 2, "lr": 1e-3}
    search = {"rounds": 1, "search_steps": 2, "search_lr": 1e-2, "word_steps": 3, "word_lr": 0.1}
    return STEREO(diffusion, UMBRELLA, **(small | search | options))


def with_word(diffusion: Diffusion, prompt: str, vector: Tensor) -> Tensor:
    words = Words(diffusion)
    return Caption.of(words, UMBRELLA, prompt, "a photo of {}").embeds(words, vector)


@pytest.mark.parametrize("faithful", [False, True])
def test_the_target_pulls_to_the_anchor_and_pushes_from_all_words(
    faithful: bool, diffusion: Diffusion, tmp_path: Path
) -> None:
    """With a second, original model; as released the words count 2 more."""
    original = Diffusion.from_pretrained(diffusion.base)
    method = made(diffusion, rounds=2, eta=0.7, anchor_eta=0.4, faithful=faithful)
    method._found = normal(2, 32)
    method = moved(attach(method, tmp_path, sets()))
    generator = method.generator()
    prompts = draw(PROMPTS["prompts"], 2, generator)
    words = torch.randint(3, (2,), generator=generator).tolist()
    embeds = torch.cat([
        with_word(diffusion, prompt, normal(2, 32)[word - 1]) if word else diffusion.encode_prompts([prompt])
        for prompt, word in zip(prompts, words, strict=True)
    ])  # fmt: skip
    x, t = method.stopped(embeds, generator)
    with torch.no_grad():
        empty, anchor = (
            original.predict_noise(x, t, original.encode_prompts(said))
            for said in (["", ""], [prompt.replace("umbrella", "star") for prompt in prompts])
        )
        names = [original.encode_prompts(["umbrella"]), *(with_word(original, "umbrella", v) for v in normal(2, 32))]
        away = sum(original.predict_noise(x, t, name.expand(2, -1, -1)) - empty for name in names) / 3
    target = empty + 0.4 * (anchor - empty) - (2.7 if faithful else 0.7) * away
    expected = (diffusion.predict_noise(x, t, embeds) - target).square().mean()
    found = method.erase_loss(PROMPTS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    for ours, theirs in zip(gradients(found, method), gradients(expected, method), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-6)


def test_the_search_leaves_the_weights_as_they_were(diffusion: Diffusion, tmp_path: Path) -> None:
    before, method = snapshot(diffusion), made(diffusion, rounds=2)
    attach(method, tmp_path, sets())
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(diffusion).items())
    assert all(parameter.grad is None for parameter in method.selected.values())
    assert method.vectors.shape == (2, 32)
    assert not torch.allclose(*method.vectors)
    assert len(method._names) == 3


def test_a_word_is_learnt_by_the_loss_that_trains_the_model(diffusion: Diffusion) -> None:
    """Adam by hand, three steps; no weight is touched."""
    method, images = made(diffusion), sets()["forget_set"]
    vector = Words(diffusion).table[Words(diffusion).ordinary].mean(0).detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([vector], lr=0.1)
    for step in range(3):
        generator = seeded(f"0/word/0/{step}")
        rows = torch.randint(5, (2,), generator=generator)
        x, t, noise = diffusion.schedule.noised(images.latents[rows], generator)
        embeds = torch.cat([with_word(diffusion, images.captions[row], vector) for row in rows.tolist()])
        optimizer.zero_grad()
        (diffusion.predict_noise(x, t, embeds) - noise).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(method._learn_word(images, 0), vector.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("faithful", [False, True])
def test_a_round_erases_the_last_word(faithful: bool, diffusion: Diffusion) -> None:
    """One step of AdamW on ESD's target of the original; as released, on the empty prompt's at its beginning."""
    vector = normal(32)
    method = moved(made(diffusion, search_steps=1, faithful=faithful))
    method.vectors = vector[None]
    start = {name: parameter.detach().clone() for name, parameter in method.selected.items()}
    teacher = Diffusion.from_pretrained(diffusion.base)
    if faithful:
        method._originals = start
        teacher.load_state_dict(snapshot(diffusion))
    generator = seeded("0/search/1/0")
    prompts = draw(UMBRELLA.prompts, 2, generator)
    embeds = torch.cat([with_word(diffusion, prompt, vector) for prompt in prompts]).detach()
    x, t = method.stopped(embeds, generator)
    with torch.no_grad():
        empty, named = (teacher.predict_noise(x, t, c) for c in (teacher.encode_prompts(["", ""]), embeds))
    target = empty if faithful else 2 * empty - named
    loss = (diffusion.predict_noise(x, t, embeds) - target).square().mean()
    slopes = gradients(loss, method)
    method._erase_word(1)
    for (name, parameter), slope in zip(method.selected.items(), slopes, strict=True):
        way = parameter.detach() - start[name]
        assert torch.equal(way.sign()[slope.abs() > 1e-6], -slope.sign()[slope.abs() > 1e-6])


def test_a_resumed_run_knows_its_words(diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched, calls = STEREO.searched, []
    monkeypatch.setattr(STEREO, "searched", lambda *arguments: calls.append(1) or searched(*arguments))
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(diffusion.base)), tmp_path, sets())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())
    assert len(calls) == 2, "of three fits"


def test_without_rounds_the_name_alone_is_pushed_from(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, rounds=0)
    fit(method, tmp_path, 1, sets())
    assert torch.equal(method._names, diffusion.encode_prompts(["umbrella"]))


@pytest.mark.parametrize(
    "options",
    [
        {"anchor_eta": -1.0},
        {"rounds": -1},
        {"search_steps": -1},
        {"search_lr": 0.0},
        {"word_steps": -2},
        {"word_lr": 0.0},
    ],
)
def test_impossible_options_of_stereo_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
    with pytest.raises(ValueError, match=r"template must have one .* for the word, got 'a word'"):
        made(diffusion, template="a word")
