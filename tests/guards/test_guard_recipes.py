"""Recipes of guards make guards, say what they are, and are named by an audit."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lit_memories.guards.base import Guard

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*/guard/*.yaml"))


def test_both_families_have_all() -> None:
    names = {"concept_steerer", "negative_prompt", "safree", "sld"}
    assert {(file.parts[-3], file.stem) for file in RECIPES} == {
        (family, name) for family in ("pictograms", "sd14") for name in names
    }


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_a_recipe_makes_a_guard(file: Path) -> None:
    text = file.read_text()
    recipe = yaml.safe_load(text)
    module, name = recipe["class_path"].rsplit(".", 1)
    guard = getattr(import_module(module), name)(**recipe["init_args"])
    assert isinstance(guard, Guard)
    assert {key: guard.settings()[key] for key in recipe["init_args"]} == recipe["init_args"]
    assert text.startswith("# ")
