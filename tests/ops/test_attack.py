"""The inner adversary: it moves one tensor and nothing else."""

import pytest
import torch
from torch import Tensor, nn

from lit_memories.ops.attack import Descent, minimise

GOAL = torch.tensor([1.0, -2.0, 0.5])


def quadratic(x: Tensor, step: int) -> Tensor:
    return (x - GOAL).square().sum()


def test_it_finds_the_minimum() -> None:
    found = minimise(quadratic, torch.zeros(3), 400, 0.05)
    torch.testing.assert_close(found, GOAL, rtol=0, atol=1e-2)
    losses = [float(quadratic(minimise(quadratic, torch.zeros(3), steps, 0.05), 0)) for steps in (0, 5, 20, 100)]
    assert losses == sorted(losses, reverse=True)


def test_it_is_adam() -> None:
    expected = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([expected], lr=0.1)
    for step in range(7):
        optimizer.zero_grad()
        (quadratic(expected, step) * (step + 1)).backward()
        optimizer.step()
    found = minimise(lambda x, step: quadratic(x, step) * (step + 1), torch.zeros(3), 7, 0.1)
    assert torch.equal(found, expected.detach())


@pytest.mark.parametrize("faithful", [False, True])
def test_the_start_and_the_network_stay_as_they_are(faithful: bool) -> None:
    torch.manual_seed(0)
    network, start = nn.Linear(3, 2), torch.ones(1, 3)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    with torch.no_grad():
        found = minimise(lambda x, _: network(x).square().sum(), start, 5, 0.1, faithful)
    assert not torch.equal(found, start)
    assert torch.equal(start, torch.ones(1, 3))
    assert not start.requires_grad
    assert not found.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


def test_a_start_with_a_history_is_let_alone() -> None:
    """A row of the token embedding, say, which may be a parameter in training."""
    table = nn.Parameter(torch.zeros(2, 3))
    found = minimise(quadratic, table[0], 3, 0.1)
    assert table.grad is None
    assert torch.equal(table, torch.zeros(2, 3))
    assert found.abs().min() > 0


@pytest.mark.parametrize("faithful", [False, True])
def test_without_steps_the_start_comes_back(faithful: bool) -> None:
    start = torch.ones(3)
    found = minimise(quadratic, start, 0, 0.1, faithful)
    assert torch.equal(found, start)
    assert found is not start


def test_the_loss_is_told_the_step() -> None:
    seen: list[int] = []

    def loss(x: Tensor, step: int) -> Tensor:
        seen.append(step)
        return x.square().sum()

    minimise(loss, torch.ones(1), 4, 0.1)
    assert seen == [0, 1, 2, 3]


def test_faithful_gradients_pile_up_and_the_last_update_is_lost() -> None:
    """A loop that never calls ``zero_grad`` and reads the tensor before it steps."""
    tensor = torch.zeros(3, requires_grad=True)
    optimizer, read = torch.optim.Adam([tensor], lr=0.1), []
    for step in range(6):
        quadratic(tensor, step).backward()
        read.append(tensor.detach().clone())
        optimizer.step()
    assert torch.equal(minimise(quadratic, torch.zeros(3), 6, 0.1, faithful=True), read[-1])
    assert not torch.equal(read[-1], tensor.detach())
    assert not torch.equal(minimise(quadratic, torch.zeros(3), 6, 0.1), tensor.detach()), "gradients do not pile up"


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_descent_is_torchs_own_however_it_is_divided(decoupled: bool) -> None:
    expected = torch.ones(3, requires_grad=True)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([expected], lr=0.1, weight_decay=0.3)
    for step in range(7):
        optimizer.zero_grad()
        (quadratic(expected, step) * (step + 1)).backward()
        optimizer.step()
    descent = Descent(torch.ones(3), 0.1, 0.3, decoupled=decoupled)
    with torch.inference_mode():
        for steps in (3, 0, 4):
            found = descent.run(lambda x, step: quadratic(x, step) * (step + 1), steps)
    assert torch.equal(found, expected.detach())
    assert descent.taken == 7


def test_a_descent_stays_where_it_is_projected_to_and_what_it_gave_stays() -> None:
    start = torch.zeros(3)
    descent = Descent(start, 0.1, project=lambda x: x.clamp(-0.25, 0.25))
    first = descent.run(quadratic, 1)
    found = descent.run(quadratic, 50)
    torch.testing.assert_close(found, GOAL.clamp(-0.25, 0.25))
    torch.testing.assert_close(first, GOAL.sign() * 0.1)
    assert torch.equal(start, torch.zeros(3))


def test_in_a_descent_a_row_that_is_not_finite_spoils_itself_alone() -> None:
    goals = torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])
    found = Descent(torch.zeros(2, 2), 0.1).run(lambda x, _: (x - goals).square().sum(1).sum(), 5)
    alone = Descent(torch.zeros(1, 2), 0.1).run(lambda x, _: (x - goals[:1]).square().sum(), 5)
    assert torch.equal(found[:1], alone)
    assert found[1].isnan().any()
