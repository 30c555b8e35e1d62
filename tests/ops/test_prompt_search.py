"""Evolution and coordinate gradients over tokens, on costs whose best is known."""

from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.ops.prompt_search import evolve, swaps

GOAL = torch.tensor([3, 1, 4, 1, 5])


def mismatches(sequences: Tensor) -> Tensor:
    return (sequences != GOAL).sum(1).float()


def search(generations: int, seed: int = 0, mutation: float = 0.5, crossover: float = 0.5) -> tuple[Tensor, float]:
    return evolve(mismatches, 9, 5, 20, generations, mutation, crossover, Generator().manual_seed(seed))


def test_evolution_finds_the_best_and_never_loses_it() -> None:
    found, cost = search(200)
    assert torch.equal(found, GOAL)
    assert cost == 0
    costs = [search(generations)[1] for generations in range(1, 30)]
    assert costs == sorted(costs, reverse=True)


def test_without_change_it_is_the_best_of_what_it_began_with() -> None:
    begun = torch.randint(9, (20, 5), generator=Generator().manual_seed(3))
    for generations in (1, 7):
        found, cost = search(generations, 3, mutation=0, crossover=0)
        assert cost == mismatches(begun).min()
        assert torch.equal(found, begun[mismatches(begun).argmin()])


def test_crossing_alone_makes_no_new_token_and_beats_the_beginning() -> None:
    begun = torch.randint(9, (20, 5), generator=Generator().manual_seed(4))
    found, cost = search(40, 4, mutation=0, crossover=1)
    assert cost < mismatches(begun).min()
    assert all(token in begun[:, place] for place, token in enumerate(found.tolist()))


def test_it_depends_on_its_generator_alone() -> None:
    torch.manual_seed(0)
    one = search(5, 6)
    torch.manual_seed(1)
    other = search(5, 6)
    assert torch.equal(one[0], other[0])
    seen: list[Tensor] = []

    def spy(sequences: Tensor) -> Tensor:
        seen.append(sequences.clone())
        return mismatches(sequences)

    evolve(spy, 9, 5, 20, 6, 1.0, 0.5, Generator().manual_seed(0))
    assert len(seen) == 6
    assert all(one.shape == (20, 5) and one.min() >= 0 and one.max() < 9 for one in seen)


def test_a_cost_that_is_not_finite_is_the_worst() -> None:
    def cost(sequences: Tensor) -> Tensor:
        return mismatches(sequences).masked_fill((sequences == 1).any(1), torch.nan)

    found, least = evolve(cost, 9, 5, 20, 50, 0.5, 0.5, Generator().manual_seed(0))
    assert least == 2
    assert 1 not in found
    assert evolve(lambda s: torch.full((20,), torch.nan), 9, 5, 20, 3, 0.5, 0.5, Generator())[1] != 0


@pytest.mark.parametrize("count", [6, 7, 20])
def test_swaps_change_one_place_each_for_what_the_gradient_names(count: int) -> None:
    generator = Generator().manual_seed(0)
    tokens, gradient = torch.tensor([0, 1, 2]), torch.randn(3, 10, generator=generator)
    found = swaps(tokens, gradient, 4, count, generator)
    assert found.shape == (count, 3)
    for number, row in enumerate(found):
        place = number * 3 // count
        assert torch.equal(row[torch.arange(3) != place], tokens[torch.arange(3) != place])
        assert int(row[place]) in gradient[place].argsort()[:4].tolist()


def test_of_a_small_vocabulary_all_are_tried() -> None:
    found = swaps(torch.tensor([0, 1]), torch.zeros(2, 3), 256, 400, Generator().manual_seed(0))
    assert {tuple(row) for row in found.tolist()} == {
        (a, b) for a, b in product(range(3), range(3)) if a == 0 or b == 1
    }
