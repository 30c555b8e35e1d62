"""Tokens and vectors where two text encoders read one vocabulary."""

from pathlib import Path

import pytest
import torch

from lit_memories.diffusion import Diffusion
from lit_memories.words import Words

PROMPTS = ["Almond Blossoms by Vincent van Gogh", ""]


@pytest.fixture(scope="module")
def model(flows: dict[str, Path]) -> Diffusion:
    return Diffusion(str(flows["sd3-without-t5"]))


def test_tokens_are_the_prompts_they_stand_for(model: Diffusion) -> None:
    assert torch.equal(model.encode_tokens(model.tokenize(PROMPTS)), model.encode_prompts(PROMPTS))


def test_a_tokens_vector_is_both_encoders(model: Diffusion) -> None:
    """With the vocabulary's own rows in a token's place the embeddings are those of the token, to the bit."""
    words = Words(model)
    ids = words.ids(PROMPTS[:1])
    assert words.table.shape == (len(model.tokenizer), 16 + 24)
    places = torch.tensor([[1, 3]])
    other = ids.scatter(1, places, 0)
    assert not torch.equal(words.embeds(other), words.embeds(ids))
    assert torch.equal(words.embeds(other, words.table[ids.gather(1, places)], places), words.embeds(ids))


def test_gradients_reach_both(model: Diffusion) -> None:
    words = Words(model)
    vectors = words.table[[5]].detach().clone()[None].requires_grad_()
    words.embeds(words.ids(PROMPTS[:1]), vectors, torch.tensor([[2]])).square().sum().backward()
    first, second = vectors.grad[..., :16], vectors.grad[..., 16:]
    assert first.abs().sum() > 0
    assert second.abs().sum() > 0


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_t5_reads_other_tokens(flows: dict[str, Path], name: str) -> None:
    with pytest.raises(ValueError, match="read different tokens"):
        Words(Diffusion(str(flows[name])))
