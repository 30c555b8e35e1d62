"""Recipes as files: what is wrong with one, and which options it overrides, before anything heavy is imported."""

import contextlib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from lit_memories.concept import check_described
from lit_memories.recipe_names import GUARDS, library, nearest

SUFFIXES = {".yaml", ".yml"}
"""How values end that name another file, such as a concept's or a trainer's."""
LARGEST = 1 << 20
"""Bytes; people write recipes by hand."""

TEXTS = {"phrase", "anchor", "text", "caption", "prefix"}
"""Names of options of which an empty text says something."""
OWN_CHECKS = {"concept", "where", "trainer.logger"}
"""Names of settings whose texts are prompts and labels, or of other packages."""


class _Loader(yaml.SafeLoader):
    """Refuses a name that stands twice in one mapping, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value != "<<" and isinstance(key.value, str):
                if key.value in seen:
                    raise ValueError(f"{key.value!r} stands there twice, the second time in line {_line(key)}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def read_recipe(file: Path) -> dict[str, Any]:
    """A recipe's settings, with those of the files it names in their places.

    Args:
        file: as the user wrote it, by which errors name it.

    Raises:
        ValueError: if it is no text in UTF-8, no YAML, has no settings or one of them twice.
        FileNotFoundError: if it is not there, or no file.
    """
    try:
        settings = _included(_read(file), file.parent)
    except RecursionError:
        raise ValueError(f"{file} is no recipe: it nests too deep, or names itself") from None
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{file} has no settings: a recipe begins with model: and its class_path")
    return settings


def audit_command(concept: str, base: object, *options: str) -> str:
    """The command that audits a model of a base for a concept, by the recipe of the library that is for both.

    Args:
        concept: its name.
        base: hub id or folder of the base model.
        options: of the command, such as ``--model.role=control``.

    Returns:
        The command; in it stands ``RECIPE`` where none here is for them.
    """
    for name, file in library().items():
        if not re.fullmatch("[^/]+/audit/[^/]+", name):
            continue
        try:
            model = read_recipe(file)["model"]
            settings = model["init_args"]
            found = settings["concept"]["name"], settings["diffusion"]["base"]
        except (ValueError, OSError, KeyError, TypeError):  # a trainer's, or somebody's draft
            continue
        if found == (concept, base) and str(model.get("class_path")).endswith(".ConceptAudit"):
            return " ".join(["lit-memories predict --config", quote(f"recipes/{name}.yaml"), *options])
    return " ".join(["lit-memories predict --config RECIPE", *options])


def check_values(argv: Sequence[str]) -> None:
    """Read the files that options name, as `read_recipe` would; a concept's must be one, and a guard's.

    Args:
        argv: what follows the command.

    Raises:
        ValueError: as `read_recipe`, or if a concept's file lacks a field, or has one that no concept has, or a
            guard's names no class.
        FileNotFoundError: if a concept's or a guard's file is not there.
    """
    for name, value in _options(argv):
        file = Path(value)
        if name == "--model.concept" and value != "null" and re.fullmatch(r"[\w./~-]+", value):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is no file{_meant(value)}: --model.concept names a concept's")
            check_described(read_recipe(file), value)
        elif name in GUARDS and re.fullmatch(r"[\w.~-]*/[\w./~-]+|[\w.~-]+\.ya?ml", value):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is no file{_meant(value)}: {name} names a guard's")
            if not isinstance(read_recipe(file).get("class_path"), str):
                raise ValueError(f"{file} is no guard's file, which begins with class_path: {name} names one of those")
        elif file.suffix in SUFFIXES and file.is_file():
            read_recipe(file)


def empty_option(argv: Sequence[str]) -> str | None:
    """The first option, or argument before any, that is given an empty value: it would be taken for this folder.

    Args:
        argv: what follows the command.
    """
    before = ""
    for argument in argv:
        name, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        before = name if not equals else ""
        if equals and not value.strip() and name.rstrip("+").rpartition(".")[2].removeprefix("--") not in TEXTS:
            return name.rstrip("+") or "an argument"
    return None


def check_empty(value: Any, name: str = "") -> None:
    """Refuse an empty text where a file, folder or hub id is meant: it would be taken for this folder.

    Args:
        value: settings of a recipe, and whatever is in them.
        name: of the value, by which errors call it; names within follow after dots.

    Raises:
        ValueError: naming the first one.
    """
    if isinstance(value, str) and not value.strip() and name.rpartition(".")[2] not in TEXTS:
        raise ValueError(f"{name} is empty: give it a value, or leave it out")
    if isinstance(value, Mapping) and not name.endswith(tuple(OWN_CHECKS)):
        for key, part in value.items():
            check_empty(part, f"{name}.{key}".removeprefix(".").replace(".init_args", ""))


def overridden(argv: Sequence[str]) -> list[str]:
    """Options that stand before ``--config`` and are overridden by the recipe that follows.

    Args:
        argv: what follows the command.

    Raises:
        ValueError: as `read_recipe`, or if a setting is empty that cannot be.
        FileNotFoundError: as `read_recipe`.
    """
    found: list[str] = []
    before: list[str] = []
    for name, value in _options(argv):
        if name in {"--config", "-c"}:
            settings = read_recipe(Path(value))
            _check_whole(settings, value)
            check_empty(settings)
            found += [option for option in before if _says(settings, re.split(r"[.+]", option[2:]))]
            before = []
        elif name.startswith("--"):
            before.append(name)
    return found


def _check_whole(settings: Mapping[str, Any], name: str) -> None:
    """Refuse a part of a recipe in a recipe's place: a concept, a guard, or another class."""
    if "model" in settings or not settings.keys() & {"class_path", "prompts", "parts"}:
        return
    what, option = "a part of one", "the option of that part"
    if settings.keys() & {"prompts", "parts"}:
        what, option = "a concept", "--model.concept"
    elif ".guards." in str(settings["class_path"]):
        what, option = "a guard", "--model.diffusion.guard"
    raise ValueError(f"{name} is no recipe but {what}: name a recipe with --config, and this with {option}")


def model_of(argv: Sequence[str]) -> str | None:
    """The class of the model that the recipes of a command line name, the last of them first.

    Args:
        argv: what follows the command.

    Raises:
        ValueError: as `read_recipe`.
        FileNotFoundError: as `read_recipe`.
    """
    found = None
    for name, value in _options(argv):
        model = read_recipe(Path(value)).get("model") if name in {"--config", "-c"} else None
        found = model.get("class_path", found) if isinstance(model, Mapping) else found
    return found if isinstance(found, str) else None


def probes_of(argv: Sequence[str]) -> list[str]:
    """The classes of probes that a command line and its recipes name.

    Args:
        argv: what follows the command.

    Raises:
        ValueError: as `read_recipe`.
        FileNotFoundError: as `read_recipe`.
    """
    found: list[Any] = []
    for name, value in _options(argv):
        if name in {"--config", "-c"}:
            model = read_recipe(Path(value)).get("model")
            settings = model.get("init_args") if isinstance(model, Mapping) else None
            found.append(settings.get("probes") if isinstance(settings, Mapping) else None)
        elif name in {"--model.probes", "--model.probes+"}:
            with contextlib.suppress(yaml.YAMLError):  # what is no YAML names no probe; the parser says so
                found.append(yaml.safe_load(value))
    parts = [part for one in found for part in (one if isinstance(one, list) else [one])]
    names = [part.get("class_path") if isinstance(part, Mapping) else part for part in parts]
    return [name for name in names if isinstance(name, str)]


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of options and their values, empty where there is none."""
    for argument, after in zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        yield name, value if equals else after


def _says(settings: Any, path: Sequence[str]) -> bool:
    """Whether a recipe has a value of its own at an option's place, or within."""
    names = [name for name in path if name not in {"", "init_args"}]
    for name in names:
        if isinstance(settings, Mapping) and name not in settings:
            settings = settings.get("init_args")
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return True


def _included(value: Any, folder: Path) -> Any:
    """A value, or the settings in the file that it names."""
    if isinstance(value, dict):
        return {name: _included(part, folder) for name, part in value.items()}
    if isinstance(value, list):
        return [_included(part, folder) for part in value]
    if isinstance(value, str) and Path(value).suffix in SUFFIXES and (file := folder / value).exists():
        return _included(_read(file), file.parent)
    return value


def _meant(name: str) -> str:
    """What of the library may be meant by a name that is none."""
    near = nearest(name)
    return f"; the nearest recipes are {', '.join(near)}" if near else ", and lit-memories recipes lists some"


def named_files(file: Path) -> list[Path]:
    """A recipe, and the files that it names, and those that they name, each once.

    Args:
        file: of the recipe.
    """
    found: list[Path] = []
    left = [file.resolve()]
    while left:
        if (one := left.pop()) not in found:
            found.append(one)
            left += [other.resolve() for other in _names(_read(one), one.parent)]
    return found


def _names(value: Any, folder: Path) -> Iterator[Path]:
    """The files that values of a recipe name."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _names(part, folder)
    elif isinstance(value, str) and Path(value).suffix in SUFFIXES and (folder / value).is_file():
        yield folder / value


def _read(file: Path) -> Any:
    if not file.exists():
        gone = "is a link to nowhere" if file.is_symlink() else "does not exist"
        raise FileNotFoundError(f"{file} {gone}{_meant(str(file))}: name a recipe with --config")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file{_meant(str(file))}: name a recipe with --config")
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        return yaml.load(content.decode("utf-8-sig"), _Loader)  # noqa: S506 - it is a safe one
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text in UTF-8: save it as such") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{file} is not YAML: {where}{error.problem}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is no recipe: {error}") from None
