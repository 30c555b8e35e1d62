"""How two gradients share a step: EraseDiff's weight and Scissorhands' projection."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from lit_memories.ops.gradients import adaptive_weight, add, inner, project

relaxed = settings(deadline=None, max_examples=60)
numbers = st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5)


def split(values: list[float]) -> list[Tensor]:
    """A gradient of two tensors of different shapes."""
    flat = torch.tensor(values, dtype=torch.float32)
    return [flat[:2].clone(), flat[2:4].reshape(2, 1).clone(), flat[4].clone()]


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def normal(seed: int, scale: float = 1.0) -> list[Tensor]:
    return split((scale * torch.randn(5, generator=torch.Generator().manual_seed(seed))).tolist())


def test_inner_and_add_are_those_of_the_flat_vectors() -> None:
    a, b = normal(0), normal(1)
    torch.testing.assert_close(inner(a, b), flat(a) @ flat(b))
    torch.testing.assert_close(flat(add(a, b, -0.5)), flat(a) - 0.5 * flat(b))
    assert [x.shape for x in add(a, b, 2)] == [x.shape for x in a]


def test_gradients_of_different_networks_are_refused() -> None:
    for function in (inner, lambda a, b: add(a, b, 1.0)):
        with pytest.raises(ValueError, match="zip"):
            function(normal(0), normal(1)[:2])


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_the_weight_is_eta_across_zero_along_and_one_more_against(eta: float) -> None:
    x, y = split([1, 2, 0, 0, 0]), split([0, 0, 3, -1, 2])
    assert float(adaptive_weight(x, y, eta)) == pytest.approx(eta)
    along = [3 * part for part in x]
    assert float(adaptive_weight(x, along, eta)) == pytest.approx(max(0.0, eta - 1), abs=1e-6)
    assert float(adaptive_weight(x, [-part for part in along], eta)) == pytest.approx(1 + eta)


@relaxed
@given(numbers, numbers, st.floats(0, 2))
def test_the_weight_is_never_negative_and_never_above_one_and_eta(r: list[float], f: list[float], eta: float) -> None:
    assert 0 <= float(adaptive_weight(split(r), split(f), eta)) <= 1 + eta + 1e-5


@pytest.mark.parametrize("scale", [1e-14, 1e-8, 1e8, 1e14])
@pytest.mark.parametrize("seed", range(4))
def test_the_weight_does_not_depend_on_the_gradients_size(scale: float, seed: int) -> None:
    """Gradients of a loss that is nearly reached are tiny: their squares' product is beyond single precision."""
    r, f = flat(normal(seed)), flat(normal(seed + 50))
    expected = max(0.0, 1.0 - float(torch.cosine_similarity(r, f, dim=0)))
    found = float(adaptive_weight(normal(seed, scale), normal(seed + 50, scale), 1.0))
    assert found == pytest.approx(expected, rel=1e-4)


def test_without_a_forgetting_gradient_the_weight_is_eta() -> None:
    assert float(adaptive_weight(normal(0), split([0] * 5), 0.3)) == pytest.approx(0.3)
    assert float(adaptive_weight(split([0] * 5), normal(0), 0.3)) == pytest.approx(0.3)


@relaxed
@given(numbers, numbers, st.floats(0, 2))
@example([1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0], 0.0)
@example([1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, 0], 0.0)
def test_a_projected_gradient_never_works_against_forgetting(r: list[float], f: list[float], margin: float) -> None:
    retain, forget = split(r), split(f)
    size = float(flat(retain).norm() * flat(forget).norm())
    assert float(inner(project(retain, forget, margin), forget)) >= -1e-6 * max(1.0, size)


@relaxed
@given(numbers, numbers)
def test_without_conflict_the_gradient_stays_to_the_bit(r: list[float], f: list[float]) -> None:
    retain, forget = split(r), split(f)
    if float(inner(retain, forget)) < 0:
        forget = [-part for part in forget]
    assert all(torch.equal(a, b) for a, b in zip(project(retain, forget), retain, strict=True))


def test_in_conflict_it_changes() -> None:
    """The control of the one above."""
    retain, forget = split([1, 0, 0, 0, 0]), split([-1, 1, 0, 0, 0])
    assert flat(project(retain, forget)).tolist() == pytest.approx([0.5, 0.5, 0, 0, 0])


@pytest.mark.parametrize("seed", range(8))
def test_projection_is_the_nearest_feasible_point(seed: int) -> None:
    """Against a general solver of the quadratic programme."""
    retain, forget = flat(normal(seed)).double().numpy(), flat(normal(100 + seed)).double().numpy()
    solution = minimize(
        lambda g: 0.5 * ((g - retain) ** 2).sum(),
        x0=forget,
        jac=lambda g: g - retain,
        constraints={"type": "ineq", "fun": lambda g: g @ forget, "jac": lambda g: forget},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solution.success
    ours = flat(project(normal(seed), normal(100 + seed))).numpy()
    assert ours == pytest.approx(solution.x, abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_margin_bounds_the_dual_variable(seed: int, margin: float) -> None:
    """GEM's programme in its dual form: the v >= margin that minimises |g_r + v g_f|, found on a grid."""
    retain, forget = flat(normal(seed)).double(), flat(normal(100 + seed)).double()
    grid = torch.linspace(margin, margin + 10, 200_001, dtype=torch.float64)
    lengths = (retain + grid[:, None] * forget).square().sum(1)
    expected = retain + grid[lengths.argmin()] * forget
    found = flat(project(normal(seed), normal(100 + seed), margin)).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
