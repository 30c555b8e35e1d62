"""What the documentation tells a reader to type is understood, and what it links to exists."""

import re
import shlex
from functools import wraps
from importlib import import_module
from pathlib import Path

import pytest
from markdown import Markdown
from markdown_it import MarkdownIt

from lit_memories.cli import TOOLS, main

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "checkpoints" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = sorted(
    {
        match.strip()
        for page in PAGES
        if page.is_file()
        for match in re.findall(
            r"lit-memories (?:fit|predict|validate|report|export|draw|measure)[^`\n|]*", page.read_text()
        )
        if "…" not in match and "NAME" not in match and "RUN" not in match
    }
)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--config" in c])
def test_a_recipe_command_in_the_documentation_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(command)[1:], "--print_config"])
    assert stopped.value.code in (0, None)


def test_there_are_recipe_commands_to_check() -> None:
    assert len([c for c in COMMANDS if "--config" in c]) >= 3


def typed() -> list[str]:
    """Lines of the pages' shell blocks that call a tool."""
    blocks = [block for page in PAGES for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S)]
    lines = {line for block in blocks for line in block.replace("\\\n", " ").splitlines()}
    return sorted(line for line in lines if line.startswith("lit-memories ") and line.split()[1] in TOOLS)


@pytest.mark.parametrize("command", typed())
def test_a_tool_is_given_options_it_has(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tool, *arguments = shlex.split(command)
    module, called = import_module(TOOLS[tool][0]), []
    monkeypatch.setattr(module, tool, wraps(getattr(module, tool))(lambda *args, **options: called.append(tool)))
    monkeypatch.chdir(ROOT)
    main([tool, *arguments])
    assert called == [tool]


def test_there_are_tools_to_check() -> None:
    assert {command.split()[1] for command in typed()} >= {"audit", "convert", "export", "push", "report", "status"}


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_every_tool_explains_itself(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([tool, "--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file()], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file()], ids=lambda page: page.name)
def test_links_lead_to_headings_that_are_there(page: Path) -> None:
    """By the names that GitHub gives them; the site, which has its own, checks those when it is built."""
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            assert anchor in anchors(page.parent / link if link else page), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file()], ids=lambda page: page.name)
def test_a_page_has_one_meaning_on_github_and_on_the_site(page: Path) -> None:
    """Lists, tables, code and headings come to the same in both readers of Markdown."""
    github = MarkdownIt("commonmark").enable("table").render(page.read_text())
    site = Markdown(extensions=["attr_list", "tables", "sane_lists", "pymdownx.superfences"]).convert(page.read_text())
    for tag in ("h1", "h2", "h3", "table", "tr", "td", "ul", "ol", "li", "pre", "img", "a", "blockquote"):
        assert github.count(f"<{tag}>") + github.count(f"<{tag} ") == site.count(f"<{tag}>") + site.count(f"<{tag} "), (
            tag
        )
