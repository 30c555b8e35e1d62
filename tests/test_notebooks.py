"""The notebooks as they are kept: run from the first cell on, with outputs, and nothing of the machine in them."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from story import NOTEBOOKS, check, text_of

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "docs/site"), str(ROOT / "docs/notebooks")]

import notebooks  # noqa: E402
from execute import settled  # noqa: E402


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def book(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_there_are_two() -> None:
    assert {file.stem for file in NOTEBOOKS} == {"did_it_forget", "add_your_method"}


def test_cells_were_run_in_their_order_and_left_something(book: dict[str, Any]) -> None:
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert not any(cell["metadata"] for cell in book["cells"]), "neither times nor anybody's editor"


def test_nothing_of_a_machine_and_no_warning_is_in_it(book: dict[str, Any]) -> None:
    text = text_of(book)
    written = text + "".join(line for cell in book["cells"] for line in cell["source"])
    assert not re.search(r"/(tmp|home|root|work|Users|var|opt)/|site-packages|localhost", written)
    assert not re.search(r"\w*(Warning|Error)\b|Traceback|warning:", text)
    assert "\x1b" not in text, "colours of a terminal"


def test_it_is_small(file: Path, book: dict[str, Any]) -> None:
    assert file.stat().st_size < 500_000
    assert any("image/png" in output.get("data", {}) for cell in book["cells"] for output in cell.get("outputs", []))


def test_it_comes_to_what_its_text_says(file: Path, book: dict[str, Any]) -> None:
    check(file.stem, book)


def test_its_links_lead_somewhere(file: Path, book: dict[str, Any]) -> None:
    links = [
        link
        for cell in book["cells"]
        if cell["cell_type"] == "markdown"
        for link in re.findall(r"\]\(([^)#\s]+)", "".join(cell["source"]))
        if "://" not in link
    ]
    assert links
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_it_becomes_a_page(file: Path, book: dict[str, Any]) -> None:
    """With all text, code, outputs and pictures, these as files."""
    page, pictures = notebooks.page(file)
    assert page.startswith("# ")
    assert f"]({file.name})" in page
    for cell in book["cells"]:
        lines = "".join(cell["source"]).splitlines()
        assert all(line in page for line in lines), lines
    assert pictures
    assert all(name in page and content.startswith(b"\x89PNG") for name, content in pictures.items())
    assert page.count("![") == len(pictures)


def test_an_output_that_no_page_can_show_is_refused(tmp_path: Path) -> None:
    output = {"output_type": "display_data", "data": {"application/x-unheard-of": "x"}}
    cells = [{"cell_type": "markdown", "source": "# A"}, {"cell_type": "code", "source": "1", "outputs": [output]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(ValueError, match="a has an output that is not shown here: display_data"):
        notebooks.page(tmp_path / "a.ipynb")


def test_progress_is_kept_as_a_terminal_shows_it_in_the_end() -> None:
    """Two lines that were drawn, erased and drawn again, a line written over, and colours."""
    up, erase, bold, plain = "\x1b[1A", "\x1b[2K", "\x1b[1m", "\x1b[0m"
    drawn = f"begins\n{bold}1 of 2{plain}\nmore\r{erase}{up}{erase}2 of 2\ndone and\rover\n"
    assert settled(drawn) == "begins\n2 of 2\nover and\n"
    assert settled(f"\x1b[?25l1 of 2\r{erase}\x1b[?25h") == "", "nothing is left"
