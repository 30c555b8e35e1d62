"""Concepts and worlds among a command's options: named by their files, as are those of which a concept is made."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr, register_type

from lit_memories.concept import Concept, Part, check_described
from lit_memories.recipe_files import read_recipe

PLAIN_WORLD = "lit_memories.worlds.pictograms.PictogramWorld"
"""A world without options."""


def afresh(argv: Sequence[str]) -> list[str]:
    """Arguments in which a concept or a world named by its file is that file's alone.

    The parser lays the file over the recipe's own concept, and would leave that one's templates, anchor prompts, pairs
    where the file is silent; they are emptied first. So are the options of the recipe's world, by one that has none.
    """
    arguments: list[str] = []
    for argument in argv:
        if (option := argument.split("=")[0]).startswith("--") and option.endswith(".world"):
            arguments.append(f"{option}={PLAIN_WORLD}")
        if option == "--model.concept":
            for field in dataclasses.fields(Concept):
                if field.default is not dataclasses.MISSING:
                    arguments.append(f"--model.concept.{field.name}={field.default}")
                elif field.default_factory is not dataclasses.MISSING:
                    arguments.append(f"--model.concept.{field.name}={field.default_factory()}")
        arguments.append(argument)
    return arguments


def _part(value: Any) -> Part:
    """One of several concepts: what its file says, which is named from where the file of them all lies."""
    if isinstance(value, Part):
        return value
    described = read_recipe(Path(Path_fr(value).absolute)) if isinstance(value, str) else value
    check_described(described, str(value)[:200])
    return Part(**described)


register_type(Part, Part.to_dict, _part)
