"""What the documentation tells a reader to type is understood, and what it links to exists."""

import re
import shlex
from pathlib import Path

import pytest

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
