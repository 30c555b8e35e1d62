"""The pictures of a report: what each model rebuilds from its seeds, and what it answers to prompts."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from lit_memories.images import FORMATS, to_rgb
from lit_memories.records import IMAGES, SetName
from lit_memories.report.figures import FAINT, WIDTH, blank, png, shorten, style
from lit_memories.runs import Run
from lit_memories.statistics.pairing import Comparison

ROWS, SAMPLES, UNPROMPTED = 4, 5, 3
PROMPTED: dict[SetName, str] = {
    "prompted": "prompted for the concept",
    "retained": "prompted for other things",
    "unprompted": "no prompt",
}
LABEL = 1.7  # inches for the labels of rows
GAP = 0.06  # widths of a picture
EDGE = 256  # pixels; more than a figure can show of one picture


@dataclass(frozen=True)
class Mosaic:
    """A grid of pictures as a PNG file, and how many of them were not kept."""

    png: bytes
    missing: int


def rebuilt(comparison: Comparison) -> Mosaic | None:
    """Concept images (rows): original, VAE round trip, and what each model makes of the seed it holds for it.

    Returns:
        None if no run kept pictures.
    """
    indices = _indices(comparison.runs, "concept", "original")[:ROWS]
    if not indices:
        return None
    first = [_first(comparison.runs, "concept", kind) for kind in ("original", "round_trip")]
    columns = [*first, *([run] for run in comparison.runs)]
    kinds = ["original", "round_trip", *["regenerated"] * len(comparison.runs)]
    titles = ["original", "VAE round trip", *(run.info.name for run in comparison.runs)]
    grid = [
        [_load(runs, "concept", index, kind) for runs, kind in zip(columns, kinds, strict=True)] for index in indices
    ]
    prompts = {
        record.index: record.prompt
        for record in comparison.runs[comparison.vanilla].records
        if record.set == "concept" and record.conditioning is None
    }
    return _mosaic(grid, titles, [prompts.get(index, "") for index in indices], groups=(2,))


def prompted(comparison: Comparison) -> Mosaic | None:
    """Each model's (rows) samples under the concept's prompts, and under others and under none beside them.

    Returns:
        None if no run kept samples.
    """
    runs = comparison.runs
    columns: list[tuple[SetName, int]] = []
    titles: list[str] = []
    groups = []
    for name, title in PROMPTED.items():
        if indices := _indices(runs, name, "sample")[: SAMPLES if name != "unprompted" else UNPROMPTED]:
            groups.append(len(columns))
            columns += [(name, index) for index in indices]
            titles += [title, *[""] * (len(indices) - 1)]
    if not columns:
        return None
    grid = [[_load([run], name, index, "sample") for name, index in columns] for run in runs]
    return _mosaic(grid, titles, [run.info.name for run in runs], groups, left=True)


def _indices(runs: Sequence[Run], name: SetName, kind: str) -> list[int]:
    files = (file for run in runs for file in (run.folder / IMAGES).glob(f"{name}-*-{kind}.png"))
    numbers = {file.name.removeprefix(f"{name}-").removesuffix(f"-{kind}.png") for file in files}
    return sorted(int(number) for number in numbers if number.isdecimal())


def _first(runs: Sequence[Run], name: SetName, kind: str) -> Sequence[Run]:
    """Runs in the order in which to look for a picture that is the same in each."""
    return sorted(runs, key=lambda run: not _indices([run], name, kind))


def _load(runs: Sequence[Run], name: SetName, index: int, kind: str) -> np.ndarray | None:
    for run in runs:
        if (picture := read_picture(run.image(name, index, kind))) is not None:
            return picture
    return None


def read_picture(file: Path) -> np.ndarray | None:
    """A picture (h, w, 3), or None if it is not there or damaged."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            picture = to_rgb(image)
            picture.thumbnail((EDGE, EDGE))
            return np.asarray(picture)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _mosaic(
    grid: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[int],
    left: bool = False,
) -> Mosaic:
    """Pictures in a grid; `groups` are the columns before which a gap parts them, `left` titles span their group."""
    with style():
        gaps = [place for place in groups if 0 < place < len(titles)]
        edge = min(1.25, (WIDTH - LABEL) / (len(titles) + GAP * len(gaps)))
        heads = list(titles) if left else [_fold(title, edge) for title in titles]
        figure, axes = _cells(len(grid), len(titles), gaps, edge, head=0.15 + 0.15 * max(map(_lines, heads)))
        for row, (pictures, label) in enumerate(zip(grid, labels, strict=True)):
            _label(axes[row][0], label)
            for cell, picture, head in zip(axes[row], pictures, heads, strict=True):
                _show(cell, picture)
                if row == 0 and head:
                    cell.set_title(head, loc="left" if left else "center", fontsize=8.5 if edge > 0.8 else 7)
        return Mosaic(png(figure), sum(picture is None for pictures in grid for picture in pictures))


def _fold(title: str, edge: float) -> str:
    """A title in up to three lines that fit a picture `edge` inches wide."""
    return "\n".join(textwrap.wrap(shorten(title, 40), max(8, int(edge / 0.085)))[:3])


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _cells(rows: int, columns: int, gaps: Sequence[int], edge: float, head: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of squares `edge` inches wide, room for labels at the left and `head` inches at the top."""
    places = [column + sum(column >= gap for gap in gaps) for column in range(columns)]
    widths = [1.0] * (columns + len(gaps))
    for number, gap in enumerate(gaps):
        widths[gap + number] = GAP
    figure = blank(LABEL + edge * sum(widths), edge * rows + head)
    figure.set_layout_engine("none")
    spec = figure.add_gridspec(
        rows, len(widths), width_ratios=widths, wspace=0.06, hspace=0.06, left=LABEL / figure.get_figwidth(), right=1,
        bottom=0, top=1 - head / figure.get_figheight(),
    )  # fmt: skip
    return figure, [[figure.add_subplot(spec[row, place]) for place in places] for row in range(rows)]


def _label(axes: Axes, text: str) -> None:
    text = "\n".join(textwrap.wrap(shorten(text, 66), 22)[:4])
    axes.text(-0.08, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=8)


def _show(axes: Axes, picture: np.ndarray | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if picture is None:
        axes.set_facecolor("#f4f4f4")
        axes.text(0.5, 0.5, "not kept", transform=axes.transAxes, ha="center", va="center", fontsize=7, color="#999999")
    else:
        axes.imshow(picture, interpolation="nearest" if max(picture.shape) < EDGE else "antialiased")
        axes.set_aspect("equal")
        axes.add_patch(_frame(picture))


def _frame(picture: np.ndarray) -> Rectangle:
    height, width = picture.shape[:2]
    return Rectangle((-0.5, -0.5), width, height, fill=False, ec=FAINT, lw=0.6)
