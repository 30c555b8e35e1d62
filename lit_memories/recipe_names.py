"""Recipes by name: ``pictograms/erase/esd`` is one of the library that ships with this package."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lit_memories.storage.shipped import shipped

SUFFIX = ".yaml"
LIBRARY = "recipes"
"""Name of the library's folder, which may stand before a recipe's name, as it does in a checkout."""
CONFIG = {"--config", "-c"}
GUARDS = {"--model.diffusion.guard", "--guard"}
"""Options that may name a guard's file, of recipes and of tools."""
FILES = {"--model", "--model.concept", "--data", "--trainer", *GUARDS}
"""Options that may name a file of the library, too."""


def library() -> dict[str, Path]:
    """All files of the library by their names, sorted: recipes, concepts, and parts that recipes share."""
    root = shipped(LIBRARY)
    found = {file.relative_to(root).with_suffix("").as_posix(): file for file in root.rglob(f"*{SUFFIX}")}
    return dict(sorted(found.items()))


def plain(name: str) -> str:
    """A name without the library's folder before it and a suffix after it.

    Example:
        >>> plain("recipes/pictograms/erase/esd.yaml")
        'pictograms/erase/esd'
    """
    return name.removeprefix("./").removeprefix(f"{LIBRARY}/").removesuffix(SUFFIX).rstrip("/")


def find(name: str) -> Path | None:
    """The file that a name means: one that exists under it, or the library's of that name; None if there is neither.

    Args:
        name: a path, or a recipe's name with or without ``recipes/`` before and ``.yaml`` after it.
    """
    return Path(name) if Path(name).is_file() else library().get(plain(name))


def named(argv: Sequence[str]) -> list[str]:
    """Arguments in which names of the library's files are their paths; what is none stays as it is.

    Args:
        argv: a command and what follows it.
    """
    found: list[str] = []
    before = ""
    for argument in argv:
        name, equals, value = argument.partition("=") if argument.startswith("-") else (before, "", argument)
        if name in CONFIG | FILES and value and (file := find(value)) is not None:
            argument = f"{name}={file}" if equals else str(file)
        found.append(argument)
        before = "" if equals else argument
    return found


def nearest(name: str, count: int = 3) -> list[str]:
    """Names of the library that may be meant by one that is none: of the same file, or spelt nearly so.

    Args:
        name: as the user wrote it.
        count: how many at most.
    """
    names, meant = list(library()), plain(name)
    same = [known for known in names if known.rpartition("/")[2] == meant.rpartition("/")[2]]
    return [*get_close_matches(meant, same, count, 0.0), *get_close_matches(meant, names, count)][:count]


def purpose(file: Path) -> str:
    """What a recipe is for: the first sentence of the comment that it begins with.

    Args:
        file: of a recipe.
    """
    head: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    return re.split(r"\.(?: (?=[A-Z])|\n|$)", "\n".join(head), maxsplit=1)[0].replace("\n", " ")
