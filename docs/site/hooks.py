"""What the site has beside the pages of docs/: a reference of the package, notebooks, and files that are linked.

Nothing of the package is imported: names are read from its files.
"""

import ast
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from re import Match
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lit_memories"
REPOSITORY = "repository"
"""Folder of the site with pages that stand outside docs/."""
READ = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "checkpoints/README.md")
"""Those in the navigation."""
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
NOTEBOOK = ".ipynb"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

sys.path.insert(0, str(Path(__file__).parent))

import notebooks  # noqa: E402
from markup import DocstringMarkup  # noqa: E402


def modules() -> dict[str, Path]:
    """Public modules by their dotted names, a package before what is in it."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py"), key=lambda file: (file.parent, file.name != "__init__.py", file.name)):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = file
    return found


def public(tree: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    """Dotted names of the classes and functions in a module that begin with no underscore, methods among them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}.{node.name}")


def names() -> dict[str, str]:
    """What text may call a public thing, where that can be one thing only: its name, with or without what it is in.

    A word that may be a plain one, without capital, underscore or dot, is no name.
    """
    full = [
        name for module, file in modules().items() for name in [module, *public(ast.parse(file.read_text()), module)]
    ]
    known: dict[str, set[str]] = {}
    for name in dict.fromkeys(full):
        parts = name.split(".")
        for start in range(len(parts)):
            known.setdefault(".".join(parts[start:]), set()).add(name)
    return {
        said: meant.pop() for said, meant in known.items() if len(meant) == 1 and re.search(r"[A-Z_.]", said.strip("_"))
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Docstrings are understood; results and the reference, which grow by themselves, stand in the navigation."""
    config.markdown_extensions.append(DocstringMarkup(names()))  # type: ignore[arg-type]
    results = [f"results/{file.name}" for file in sorted((ROOT / "docs" / "results").glob("*.md"))]
    config.nav = [*(config.nav or []), {"Results": results}, {"Reference": _navigation()}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages of the reference, of notebooks, and of the repository."""
    for name in modules():
        files.append(File.generated(config, _page_of(name), content=_reference(name)))
    for notebook in sorted((ROOT / "docs").rglob(f"*{NOTEBOOK}")):
        text, pictures = notebooks.page(notebook)
        address = notebook.relative_to(ROOT / "docs")
        files.append(File.generated(config, address.with_suffix(".md").as_posix(), content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, (address.parent / name).as_posix(), content=content))
    linked = {
        target
        for file in [*files.documentation_pages()]
        if not file.src_uri.startswith("reference/")
        for _, target in _outside(file.src_uri, file.content_string)
    }
    for target in sorted({*READ, *linked}):
        text = (ROOT / target).read_text(encoding="utf-8")
        if target == "README.md":
            text = text.replace("# lit_memories", "# Quickstart", 1)  # the reference has that name
        if not target.endswith(".md"):
            text = f"# {target}\n\n```{Path(target).suffix.lstrip('.')}\n{text}```\n"
        inclusion = InclusionLevel.UNDEFINED if target in READ else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, _address(target), content=text, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links across the border of docs/ lead to where the site has what they mean, those to a notebook to its page."""
    moved = dict(_outside(page.file.src_uri, markdown))

    def there(found: Match[str]) -> str:
        link, target = found[2], moved.get(found[2])
        if target is not None:
            address = target.removeprefix("docs/") if target.startswith("docs/") else _address(target)
            link = posixpath.relpath(address, posixpath.dirname(page.file.src_uri))
        if link.endswith(NOTEBOOK) and link != Path(page.file.src_uri).stem + NOTEBOOK:  # its own page has the file
            link = link.removesuffix(NOTEBOOK) + ".md"
        return f"{found[1]}{link}{found[3] or ''}"

    return LINK.sub(there, markdown)


def _outside(source: str, markdown: str) -> Iterator[tuple[str, str]]:
    """Links of a page that cross the border of docs/: as they are written, and what they mean in the repository."""
    here = source.removeprefix(f"{REPOSITORY}/") if source.startswith(f"{REPOSITORY}/") else f"docs/{source}"
    for found in LINK.finditer(FENCE.sub("", markdown)):
        if "://" in found[2]:
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[2]))
        if target.startswith("docs/") != here.startswith("docs/") and (ROOT / target).is_file():
            yield found[2], target


def _address(target: str) -> str:
    """The page of a file of the repository, none of which is the index of its folder."""
    path = f"{REPOSITORY}/{target}"
    return path.replace("README.md", "readme.md") if path.endswith(".md") else f"{path}.md"


def _page_of(module: str) -> str:
    inside = module.split(".")[1:]
    package = modules()[module].name == "__init__.py"
    return posixpath.join("reference", *inside, "index.md") if package else posixpath.join("reference", *inside) + ".md"


def _navigation(package: str = "lit_memories") -> list[Any]:
    inside = [name for name in modules() if name.rpartition(".")[0] == package]
    entries: list[Any] = [_page_of(package)]
    for name in inside:
        title = name.rpartition(".")[2]
        is_package = modules()[name].name == "__init__.py"
        entries.append({title: _navigation(name) if is_package else _page_of(name)})
    return entries


def _reference(module: str) -> str:
    """A page: the module by its docstrings, and of a package what is in it, a line each."""
    inside = [name for name in modules() if name.rpartition(".")[0] == module]
    here = posixpath.dirname(_page_of(module))
    lines = [
        f"| [`{name.rpartition('.')[2]}`]({posixpath.relpath(_page_of(name), here)}) | {_purpose(name)} |"
        for name in inside
    ]
    table = ["", "## Modules", "", "| module | what it is |", "|---|---|", *lines] if lines else []
    return "\n".join([f"::: {module}", *table, ""])


def _purpose(module: str) -> str:
    """The first sentence of its docstring."""
    text = ast.get_docstring(ast.parse(modules()[module].read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", r"\|")
