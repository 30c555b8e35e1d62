"""SPEED's algebra against the paper's own form, with multipliers and explicit inverses."""

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.ops.clusters import centres
from lit_memories.ops.null_space import null_edit_map, null_space, without

WIDTH = 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


CONCEPTS, GUIDES, KEPT, INVARIANT = (normal(n, WIDTH, seed=n) for n in (3, 4, 5, 2))
GUIDES = GUIDES[:3]


def papers(basis: Tensor, prompts: int, scale: float, lamb: float) -> Tensor:
    """I + (A'T - T'T) P Q M, as the paper and the official code have it."""
    project, identity = basis @ basis.T, torch.eye(WIDTH).double()
    gram, moved = CONCEPTS.T @ CONCEPTS / prompts, (GUIDES - CONCEPTS).T @ CONCEPTS / prompts
    inverse = torch.linalg.inv(gram @ project + scale * identity)
    still = INVARIANT.T
    inner = torch.linalg.inv(still.T @ project @ inverse @ still + lamb * torch.eye(2).double())
    multiplied = identity - inverse @ still @ inner @ still.T @ project
    return identity + moved @ project @ multiplied @ inverse


@pytest.mark.parametrize(("prompts", "scale", "lamb"), [(1, 1.0, 0.0), (3, 0.05, 0.0), (1, 0.7, 0.5), (2, 2.0, 3.0)])
def test_it_is_the_papers_solution(prompts: int, scale: float, lamb: float) -> None:
    basis = null_space(KEPT, 1e-6)
    assert basis.shape == (WIDTH, WIDTH - 5)
    found = null_edit_map(CONCEPTS, GUIDES, basis, INVARIANT, prompts, scale, lamb)
    torch.testing.assert_close(found, papers(basis, prompts, scale, lamb), rtol=1e-9, atol=1e-10)


def test_retained_and_invariant_vectors_stay_and_concepts_move() -> None:
    edit = null_edit_map(CONCEPTS, GUIDES, null_space(KEPT, 1e-6), INVARIANT, retain_scale=1e-6)
    for still in (KEPT, INVARIANT):
        torch.testing.assert_close(still @ edit.T, still, rtol=0, atol=1e-12)
    torch.testing.assert_close(CONCEPTS @ edit.T, GUIDES, rtol=0, atol=1e-4)


def test_softened_invariants_move_the_less_the_smaller_lamb_is() -> None:
    basis = null_space(KEPT, 1e-6)
    drifts = [
        (INVARIANT @ null_edit_map(CONCEPTS, GUIDES, basis, INVARIANT, lamb=lamb).T - INVARIANT).norm()
        for lamb in (1e-6, 0.1, 10.0)
    ]
    assert drifts[0] < 1e-4 < drifts[1] < drifts[2]


def test_no_other_edit_within_the_space_is_better() -> None:
    """The objective rises in every allowed direction."""
    basis = without(null_space(KEPT, 1e-6), INVARIANT)
    edit = null_edit_map(CONCEPTS, GUIDES, basis, INVARIANT, retain_scale=0.3) - torch.eye(WIDTH).double()

    def objective(change: Tensor) -> Tensor:
        return (CONCEPTS + CONCEPTS @ change.T - GUIDES).square().sum() + 0.3 * change.square().sum()

    least = objective(edit)
    for seed in range(8):
        allowed = normal(WIDTH, WIDTH, seed=seed) @ basis @ basis.T
        assert objective(edit + 1e-3 * allowed) > least
        assert objective(edit - 1e-3 * allowed) > least
    anywhere = normal(WIDTH, WIDTH, seed=9)
    slope = (objective(edit + 1e-5 * anywhere) - objective(edit - 1e-5 * anywhere)) / 2e-5
    assert slope.abs() > 1e-2, "the control: outside the space it could be lower"


@pytest.mark.parametrize(("threshold", "size"), [(1e-6, 7), (1e6, 12), (1e-40, 0)])
def test_the_null_space_grows_with_its_threshold(threshold: float, size: int) -> None:
    kept = KEPT if threshold > 1e-30 else torch.cat([KEPT, normal(20, WIDTH, seed=1)])
    basis = null_space(kept, threshold)
    assert basis.shape[1] == size
    torch.testing.assert_close(basis.T @ basis, torch.eye(size).double())


@pytest.mark.parametrize("inside", [0, 1])
def test_what_is_invariant_already_takes_no_direction(inside: int) -> None:
    """A vector that the space does not reach, or one that is there twice, counts once or not at all."""
    basis = null_space(KEPT, 1e-6)
    vectors = torch.cat([INVARIANT[:inside], INVARIANT[:inside], KEPT[:2]])
    assert without(basis, vectors).shape[1] == basis.shape[1] - inside


def test_without_a_direction_there_is_no_edit() -> None:
    with pytest.raises(ValueError, match="no direction is left to edit"):
        null_edit_map(CONCEPTS, GUIDES, torch.zeros(WIDTH, 0), INVARIANT)


def test_centres_are_means_of_what_is_nearest_to_them() -> None:
    groups = torch.cat([normal(6, WIDTH, seed=n) * 0.01 + n * 10 for n in range(3)])
    found = centres(groups, 3, Generator().manual_seed(3))
    nearest = torch.cdist(groups, found).argmin(1)
    for number in range(3):
        torch.testing.assert_close(found[number], groups[nearest == number].mean(0))
    assert torch.equal(centres(groups, 3, Generator().manual_seed(3)), found)
    assert torch.equal(centres(groups[:2], 3, Generator()), groups[:2])
