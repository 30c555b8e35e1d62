"""Whether a concept and the pictures of its audit belong together, by their captions, and whether they are enough."""

import re
import warnings
from collections.abc import Sequence

from lit_memories.concept import Concept
from lit_memories.records import TOO_FEW

MANY = 0.25
"""A larger share of reference captions that name the concept is no accident; colours are in backgrounds too."""
WORD = re.compile(r"[^\W\d_]{3,}")


def doubts(concept: Concept, captions: Sequence[str], others: Sequence[str]) -> list[str]:
    """What is to be said of an audit's pictures before it begins, a line each; nothing if all is well.

    Args:
        concept: that is audited.
        captions: of the concept set.
        others: of the reference set.

    Example:
        >>> doubts(Concept("cat", "object", ["a cat"]), ["a dog"] * 8, ["a house"] * 8)
        ["none of the 8 captions of the concept set has a word for 'cat', such as 'a dog': are concept and pictures of \
one kind?"]
    """
    lines = []
    own = _words_of(concept)
    if own and not any(own & _words(caption) for caption in captions):
        lines.append(
            f"none of the {len(captions)} captions of the concept set has a word for {concept.name!r}, such as "
            f"{max(captions, key=len)[:60]!r}: are concept and pictures of one kind?"
        )
    name = _words(concept.name)
    named = [text for text in others if concept.named_in(text) or (name and name <= _words(text))]
    if len(named) > MANY * len(others):
        lines.append(
            f"{len(named)} of {len(others)} captions of the reference set name {concept.name!r}, such as "
            f"{named[0][:60]!r}: reference pictures must be of other things"
        )
    for place, found in (("concept", captions), ("reference", others)):
        if len(found) < TOO_FEW:
            lines.append(
                f"the {place} set has {len(found)} pictures: with fewer than {TOO_FEW} a report concludes nothing, and "
                "its intervals hardly say anything"
            )
    return lines


def _words_of(concept: Concept) -> set[str]:
    """Words of a concept's name, phrase, paraphrases and prompts that do not stand in prompts for other things."""
    texts = (concept.name, concept.phrase, *concept.paraphrases, *concept.prompts, *concept.pairs)
    return set().union(*map(_words, texts)) - set().union(*map(_words, concept.retain))


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def warn_of_renamed(captions: Sequence[str], prompts: Sequence[str], remedy: str) -> None:
    """Say which captions of images to forget a method replaces by another prompt, so that none is lost unseen."""
    replaced = [(caption, prompt) for caption, prompt in zip(captions, prompts, strict=True) if caption != prompt]
    for caption, prompt in replaced[:1]:
        warnings.warn(
            f"{len(replaced)} of {len(captions)} captions of the forget set do not name the concept, and become "
            f"{prompt!r}: {caption!r}, for one; {remedy}",
            stacklevel=3,
        )
