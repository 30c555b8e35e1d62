"""The algebra of closed-form edits, against the papers' formulas written out a matrix at a time."""

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.ops.ridge import adversarial_embeddings, edit_map, fused

WIDTH = 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONCEPTS, GUIDES, PRESERVED = normal(3, WIDTH), normal(3, WIDTH, seed=1), normal(4, WIDTH, seed=2)
MATRICES = [normal(out, WIDTH, seed=10 + out) for out in (5, 12, 20)]
NONE = torch.zeros(0, WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("preserved", [PRESERVED, NONE], ids=["preserving", "not"])
@pytest.mark.parametrize(("lamb", "erase", "keep"), [(0.5, 1.0, 1.0), (0.01, 2.0, 0.3), (3.0, 0.1, 0.0)])
def test_the_map_is_every_matrix_own_solution(preserved: Tensor, lamb: float, erase: float, keep: float) -> None:
    """UCE's closed form as the paper states it: an explicit inverse for each matrix."""
    edit = edit_map(CONCEPTS, GUIDES, preserved, lamb, erase, keep)
    assert edit.dtype == torch.float64
    for original in MATRICES:
        left, right = lamb * original, lamb * torch.eye(WIDTH, dtype=torch.float64)
        for c, g in zip(CONCEPTS, GUIDES, strict=True):
            left = left + erase * torch.outer(original @ g, c)
            right = right + erase * torch.outer(c, c)
        for c in preserved:
            left = left + keep * torch.outer(original @ c, c)
            right = right + keep * torch.outer(c, c)
        torch.testing.assert_close(original @ edit, left @ torch.linalg.inv(right), rtol=1e-9, atol=1e-9)


def test_the_edited_matrix_minimises_the_objective() -> None:
    """The gradient of equation 3 vanishes there, and nowhere near."""
    original = MATRICES[1]

    def gradient(matrix: Tensor) -> float:
        w = matrix.clone().requires_grad_(True)
        moved = 2.0 * (CONCEPTS @ w.T - GUIDES @ original.T).square().sum()
        kept = 0.3 * (PRESERVED @ w.T - PRESERVED @ original.T).square().sum()
        (found,) = torch.autograd.grad(moved + kept + 0.5 * (w - original).square().sum(), w)
        return float(found.abs().max())

    edited = original @ edit_map(CONCEPTS, GUIDES, PRESERVED, 0.5, 2.0, 0.3)
    assert gradient(edited) < 1e-9
    assert gradient(original) > 1
    assert gradient(edited + 0.01) > 1e-2


@pytest.mark.parametrize(("lamb", "scale"), [(0.5, 1.0), (0.1, 3.0), (5.0, 0.2)])
def test_the_residual_of_one_concept_is_the_ridges(lamb: float, scale: float) -> None:
    c, g, original = CONCEPTS[:1], GUIDES[:1], MATRICES[0]
    edited = original @ edit_map(c, g, NONE, lamb, scale)
    ratio = (c @ edited.T - g @ original.T).norm() / (c @ original.T - g @ original.T).norm()
    assert float(ratio) == pytest.approx(lamb / (lamb + scale * float(c.square().sum())), rel=1e-4)


def test_preserved_vectors_move_less_the_more_they_weigh() -> None:
    drifts = [
        float((PRESERVED @ edit_map(CONCEPTS, GUIDES, PRESERVED, 0.5, 1.0, scale).T - PRESERVED).norm())
        for scale in (0.0, 1.0, 10.0, 1e3, 1e6)
    ]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[1] < 0.5 * drifts[0]
    assert drifts[-1] < 1e-4 * drifts[0]
    assert drifts[0] == pytest.approx(float((PRESERVED @ edit_map(CONCEPTS, GUIDES, NONE).T - PRESERVED).norm()))


def test_the_inverse_brings_everything_back() -> None:
    """What an attacker needs who sees the weights: the edited matrix on the inverse's embeddings is the original."""
    edit = edit_map(CONCEPTS, GUIDES, PRESERVED)
    original, anything = MATRICES[2], normal(7, WIDTH, seed=5)
    edited = original @ edit
    torch.testing.assert_close((anything @ torch.linalg.inv(edit).T) @ edited.T, anything @ original.T)
    assert not torch.allclose(anything @ edited.T, anything @ original.T), "the control"


def test_without_concepts_nothing_is_edited() -> None:
    identity = torch.eye(WIDTH, dtype=torch.float64)
    assert torch.equal(edit_map(NONE, NONE, NONE), identity)
    assert torch.equal(edit_map(NONE, NONE, PRESERVED), identity)
    torch.testing.assert_close(edit_map(CONCEPTS, CONCEPTS, PRESERVED), identity)


def test_the_order_of_prompts_does_not_matter() -> None:
    order, other = [2, 0, 1], [3, 1, 0, 2]
    torch.testing.assert_close(
        edit_map(CONCEPTS[order], GUIDES[order], PRESERVED[other]), edit_map(CONCEPTS, GUIDES, PRESERVED)
    )
    assert not torch.allclose(edit_map(CONCEPTS[order], GUIDES, PRESERVED), edit_map(CONCEPTS, GUIDES, PRESERVED))


def test_it_is_solved_in_double_precision() -> None:
    """As in UCE, where embeddings are long and lambda small."""
    c, g, p = (100 * tensor.float() for tensor in (CONCEPTS, GUIDES, PRESERVED))
    assert torch.equal(edit_map(c, g, p), edit_map(c.double(), g.double(), p.double()))


def test_the_adversary_is_the_edits_inverse_for_a_small_weight() -> None:
    edit = edit_map(CONCEPTS, GUIDES, PRESERVED)
    edited = [matrix @ edit for matrix in MATRICES]
    found = adversarial_embeddings(CONCEPTS, edited, MATRICES, 1e-10)
    torch.testing.assert_close(found, CONCEPTS @ torch.linalg.inv(edit).T, rtol=1e-6, atol=1e-6)
    for new, old in zip(edited, MATRICES, strict=True):
        torch.testing.assert_close(found @ new.T, CONCEPTS @ old.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lamb", [0.001, 0.1, 10.0])
def test_the_adversary_satisfies_its_normal_equations(lamb: float) -> None:
    edit = edit_map(CONCEPTS, GUIDES, PRESERVED)
    edited = [matrix @ edit for matrix in MATRICES]
    found = adversarial_embeddings(CONCEPTS, edited, MATRICES, lamb)
    for concept, adversary in zip(CONCEPTS, found, strict=True):
        left = lamb * adversary + sum(new.T @ (new @ adversary) for new in edited)
        right = sum(new.T @ (old @ concept) for new, old in zip(edited, MATRICES, strict=True))
        torch.testing.assert_close(left, right)


def test_the_adversary_shrinks_with_its_weight() -> None:
    norms = [float(adversarial_embeddings(CONCEPTS, MATRICES, MATRICES, lamb).norm()) for lamb in (1e-9, 1.0, 100.0)]
    assert norms[0] == pytest.approx(float(CONCEPTS.norm()), rel=1e-6)
    assert norms[0] > norms[1] > norms[2]


@pytest.mark.parametrize("options", [{"lamb": 0.0}, {"lamb": -1.0}, {"erase_scale": -0.1}, {"preserve_scale": -0.1}])
def test_weights_out_of_range_are_named(options: dict[str, float]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        edit_map(CONCEPTS, GUIDES, PRESERVED, **options)


def test_the_adversarys_weight_is_above_zero_and_its_matrices_come_in_pairs() -> None:
    with pytest.raises(ValueError, match=r"lamb must be above 0, got 0\.0"):
        adversarial_embeddings(CONCEPTS, MATRICES, MATRICES, 0.0)
    with pytest.raises(ValueError, match="zip"):
        adversarial_embeddings(CONCEPTS, MATRICES, MATRICES[:2], 1.0)


def test_fusion_without_an_adapter_and_without_words_is_what_was_there() -> None:
    w = torch.randn(3, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    c, none = torch.randn(6, 4, generator=Generator().manual_seed(1), dtype=torch.float64), torch.zeros(0, 4)
    torch.testing.assert_close(fused([w], w, w, [c], none, 0.5), w)
    torch.testing.assert_close(fused([2 * w], w, w, [none], none, 0.5), w)
    torch.testing.assert_close(fused([2 * w], w, w, [c], none, 1e-9), 2 * w)
    torch.testing.assert_close(fused([2 * w, 4 * w], w, w, [c, c], none, 1e-9), 3 * w)
    assert torch.dist(fused([w], w, 3 * w, [none], c, 0.5, 1e9), 3 * w) < 1e-6, "what is preserved is the original's"
    with pytest.raises(ValueError, match=r"lamb \(0\) must be above 0, preserve_scale \(-1\)"):
        fused([w], w, w, [c], none, 0, -1)
