"""Notebooks as pages: their text, code and stored outputs, in Markdown, and their pictures as files."""

import base64
import json
import re
from pathlib import Path
from typing import Any

IMAGE = "image/png"


def page(file: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page, and pictures that it shows, by their names beside it.

    Args:
        file: of the notebook, executed; outputs are taken as they are stored.

    Raises:
        ValueError: if a cell has an output of a kind that is not shown here.
    """
    pictures: dict[str, bytes] = {}
    parts = [f"[The notebook]({file.name}) as a file, to run it yourself."]
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        text = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(_fenced(text, "bash" if text.startswith("%%bash") else "python"))
        parts += [_shown(output, file.stem, pictures) for output in cell["outputs"]]
    title = next(n for n, part in enumerate(parts) if part.startswith("# "))
    heading, _, rest = parts[title].partition("\n")
    return "\n\n".join([heading, parts[0], rest.strip(), *parts[title + 1 :]]) + "\n", pictures


def _shown(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return _fenced(_joined(output["text"]).rstrip("\n"), "text")
    data = output.get("data", {})
    if IMAGE in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(_joined(data[IMAGE]))
        return f"![output {len(pictures)} of the notebook]({name})"
    if "text/markdown" in data:
        return _joined(data["text/markdown"])
    if "text/plain" in data:
        return _fenced(_joined(data["text/plain"]), "text")
    raise ValueError(f"{stem} has an output that is not shown here: {output['output_type']} {sorted(data)}")


def _fenced(text: str, language: str) -> str:
    """A block of code, between more backticks than are in it."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def _joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
