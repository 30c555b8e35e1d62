"""What is done to weights after an erasure, by closed forms."""

import pytest
import torch
from torch import Tensor

from lit_memories.ops.transforms import Interpolated, Pruned, Quantised, Transform, interpolate, prune, quantise


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {"unet.a.weight": drawn(5, 3), "unet.a.bias": drawn(5), "unet.b.weight": drawn(4, 2, 3, 3, seed=1)}
REPLACED = {"unet.a.weight": drawn(5, 3, seed=2)}


def test_interpolation_has_both_ends_exactly_and_the_middle() -> None:
    weight, base = drawn(7, 3), drawn(7, 3, seed=1)
    assert torch.equal(interpolate(weight, base, 0.0), weight)
    assert torch.equal(interpolate(weight, base, 1.0), base)
    torch.testing.assert_close(interpolate(weight, base, 0.25), 0.75 * weight + 0.25 * base)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_values_are_near_and_few_and_the_largest_stays(bits: int) -> None:
    weight = drawn(6, 5, 3, 3) * torch.tensor([1e-6, 1, 10, 1, 1, 1e6]).view(6, 1, 1, 1)
    found = quantise(weight, bits)
    scale = weight.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
    assert ((found - weight).flatten(1).abs().amax(1) <= scale * (0.5 + 1e-5)).all()
    assert all(len(row.unique()) <= 2**bits - 1 for row in found.flatten(1))
    largest = weight.flatten(1).abs().argmax(1, keepdim=True)
    torch.testing.assert_close(found.flatten(1).gather(1, largest), weight.flatten(1).gather(1, largest))
    torch.testing.assert_close(quantise(found, bits), found, msg="once is enough")


def test_quantisation_is_symmetric_and_leaves_nothing_alone() -> None:
    weight = drawn(3, 8)
    torch.testing.assert_close(quantise(-weight, 4), -quantise(weight, 4))
    assert torch.equal(quantise(torch.zeros(2, 3), 8), torch.zeros(2, 3))


def test_two_weights_closer_than_a_step_are_one_after_it() -> None:
    """Why an erasure of small steps may not outlive it."""
    base = torch.tensor([[7.0, 3.0, -2.0]])
    assert torch.equal(quantise(base + torch.tensor([[0.0, 0.4, -0.4]]), 4), quantise(base, 4))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_pruning_takes_so_many_of_the_smallest_and_keeps_the_rest(share: float) -> None:
    weight = drawn(10, 10)
    found, gone = prune(weight, share), round(100 * share)
    assert int((found == 0).sum()) == gone
    kept = weight.abs().flatten().sort().values[gone:]
    assert torch.equal(found[found != 0].abs().sort().values, kept)
    assert torch.equal(found[found != 0], weight[found != 0])


def test_of_equals_as_many_go_as_are_to() -> None:
    assert int((prune(torch.ones(10), 0.4) == 0).sum()) == 4


def test_matrices_and_kernels_are_changed_and_biases_stay() -> None:
    for transform in (Quantised(4), Pruned(0.5)):
        assert sorted(transform(WEIGHTS, {})) == ["unet.a.weight", "unet.b.weight"]
    assert torch.equal(Quantised(4)(WEIGHTS, {})["unet.b.weight"], quantise(WEIGHTS["unet.b.weight"], 4))
    assert torch.equal(Pruned(0.5)(WEIGHTS, {})["unet.a.weight"], prune(WEIGHTS["unet.a.weight"], 0.5))


def test_only_what_was_erased_is_interpolated() -> None:
    found = Interpolated(0.5)(WEIGHTS, REPLACED)
    assert list(found) == ["unet.a.weight"]
    torch.testing.assert_close(found["unet.a.weight"], (WEIGHTS["unet.a.weight"] + REPLACED["unet.a.weight"]) / 2)
    with pytest.raises(ValueError, match="give the model an erasure"):
        Interpolated(0.5)(WEIGHTS, {})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Interpolated(1.1), "share must be between 0"),
        (lambda: Interpolated(-0.1), "share must be between 0"),
        (lambda: Quantised(1), "bits must be between 2 and 16"),
        (lambda: Pruned(1.0), "share must be 0 or more and below 1"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()  # type: ignore[operator]


@pytest.mark.parametrize("transform", [Interpolated(0.5), Quantised(8), Pruned(0.25)])
def test_a_transform_says_what_it_is(transform: Transform) -> None:
    said = transform.settings()
    assert said.pop("name") == type(transform).__name__
    assert type(transform)(**said) == transform
