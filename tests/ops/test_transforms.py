"""What is done to weights after an erasure, by closed forms."""

import pytest
import torch
from torch import Tensor

from lit_memories.ops.transforms import (
    Interpolated,
    Pruned,
    Quantised,
    Transform,
    Unpruned,
    completed,
    interpolate,
    prune,
    quantise,
    unprune,
)


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


def test_what_was_pruned_of_a_matrix_of_one_rank_is_found_again_exactly() -> None:
    """Signs in the products of two vectors', and of equal magnitude in each row: both rules hold to the bit."""
    whole = drawn(6).sign()[:, None] * drawn(12, seed=1).sign() * torch.arange(1.0, 7.0)[:, None]
    gone = torch.rand(6, 12, generator=torch.Generator().manual_seed(2)) < 0.3
    found = unprune(whole.masked_fill(gone, 0), 1)
    torch.testing.assert_close(found, whole)
    assert torch.equal(found[~gone], whole[~gone])
    torch.testing.assert_close(unprune(whole.masked_fill(gone, 0), 1, 0.5)[gone], whole[gone] / 2)
    assert torch.equal(unprune(whole, 1), whole), "nothing was pruned"
    kernel = whole.view(6, 3, 2, 2)
    torch.testing.assert_close(unprune(kernel.masked_fill(gone.view_as(kernel), 0), 1), kernel)


def test_a_matrix_of_low_rank_is_completed_and_known_elements_stay() -> None:
    whole = drawn(40, 2).double() @ drawn(2, 30, seed=1).double()
    known = torch.rand(40, 30, generator=torch.Generator().manual_seed(2)) > 0.05
    found = completed(whole, known, 2)
    assert torch.equal(found[known], whole[known])
    assert float((found - whole)[~known].norm() / whole[~known].norm()) < 0.01


def test_rows_of_zeros_stay_and_the_size_is_that_of_the_others() -> None:
    weight = drawn(5, 8)
    weight[1] = 0
    weight[2, 3] = 0
    found = unprune(weight, 2)
    assert not found[1].any()
    assert float(found[2, 3].abs()) == pytest.approx(float((weight[2].square().sum() / 7).sqrt()))


def test_only_what_holds_zeros_is_unpruned_and_a_whole_model_is_refused() -> None:
    pruned = WEIGHTS | {"unet.b.weight": prune(WEIGHTS["unet.b.weight"], 0.1)}
    found = Unpruned(2)(pruned, {})
    assert list(found) == ["unet.b.weight"]
    assert bool((found["unet.b.weight"] != 0).all())
    with pytest.raises(ValueError, match="it was not pruned"):
        Unpruned()(WEIGHTS, {})


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
        (lambda: Unpruned(0), "rank must be 1 or more and scale between 0 and 10"),
        (lambda: Unpruned(scale=float("nan")), "scale between 0 and 10"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()  # type: ignore[operator]


@pytest.mark.parametrize("transform", [Interpolated(0.5), Quantised(8), Pruned(0.25), Unpruned(4)])
def test_a_transform_says_what_it_is(transform: Transform) -> None:
    said = transform.settings()
    assert said.pop("name") == type(transform).__name__
    assert type(transform)(**said) == transform
