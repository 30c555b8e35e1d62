"""Rollouts, targets, and evaluation in blocks."""

import pytest
import torch
from torch import Tensor, nn

from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.path import DDIMStep, ddim_step
from lit_memories.ops.rollout import rollout
from lit_memories.ops.targets import match, negate

STEPS = [DDIMStep(900, 0.1, 0.3), DDIMStep(600, 0.3, 0.6), DDIMStep(300, 0.6, 0.99)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rollout_takes_the_steps_in_order_at_their_timesteps() -> None:
    seen: list[int] = []

    def model(x: Tensor, timestep: int) -> Tensor:
        seen.append(timestep)
        return x.sin()

    z = normal(2, 4, 8, 8)
    expected = z
    for step in STEPS:
        expected = ddim_step(expected, expected.sin(), step)
    assert torch.equal(rollout(model, z, STEPS), expected)
    assert seen == [900, 600, 300]


def test_a_rollout_can_stop_and_go_on() -> None:
    def model(x: Tensor, timestep: int) -> Tensor:
        return x.cos() * timestep / 1000

    z = normal(2, 4, 8, 8)
    assert torch.equal(rollout(model, rollout(model, z, STEPS[:1]), STEPS[1:]), rollout(model, z, STEPS))
    assert torch.equal(rollout(model, z, []), z)


def test_negate_is_the_papers_form() -> None:
    empty, concept, wide = (normal(2, 4, 8, 8, seed=seed) for seed in range(3))
    torch.testing.assert_close(negate(empty, concept, empty, 1.0), 2 * empty - concept)
    assert torch.equal(negate(wide, concept, empty, 0.0), wide)
    torch.testing.assert_close(negate(concept, concept, empty, 2.0), negate(empty, concept, empty, 1.0))


def test_match_pulls_the_prediction_only() -> None:
    predicted, target = normal(2, 3).requires_grad_(True), normal(2, 3, seed=1).requires_grad_(True)
    loss = match(predicted, target)
    loss.backward()
    torch.testing.assert_close(loss, nn.functional.mse_loss(predicted, target))
    torch.testing.assert_close(predicted.grad, (predicted - target).detach() * 2 / 6)
    assert target.grad is None


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(32 * 64, 40)).eval()


@pytest.mark.parametrize("size", [1, 4, 8])
@torch.no_grad()
def test_a_row_does_not_feel_its_batch(network: nn.Module, size: int) -> None:
    rows = normal(16, 4, 8, 8)
    whole = in_blocks(network, size, rows)
    for count in (1, 3, 7):
        assert torch.equal(in_blocks(network, size, rows[:count]), whole[:count])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(in_blocks(network, size, rows[order]), whole[order])


def test_every_call_has_the_blocks_size() -> None:
    sizes: list[tuple[int, int]] = []

    def pairs(x: Tensor, y: Tensor) -> Tensor:
        sizes.append((len(x), len(y)))
        return x + y

    x, y = normal(7, 2), normal(7, 2, seed=1)
    assert torch.equal(in_blocks(pairs, 3, x, y), x + y)
    assert sizes == [(3, 3)] * 3


def test_tensors_of_different_lengths_are_no_rows() -> None:
    with pytest.raises(ValueError, match="zip"):
        in_blocks(lambda x, y: x, 2, normal(5, 2), normal(2, 2))
