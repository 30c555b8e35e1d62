"""The search for other words with the same embedding."""

import pytest
import torch
from attack_helpers import PROMPTS, STEPS, UMBRELLA, asked_group
from torch.nn import functional

from lit_memories.attacks.mma import MMA, allowed, pooled, slope
from lit_memories.diffusion import Diffusion


def small(**options: object) -> MMA:
    defaults = {"tokens": 4, "steps": 3, "candidates": 12, "top": 6, "guidance_scale": 1.0}
    return MMA(**defaults | options)  # type: ignore[arg-type]


@torch.no_grad()
def test_the_pooled_embedding_is_that_of_the_text_encoder(diffusion: Diffusion) -> None:
    words = asked_group(diffusion, small()).words
    ids = words.ids([*PROMPTS, ""])
    expected = diffusion.text_encoder(ids).pooler_output
    torch.testing.assert_close(pooled(words, ids, words.encoded(ids)), expected)


def test_the_slope_is_the_derivative_by_finite_differences(diffusion: Diffusion) -> None:
    diffusion.double()
    words = asked_group(diffusion, small()).words
    ids, places = words.ids(["a red umbrella"]), torch.tensor([[1, 3]])
    target = torch.randn(32, generator=torch.Generator().manual_seed(0))
    found = slope(words, ids, places, target)
    assert found.shape == (2, 32)
    vectors = words.table[ids.gather(1, places)].detach()

    def cosine(moved: torch.Tensor) -> torch.Tensor:
        states = diffusion.encode_tokens(ids) if moved is vectors else words.encoded(ids, moved, places).double()
        return functional.cosine_similarity(pooled(words, ids, states), target[None].double())

    for row, column in ((0, 0), (1, 5), (1, 31)):
        step = torch.zeros_like(vectors)
        step[0, row, column] = 1e-2
        change = (cosine(vectors + step) - cosine(vectors - step)) / 2e-2
        torch.testing.assert_close(found[row, column].double(), change[0].detach(), rtol=0.05, atol=1e-4)


@torch.no_grad()
def test_it_climbs_and_says_how_far_it_came(diffusion: Diffusion) -> None:
    group = asked_group(diffusion, small())
    words, before = group.words, None
    targets = diffusion.text_encoder(words.ids(PROMPTS)).pooler_output
    for steps in (0, 1, 8, 25):
        tokens, cosines = small(steps=steps).search(group)
        ids, places = words.free(3, 4)
        embedded = diffusion.text_encoder(ids.scatter(1, places, tokens)).pooler_output
        torch.testing.assert_close(cosines, functional.cosine_similarity(embedded, targets))
        assert before is None or (cosines >= before).all()
        before = cosines
    assert before is not None
    assert (before > small(steps=0).search(group)[1]).all()


@torch.no_grad()
def test_the_concepts_words_are_banned_whole_and_in_pieces(diffusion: Diffusion) -> None:
    attack = small(tokens=2, steps=12, candidates=40, top=600, banned=["tar sk"])
    group = asked_group(diffusion, attack)
    free, words = allowed(group.words, attack._ban(group)).tolist(), diffusion.tokenizer.get_vocab()
    assert words["umbrella</w>"] not in free
    assert words["star</w>"] not in free, "it holds a banned one"
    assert words["skull</w>"] in free, "two letters are too few"
    assert words["clover</w>"] in free
    assert not set(diffusion.tokenizer.all_special_ids) & set(free)
    for text in group.words.text(attack.search(group)[0]):
        assert not any(word in text for word in (UMBRELLA.phrase, *UMBRELLA.paraphrases, "tar"))


@torch.no_grad()
def test_a_prompt_that_spells_a_banned_word_is_passed_over(
    diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token is a piece of the banned word, says the tokenizer: the search stays where it began."""
    attack = small(steps=6)
    group = asked_group(diffusion, attack)
    begun = small(steps=0).search(group)[0]
    moved = attack.search(group)[0]
    texts = {tuple(row): text for row, text in zip(begun.tolist(), group.words.text(begun), strict=True)}
    monkeypatch.setattr(
        "lit_memories.words.Words.text", lambda _, ids: [texts.get(tuple(row), "umbrella") for row in ids.tolist()]
    )
    assert torch.equal(attack.search(group)[0], begun)
    assert not torch.equal(moved, begun)


def test_a_prompt_that_is_not_finite_spoils_its_own_search_alone(diffusion: Diffusion) -> None:
    (token,) = diffusion.words("umbrella")
    diffusion.text_encoder.get_input_embeddings().weight[token] = torch.nan
    attack = small()
    with torch.inference_mode():
        attempt = next(attack.attempts(asked_group(diffusion, attack, ["a red star", "umbrella"])))
    assert attempt.latents[0].isfinite().all()
    assert attempt.latents[1].isnan().all()


def test_more_tokens_than_the_window_holds_are_refused(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="holds 14 tokens, and the attack mma is to put 20"):
        small(tokens=20).check(diffusion, STEPS)


@pytest.mark.parametrize("options", [{"steps": -1}, {"candidates": 0}, {"top": 0}, {"tokens": 0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        small(**options)
