"""``lit-memories report``: run folders in, one folder with everything worth reading out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from lit_memories.report import figures, page, pictures
from lit_memories.report.doors import PROVEN, doors_figure, missing
from lit_memories.report.exposure import exposure_figure
from lit_memories.report.formats import Table, to_csv, to_latex, to_rich, to_rich_transposed
from lit_memories.report.hygiene import precision_sentences
from lit_memories.report.image_figures import memories_figure
from lit_memories.report.progress import stages
from lit_memories.report.results import ConceptLevel, results, to_json
from lit_memories.report.tables import cost_line, memory_tables, tables
from lit_memories.report.utility import HOW_TO_READ as UTILITY
from lit_memories.report.verdict import judge, limits
from lit_memories.runs import Run, read_run
from lit_memories.statistics.exposure import SHIPPED, Scale, expose, read_scale
from lit_memories.statistics.image_level import Memories, compare_memories, image_notes, is_image_level
from lit_memories.statistics.pairing import NO_RUN, compare_runs
from lit_memories.statistics.summary import summarise
from lit_memories.storage.files import check_inside, check_writable, write
from lit_memories.terminal import printable

FIGURES = ("forgetting", "exposure", "doors", "profile", "nll", "shifts", "rebuilt", "prompted")
HOW_TO_READ = (
    "Forgetting is how much more the concept's pictures surprise a model than vanilla, beyond other pictures, in nats. "
    "Of control: 0 = as vanilla, 1 = as if it had never seen the concept, and it reads degree in between. "
    "Brackets are 95 % intervals; a verdict holds for these pictures and prompts only."
)
HOW_TO_READ_SEEDS = (
    "Forgetting is in nats: 0 = seeds are as likely as in vanilla, so that at least a trace is left. "
    "Of control: 1 = as if it had never seen the concept. "
    "Brackets are 95 % intervals; a verdict holds for these prompts, this guidance and this inverter only."
)
HOW_TO_READ_MEMORIES = (
    "Distances mean something between their two nulls: seeds found again from another start, and independent ones. "
    "Brackets are 95 % intervals over queries."
)


def report(
    runs: list[Path],
    out: Path = Path("runs/report"),
    draws: int = 10_000,
    seed: int = 0,
    scale: Path | None = None,
) -> None:
    """Compare audit runs: what did each model forget, and at what price?

    Writes ``report.html`` (one self-contained page), ``results.json``, ``tables/*.csv``, ``tables/*.tex`` and
    ``figures/*.png``, and prints tables and verdicts.

    Args:
        runs: run folders of one concept: exactly one of the vanilla model, any number of erased ones, a control that
            never saw the concept for the scale, one with random weights as negative control. Image-level audits, of the
            same concept, may be among them or alone.
        out: folder to write, made if it is missing; files of an earlier report in it are replaced.
        draws: resamples of the bootstrap behind each interval.
        seed: of the resampling.
        scale: file of a scale that turns numbers into pictures seen; the pictogram world's if none is given. Where it
            does not hold for these runs, the report says so.

    Raises:
        FileNotFoundError: if a folder is no run, or there is no such scale.
        ValueError: if the runs cannot be compared, or nothing can be written to `out`.
    """
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    if not runs:
        raise ValueError(NO_RUN)
    with stages(2 * len(runs) + 3) as begin:
        level, memories, shown = write_report(runs, out, draws, seed, read_scale(scale or SHIPPED), begin)
    _print(level, memories, shown, out)


def write_report(
    runs: Sequence[Path], out: Path, draws: int, seed: int, scale: Scale, begin: Callable[[str], None]
) -> tuple[ConceptLevel | None, list[Memories], list[Table]]:
    """Write what `report` writes.

    Args:
        runs: run folders.
        out: folder to write.
        draws: resamples of the bootstrap.
        seed: of the resampling.
        scale: that turns numbers into pictures seen, where it holds.
        begin: is told which stage begins: ``reading`` and statistics run by run, ``tests``, ``figures``, ``page``.

    Returns:
        What there is to print: the concept-level runs, if there are any, the image-level ones, and the tables.

    Raises:
        FileNotFoundError: as `report` does.
        ValueError: as `report` does.
    """
    level, memories = _read(list(_each(runs, begin)), out, draws, seed, scale, begin)
    begin("figures")
    drawn, captions = ({}, {}) if level is None else _figures(level)
    drawn |= {f"memories-{number}": memories_figure(found) for number, found in enumerate(memories, 1)}
    begin("page")
    found = results(level, memories, draws, seed)
    html = page.render(found, level, memories, drawn, captions)

    def put(file: Path, content: bytes | str) -> None:
        write(file, content if isinstance(content, bytes) else content.encode(errors="backslashreplace"), out)

    shown = [*(tables(level.summary) if level else ()), *memory_tables(memories)]
    for table in shown:
        put(out / "tables" / f"{table.name}.csv", to_csv(table))
        put(out / "tables" / f"{table.name}.tex", to_latex(table))
    for file in (out / "figures").glob("*.png"):
        if file.stem in FIGURES or file.stem.startswith("memories-"):
            file.unlink()  # of an earlier report
    for name, png in drawn.items():
        put(out / "figures" / f"{name}.png", png)
    put(out / "results.json", to_json(found))
    put(out / "report.html", html)
    return level, memories, shown


def _each(runs: Sequence[Path], begin: Callable[[str], None]) -> Iterator[Run]:
    for folder in runs:
        begin(f"reading {folder.name}")
        yield read_run(folder)


def _read(
    runs: Sequence[Run], out: Path, draws: int, seed: int, scale: Scale, begin: Callable[[str], None]
) -> tuple[ConceptLevel | None, list[Memories]]:
    """Everything to be known of runs of both kinds; what can be wrong is said before any long work."""
    image_level = [run for run in runs if is_image_level(run)]
    concept_level = [run for run in runs if not is_image_level(run)]
    concepts = {run.info.concept for run in runs}
    if len(concepts) > 1:
        raise ValueError(f"runs cannot be compared: their concepts are {' and '.join(map(repr, sorted(concepts)))}")
    comparison = compare_runs(concept_level) if concept_level else None
    _make(out)
    if image_level:
        begin("distances between memories")
    memories = compare_memories(image_level) if image_level else []
    if comparison is None:
        return None, memories
    summary = summarise(comparison, draws, seed, begin)
    summary = expose(summary, scale, comparison.runs[comparison.vanilla].info)
    return ConceptLevel(comparison, summary, judge(summary)), memories


def _figures(level: ConceptLevel) -> tuple[dict[str, bytes], dict[str, str]]:
    """Figures by name, and what must be said about their gaps."""
    summary, comparison = level.summary, level.comparison
    drawn = {
        "forgetting": figures.forgetting_figure(summary),
        "shifts": figures.shift_figure(summary, comparison),
    }
    if (exposure := exposure_figure(summary)) is not None:
        drawn["exposure"] = exposure
    if (doors := doors_figure(summary)) is not None:
        drawn["doors"] = doors
    if (profile := figures.profile_figure(summary)) is not None:
        drawn["profile"] = profile
    if all(run.paper is not None for run in summary.runs):
        drawn["nll"] = figures.nll_figure(summary, comparison)
    captions = {}
    for name, mosaic in (("rebuilt", pictures.rebuilt(comparison)), ("prompted", pictures.prompted(comparison))):
        if mosaic is None:
            captions[name] = "No run kept such pictures."
            continue
        drawn[name] = mosaic.png
        captions[name] = f"{mosaic.missing} pictures were not kept or cannot be read." if mosaic.missing else ""
    return drawn, captions


def _make(out: Path) -> None:
    """Make the output folders and prove that they can be written, before any long work."""
    check_inside(out, ("tables", "figures", "results.json", "report.html"))
    try:
        for folder in (out, out / "tables", out / "figures"):
            check_writable(folder)
    except OSError as error:
        raise ValueError(f"cannot write the report to {out} ({error.strerror}): pass another --out") from None


def _print(level: ConceptLevel | None, memories: Sequence[Memories], shown: Sequence[Table], out: Path) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print()
    for table in shown:
        if not table.detail:
            console.print(to_rich(table) if table.name in ("main", "doors") else to_rich_transposed(table))
            console.print()
        if table.name == "doors" and level is not None:
            console.print(Padding(Text(printable(" ".join((PROVEN, *missing(level.summary))))), (0, 0, 1, 0)))
        if table.name == "utility":
            console.print(Padding(Text(UTILITY), (0, 0, 1, 0)))
    for verdict in level.verdicts if level else ():
        console.print(Text(printable(f"{verdict.name}: {verdict.category}"), style="bold"))
        text = printable(" ".join((verdict.headline, *verdict.sentences)))
        console.print(Padding(Text(text), (0, 0, 1, 2)))
    if level is not None:
        closing = (*limits(level.summary), *precision_sentences(level.summary))
        console.print(Padding(Text(printable(" ".join(closing))), (0, 0, 1, 0)))
    for note in (*(level.summary.notes if level else ()), *(image_notes(memories) if memories else ())):
        console.print(Text(printable(f"Note: {note}")))
    if level is not None and (spent := cost_line(level.summary)):
        console.print(Text(printable(spent)))
    how = HOW_TO_READ_MEMORIES if level is None else HOW_TO_READ_SEEDS if level.summary.by_seeds else HOW_TO_READ
    console.print(Text(how))
    console.print(Text(printable(f"Report: {out / 'report.html'}")), soft_wrap=True)
