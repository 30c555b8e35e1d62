"""SPEED: an edit of the values in the null space of what is retained, checked a matrix at a time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, changed, fit, normal, snapshot
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.speed import SPEED, most_affected
from lit_memories.erasers.uce import UCE
from lit_memories.ops.select import select


def made(diffusion: Diffusion, concept: Any = UMBRELLA, **options: Any) -> SPEED:
    return SPEED(diffusion, concept, **({"probe_size": 2, "threshold": 1e-3} | options))


@torch.no_grad()
def embeds(diffusion: Diffusion, *prompts: str) -> Tensor:
    return diffusion.encode_prompts(prompts).double()


def weights(method: SPEED) -> dict[str, Tensor]:
    return {name: parameter.detach().double().clone() for name, parameter in method.selected.items()}


@pytest.mark.parametrize("train", ["attn2-v", "attn2-kv"])
def test_values_change_and_keys_if_asked_for(train: str, diffusion: Diffusion, tmp_path: Path) -> None:
    before, method = snapshot(diffusion), made(diffusion, train=train)
    fit(method, tmp_path)
    assert changed(before, diffusion) == set(select(diffusion, train))


@pytest.mark.parametrize("lamb", [0.0, 0.5])
def test_every_matrix_is_the_official_solution(lamb: float, diffusion: Diffusion, tmp_path: Path) -> None:
    """Restated with explicit inverses and multipliers; without noisy copies nothing is filtered."""
    method = made(diffusion, augmentations=0, retain_scale=0.3, lamb=lamb)
    before, full = weights(method), embeds(diffusion, "umbrella", "a red umbrella", "star", "a red star")
    kept, empty = embeds(diffusion, "a blue star", "a red gear")[:, 3], embeds(diffusion, "")[0]
    target, anchor = torch.stack([full[0, 1], full[1, 3]]), torch.stack([full[2, 1], full[3, 3]])
    gram, cross = target.T @ target / 2, anchor.T @ target / 2
    values, directions = torch.linalg.eigh(kept.T @ kept / 2)
    project = directions[:, values < 1e-3] @ directions[:, values < 1e-3].T
    identity, still = torch.eye(32).double(), method.invariant().T
    assert torch.equal(still[:, 0], empty[0])
    inverse = torch.linalg.inv(gram @ project + 0.3 * identity)
    inner = torch.linalg.pinv(still.T @ project @ inverse @ still + lamb * torch.eye(still.shape[1]).double())
    multiplied = identity - inverse @ still @ inner @ still.T @ project
    fit(method, tmp_path)
    for name, old in before.items():
        new = old + old @ (cross - gram) @ project @ multiplied @ inverse
        torch.testing.assert_close(method.selected[name].detach(), new.float(), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(new, old, atol=1e-4), "the control: it is edited"


def test_what_is_retained_stays_where_uce_moves_it(diffusion: Diffusion, tmp_path: Path) -> None:
    kept = torch.cat([embeds(diffusion, *UMBRELLA.retain)[:, 3], embeds(diffusion, "")[0, :1]])
    speed = made(diffusion, augmentations=0, retain_scale=0.01)
    uce = UCE(Diffusion.from_pretrained(diffusion.base), UMBRELLA, preserve_scale=0.0, probe_size=2)
    before = weights(speed)
    concepts, guides = (vectors.double() for vectors in speed.rows_of(PROMPTS["prompts"]))
    fit(speed, tmp_path / "speed")
    fit(uce, tmp_path / "uce")
    for name, old in before.items():
        new, other = speed.selected[name].detach().double(), uce.selected[name].detach().double()
        assert (kept @ (new - old).T).norm() < 1e-5 < 1e-2 * (kept @ (other - old).T).norm()
        distance = (concepts @ old.T - guides @ old.T).norm()
        assert (concepts @ new.T - guides @ old.T).norm() < 0.5 * distance


def test_a_matrix_retains_what_it_would_move_most_and_noisy_copies(diffusion: Diffusion) -> None:
    """Copies lie along the direction in which the matrix is least sensitive; the filter drops those below the mean."""
    method, retained = made(diffusion, augmentations=4), normal(9, 32).double()
    matrix, free = normal(20, 32, seed=1).double(), normal(32, 32, seed=2).double()
    kept = method.refined(retained, matrix, free, "a")
    moved = (retained @ (matrix @ free).T).norm(dim=1)
    chosen = retained[moved >= moved.mean()]
    assert 0 < len(chosen) < 9
    assert torch.equal(kept[: len(chosen)], chosen)
    least = torch.linalg.svd(matrix).Vh[19]
    copies = kept[len(chosen) :]
    assert 0 < len(copies) < 4 * len(chosen)
    for copy in copies:
        away = (copy - chosen).double()
        along = away - (away @ least)[:, None] * least
        assert along.norm(dim=1).min() < 1e-10
    assert torch.equal(method.refined(retained, matrix, free, "a"), kept)
    assert not torch.equal(method.refined(retained, matrix, free, "b")[-1], kept[-1]), (
        "each matrix has noise of its own"
    )
    unfiltered = made(diffusion, augmentations=4, prior_filter=False).refined(retained, matrix, free, "a")
    torch.testing.assert_close(unfiltered, torch.cat([retained, copies]))
    assert torch.equal(made(diffusion, augmentations=0).refined(retained, matrix, free, "a"), retained)


def test_equally_affected_vectors_are_all_kept() -> None:
    vectors = torch.eye(3).double()
    assert torch.equal(most_affected(vectors, torch.eye(3).double()), vectors)


def test_the_empty_prompt_stands_in_for_retained_ones(diffusion: Diffusion) -> None:
    method = made(diffusion, replace(UMBRELLA, retain=[]), invariants=2)
    torch.testing.assert_close(method.preserved([]).double(), embeds(diffusion, "")[0, 1:])
    assert method.invariant().shape == (3, 32)


def test_a_null_space_of_no_dimension_is_said(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, threshold=1e-30, preserve_tokens="all", augmentations=0)
    with pytest.raises(ValueError, match=r"SPEED: no direction is left to edit in unet\..*to_v.weight: 32 retained .*"):
        fit(method, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.0},
        {"retain_scale": 0.0},
        {"lamb": -1.0},
        {"augmentations": -1},
        {"invariants": 0},
        {"train": "attn1"},
    ],
)
def test_impossible_options_of_speed_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
