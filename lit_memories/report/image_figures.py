"""The figures of image-level audits: distances between seeds, a map of them, and the pictures they give."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from lit_memories.records import SetName
from lit_memories.report.figures import CONCEPT, REFERENCE, blank, png, shorten, style
from lit_memories.report.pictures import read_picture
from lit_memories.runs import Run
from lit_memories.statistics.image_level import Memories, QueryMemories, embed

SIZE = 2.4
"""Inches of a panel."""
HEADS = ("query", "1 − cosine between seeds", "map of the seeds (Euclidean)", "what each seed gives")


def memories_figure(summary: Memories) -> bytes:
    """A row a query: the picture, distances between its seeds, a map of them, and the pictures they give."""
    with style():
        count = len(summary.queries)
        figure = blank(3.9 * SIZE, SIZE * count + 0.4)
        grid = figure.subplots(count, 4, squeeze=False, width_ratios=(0.75, 1.25, 1.1, 0.9))
        for axes, query in zip(grid, summary.queries, strict=True):
            _original(axes[0], summary.run, query)
            _matrix(axes[1], query)
            _map(axes[2], query)
            _sheet(axes[3], summary.run, query)
        for axes, head in zip(grid[0], HEADS, strict=True):
            axes.set_title(head, loc="left")
        return png(figure)


def _original(axes: Axes, run: Run, query: QueryMemories) -> None:
    axes.set_axis_off()
    axes.set_anchor("N")
    picture = read_picture(run.image("own", query.index, "original"))
    if picture is None:
        axes.text(0.5, 0.5, "not kept", ha="center", va="center", color="#999999")
    else:
        axes.imshow(picture)
    words = shorten(query.prompt, 60).split(" ")
    half = -(-len(words) // 2)
    axes.text(
        0.5,
        -0.04,
        "\n".join([" ".join(words[:half]), " ".join(words[half:])]),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=6.5,
    )


def _matrix(axes: Axes, query: QueryMemories) -> None:
    shown = axes.imshow(query.cosine.numpy(), vmin=0, vmax=1, cmap="viridis")
    labels = ["own", *(str(number) for number in range(1, len(query.cosine)))]
    step = max(1, len(labels) // 8)
    ticks = range(0, len(labels), step)
    axes.set_xticks(ticks, labels[::step])
    axes.set_yticks(ticks, labels[::step])
    if axes.figure is not None:
        axes.figure.colorbar(shown, ax=axes, shrink=0.8)


def _map(axes: Axes, query: QueryMemories) -> None:
    points = embed(query.euclidean).numpy()
    axes.plot(points[1:, 0], points[1:, 1], "o", color=REFERENCE, ms=5)
    axes.plot(points[:1, 0], points[:1, 1], "D", color=CONCEPT, ms=6)
    for number, (x, y) in enumerate(points):
        axes.annotate(str(number) if number else "own", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_aspect("equal", "datalim")
    axes.margins(0.2)


def _sheet(axes: Axes, run: Run, query: QueryMemories) -> None:
    axes.set_axis_off()
    axes.set_anchor("N")
    kinds: list[tuple[SetName, str]] = [
        ("own", "regenerated"),
        *(("memory", f"regenerated-{support:04d}") for support in query.supports),
    ]
    pictures = [read_picture(run.image(name, query.index, kind)) for name, kind in kinds]
    kept = [picture for picture in pictures if picture is not None]
    if kept:
        axes.imshow(_tiles(kept))
    else:
        axes.text(0.5, 0.5, "not kept", ha="center", va="center", color="#999999")


def _tiles(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures side by side in a square, the first at the top left."""
    height, width = pictures[0].shape[:2]
    columns = math.ceil(math.sqrt(len(pictures)))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (number % columns * width, number // columns * height))
    return np.asarray(sheet)
