"""Run the notebooks of the documentation anew, each in an empty folder, and keep their outputs in them.

make notebooks
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent
LIMIT = 3600
"""Seconds that a cell may take, on a machine that does other work beside it."""
CONTROL = re.compile(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)")
"""What moves a terminal's cursor, or colours."""


def main() -> None:
    """Run all, or those that are named."""
    for file in map(Path, sys.argv[1:] or sorted(map(str, NOTEBOOKS.glob("*.ipynb")))):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(file, Path(folder)), file)


def execute(file: Path, folder: Path) -> NotebookNode:
    """A notebook with the outputs of its cells, run from the first on.

    Args:
        file: of the notebook.
        folder: an empty one, in which it runs and which it fills.

    Raises:
        CellExecutionError: if a cell raises, or a command in one fails.
    """
    book = nbformat.read(file, as_version=4)
    beside = {  # commands of this environment, and its package, whatever the shell has
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(NOTEBOOKS.parents[1]), os.environ.get("PYTHONPATH")])),
    }
    client = NotebookClient(
        book,
        timeout=LIMIT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, **beside})
    for cell in book.cells:
        cell.metadata.clear()  # nothing of the run but its outputs
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    book.metadata.language_info = {"name": "python"}
    return book


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs in which all that was written to a stream is one, as it looks in the end, if it is not blank."""
    kept: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type != "stream":
            output.get("data", {}).pop("image/jpeg", None)  # Pillow's pictures are there as PNG too
            kept.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            kept.append(streams.setdefault(output.name, output))
    for stream in streams.values():
        stream.text = settled(stream.text)
    return [output for output in kept if output.output_type != "stream" or output.text]


def settled(text: str) -> str:
    r"""What a terminal shows in the end of what was written to it: progress that was overwritten is gone, and colours.

    Example:
        >>> settled("1 of 2" + chr(13) + chr(27) + "[2K" + chr(27) + "[1m2 of 2" + chr(27) + "[0m" + chr(10))
        '2 of 2\n'
    """
    lines, row, column = [""], 0, 0
    for part in CONTROL.split(text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif not part.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
        elif part.endswith("A"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part.endswith("K"):
            lines[row] = "" if part[2:-1] == "2" else lines[row][:column]
    shown = "\n".join(line.rstrip() for line in lines).strip("\n")
    return f"{shown}\n" if shown else ""


if __name__ == "__main__":
    main()
