"""What docstrings say beyond Markdown: mathematics in Sphinx's notation, and names in single backticks."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from re import Match
from textwrap import dedent
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

INLINE = r":math:`([^`]+)`"
BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +\S.*)?)*)$", re.MULTILINE)
SPELLED = {r"\arg": r"\operatorname{arg}", r"\lVert": r"\|", r"\rVert": r"\|"}
"""What the converter knows by another name, or not everywhere."""
ELSEWHERE = {"a", "autoref", "h1", "h2", "h3", "h4", "h5", "h6", "pre"}
"""Elements in which a name stays what it is."""


class DocstringMarkup(Extension):
    """Formulas become MathML, which browsers draw by themselves; names of the package become references to it.

    Args:
        names: what may be referred to, by each of the ways to say it.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Formulas before Markdown sees their backslashes and backticks, names when all else is done."""
        md.preprocessors.register(_Examples(md), "examples", 28)
        md.preprocessors.register(_Formulas(md), "formulas", 27)
        md.inlinePatterns.register(_Formula(INLINE, md), "formula", 195)
        md.treeprocessors.register(_Names(md, self.names), "names", 5)


def mathml(latex: str, display: str = "inline") -> str:
    """A formula as an element that browsers draw; several lines with marks are aligned at these."""
    latex = re.sub(r"\\[Bb]ig(?=\\([lr]Vert|\|))", "", latex)
    latex = " ".join(re.sub(r"\\[a-zA-Z]+", lambda found: SPELLED.get(found[0], found[0]), latex).split())
    return convert(rf"\begin{{align*}}{latex}\end{{align*}}" if r"\\" in latex else latex, display=display)


class _Examples(Preprocessor):
    """Examples end at an empty line; to Markdown they would be quotations."""

    def run(self, lines: list[str]) -> list[str]:
        said, fenced, example = [], False, False
        for line in [*lines, ""]:
            fenced ^= line.lstrip().startswith("```")
            begins = not (fenced or example) and line.startswith(">>> ")
            ends = example and not line.strip()
            said += ["", "```pycon"] if begins else ["```"] if ends else []
            example = (example or begins) and not ends
            said.append(line)
        return said


class _Formulas(Preprocessor):
    """``.. math::`` and what is indented below it."""

    def run(self, lines: list[str]) -> list[str]:
        return BLOCK.sub(partial(_stashed, self.md.htmlStash.store), "\n".join(lines)).split("\n")


def _stashed(store: Callable[[str], str], found: Match[str]) -> str:
    element = f'<div class="formula">{mathml(dedent(found[2]), "block")}</div>'
    return f"\n\n{found[1]}{store(element)}\n\n"


class _Formula(InlineProcessor):
    """A formula in a line."""

    def handleMatch(self, m: Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override] # noqa: N802
        return self.md.htmlStash.store(mathml(m[1])), m.start(0), m.end(0)


class _Names(Treeprocessor):
    """`Diffusion` leads to its place in the reference."""

    def __init__(self, md: Markdown, names: Mapping[str, str]) -> None:
        super().__init__(md)
        self.names = names

    def run(self, root: Element) -> None:
        self.visit(root)

    def visit(self, element: Element) -> None:
        for place, child in enumerate(element):
            if child.tag in ELSEWHERE:
                continue
            identifier = self.names.get((child.text or "").strip()) if child.tag == "code" and not len(child) else None
            if identifier is None:
                self.visit(child)
                continue
            attributes: dict[str, Any] = {"identifier": identifier, "optional": ""}
            reference = Element("autoref", attributes)
            reference.tail, child.tail = child.tail, None
            element[place] = reference
            reference.append(child)
