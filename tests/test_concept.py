"""What to forget, and the recipes that say it."""

from pathlib import Path

import pytest
import yaml

from lit_memories.concept import Concept
from lit_memories.data.pictograms import parse_caption, shows

CONCEPTS = sorted((Path(__file__).parent.parent / "recipes").glob("*/concepts/*.yaml"))


def test_values_are_kept() -> None:
    concept = Concept("umbrella", "object", ["umbrella"], ["star"], factors={"object": "umbrella"})
    assert Concept(**concept.to_dict()) == concept


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompts": []}, "needs at least one prompt"),
        ({"prompts": ["a", " "]}, "none of them blank"),
        ({"prompts": ["a", "b"], "retain": ["b"]}, "'b' is both"),
        ({"prompts": ["a"], "anchor": "a"}, "anchor 'a'"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named) as error:
        Concept(name="thing", kind="object", **options)
    assert "'thing'" in str(error.value)


@pytest.mark.parametrize("file", CONCEPTS, ids=lambda file: file.stem)
def test_shipped_concepts_say_what_they_mean(file: Path) -> None:
    """Prompts name the concept, retained ones do not."""
    concept = Concept(**yaml.safe_load(file.read_text()))
    assert concept.name == file.stem
    assert len(set(concept.prompts)) == len(concept.prompts)
    assert concept.retain
    if concept.factors:
        (word,) = concept.factors.values()
        assert all(word in prompt for prompt in concept.prompts)
        assert not any(word in prompt for prompt in concept.retain)
        assert not any(shows(parse_caption(prompt), concept.factors) for prompt in concept.retain)
        assert any(shows(parse_caption(prompt), concept.factors) for prompt in concept.prompts[1:])


def test_there_are_shipped_concepts() -> None:
    assert {file.stem for file in CONCEPTS} >= {"umbrella", "striped"}
