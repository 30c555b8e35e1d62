"""Searches over sequences of tokens: by evolution, and by a gradient that says which tokens are worth a try."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor


def evolve(
    cost: Callable[[Tensor], Tensor],
    vocabulary: int,
    length: int,
    size: int,
    generations: int,
    mutation: float,
    crossover: float,
    generator: Generator,
) -> tuple[Tensor, float]:
    """The cheapest sequence that a genetic search finds, which starts with random ones.

    In each generation the cheaper half lives on. Each of it has a child: with some probability its head and another's
    tail, cut at a random place, else its own copy. Then each sequence but the cheapest, which is never lost, has with
    some probability one token replaced by a random one.

    Args:
        cost: of sequences (size, length) on the CPU, a number each (size,); one that is not finite is the worst.
        vocabulary: how many tokens there are.
        length: of a sequence, 1 or more.
        size: of the population, 2 or more.
        generations: 1 or more; 1 is the best of random ones.
        mutation: probability that a token of a sequence is replaced.
        crossover: probability that a child has two parents.
        generator: on the CPU.

    Returns:
        The sequence (length,) and its cost.
    """
    population, half = torch.randint(vocabulary, (size, length), generator=generator), size // 2
    for generation in range(generations):
        costs = cost(population)
        order = costs.argsort(stable=True)
        if generation == generations - 1:
            break
        parents, born = population[order[:half]], size - half
        first = parents[torch.arange(born) % half]
        second = parents[torch.randint(half, (born,), generator=generator)]
        cut = torch.randint(1, length + 1, (born,), generator=generator)
        crossed = torch.rand(born, generator=generator) < crossover
        tail = crossed[:, None] & (torch.arange(length) >= cut[:, None])
        population = torch.cat([parents, torch.where(tail, second, first)])
        hit = (torch.rand(size, generator=generator) < mutation).index_fill(0, torch.tensor(0), False)
        places = torch.randint(length, (size,), generator=generator)
        tokens = torch.randint(vocabulary, (size,), generator=generator)
        population[hit, places[hit]] = tokens[hit]
    best = int(order[0])
    return population[best], float(costs[best])


def swaps(tokens: Tensor, gradient: Tensor, top: int, count: int, generator: Generator) -> Tensor:
    """Sequences with one token changed for one of those by which a cost would fall most, were it linear.

    Greedy coordinate gradient (Zou et al. 2023, arXiv:2307.15043, algorithm 1), with the places taken evenly.

    Args:
        tokens: the sequence (length,).
        gradient: of the cost by what stands in each place (length, vocabulary).
        top: how many tokens of the vocabulary to choose from at each place, or all if there are fewer.
        count: of sequences.
        generator: on the CPU.

    Returns:
        Sequences (count, length).
    """
    best = gradient.topk(min(top, gradient.shape[1]), largest=False).indices
    places = torch.arange(count, device=tokens.device) * len(tokens) // count
    picks = torch.randint(best.shape[1], (count,), generator=generator).to(tokens.device)
    return tokens.repeat(count, 1).scatter(1, places[:, None], best[places, picks][:, None])
