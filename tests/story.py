"""What the documentation's notebooks must come to, whoever runs them: as kept, and run anew."""

import re
from pathlib import Path
from typing import Any

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))


def text_of(book: Any) -> str:
    """All that its cells printed."""
    found = []
    for cell in book["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parts = output.get("text"), data.get("text/markdown"), data.get("text/plain")
            found += ["".join(part or []) for part in parts]
    return "\n".join(found)


def check(name: str, book: Any) -> None:
    """Refuse a notebook that comes to something else than its text says.

    Args:
        name: of its file.
        book: what is in it.
    """
    CHECKS[name](text_of(book))


def _did_it_forget(text: str) -> None:
    assert "uce refuses the prompt and remembers “umbrella”" in text
    numbers = {name: _row(text, name) for name in ("vanilla", "uce", "never-knew")}  # forgetting, fraction, damage
    assert numbers["vanilla"] == [0, 0, 0]
    assert numbers["uce"][1] < 0.25
    assert numbers["never-knew"][1] == 1
    rates = {(m[1], m[2]): int(m[3]) for m in re.finditer(r"^(\S+) +(plain|image_prompt) +(\d+)% of 8$", text, re.M)}
    assert rates["vanilla", "plain"] == 100
    assert rates["uce", "image_prompt"] > rates["never-knew", "image_prompt"], "more than where nothing is known"
    assert "image_prompt, which takes the weights, and pictures of the concept" in text


def _add_your_method(text: str) -> None:
    assert "redirect refuses the prompt and remembers “umbrella”" in text
    (row,) = re.findall(r"^\| redirect \| .*\|$", text, re.M)
    assert row.endswith("| remembers |")
    assert row.startswith("| redirect | 0 ["), "prompted, in per cent"
    names = re.findall(r"^\| (\S+) \| .*\[.*\|$", text, re.M)
    assert sorted(names[:2]) == ["redirect", "uce"]
    assert {"vanilla", "never-knew"} <= set(names)


def _row(text: str, name: str) -> list[float]:
    (line,) = re.findall(rf"^{name} +(-?[\d.]+ \[.*)$", text, re.M)
    return [float(value) for value in re.findall(r"(-?[\d.]+) \[", line)]


CHECKS = {"did_it_forget": _did_it_forget, "add_your_method": _add_your_method}
