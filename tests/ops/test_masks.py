"""Masks by attention, against loops over pictures, heads and places in float64."""

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.ops.masks import attention_mask, attention_norms, grid, outside, resized


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def test_the_mask_is_the_mean_attention_brought_to_one() -> None:
    layers = [normal(2, 3, places, 5, seed=number).softmax(-1) for number, places in enumerate((8, 8, 2))]
    marks = torch.tensor([[0.0, 1, 1, 0, 0], [0, 0, 0, 1, 0]])
    found = attention_mask(layers, marks, (4, 8), 2, 0.4)
    assert found.shape == (2, 1, 2, 4)
    for row, columns in enumerate(([1, 2], [3])):
        shares = [
            sum(float(layer[row, head, place, column].double()) for layer in layers[:2] for head in range(3)
                for column in columns) / (2 * 3 * len(columns))
            for place in range(8)
        ]  # fmt: skip
        wanted = [(share - min(shares)) / (max(shares) - min(shares)) >= 0.4 for share in shares]
        assert found[row].flatten().bool().tolist() == wanted
        assert 0 < sum(wanted) < 8, "the control"


def test_attention_that_is_the_same_everywhere_is_of_the_whole_picture() -> None:
    assert attention_mask([torch.full((1, 2, 4, 3), 1 / 3)], torch.tensor([[0.0, 1, 0]]), (4, 4), 2, 0.9).all()


def test_a_mask_of_nothing_is_refused() -> None:
    layer = torch.full((2, 1, 4, 3), 1 / 3)
    with pytest.raises(ValueError, match="a prompt without a token of the concept has no mask"):
        attention_mask([layer], torch.tensor([[0.0, 1, 0], [0, 0, 0]]), (4, 4), 2, 0.5)
    with pytest.raises(ValueError, match=r"no cross-attention is 4 times coarser .* mask_stride may be one of \[2\]"):
        attention_mask([layer], torch.ones(2, 3), (4, 4), 4, 0.5)
    with pytest.raises(ValueError, match="5 places are no grid"):
        grid(5, (4, 4))


def test_a_mask_goes_to_any_layers_places() -> None:
    mask = torch.tensor([[[[1.0, 0], [0, 0]]]])
    assert resized(mask, 16, (8, 8)).view(4, 4).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert resized(mask, 4, (8, 8)).tolist() == [[1, 0, 0, 0]]


def test_what_is_added_outside_is_a_mean_over_places_and_layers() -> None:
    mask = (normal(2, 1, 2, 2) > 0).float()
    mask[0] = 1
    mask[1, 0, 0] = torch.tensor([1.0, 0])
    added = [normal(2, 4, 3, seed=1), normal(2, 16, 5, seed=2)]
    wanted = 0.0
    for one, side in zip(added, (2, 4), strict=True):
        free = [
            (row, place) for row in range(2) for place in range(side * side)
            if not mask[row, 0, place // side * 2 // side, place % side * 2 // side]
        ]  # fmt: skip
        wanted += sum(float(one[place].double().square().mean()) for place in free) / len(free) / 2
    assert float(outside(added, mask, (4, 4))) == pytest.approx(wanted, rel=1e-5)
    assert float(outside(added, torch.ones_like(mask), (4, 4))) == 0


def test_attention_norms_are_one_a_layer_within_the_mask() -> None:
    layers = [normal(2, 3, places, 5, seed=places).softmax(-1) for places in (4, 16)]
    marks = torch.tensor([[0.0, 1, 1, 0, 0], [0, 0, 0, 1, 0]])
    mask = torch.tensor([[[[1.0, 0], [0, 0]]], [[[1, 1], [0, 0]]]])
    wanted = 0.0
    for layer, side in zip(layers, (2, 4), strict=True):
        total = 0.0
        for row, columns in enumerate(([1, 2], [3])):
            for place in range(side * side):
                if mask[row, 0, place // side * 2 // side, place % side * 2 // side]:
                    total += float(layer[row, :, place, columns].double().square().sum())
        wanted += total**0.5
    assert float(attention_norms(layers, marks, mask, (4, 4))) == pytest.approx(wanted, rel=1e-5)
    whole = sum(float((layer * marks[:, None, None]).double().norm()) for layer in layers)
    assert float(attention_norms(layers, marks, None, (4, 4))) == pytest.approx(whole, rel=1e-5)


def test_a_layer_that_looks_nowhere_has_no_slope() -> None:
    layer = torch.zeros(1, 1, 4, 2, requires_grad=True)
    attention_norms([layer], torch.ones(1, 2), None, (2, 2)).backward()
    assert layer.grad is not None
    assert not layer.grad.any()
