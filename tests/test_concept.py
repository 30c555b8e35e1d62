"""What to forget, and the recipes that say it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_memories.concept import Concept, Part, check_described
from lit_memories.recipe_files import read_recipe
from lit_memories.worlds.base import shows
from lit_memories.worlds.labelled import LabelledImages
from lit_memories.worlds.pictograms import GRAMMAR

CONCEPTS = sorted((Path(__file__).parent.parent / "recipes").glob("*/concepts/*.yaml"))
FASHION = read_recipe(Path(__file__).parent.parent / "recipes/fashion/world.yaml")["init_args"]
GRAMMARS = {"pictograms": GRAMMAR, "fashion": LabelledImages(**FASHION).grammar}
PRESETS = [file for file in CONCEPTS if file.parts[-3] == "sd14"]


def test_values_are_kept() -> None:
    concept = Concept("umbrella", "object", ["umbrella"], ["star"], factors={"object": "umbrella"})
    assert Concept(**concept.to_dict()) == concept


def test_it_is_shown_in_a_line() -> None:
    shown = repr(Concept("umbrella", "object", ["umbrella"] * 40, ["star"]))
    assert shown == "Concept('umbrella', object, 40 prompts, 1 to retain)"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompts": []}, "needs at least one prompt"),
        ({"prompts": ["a", " "]}, "none of them blank"),
        ({"prompts": ["a", "b"], "retain": ["b"]}, "'b' is both"),
        ({"prompts": ["a"], "anchor": "a"}, "anchor 'a'"),
        ({"prompts": ["a b"], "phrase": "b", "anchor": " B "}, "anchor ' B ' is the concept itself"),
        ({"prompts": ["a"], "retain": ["b"], "pairs": {"b": "c"}}, "'b' is both"),
        ({"prompts": ["a"], "pairs": {"b": "an A"}}, "'an A', the pair of 'b', names the concept too"),
        ({"prompts": ["a"], "pairs": {"b": "c", "c": "d"}}, "'c', the pair of 'b', names the concept too"),
        (
            {"prompts": ["a"], "templates": ["{prompt} and"]},
            r"template '\{prompt\} and' needs \{prompt\} and \{phrase\}",
        ),
        ({"prompts": ["a"], "templates": ["in {phrase} style"]}, "needs {prompt} and {phrase}"),
        ({"prompts": ["a"], "templates": ["{prompt} {phrase}", "{prompt} {concept}"]}, "template '{prompt} {concept}'"),
        ({"prompts": ["a"], "templates": ["{} {}"]}, "template '{} {}'"),
        ({"prompts": ["a"], "templates": ["{prompt {phrase}"]}, "template '{prompt {phrase}'"),
        ({"prompts": ["a"], "templates": ["{prompt.text} {phrase}"]}, "template '{prompt.text} {phrase}'"),
        ({"prompts": ["a"], "templates": ["{prompt[x]} {phrase}"]}, r"template '\{prompt\[x\]\} \{phrase\}'"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named) as error:
        Concept(name="thing", kind="object", **options)
    assert "'thing'" in str(error.value)


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "a\\b", "a\nb", "a\n", "\x1b[31m", "a" * 101])
def test_a_name_that_files_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^concept\.name must be one line of 1 to 100 letters without slashes"
    ) as error:
        Concept(name, "object", ["a"])
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["van-gogh", "Van Gogh", "4.0", "梵高"])
def test_other_names_are_taken(name: str) -> None:
    assert Concept(name, "object", ["a"]).name == name


PLAIN = Concept(
    "umbrella", "object", ["umbrella", "a red umbrella on a blue background", "rain"], anchor="star", phrase="umbrella"
)
STYLE = Concept(
    "van-gogh",
    "style",
    ["Van Gogh", "a house in the style of Van Gogh"],
    anchor_prompts=["a house", "a river at night"],
    templates=["{prompt}, in the style of {phrase}", "in {phrase}'s style, {prompt}"],
)


def test_the_phrase_is_the_first_prompt_if_none_is_given() -> None:
    assert Concept("x", "object", ["umbrella", "a red umbrella"]).phrase == "umbrella"
    assert Concept("x", "object", ["a red umbrella"], phrase="umbrella").phrase == "umbrella"


def test_what_the_concept_lists_names_it_whatever_words_it_has() -> None:
    """By a pair the prompt becomes another as a whole; without one, the anchor alone."""
    concept = replace(PLAIN, pairs={"a wet parasol": "a wet moon"})
    assert concept.named_in("rain")
    assert concept.named_in("a wet parasol")
    assert not concept.named_in("a dry parasol")
    assert concept.anchored("a wet parasol") == "a wet moon"
    assert concept.anchored("rain") == "star"
    assert concept.put_into("a wet moon") == "a wet parasol"
    assert replace(concept, paraphrases=["shade"]).paraphrased("a wet parasol") == "shade"


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("umbrella", True),
        ("a red Umbrella, solid", True),
        ("(umbrella)", True),
        ("an umbrella's shade", True),
        ("umbrella-shaped", True),
        ("umbrellas", False),
        ("sunumbrella", False),
        ("umbrella_2", False),
        ("umbrella2", False),
        ("a star", False),
        ("", False),
    ],
)
def test_a_prompt_names_the_concept_by_words_of_their_own(prompt: str, named: bool) -> None:
    assert PLAIN.named_in(prompt) == named


def test_a_phrase_is_taken_literally() -> None:
    """Also where it begins or ends with what is no letter, or reads like a pattern."""
    concept = replace(PLAIN, phrase="c++ (old)", prompts=["c++ (old)"])
    assert concept.named_in("a book on c++ (old), worn")
    assert not concept.named_in("a book on ccc old")
    assert concept.anchored("a book on c++ (old)") == "a book on star"


@pytest.mark.parametrize(
    ("prompt", "anchored"),
    [
        ("umbrella", "star"),
        ("a red umbrella on a blue background", "a red star on a blue background"),
        ("Umbrella and umbrella", "star and star"),
        ("an umbrella among umbrellas", "an star among umbrellas"),
        ("rain", "star"),
    ],
)
def test_the_anchor_takes_the_phrases_place(prompt: str, anchored: str) -> None:
    assert PLAIN.anchored(prompt) == anchored


def test_an_empty_anchor_takes_the_phrase_away() -> None:
    concept = replace(PLAIN, anchor="")
    assert concept.anchored("a red umbrella on a blue background") == "a red on a blue background"
    assert concept.anchored("umbrella") == concept.anchored("rain") == ""


def test_an_anchor_is_taken_literally() -> None:
    assert replace(PLAIN, anchor=r"\1 {x}").anchored("a red umbrella") == r"a red \1 {x}"


def test_anchor_prompts_are_those_given_or_the_concepts_own_with_the_anchor() -> None:
    assert PLAIN.anchors == ["star", "a red star on a blue background"], "each once"
    assert STYLE.anchors == ["a house", "a river at night"]


def test_the_concept_is_put_back_in_the_anchors_place() -> None:
    assert PLAIN.put_into("a red Star on a blue background") == "a red umbrella on a blue background"
    assert PLAIN.put_into("star, star") == "umbrella, umbrella"
    for prompt in PLAIN.prompts[:2]:
        assert PLAIN.put_into(PLAIN.anchored(prompt)) == prompt


def test_templates_take_turns() -> None:
    assert [STYLE.put_into("a house", number) for number in range(3)] == [
        "a house, in the style of Van Gogh",
        "in Van Gogh's style, a house",
        "a house, in the style of Van Gogh",
    ]
    assert all(STYLE.named_in(STYLE.put_into(prompt, number)) for prompt in STYLE.anchors for number in range(2))
    assert STYLE.put_into("{braces}") == "{braces}, in the style of Van Gogh"


@pytest.mark.parametrize(
    ("concept", "prompt"), [(PLAIN, "a house"), (PLAIN, "stars"), (PLAIN, ""), (replace(PLAIN, anchor=""), "a house")]
)
def test_a_prompt_with_no_place_for_the_concept_is_named(concept: Concept, prompt: str) -> None:
    with pytest.raises(ValueError, match=f"no way to put 'umbrella' into '{prompt}'.*no templates") as error:
        concept.put_into(prompt)
    assert "'umbrella'" in str(error.value)


def test_paraphrases_take_turns_and_the_phrases_place() -> None:
    concept = replace(PLAIN, paraphrases=["parasol", "rain shade"])
    assert concept.paraphrased("a red umbrella") == "a red parasol"
    assert concept.paraphrased("a red umbrella", 3) == "a red rain shade"
    assert concept.paraphrased("rain", 1) == "rain shade"
    with pytest.raises(ValueError, match="concept 'umbrella' has no paraphrases"):
        PLAIN.paraphrased("umbrella")


@pytest.mark.parametrize("file", CONCEPTS, ids=lambda file: file.stem)
def test_shipped_concepts_say_what_they_mean(file: Path) -> None:
    """Prompts name the concept, retained ones do not."""
    concept = Concept(**read_recipe(file))
    assert concept.name == file.stem
    assert len(set(concept.prompts)) == len(concept.prompts)
    assert concept.retain
    grammar = GRAMMARS.get(file.parts[-3])
    assert (grammar is None) == (not concept.factors and not concept.parts)
    if grammar is not None and concept.factors:
        (word,) = concept.factors.values()
        assert all(word in prompt for prompt in concept.prompts)
        assert not any(word in prompt for prompt in concept.retain)
        said = [grammar.parse(prompt) for prompt in concept.retain if " " in prompt]
        assert said
        assert not any(shows(labels, concept.factors) for labels in said)
        assert any(shows(grammar.parse(prompt), concept.factors) for prompt in concept.prompts[1:])


def test_there_are_shipped_concepts() -> None:
    assert {file.stem for file in CONCEPTS} >= {"umbrella", "striped"}
    assert {file.stem for file in PRESETS} == {
        "nudity",
        "van_gogh",
        "church",
        "garbage_truck",
        "parachute",
        "tench",
        "made_up",
    }


def test_saluns_prompt_for_nudity_becomes_saluns_anchor() -> None:
    (file,) = (file for file in PRESETS if file.stem == "nudity")
    concept = Concept(**yaml.safe_load(file.read_text()))
    assert "a photo of a nude person" in concept.prompts
    assert concept.anchored("a photo of a nude person") == "a photo of a person wearing clothes"


WRONG_ARTICLES = re.compile(
    r"\ba [aeiou]|\ban [^aeiou]|\b(?:an?|the) (?:an?|the)\b|\b(?:an?|the|of|by)$", re.IGNORECASE
)


def test_wrong_articles_are_seen() -> None:
    wrong = ("a old church", "an church", "a photo of a an artist", "a photo of")
    assert all(WRONG_ARTICLES.search(text) for text in wrong)
    assert not WRONG_ARTICLES.search("a photo of an old church on a hill by the sea")


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_presets_serve_every_method(file: Path) -> None:
    """With the anchor put in, prompts are English and do not name the concept; put in again, it is named."""
    text = file.read_text()
    concept = Concept(**yaml.safe_load(text))
    assert text.isascii()
    assert text.startswith("# ")
    assert concept.named_in(concept.prompts[0])
    assert not concept.named_in(concept.anchor)
    anchored = [concept.anchored(prompt) for prompt in concept.prompts]
    named = [concept.put_into(prompt, number) for prompt in concept.anchors for number in range(4)]
    assert all(re.search(concept.phrase, prompt, re.I) or prompt in concept.pairs for prompt in concept.prompts)
    assert set(concept.pairs) <= set(concept.prompts)
    assert not any(before == after for before, after in zip(concept.prompts, anchored, strict=True))
    assert not any(concept.named_in(prompt) for prompt in [*anchored, *concept.anchors, *concept.retain])
    assert all(concept.named_in(prompt) for prompt in named)
    for prompts in (concept.prompts, concept.retain, concept.anchors):
        assert 20 <= len(prompts) <= 30
        assert len(set(prompts)) == len(prompts)
    for prompt in [*concept.prompts, *concept.retain, *anchored, *concept.anchors, *named]:
        assert prompt == " ".join(prompt.split()), prompt
        assert not WRONG_ARTICLES.search(prompt), prompt


STAR = Part("star", "object", ["star", "a red star"], ["a blue gear", "an umbrella", "a heart"], anchor="note")
UMBRELLA = Part("umbrella", "object", ["umbrella"], ["a star", "a blue gear"], anchor="note", pairs={"rain": "sun"})


def test_several_concepts_are_one() -> None:
    both = Concept("both", "object", parts=[STAR, UMBRELLA])
    assert both.prompts == ["star", "umbrella", "a red star"], "the parts in turn"
    assert both.retain == ["a blue gear", "a heart"], "what none of them names"
    assert both.phrase == "star, umbrella"
    assert both.of("a red star") == STAR
    assert both.of("rain") == UMBRELLA
    assert both.anchored("a star under an umbrella") == "a note under an note"
    assert both.anchored("rain") == "sun"
    assert both.anchored("a gear") == "a gear"
    assert both.named_in("an umbrella")
    assert not both.named_in("a gear")
    assert Concept(**json.loads(json.dumps(both.to_dict()))) == both
    assert STAR.of("a gear") is STAR, "one concept is all there is"
    assert "parts" not in STAR.to_dict()
    with pytest.raises(ValueError, match="'a gear' names none of star, umbrella: of several"):
        both.of("a gear")


def test_own_prompts_of_several_take_the_place_of_the_parts() -> None:
    both = Concept("both", "object", ["a star"], ["a gear"], parts=[STAR, UMBRELLA])
    assert (both.prompts, both.retain) == (["a star"], ["a gear"])
    with pytest.raises(ValueError, match="'both': the prompt 'a gear' names none of its parts"):
        Concept("both", "object", ["a gear"], parts=[STAR, UMBRELLA])


@pytest.mark.parametrize(
    ("parts", "options", "named"),
    [
        ([STAR], {}, "two or more, .*, got star"),
        ([STAR, STAR], {}, "a name of its own .*, got star, star"),
        ([STAR, Part("x", "object", parts=[STAR, UMBRELLA])], {}, "and without parts"),
        (["star.yaml", "umbrella.yaml"], {}, "'both': its parts must be concepts, got 'star.yaml'"),
        ([STAR, UMBRELLA], {"anchor": "gear"}, "'both' has parts: anchor stands in the files of these"),
        ([STAR, UMBRELLA], {"pairs": {"a": "b"}}, "pairs stands in"),
        ([STAR, replace(UMBRELLA, anchor="star")], {}, "umbrella is to become 'star', which names star, to be"),
        (
            [STAR, replace(UMBRELLA, pairs={"rain": "a star"}, prompts=["rain"])],
            {},
            "become 'a star', which names star",
        ),
    ],
)
def test_parts_that_cannot_be_forgotten_together_are_refused(
    parts: list[Part], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Concept("both", "object", parts=parts, **options)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "the concept has no prompts: its file must have name, kind and prompts, or parts"),
        ({"parts": "star.yaml"}, "parts must be a list of concepts' files, one a line after a dash, got 'star.yaml'"),
        ({"parts": ["nowhere.yaml"]}, "parts: 'nowhere.yaml' is no file of a concept, named from where this one lies"),
        ({"parts": [{"name": "star", "kind": "object", "prompt": []}]}, "x.yaml: parts: star: .*prompts"),
    ],
)
def test_files_of_several_concepts_are_checked(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_described({"name": "both", "kind": "object", **values}, "x.yaml")
