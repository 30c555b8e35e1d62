"""Many memories of one image: how far apart its seeds are, against seeds that have nothing to do with each other."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate, bootstrap
from lit_memories.records import SEEDS_FILE, Record, Run, SetName, finite, read_run
from lit_memories.report.figures import blank, png, shorten, style

SIZE = 2.4  # inches of a panel


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
    """How far apart seeds are by one distance; means over queries, which are what the intervals resample.

    Args:
        to_own: mean distance from a query's own seed.
        to_own_sd: population standard deviation of these distances within a query.
        pairwise: mean distance between two memories of a query; None with fewer than two a query.
        pairwise_sd: its standard deviation within a query.
        repeat: distance of a query's own seed from itself, found again from another start: what the procedure adds.
        independent: distance of two seeds drawn from the prior.
    """

    to_own: Estimate
    to_own_sd: Estimate
    pairwise: Estimate | None
    pairwise_sd: Estimate | None
    repeat: Estimate | None
    independent: float


@dataclass(frozen=True)
class Memories:
    """A run's summary."""

    run: Run
    queries: list[QueryMemories]
    euclidean: Spread
    cosine: Spread


def summarise_memories(folder: Path, draws: int = 10_000, seed: int = 0) -> Memories:
    """Read the run folder of an image-level audit and measure how far its seeds are apart.

    Args:
        folder: of the run.
        draws: resamples of the bootstrap.
        seed: of the resampling.

    Raises:
        FileNotFoundError: if it is no run.
        ValueError: if it holds no query with a seed of its own and a memory that can be counted.
    """
    run = read_run(folder)
    file = run.folder / SEEDS_FILE
    seeds = load_file(file) if file.is_file() else {}
    own, repeats = ({r.index: r for r in run.of(name)} for name in ("own", "repeat"))
    found = []
    for index, record in own.items():
        memories = [r for r in run.of("memory") if r.index == index and r.key in seeds]
        if memories and record.key in seeds:
            found.append(_query(record, memories, repeats.get(index), seeds))
    if not found:
        raise ValueError(f"{folder} holds no memories of an image: finish an audit with recipes/*/audit/image.yaml")
    independent = math.sqrt(2 * run.info.dimension), 1.0
    euclidean, cosine = (_spread(found, which, independent[which], draws, seed) for which in (0, 1))
    return Memories(run, found, euclidean, cosine)


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


def _query(own: Record, memories: Sequence[Record], repeat: Record | None, seeds: dict[str, Tensor]) -> QueryMemories:
    euclidean, cosine = distances(torch.stack([seeds[r.key] for r in (own, *memories)]))
    again = None
    if repeat is not None and repeat.key in seeds:
        first, second = distances(torch.stack([seeds[own.key], seeds[repeat.key]]))
        again = float(first[0, 1]), float(second[0, 1])
    return QueryMemories(own.index, own.prompt, [r.support or 0 for r in memories], euclidean, cosine, again)


def _spread(queries: Sequence[QueryMemories], which: int, independent: float, draws: int, seed: int) -> Spread:
    matrices = [(query.euclidean, query.cosine)[which] for query in queries]
    own = [matrix[0, 1:] for matrix in matrices]
    pairs = [matrix[1:, 1:][tuple(torch.triu_indices(len(matrix) - 1, len(matrix) - 1, 1))] for matrix in matrices]
    pairs = [values for values in pairs if len(values)]
    repeats = [torch.tensor(query.repeat[which]).double() for query in queries if query.repeat is not None]

    def estimate(values: Sequence[Tensor]) -> Estimate:
        return bootstrap(lambda x: x.mean(-1), [torch.stack(list(values))], draws=draws, seed=seed)

    return Spread(
        to_own=estimate([x.mean() for x in own]),
        to_own_sd=estimate([x.std(correction=0) for x in own]),
        pairwise=estimate([x.mean() for x in pairs]) if pairs else None,
        pairwise_sd=estimate([x.std(correction=0) for x in pairs]) if pairs else None,
        repeat=estimate(repeats) if repeats else None,
        independent=independent,
    )


def figure(summary: Memories) -> bytes:
    """A PNG with a row a query: cosine distances, a map of the seeds, and the pictures they give."""
    with style():
        drawn = blank(4 * SIZE, SIZE * len(summary.queries) + 0.4)
        for row, query in enumerate(summary.queries):
            _row(drawn, summary.run, row, query, len(summary.queries))
        drawn.suptitle(f"{shorten(summary.run.info.name)}: seeds of one image; the first is its own")
        return png(drawn)


def _row(drawn: Figure, run: Run, row: int, query: QueryMemories, rows: int) -> None:
    matrix, plane, pictures = (drawn.add_subplot(rows, 3, 3 * row + column) for column in (1, 2, 3))
    shown = matrix.imshow(query.cosine.numpy(), vmin=0, vmax=1, cmap="viridis")
    drawn.colorbar(shown, ax=matrix, label="1 - cosine")
    matrix.set_title(shorten(query.prompt))
    points = embed(query.euclidean)
    plane.scatter(*points[1:].T.numpy(), color="#0072b2", label="memories")
    plane.scatter(*points[:1].T.numpy(), color="#d55e00", label="own")
    plane.set_aspect("equal", "datalim")
    plane.legend(fontsize=7)
    pictures.set_axis_off()
    kinds: list[tuple[SetName, str]] = [
        ("own", "regenerated"),
        *(("memory", f"regenerated-{support:04d}") for support in query.supports),
    ]
    files = [run.image(name, query.index, kind) for name, kind in kinds]
    images = [Image.open(io.BytesIO(file.read_bytes())).convert("RGB") for file in files if file.is_file()]
    if images:
        pictures.imshow(_sheet(images))


def _sheet(images: Sequence[Image.Image]) -> Image.Image:
    width, height = images[0].size
    columns = math.ceil(math.sqrt(len(images)))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def memories(runs: Sequence[Path], out: Path, draws: int = 10_000, seed: int = 0) -> None:
    """Summarise image-level audits: ``memories.json``, and a figure a run.

    Args:
        runs: run folders, named differently.
        out: folder to write, made if it is missing.
        draws: resamples of the bootstrap behind each interval.
        seed: of the resampling.

    Raises:
        FileNotFoundError: if a folder is no run.
        ValueError: if one holds no memories, or two have one name.
    """
    names = [Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"two run folders have one name among {', '.join(names)}: figures are named by it")
    found = {name: summarise_memories(run, draws, seed) for name, run in zip(names, runs, strict=True)}
    out.mkdir(parents=True, exist_ok=True)
    for name, summary in found.items():
        (out / f"{name}.png").write_bytes(figure(summary))
    numbers = {name: to_dict(summary) for name, summary in found.items()}
    (out / "memories.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    console = Console(highlight=False, soft_wrap=True)
    for name, summary in found.items():
        for label, spread in (("Euclidean", summary.euclidean), ("1 - cosine", summary.cosine)):
            cells = {"to own": spread.to_own, "between memories": spread.pairwise, "repeated": spread.repeat}
            text = "; ".join(f"{what} {_cell(estimate)}" for what, estimate in cells.items())
            console.print(f"{name}, {label}: {text}; independent {spread.independent:.3f}", markup=False)


def to_dict(summary: Memories) -> dict[str, Any]:
    """A summary as JSON takes it; what is not finite is None."""
    queries = [
        asdict(query) | {"euclidean": query.euclidean.tolist(), "cosine": query.cosine.tolist()}
        for query in summary.queries
    ]
    spreads = {name: _plain(asdict(getattr(summary, name))) for name in ("euclidean", "cosine")}
    return {"name": summary.run.info.name, "complete": summary.run.info.complete, "queries": queries, **spreads}


def command(args: Sequence[str] | None = None) -> None:
    """``lit-memories memories RUN RUN ... --out DIR``: `memories` as a command; errors are one line.

    Args:
        args: command line after the command's name, or None for that of the process.
    """
    parser = ArgumentParser(prog="lit-memories memories", description="How far apart are the seeds of one image?")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of image-level audits")
    parser.add_function_arguments(memories, skip={"runs"})
    memories(**parser.parse_args(args).as_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return finite(value) if isinstance(value, float) else value


def _cell(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
