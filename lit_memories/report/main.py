"""``lit-memories report``: run folders in, one folder with everything worth reading out."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from lit_memories.report import figures, page, pictures, tables
from lit_memories.report.pairing import Comparison, compare
from lit_memories.report.quantities import Summary
from lit_memories.report.results import results, to_json
from lit_memories.report.statistics import summarise
from lit_memories.report.verdict import Verdict, judge, limits

FIGURES = ("forgetting", "nll", "shifts", "rebuilt", "prompted")
HOW_TO_READ = (
    "Forgetting is in nats: 0 = remembers as vanilla does. Of control: 1 = as if it had never seen the concept. "
    "Brackets are 95 % intervals; a verdict holds for these prompts, this guidance and this inverter only."
)


def report(runs: list[Path], out: Path = Path("runs/report"), draws: int = 10_000, seed: int = 0) -> None:
    """Compare audit runs: what did each model forget, and at what price?

    Writes ``report.html`` (one self-contained page), ``results.json``, ``tables/*.csv``, ``tables/*.tex`` and
    ``figures/*.png``, and prints tables and verdicts.

    Args:
        runs: run folders of one concept: exactly one of the vanilla model, any number of erased ones, a control that
            never saw the concept for the scale, one with random weights as negative control.
        out: folder to write, made if it is missing; files of an earlier report in it are replaced.
        draws: resamples of the bootstrap behind each interval.
        seed: of the resampling.

    Raises:
        FileNotFoundError: if a folder is no run.
        ValueError: if the runs cannot be compared, or nothing can be written to `out`.
    """
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    comparison = compare(runs)
    _make(out)
    summary = summarise(comparison, draws, seed)
    verdicts = judge(summary)
    drawn, captions = _figures(summary, comparison)
    found = results(summary, verdicts, comparison, draws, seed)
    html = page.render(found, summary, verdicts, drawn, captions)
    for table in tables.tables(summary):
        _write(out / "tables" / f"{table.name}.csv", tables.to_csv(table).encode())
        _write(out / "tables" / f"{table.name}.tex", tables.to_latex(table).encode())
    for name in FIGURES:
        if name in drawn:
            _write(out / "figures" / f"{name}.png", drawn[name])
        else:
            (out / "figures" / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
    _write(out / "results.json", to_json(found).encode())
    _write(out / "report.html", html.encode())
    _print(summary, verdicts, out)


def command(args: Sequence[str] | None = None) -> None:
    """``lit-memories report RUN RUN ... --out DIR``: `report` as a command; errors are one line.

    Args:
        args: command line after the command's name, or None for that of the process.
    """
    parser = ArgumentParser(prog="lit-memories report", description="Compare audit runs: what did each model forget?")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders: one vanilla, erased ones, a control, random")
    parser.add_function_arguments(report, skip={"runs"})
    try:
        report(**parser.parse_args(args).as_dict())
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def _figures(summary: Summary, comparison: Comparison) -> tuple[dict[str, bytes], dict[str, str]]:
    """Figures by name, and what must be said about their gaps."""
    drawn = {
        "forgetting": figures.forgetting_figure(summary),
        "nll": figures.nll_figure(summary, comparison),
        "shifts": figures.shift_figure(summary, comparison),
    }
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
    try:
        for folder in (out, out / "tables", out / "figures"):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write the report to {out} ({error.strerror}): pass another --out") from None


def _write(file: Path, content: bytes) -> None:
    part = file.with_name(file.name + ".part")
    part.write_bytes(content)
    part.replace(file)


def _print(summary: Summary, verdicts: Sequence[Verdict], out: Path) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print()
    main, *others = tables.tables(summary)
    for table in (tables.to_rich(main), *(tables.to_rich_transposed(other) for other in others)):
        console.print(table)
        console.print()
    for verdict in verdicts:
        console.print(Text(f"{verdict.name}: {verdict.category}", style="bold"))
        console.print(Padding(Text(" ".join((verdict.headline, *verdict.sentences))), (0, 0, 1, 2)))
    console.print(Padding(Text(" ".join(limits(summary))), (0, 0, 1, 0)))
    for note in summary.notes:
        console.print(Text(f"Note: {note}"))
    console.print(Text(HOW_TO_READ))
    console.print(Text(f"Report: {out / 'report.html'}"), soft_wrap=True)
