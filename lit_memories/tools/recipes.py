"""``lit-memories recipes``: what the library has, what a recipe says, and a copy to change."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_memories.recipe_files import named_files
from lit_memories.recipe_names import LIBRARY, library, nearest, plain, purpose
from lit_memories.storage.files import check_place, write
from lit_memories.storage.shipped import shipped
from lit_memories.terminal import printable


def recipes(words: Sequence[str] = ()) -> None:
    """List the recipes that ship with this package, show one, or copy some to change them.

    Any of them is named without a file: ``lit-memories fit --config pictograms/erase/esd``.

    Args:
        words: ``list [FOLDER]``; ``show NAME``; or ``copy NAME|FOLDER DEST``, which copies the files that they name,
            too. Nothing is ``list``.

    Raises:
        ValueError: if the words are others, or a file to be copied is there already, or would be written through a link
            that leads out of the folder.
        FileNotFoundError: if no recipe has that name.
    """
    action, *rest = words or ["list"]
    forms: dict[str, tuple[Callable[..., None], int, int]] = {"list": (_list, 0, 1), "show": (_show, 1, 1)}
    forms["copy"] = (_copy, 2, 2)
    if action not in forms or not forms[action][1] <= len(rest) <= forms[action][2]:
        raise ValueError(
            f"recipes {printable(' '.join(words))}: it is recipes list [FOLDER], recipes show NAME, or recipes copy "
            "NAME|FOLDER DEST"
        )
    forms[action][0](*rest)


def _list(folder: str = "") -> None:
    found = _chosen(folder)
    width = max(map(len, found))
    for name, file in found.items():
        print(f"{name:<{width}}  {purpose(file)}")  # noqa: T201 - this is the program's output


def _show(name: str) -> None:
    found = _chosen(name)
    if plain(name) not in found:
        raise ValueError(f"{name} is a folder: lit-memories recipes list {plain(name)} says what is in it")
    print(found[plain(name)].read_text(encoding="utf-8"), end="")  # noqa: T201


def _copy(name: str, destination: str) -> None:
    root, files = shipped(LIBRARY), dict.fromkeys(f for file in _chosen(name).values() for f in named_files(file))
    targets = {file: Path(destination) / file.relative_to(root) for file in files}
    if there := [target for target in targets.values() if target.exists()]:
        raise ValueError(f"{there[0]} is there already: choose another folder, or move it")
    for target in targets.values():
        check_place(target, Path(destination))
    for file, target in targets.items():
        write(target, file.read_bytes())
        print(printable(str(target)))  # noqa: T201


def _chosen(name: str) -> dict[str, Path]:
    """The recipe of a name, or those in a folder.

    Raises:
        FileNotFoundError: if there is neither.
    """
    every, wanted = library(), plain(name)
    wanted = "" if wanted in {".", LIBRARY} else wanted
    found = {known: file for known, file in every.items() if not wanted or f"{known}/".startswith(f"{wanted}/")}
    if not found:
        near = ", ".join(nearest(wanted))
        meant = f"nearest: {near}" if near else "lit-memories recipes lists them"
        raise FileNotFoundError(f"no recipe is called {printable(name)}; {meant}")
    return found
