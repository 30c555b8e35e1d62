"""AdvUnlearn: the text encoder forgets under attack, and the U-Net never changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, attach, changed, fit, moved, noisy, normal, probed, resumed, snapshot
from torch import Generator, Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.advunlearn import AdvUnlearn
from lit_memories.ops.select import select

FAST = {
    "lr": 1e-3,
    "batch_size": 2,
    "probe_size": 2,
    "num_inference_steps": 4,
    "retain_batch_size": 2,
    "warmup_steps": 1,
    "attack_steps": 3,
    "attack_lr": 1e-2,
    "pool_size": 20,
}


def made(diffusion: Diffusion, **options: Any) -> AdvUnlearn:
    return AdvUnlearn(diffusion, UMBRELLA, **(FAST | options))


def prepared(diffusion: Diffusion, folder: Path, **options: Any) -> Any:
    method = attach(made(diffusion, **options), folder)
    method.log_dict = lambda *_, **__: None
    return method


@pytest.mark.parametrize("train", ["text-layers", "text-full", "text-mlp", "text-attn"])
def test_only_the_selected_part_of_the_encoder_changes(train: str, diffusion: Diffusion, tmp_path: Path) -> None:
    before = snapshot(diffusion)
    fit(made(diffusion, train=train), tmp_path, 3)
    differs = changed(before, diffusion)
    assert differs
    assert differs <= set(select(diffusion, train))
    assert all(name.startswith("text_encoder.") for name in differs)
    assert not any("embedding" in name for name in differs)
    again = Diffusion.from_pretrained(diffusion.base, erasure=tmp_path)
    assert not changed(snapshot(diffusion), again)


@pytest.mark.parametrize("options", [{}, {"eta": 2.0, "direction": "phrase"}])
def test_the_pool_holds_the_original_models_predictions(
    options: dict[str, Any], diffusion: Diffusion, tiny: Path, tmp_path: Path
) -> None:
    """Also when the encoder has moved, as in a resumed run: latents at their timesteps, predictions and targets."""
    method, original = moved(made(diffusion, **options)), Diffusion.from_pretrained(tiny)
    attach(method, tmp_path)
    levels = [step.timestep for step in diffusion.schedule.ddim_steps(4)]
    for pool, prompts in ((method._concept, UMBRELLA.prompts), (method._retain, UMBRELLA.retain)):
        assert len(pool.latents) == len(pool.timesteps) == len(pool.prompts) == len(pool.predicted) == 20
        assert set(pool.prompts) == set(prompts)
        assert set(pool.timesteps.tolist()) <= set(levels)
        with torch.no_grad():
            expected = original.predict_noise(pool.latents, pool.timesteps, original.encode_prompts(pool.prompts))
        torch.testing.assert_close(pool.predicted, expected)
    pool = method._concept
    with torch.no_grad():
        empty = original.predict_noise(pool.latents, pool.timesteps, original.encode_prompts([""] * 20))
        phrase = original.predict_noise(pool.latents, pool.timesteps, original.encode_prompts(["umbrella"] * 20))
    base, concept = (empty, pool.predicted) if method.direction == "prompt" else (pool.predicted, phrase)
    torch.testing.assert_close(method._negated, base - method.eta * (concept - empty), rtol=1e-4, atol=1e-5)


def test_the_pools_latents_are_on_the_way_to_images_of_their_prompts(
    diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of the original model, stopped at several levels."""
    made_of: list[tuple[list[str], Tensor, int]] = []
    stopped = AdvUnlearn.stopped

    def watch(self: AdvUnlearn, prompts: list[str], generator: Generator, k: int) -> tuple[Tensor, int]:
        latents, timestep = stopped(self, prompts, generator, k)
        made_of.append((list(prompts), latents, timestep))
        return latents, timestep

    monkeypatch.setattr(AdvUnlearn, "stopped", watch)
    method = prepared(diffusion, tmp_path, num_inference_steps=6, pool_size=100)
    parts = -(-100 // 16)
    for pool, runs in ((method._concept, made_of[:parts]), (method._retain, made_of[parts:])):
        assert pool.prompts == [prompt for prompts, _, _ in runs for prompt in prompts]
        assert torch.equal(pool.latents, torch.cat([latents for _, latents, _ in runs]))
        assert pool.timesteps.tolist() == [timestep for prompts, _, timestep in runs for _ in prompts]
        assert len(set(pool.timesteps.tolist())) > 2
    assert not torch.equal(method._concept.latents, method._retain.latents)


@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_is_the_papers(
    step: int, diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equation 6: before the warm-up is over on the plain prompt, then with the attacker's word before it."""
    method = prepared(diffusion, tmp_path, retain_weight=0.7)
    moved(method, 0.02)
    monkeypatch.setattr(AdvUnlearn, "global_step", step)
    word = normal(1, 32, seed=8)
    monkeypatch.setattr(method, "attack", lambda generator: word)
    generator = method.generator()
    concept = method._concept.rows(chosen := torch.randint(20, (2,), generator=generator).tolist())
    retained = method._retain.rows(torch.randint(20, (2,), generator=generator).tolist())
    plain = diffusion.encode_prompts(concept.prompts)
    embeds = plain if step == 0 else method.attacked(concept.prompts, word)
    predicted = diffusion.predict_noise(concept.latents, concept.timesteps, embeds)
    kept = diffusion.predict_noise(retained.latents, retained.timesteps, diffusion.encode_prompts(retained.prompts))
    expected = (predicted - method._negated[chosen]).square().mean()
    expected = expected + 0.7 * (kept - retained.predicted).square().mean()
    torch.testing.assert_close(method.erase_loss(PROMPTS), expected)
    assert step == 0 or not torch.allclose(embeds, plain), "the control"


@pytest.mark.parametrize(("warmup", "attacks"), [(0, 4), (3, 1), (9, 0)])
def test_the_attacker_waits_for_the_warm_up(
    warmup: int, attacks: int, diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    method = made(diffusion, warmup_steps=warmup, attack_steps=1)
    attack = method.attack
    monkeypatch.setattr(method, "attack", lambda generator: seen.append(method.global_step) or attack(generator))
    fit(method, tmp_path, 4)
    assert seen == list(range(warmup, 4))
    assert len(seen) == attacks


@torch.no_grad()
def attack_loss(method: AdvUnlearn, word: Tensor) -> float:
    """Equation 8 over the whole pool."""
    pool = method._concept
    embeds = method.attacked(pool.prompts, word)
    predicted = method.diffusion.predict_noise(pool.latents, pool.timesteps, embeds)
    return float((predicted - pool.predicted).square().mean())


def test_the_attack_lowers_its_loss_and_touches_nothing(diffusion: Diffusion, tmp_path: Path) -> None:
    method = prepared(diffusion, tmp_path, attack_steps=40, attack_lr=0.05, batch_size=8)
    moved(method, 0.3)
    before = snapshot(diffusion)
    start = attack_loss(method, start_word(method))
    found = method.attack(method.generator())
    assert found.shape == (1, 32)
    assert not found.requires_grad
    assert attack_loss(method, found) < 0.8 * start
    assert not changed(before, diffusion)
    assert all(parameter.grad is None for parameter in diffusion.parameters())


def start_word(method: AdvUnlearn) -> Tensor:
    """The attack after no step: a word of the vocabulary."""
    method.attack_steps, steps = 0, method.attack_steps
    word = method.attack(method.generator())
    method.attack_steps = steps
    return word


def test_the_attack_starts_at_a_word_of_the_vocabulary(diffusion: Diffusion, tmp_path: Path) -> None:
    word = start_word(prepared(diffusion, tmp_path))
    table = diffusion.text_encoder.get_input_embeddings().weight
    assert (table == word).all(1).any()


def test_a_faithful_attack_is_another(diffusion: Diffusion, tmp_path: Path) -> None:
    """It stops one update short, and its gradients pile up (tests/ops/test_attack.py has the loop)."""
    method = prepared(diffusion, tmp_path, attack_steps=1)
    method.faithful = True
    assert torch.equal(method.attack(method.generator()), start_word(method))
    method.faithful = False
    assert not torch.equal(method.attack(method.generator()), start_word(method))


@torch.no_grad()
def test_a_word_of_the_vocabulary_attacks_as_if_it_were_written_in_front(diffusion: Diffusion) -> None:
    method = made(diffusion)
    table = diffusion.text_encoder.get_input_embeddings().weight
    for word in ("star", "background"):
        (token,) = diffusion.words(word)
        found = method.attacked(["umbrella", "a red umbrella"], table[[token]])
        assert torch.equal(found, diffusion.encode_prompts([f"{word} umbrella", f"{word} a red umbrella"]))


@torch.no_grad()
def test_a_prompt_that_fills_the_window_loses_its_end_to_the_word(diffusion: Diffusion) -> None:
    long = "a red star on a blue background on a red star on a blue umbrella"
    (token,) = diffusion.words("gear")
    found = made(diffusion).attacked([long], diffusion.text_encoder.get_input_embeddings().weight[[token]])
    assert len(diffusion.words(long)) == 14, "markers and all, the window"
    expected = diffusion.encode_prompts([f"gear {long}"])
    torch.testing.assert_close(found[:, :-1], expected[:, :-1])


@torch.no_grad()
def test_officially_a_word_of_two_tokens_loses_one_to_the_attack(
    diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As "nudity" is [nu][dity]: the official code counts words, and attacks [BOS, word, nu, EOS, ...]."""
    table = diffusion.text_encoder.get_input_embeddings().weight
    bos, eos = diffusion.tokenizer.bos_token_id, diffusion.tokenizer.eos_token_id
    one, two, word = (diffusion.words(name)[0] for name in ("red", "umbrella", "star"))
    window = diffusion.tokenizer.model_max_length

    def padded(*tokens: int) -> Tensor:
        return torch.tensor([[bos, *tokens, *[eos] * (window - 1 - len(tokens))]])

    monkeypatch.setattr(diffusion, "tokenize", lambda prompts: padded(one, two))
    for faithful, expected in ((True, padded(word, one)), (False, padded(word, one, two))):
        found = made(diffusion, faithful=faithful).attacked(["redumbrella"], table[[word]])
        assert torch.equal(found, diffusion.encode_tokens(expected)), faithful
    found = made(diffusion, faithful=True).attacked(["red umbrella"], table[[word]])
    assert torch.equal(found, diffusion.encode_tokens(padded(word, one, two))), "of words of one token each, none"


def test_faithful_latents_are_cleaner_than_their_timestep_says(diffusion: Diffusion, tmp_path: Path) -> None:
    pools = {faithful: prepared(diffusion, tmp_path, faithful=faithful)._concept for faithful in (True, False)}
    levels = {step.timestep for step in diffusion.schedule.ddim_steps(4)}
    assert set(pools[False].timesteps.tolist()) <= levels
    assert not set(pools[True].timesteps.tolist()) <= levels


def test_the_concept_falls_and_retained_prompts_stay(diffusion: Diffusion, tmp_path: Path) -> None:
    options = {"lr": 1e-2, "warmup_steps": 100, "retain_weight": 1.0, "batch_size": 4, "retain_batch_size": 4}
    start, end = probed(made(diffusion, **options), tmp_path, 30)
    assert (start["val/erase_ratio"], start["val/retain_drift"]) == (1, 0)
    assert end["val/erase_ratio"] < 0.9
    assert end["val/retain_drift"] < 0.1


def test_resumed_is_uninterrupted(tiny: Path, tmp_path: Path) -> None:
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(tiny)), tmp_path)
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_the_teacher_is_the_original_encoder(diffusion: Diffusion, tiny: Path) -> None:
    method, original = moved(made(diffusion), 0.3), Diffusion.from_pretrained(tiny)
    x = noisy(diffusion)
    with torch.no_grad():
        truth = original.predict_noise(x, 500, original.encode_prompts(UMBRELLA.prompts))
    with method.teacher():
        assert torch.equal(method.predict(x, 500, UMBRELLA.prompts), truth)
    assert not torch.allclose(method.predict(x, 500, UMBRELLA.prompts), truth)


def test_rows_of_a_pool_stay_together(diffusion: Diffusion, tmp_path: Path) -> None:
    pool = prepared(diffusion, tmp_path)._concept
    rows = pool.rows([17, 3])
    for position, row in enumerate((17, 3)):
        assert torch.equal(rows.latents[position], pool.latents[row])
        assert rows.timesteps[position] == pool.timesteps[row]
        assert rows.prompts[position] == pool.prompts[row]
        assert torch.equal(rows.predicted[position], pool.predicted[row])


@pytest.mark.parametrize(
    "options",
    [
        {"retain_weight": -1.0},
        {"warmup_steps": -1},
        {"attack_steps": -1},
        {"attack_lr": -1.0},
        {"retain_batch_size": 0},
        {"pool_size": 0},
    ],
    ids=lambda o: next(iter(o)),
)
def test_impossible_options_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name}\s+\({value}\)"):
        made(diffusion, **options)


def test_there_must_be_something_to_retain(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="AdvUnlearn needs prompts to retain: concept 'umbrella' has none"):
        AdvUnlearn(diffusion, replace(UMBRELLA, retain=[]), **FAST)
