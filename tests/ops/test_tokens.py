"""Where a concept stands in a prompt, and vectors in a token's place."""

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lit_memories.ops.tokens import content, find, placed, shared

BOS, EOS = 30, 31


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ([BOS, 1, 2, EOS, EOS], [1, 2]),
        ([BOS, 1, 2, EOS, 0, 0], [1, 2]),
        ([BOS, EOS, EOS], []),
        ([BOS, 1, 2], [1, 2]),
        ([1, 2, EOS], [1, 2]),
        ([BOS], []),
        ([], []),
    ],
)
def test_content_is_what_stands_between_the_markers(ids: list[int], wanted: list[int]) -> None:
    assert content(ids, BOS, EOS) == wanted


@pytest.mark.parametrize(
    ("ids", "phrase", "wanted"),
    [
        ([9, 4, 5, 6, 4, 5, 8], [4, 5], [1, 2, 4, 5]),
        ([9, 4, 5, 6], [5], [2]),
        ([4, 5], [4, 5], [0, 1]),
        ([9, 4, 6, 5], [4, 5], []),
        ([9, 5, 4], [4, 5], []),
        ([9, 4], [4, 5], []),
        ([9, 4, 5], [], []),
        ([], [4], []),
    ],
)
def test_find_gives_every_token_of_every_occurrence(ids: list[int], phrase: list[int], wanted: list[int]) -> None:
    assert find(ids, phrase) == wanted
    assert find(tuple(ids), tuple(phrase)) == wanted


@pytest.fixture
def encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    return CLIPTextModel(config).eval()


FIRST = torch.tensor([[1, 2]])
IDS = torch.tensor([[BOS, 5, 6, 7, EOS, EOS, EOS, EOS], [BOS, 5, 6, 8, 9, EOS, EOS, EOS]])


@torch.no_grad()
def test_rows_of_the_embedding_are_their_tokens_to_the_bit(encoder: CLIPTextModel) -> None:
    words = encoder.get_input_embeddings().weight
    for tokens in ([3], [3, 4]):
        real = IDS.clone()
        real[:, 1 : 1 + len(tokens)] = torch.tensor(tokens)
        expected = encoder(real)[0]
        with placed(encoder, words[tokens][None], FIRST[:, : len(tokens)]):
            assert torch.equal(encoder(IDS)[0], expected)
        assert not torch.allclose(encoder(IDS)[0], expected), "the control"


@torch.no_grad()
def test_each_prompt_has_vectors_and_places_of_its_own(encoder: CLIPTextModel) -> None:
    words = encoder.get_input_embeddings().weight
    real = IDS.clone()
    real[0, 3], real[1, 1] = 11, 12
    with placed(encoder, words[torch.tensor([[11], [12]])], torch.tensor([[3], [1]])):
        found = encoder(IDS)[0]
    assert torch.equal(found, encoder(real)[0])


@torch.no_grad()
def test_what_stands_in_the_vectors_place_does_not_matter(encoder: CLIPTextModel) -> None:
    other = IDS.clone()
    other[:, 1] = 20
    with placed(encoder, torch.ones(1, 1, 16), FIRST[:, :1]):
        assert torch.equal(encoder(IDS)[0], encoder(other)[0])


def test_gradients_reach_the_vectors(encoder: CLIPTextModel) -> None:
    encoder.requires_grad_(False)
    vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    with placed(encoder, vectors[None], FIRST):
        encoder(IDS)[0][:, -1, 0].sum().backward()  # the sum of a normalised vector is constant
    assert vectors.grad is not None
    assert (vectors.grad.abs().sum(1) > 0).all()


def test_the_encoder_is_itself_again_also_after_an_error(encoder: CLIPTextModel) -> None:
    before = encoder(IDS)[0]

    def fail() -> None:
        with placed(encoder, torch.ones(1, 1, 16), FIRST[:, :1]):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(encoder(IDS)[0], before)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_the_vectors_take_the_encoders_precision(encoder: CLIPTextModel) -> None:
    with placed(encoder.bfloat16(), torch.ones(1, 1, 16), FIRST[:, :1]):
        assert encoder(IDS)[0].dtype == torch.bfloat16


def test_any_module_with_input_embeddings_will_do() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(32, 4)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

    bare = Bare()
    with placed(bare, torch.full((1, 1, 4), 7.0), FIRST[:, :1]):
        rows = bare.table(IDS)
    assert (rows[:, 1] == 7).all()
    assert torch.equal(rows[:, 2:], bare.table(IDS)[:, 2:])


def test_what_prompts_share_stands_in_pairs_up_to_the_windows_end() -> None:
    one, other = [9, 1, 2, 4, 3, 8], [9, 1, 5, 3, 8]
    mine, theirs = shared(one, other, 10)
    padded = [text + [0] * (10 - len(text)) for text in (one, other)]
    assert [padded[0][i] for i in mine] == [padded[1][i] for i in theirs] == [9, 1, 3, 8, 0, 0, 0, 0]
    assert (mine[-1], theirs[-1]) == (9, 8), "the longer one's end meets the window's"
    assert shared(one, one, 8) == ([*range(8)], [*range(8)])
    assert shared([9, 4, 4, 8], [9, 4, 8], 4) == ([0, 1, 3], [0, 1, 2]), "no token is in two pairs"
