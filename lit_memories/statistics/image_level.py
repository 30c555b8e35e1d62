"""Many memories of one image: how far apart its seeds are, against seeds that have nothing to do with each other."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.intervals import mean_interval
from lit_memories.records import AGAIN, MEMORY_SETS, Record
from lit_memories.runs import Role, Run, read_run
from lit_memories.seeds import read_seeds
from lit_memories.statistics.convergence import converged_share
from lit_memories.statistics.pairing import check_against, check_names, data_notes, incomplete

FEW_QUERIES = 10
"""With fewer queries intervals may be too narrow."""


@dataclass(frozen=True)
class QueryMemories:
    """One query's seeds.

    Args:
        index: the query's row.
        prompt: the seeds were sought under.
        supports: rows of the support images, in the order of the matrices' rows from the second on.
        euclidean: distances (1 + supports, 1 + supports); the first row is the query's own seed.
        cosine: 1 less the cosines, the same.
        repeat: both distances of the query's own seed and the repeated one; None if that was not found.
    """

    index: int
    prompt: str
    supports: list[int]
    euclidean: Tensor
    cosine: Tensor
    repeat: tuple[float, float] | None


@dataclass(frozen=True)
class Spread:
    """How far apart seeds are by one distance; means over queries, which are the cases of the intervals.

    Args:
        to_own: mean distance from a query's own seed.
        to_own_sd: population standard deviation of these distances within a query.
        pairwise: mean distance between two memories of a query; None with fewer than two a query.
        pairwise_sd: its standard deviation within a query.
        repeat: distance of a query's own seed from itself, found again from another start: what the procedure adds.
        to_own_shift: `to_own` less vanilla's, paired by query; None without a vanilla run.
        independent: distance of two seeds drawn from the prior.
    """

    to_own: Estimate
    to_own_sd: Estimate
    pairwise: Estimate | None
    pairwise_sd: Estimate | None
    repeat: Estimate | None
    to_own_shift: Estimate | None
    independent: float


@dataclass(frozen=True)
class Stages:
    """What is left of the picture after each stage of a memory, and how likely its seed is; means over queries.

    Args:
        psnr_support: decoding of the support's latent against the support, dB.
        psnr_decoder: decoding of the latent that was inverted against the query, dB.
        psnr: regenerated picture against the query, dB.
        psnr_ceiling: round trip through encoder and decoder against the query, dB.
        psnr_round_trip: regenerated picture against the decoding of the latent that was inverted, dB.
        nll: of the memories' seeds, nats.
        nll_own: of the queries' own seeds, nats.
        nll_shift: `nll` less vanilla's, paired by memory, nats; None without a vanilla run.
        seen: share of the regenerated pictures in which the judge sees the concept.
        converged: share of the inversions in which every step met the tolerance.
    """

    psnr_support: Estimate | None
    psnr_decoder: Estimate | None
    psnr: Estimate | None
    psnr_ceiling: Estimate | None
    psnr_round_trip: Estimate | None
    nll: Estimate | None
    nll_own: Estimate | None
    nll_shift: Estimate | None
    seen: Estimate | None
    converged: Estimate | None


@dataclass(frozen=True)
class Memories:
    """A run's summary."""

    run: Run
    queries: list[QueryMemories]
    euclidean: Spread
    cosine: Spread
    stages: Stages

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.info.name

    @property
    def role(self) -> Role:
        """Of the model."""
        return self.run.info.role

    @property
    def count(self) -> int:
        """Memories of all queries."""
        return sum(len(query.supports) for query in self.queries)


def is_image_level(run: Run) -> bool:
    """Whether a run is of an image-level audit."""
    return run.info.settings.get("audit") == "ImageAudit" or any(record.set in MEMORY_SETS for record in run.records)


def compare_memories(runs: Sequence[Run]) -> list[Memories]:
    """Summaries of image-level runs, vanilla first.

    Args:
        runs: of one concept and with equal settings; at most one of the vanilla model.

    Raises:
        ValueError: if the runs cannot be compared, or one holds no memories.
    """
    check_names(runs)
    vanilla = [run for run in runs if run.info.role == "vanilla"]
    if len(vanilla) > 1:
        raise ValueError(
            f"two runs are of the vanilla model ({', '.join(str(run.folder) for run in vanilla)}): pass one"
        )
    ordered = [*vanilla, *(run for run in runs if run.info.role != "vanilla")]
    for run in ordered[1:]:
        check_against(ordered[0], run)
    return [_summarise(run, vanilla[0] if vanilla else None) for run in ordered]


def image_notes(memories: Sequence[Memories]) -> list[str]:
    """What a reader must know about the data, in sentences."""
    notes = [note for found in memories for note in incomplete(found.run)]
    few = min(len(found.queries) for found in memories)
    if few < FEW_QUERIES:
        notes.append(f"Intervals are over queries; with {few} of them read the intervals as optimistic.")
    return notes + data_notes([found.run for found in memories])


def summarise_memories(folder: Path) -> Memories:
    """Read the run folder of an image-level audit and measure how far its seeds are apart.

    Args:
        folder: of the run.

    Raises:
        FileNotFoundError: if it is no run.
        ValueError: if it holds no query with a seed of its own and a memory that can be counted.
    """
    return _summarise(read_run(folder), None)


def distances(seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distances of seeds (n, ...) and 1 less their cosines, each (n, n) in float64."""
    flat = seeds.double().flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True)
    cosine = 1 - unit @ unit.T
    return (flat[:, None] - flat).norm(dim=2), cosine.fill_diagonal_(0)


def embed(matrix: Tensor) -> Tensor:
    """Points (n, 2) whose distances are as near as two dimensions allow to a matrix (n, n): classical scaling.

    The points' mean is 0, and the largest coordinate along each axis is positive.
    """
    count = len(matrix)
    centring = torch.eye(count, dtype=torch.float64) - 1 / count
    values, vectors = torch.linalg.eigh(-0.5 * centring @ matrix.square() @ centring)
    points = vectors.flip(1)[:, :2] * values.flip(0)[:2].clamp_min(0).sqrt()
    points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(largest < 0, -1.0, 1.0)


def _summarise(run: Run, vanilla: Run | None) -> Memories:
    queries = _queries(run)
    if not queries:
        raise ValueError(f"{run.folder} holds no memories of an image: {AGAIN}")
    usual = None if vanilla is None else {query.index: query for query in _queries(vanilla)}
    independent = math.sqrt(2 * run.info.dimension), 1.0
    euclidean, cosine = (_spread(queries, usual, which, independent[which]) for which in (0, 1))
    indices = {query.index for query in queries}
    return Memories(run, queries, euclidean, cosine, _stages(run, vanilla, indices))


def _queries(run: Run) -> list[QueryMemories]:
    """Queries with a seed of their own and a memory that can be counted."""
    seeds = read_seeds(run.folder, run.seeds)
    own, repeats = ({r.index: r for r in run.of(name, "memories")} for name in ("own", "repeat"))
    found = []
    for index, record in own.items():
        memories = [r for r in run.of("memory", "memories") if r.index == index and r.key in seeds]
        if memories and record.key in seeds:
            found.append(_query(record, memories, repeats.get(index), seeds))
    return found


def _query(own: Record, memories: Sequence[Record], repeat: Record | None, seeds: dict[str, Tensor]) -> QueryMemories:
    euclidean, cosine = distances(torch.stack([seeds[r.key] for r in (own, *memories)]))
    again = None
    if repeat is not None and repeat.key in seeds:
        first, second = distances(torch.stack([seeds[own.key], seeds[repeat.key]]))
        again = float(first[0, 1]), float(second[0, 1])
    return QueryMemories(own.index, own.prompt, [r.support or 0 for r in memories], euclidean, cosine, again)


def _spread(
    queries: Sequence[QueryMemories],
    usual: dict[int, QueryMemories] | None,
    which: int,
    independent: float,
) -> Spread:
    def matrix(query: QueryMemories) -> Tensor:
        return (query.euclidean, query.cosine)[which]

    own = [matrix(query)[0, 1:] for query in queries]
    pairs = [matrix(query)[1:, 1:] for query in queries]
    pairs = [x[tuple(torch.triu_indices(len(x), len(x), 1))] for x in pairs if len(x) > 1]
    repeats = [torch.tensor(query.repeat[which]).double() for query in queries if query.repeat is not None]
    shifts = [
        matrix(query)[0, 1:].mean() - matrix(usual[query.index])[0, 1:].mean()
        for query in queries
        if usual is not None and query.index in usual and usual[query.index].supports == query.supports
    ]

    return Spread(
        to_own=mean_interval(torch.stack([x.mean() for x in own])),
        to_own_sd=mean_interval(torch.stack([x.std(correction=0) for x in own])),
        pairwise=_mean([x.mean() for x in pairs]),
        pairwise_sd=_mean([x.std(correction=0) for x in pairs]),
        repeat=_mean(repeats),
        to_own_shift=_mean(shifts),
        independent=independent,
    )


def _stages(run: Run, vanilla: Run | None, indices: set[int]) -> Stages:
    memories = [record for record in run.of("memory", "memories") if record.index in indices]
    usual = (
        {}
        if vanilla is None
        else {record.key: record.number("memories.nll") for record in vanilla.of("memory", "memories")}
    )
    shifts = [(r.index, r.number("memories.nll"), usual.get(r.key)) for r in memories]

    def means(cases: Iterable[tuple[int, float | None]]) -> list[Tensor]:
        """A mean a query: the memories of one picture are no independent cases."""
        groups: dict[int, list[float]] = {}
        for index, value in cases:
            if value is not None:
                groups.setdefault(index, []).append(value)
        return [torch.tensor(group).double().mean() for group in groups.values()]

    def estimate(cases: Iterable[tuple[int, float | None]]) -> Estimate | None:
        return _mean(means(cases))

    def field(name: str) -> Estimate | None:
        return estimate((record.index, record.number(f"memories.{name}")) for record in memories)

    shown = ((r.index, r.number("memories.shows_concept")) for r in memories)
    seen = means((index, None if value is None else float(value > 0.5)) for index, value in shown)
    return Stages(
        psnr_support=field("psnr_support"),
        psnr_decoder=field("psnr_decoder"),
        psnr=field("psnr"),
        psnr_ceiling=field("psnr_ceiling"),
        psnr_round_trip=field("psnr_round_trip"),
        nll=field("nll"),
        nll_own=estimate(
            (record.index, record.number("memories.nll"))
            for record in run.of("own", "memories")
            if record.index in indices
        ),
        nll_shift=estimate(
            (index, own - other) for index, own, other in shifts if own is not None and other is not None
        ),
        seen=wilson_interval(float(sum(seen)), len(seen)) if seen else None,
        converged=converged_share(run.records),
    )


def _mean(values: Sequence[Tensor]) -> Estimate | None:
    return mean_interval(torch.stack(list(values))) if values else None
