"""What the site's reader of docstrings makes of formulas, examples and names."""

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest
from markdown import Markdown

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def markup() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "site")
        import markup

        return markup


@pytest.fixture
def reader(markup: ModuleType) -> Markdown:
    return Markdown(extensions=["pymdownx.superfences", markup.DocstringMarkup({"Null.sample": "a.Null.sample"})])


def test_a_formula_ends_where_its_indentation_does(reader: Markdown) -> None:
    html = reader.convert("Before.\n\n.. math:: a_1 +\n    b\n\nwith :math:`a\\_b` and *text*.")
    assert html.count("<math ") == 2
    assert html.index("</math></div>") < html.index("<p>with") < html.index("<em>text</em>")


def test_a_formula_within_a_list_stays_in_it(reader: Markdown) -> None:
    html = reader.convert("- one\n\n    .. math:: a\n\n- two")
    assert html.count("<li>") == 2
    assert html.index("<math ") < html.index("two")


def test_an_example_is_code_and_ends_at_an_empty_line(reader: Markdown) -> None:
    html = reader.convert("Text.\n\n>>> f(1)\n[1, 2]\n\nMore *text*.")
    assert "<blockquote>" not in html
    assert re.search(r"<pre.*\[.*</pre>", html, re.DOTALL)
    assert "<em>text</em>" in html.split("</pre>")[1]


def test_a_name_leads_to_what_it_means_but_in_links_and_headings(reader: Markdown) -> None:
    html = reader.convert("# `Null.sample`\n\n`Null.sample`, [`Null.sample`](x.md), `Null.other`")
    assert html.count("<autoref") == 1
    assert '<autoref identifier="a.Null.sample" optional=""><code>Null.sample</code></autoref>, ' in html


def test_every_formula_of_the_package_is_understood(markup: ModuleType) -> None:
    formulas = []
    for file in sorted((ROOT / "lit_memories").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                formulas += [found[2] for found in markup.BLOCK.finditer(text)] + re.findall(markup.INLINE, text)
    assert len(formulas) > 150
    for formula in formulas:
        assert not re.search(r">\\", markup.mathml(formula)), formula
