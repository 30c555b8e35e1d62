"""The nearest probabilities, draws from them, and their gradients."""

import pytest
import torch
from torch import Tensor

from lit_memories.ops.simplex import drawn, onto_simplex, straight_through


def by_bisection(vector: Tensor) -> Tensor:
    """The threshold sought where the sum is 1, as the attack's official code does."""
    low, high = float(vector.min()) - 1, float(vector.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (vector - middle).clamp_min(0).sum() > 1 else (low, middle)
    return (vector - low).clamp_min(0)


@pytest.mark.parametrize("size", [1, 2, 7, 500])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_the_projection_is_the_one_of_bisection(size: int, scale: float) -> None:
    vectors = torch.randn(6, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)) * scale
    expected = torch.stack([by_bisection(vector) for vector in vectors])
    torch.testing.assert_close(onto_simplex(vectors), expected, rtol=0, atol=1e-9)


def test_it_meets_the_conditions_of_a_minimum() -> None:
    """Karush, Kuhn and Tucker: one multiplier for the sum, one of the right sign for each element at zero."""
    vectors = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points = onto_simplex(vectors)
    torch.testing.assert_close(points.sum(-1), torch.ones(20, dtype=torch.float64))
    assert (points >= 0).all()
    for vector, point in zip(vectors, points, strict=True):
        inside = point > 0
        multiplier = (vector - point)[inside]
        torch.testing.assert_close(multiplier, multiplier.mean().expand_as(multiplier))
        assert (vector[~inside] <= multiplier.mean() + 1e-12).all()


def test_points_of_the_simplex_stay_and_a_large_vocabulary_sums_to_one() -> None:
    point = torch.softmax(torch.randn(4, 9, generator=torch.Generator().manual_seed(2)), -1)
    torch.testing.assert_close(onto_simplex(point), point)
    uniform = torch.full((1, 49_406), 1 / 49_406)
    torch.testing.assert_close(onto_simplex(uniform), uniform, rtol=1e-3, atol=0)
    large = onto_simplex(torch.rand(1, 49_406, generator=torch.Generator().manual_seed(3)))
    assert abs(float(large.sum()) - 1) < 1e-4


def test_a_row_that_is_not_finite_spoils_itself_alone() -> None:
    vectors = torch.zeros(3, 4)
    vectors[1, 2] = torch.nan
    points = onto_simplex(vectors)
    assert points[1].isnan().all()
    assert torch.equal(points[[0, 2]], torch.full((2, 4), 0.25))


def test_tokens_are_drawn_by_their_shares() -> None:
    shares = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    found = drawn(shares.expand(40_000, -1), uniform)
    rates = torch.bincount(found, minlength=6) / 40_000
    torch.testing.assert_close(rates, shares, rtol=0, atol=0.01)
    assert torch.equal(rates[[0, 2, 5]], torch.zeros(3)), "what has no share is never drawn"
    ends = drawn(shares.expand(2, -1), torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [1, 4]


def test_the_choice_is_seen_and_the_mean_differentiated() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(5, 3, generator=generator)
    shares = torch.softmax(torch.randn(2, 2, 5, generator=generator), -1).requires_grad_()
    chosen = torch.tensor([[0, 4], [2, 2]])
    vectors = straight_through(shares, table, chosen)
    assert torch.equal(vectors, table[chosen])
    weights = torch.randn(2, 2, 3, generator=generator)
    (found,) = torch.autograd.grad((vectors * weights).sum(), shares)
    (expected,) = torch.autograd.grad(((shares @ table) * weights).sum(), shares)
    torch.testing.assert_close(found, expected)
