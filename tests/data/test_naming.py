"""A concept and pictures that do not match are warned of, and so are too few; sound sets are not."""

from pathlib import Path

import pytest

from lit_memories.concept import Concept
from lit_memories.data.naming import doubts
from lit_memories.recipe_files import read_recipe
from lit_memories.worlds.sources import PictogramSource

RECIPES = Path(__file__).parents[2] / "recipes"
UMBRELLA = Concept("umbrella", "object", ["a red umbrella"], ["a red star"], paraphrases=["parasol"])


def test_pictures_of_another_concept_are_doubted() -> None:
    (line,) = doubts(UMBRELLA, ["a red anchor"] * 9, ["a star"] * 9)
    assert line.startswith(
        "none of the 9 captions of the concept set has a word for 'umbrella', such as 'a red anchor'"
    )


@pytest.mark.parametrize("caption", ["umbrellas are red; an umbrella", "a parasol"])
def test_one_caption_with_a_word_for_it_is_enough(caption: str) -> None:
    assert doubts(UMBRELLA, [*["a thing"] * 9, caption], ["a star"] * 9) == []


def test_reference_pictures_of_the_concept_are_doubted() -> None:
    (line,) = doubts(UMBRELLA, ["an umbrella"] * 9, ["an umbrella"] * 3 + ["a star"] * 6)
    assert line.startswith("3 of 9 captions of the reference set name 'umbrella'")


def test_few_pictures_are_doubted() -> None:
    lines = doubts(UMBRELLA, ["an umbrella"] * 7, ["a star"] * 8)
    assert [line.split(":")[0] for line in lines] == ["the concept set has 7 pictures"]


@pytest.mark.parametrize(
    "file", sorted((RECIPES / "pictograms" / "concepts").glob("*.yaml")), ids=lambda file: file.stem
)
def test_shipped_concepts_and_their_pictures_match(file: Path) -> None:
    concept = Concept(**read_recipe(file))
    if concept.parts:
        assert {f"{one.name}.yaml" for one in concept.parts} <= {other.name for other in file.parent.iterdir()}
        return
    own = PictogramSource(keep=concept.factors, limit=32).load()["caption"]
    others = PictogramSource(withhold=[concept.factors], limit=32).load()["caption"]
    assert doubts(concept, list(own), list(others)) == []


@pytest.mark.parametrize("file", sorted((RECIPES / "sd14" / "concepts").glob("*.yaml")), ids=lambda file: file.stem)
def test_prompts_of_shipped_concepts_match_them(file: Path) -> None:
    concept = Concept(**read_recipe(file))
    assert doubts(concept, [*concept.prompts] * 8, [*(concept.retain or ["a house"])] * 8) == []
