"""Prompts as attacks on tokens see them, and the models that such attacks refuse."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attack_helpers import PROMPTS, STEPS

from lit_memories.attacks import ATTACKS
from lit_memories.diffusion import Diffusion
from lit_memories.words import Words

ON_TOKENS = ["unlearn_diff_atk", "textual_inversion", "p4d", "ring_a_bell", "mma"]


@pytest.mark.parametrize("name", ON_TOKENS)
def test_encoders_of_different_words_are_refused_before_anything_is_asked(name: str) -> None:
    conditioning = SimpleNamespace(encoders={"one": None, "two": None}, token_encoders=[None])
    two: Any = SimpleNamespace(conditioning=conditioning, evaluations=lambda _: 2)
    with pytest.raises(ValueError, match="read different tokens"):
        ATTACKS[name]().check(two, STEPS)


@torch.no_grad()
def test_a_prompts_embedding_does_not_depend_on_its_company(diffusion: Diffusion) -> None:
    words = Words(diffusion)
    ids, at = words.ids(PROMPTS), torch.tensor([[1, 2]])
    vectors = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    together, plain = words.embeds(ids, vectors, at), words.embeds(ids)
    for row in range(3):
        assert torch.equal(words.embeds(ids[row : row + 1], vectors[row : row + 1], at), together[row : row + 1])
        assert torch.equal(words.embeds(ids[row : row + 1]), plain[row : row + 1])
    torch.testing.assert_close(words.encoded(ids, vectors, at), together)
    assert torch.equal(words.embeds(ids, vectors[:1], at)[:1], together[:1]), "one vector for all prompts"


def test_a_free_prompt_is_its_tokens_and_nothing_else(diffusion: Diffusion) -> None:
    words = Words(diffusion)
    ids, places = words.free(2, 3)
    tokens = torch.tensor([diffusion.words("a red umbrella"), diffusion.words("blue star on")])
    prompts = ids.scatter(1, places, tokens)
    assert torch.equal(prompts, words.ids(["a red umbrella", "blue star on"]))
    assert words.text(prompts) == words.text(tokens) == ["a red umbrella", "blue star on"]


def test_padding_that_is_no_marker_is_not_read_aloud(diffusion: Diffusion) -> None:
    words = Words(diffusion)
    ids = words.ids(["a star"])
    (pad,) = diffusion.words("crown")
    ids[0, 4:] = pad
    assert words.text(ids) == ["a star"]


def test_more_tokens_than_a_prompt_holds_are_refused(diffusion: Diffusion) -> None:
    words = Words(diffusion)
    words.check_room(14, "one")
    with pytest.raises(ValueError, match="holds 14 tokens, and the attack one is to put 15 into it: choose fewer"):
        words.check_room(15, "one")
