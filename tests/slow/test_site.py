"""The documentation as a site: built strictly, whole, and without anything from outside."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lit_memories"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
"""What a browser fetches by itself, and the attribute that says from where."""


class Read(HTMLParser):
    """What a page loads, where it leads, and which places in it have a name."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads, self.links, self.places = list[str](), list[str](), set[str]()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {given.get("id") or ""}
        if (address := given.get(LOADED.get(tag, ""))) and given.get("rel") != "canonical":
            self.loads.append(address)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by `mkdocs build`, which is strict: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Read]:
    return {page: Read(page) for page in sorted(site.rglob("*.html"))}


def test_nothing_comes_from_outside(site: Path, pages: dict[Path, Read]) -> None:
    assert len(pages) > 300
    for page, read in pages.items():
        for address in read.loads:
            assert ":" not in address.split("?")[0] or address.startswith("data:"), f"{page}: {address}"
            assert not address.startswith("//"), f"{page}: {address}"
            start = site if address.startswith("/") else page.parent  # a server shows 404.html anywhere
            file = start / address.lstrip("/").split("#")[0]
            assert address.startswith("data:") or file.exists(), f"{page}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet
    assert not any('class="mermaid"' in page.read_text(encoding="utf-8") for page in pages)  # its script would be


def test_links_within_the_site_lead_somewhere(pages: dict[Path, Read]) -> None:
    """Those that mkdocs does not check too: of the reference, and of the navigation."""
    for page, read in pages.items():
        for link in read.links:
            if ":" in link or page.name == "404.html":
                continue
            address, _, place = link.partition("#")
            target = (page.parent / address).resolve() if address else page
            assert target.exists(), f"{page}: {link}"
            if place and target in pages:
                assert place in pages[target].places, f"{page}: {link}"


def test_every_page_of_the_docs_is_in_the_navigation(pages: dict[Path, Read], site: Path) -> None:
    """A page that is in none has itself in none either: the sidebar shows the section that a page is in."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        html = built.read_text(encoding="utf-8")
        assert re.search(r'<a href="[^"]*" class="md-nav__link md-nav__link--active"', html), page


def public(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}.{node.name}")


def test_every_public_class_and_function_is_in_the_reference(pages: dict[Path, Read]) -> None:
    places = set().union(*(read.places for read in pages.values()))
    expected = set()
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1] != "__main__":
            expected |= {module, *public(ast.parse(file.read_text(encoding="utf-8")).body, module)}
    assert len(expected) > 1500
    assert sorted(expected - places) == []


def test_docstrings_are_rendered(site: Path) -> None:
    """Formulas, references by single backticks, examples, and arguments with their types."""
    html = (site / "reference" / "erasers" / "esd.html").read_text(encoding="utf-8")
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in html
    assert re.search(r'<a class="autorefs[^>]*href="rollout.html#lit_memories.erasers.rollout.RolloutEraser"', html)
    assert re.search(r"<b>rollout_with</b>|<code>rollout_with</code>", html)
    for page in (site / "reference").rglob("*.html"):
        text = re.sub(r"<(details|pre|code).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert ":math:" not in text, page
        assert ".. math" not in text, page
        assert "&gt;&gt;&gt;" not in text, page
        assert "<blockquote>" not in text, page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_the_search_answers_without_a_server(site: Path, tmp_path: Path) -> None:
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path}"]
    address = f"{(site / 'audit.html').as_uri()}?q=surprise"
    command += ["--virtual-time-budget=60000", "--dump-dom", address]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    assert 'class="md-search-result__link"' in shown
