"""Clusters of vectors."""

import torch
from torch import Generator, Tensor


def centres(vectors: Tensor, count: int, generator: Generator, rounds: int = 100) -> Tensor:
    """Centres (at most `count`, width) of clusters of vectors (n, width), by Lloyd's algorithm from drawn ones.

    Args:
        vectors: n of them.
        count: how many clusters, at least 1; with n or fewer vectors these are the centres.
        generator: draws the vectors to begin with.
        rounds: after which it stops if assignments still change.
    """
    if len(vectors) <= count:
        return vectors
    found = vectors[torch.randperm(len(vectors), generator=generator)[:count].to(vectors.device)]
    for _ in range(rounds):
        nearest = torch.cdist(vectors, found).argmin(1)
        members = torch.nn.functional.one_hot(nearest, len(found)).to(vectors)
        sizes = members.sum(0)[:, None]
        moved = torch.where(sizes > 0, members.T @ vectors / sizes.clamp_min(1), found)
        if torch.equal(moved, found):
            break
        found = moved
    return found
