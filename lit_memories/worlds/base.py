"""What a world is: pictures whose facts are known by name, and captions that say them."""

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import datasets

Factors = Mapping[str, Sequence[str]]
"""What pictures differ in, and the values that each of these can take, in class-label order."""
SPLITS = ("train", "validation", "test")
"""Parts of a world that share no picture: to train on, to watch a training by, and those that no model saw."""


@dataclass(frozen=True)
class Grammar:
    """How captions say what pictures show: texts with factors in braces.

    Args:
        factors: what pictures differ in, each with its values.
        caption: the whole caption, which has every factor in it, ``a photo of a {kind}``.
        shorter: captions that leave something open, ``{kind}``.

    Raises:
        ValueError: if a text has other things in braces, the caption lacks a factor, or a factor has no two values.
    """

    factors: Factors
    caption: str
    shorter: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (self.caption, *self.shorter):
            if strange := sorted(set(_holes(text)) - set(self.factors)):
                raise ValueError(
                    f"{text!r} has {{{strange[0]}}}, which is no factor: there are {', '.join(self.factors)}"
                )
        if missing := [name for name in self.factors if name not in _holes(self.caption)]:
            raise ValueError(f"the caption {self.caption!r} does not say {missing[0]!r}: put {{{missing[0]}}} into it")
        for name, values in self.factors.items():
            if len(values) < 2:
                raise ValueError(f"{name} has one value, {', '.join(values)!r}: there is nothing to tell apart")

    def say(self, labels: Mapping[str, str]) -> str:
        """The caption of a picture.

        Example:
            >>> Grammar({"kind": ["bag", "boot"]}, "a photo of a {kind}").say({"kind": "bag"})
            'a photo of a bag'
        """
        return self.caption.format(**labels)

    def say_less(self, labels: Mapping[str, str]) -> list[str]:
        """Captions of a picture that leave something open, on which models are trained too: a name is a prompt."""
        return [text.format(**labels) for text in self.shorter]

    def parse(self, caption: str) -> dict[str, str]:
        """The factor values that a caption says.

        Raises:
            ValueError: if the caption does not follow the grammar.
        """
        found = self._pattern.fullmatch(caption)
        if found is None:
            example = self.say({name: values[0] for name, values in self.factors.items()})
            raise ValueError(f"not a caption of this world: {caption!r} (expected e.g. {example!r})")
        return {name: found.group(f"factor{number}") for number, name in enumerate(self.factors)}

    @cached_property
    def words(self) -> list[str]:
        """Every word and sign that captions are made of, each once."""
        texts = [text for one in (self.caption, *self.shorter) for text, *_ in string.Formatter().parse(one)]
        values = [value for values in self.factors.values() for value in values]
        return list(dict.fromkeys(re.findall(r"\w+|[^\w\s]", " ".join([*texts, *values]))))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        numbers, pattern, seen = {name: number for number, name in enumerate(self.factors)}, "", set[str]()
        for text, name, *_ in string.Formatter().parse(self.caption):
            pattern += re.escape(text)
            if name in seen:
                pattern += f"(?P=factor{numbers[name]})"
            elif name is not None:
                seen.add(name)
                pattern += f"(?P<factor{numbers[name]}>{'|'.join(map(re.escape, self.factors[name]))})"
        return re.compile(pattern)


class World(ABC):
    """Pictures with known factors, in splits that share none.

    A world is what models are pretrained on, judged by and audited with; whichever it is, the rest is the same.
    """

    name: str
    """One word."""
    image_size: int
    """Of a side of its pictures, in pixels; a multiple of 16."""

    @property
    @abstractmethod
    def grammar(self) -> Grammar:
        """What its pictures differ in, and how captions say it."""

    @abstractmethod
    def rows(self, split: str, size: int | None = None) -> datasets.Dataset:
        """The first rows of a split.

        Args:
            split: one of `SPLITS`, or another that the world has.
            size: how many; None for all that there are.

        Returns:
            Columns ``image``, square RGB pictures of `image_size`; ``caption``; and every factor as class labels.

        Raises:
            ValueError: if there are not so many.
        """

    def chosen(
        self,
        split: str,
        size: int | None = None,
        keep: Mapping[str, str] | None = None,
        withhold: Sequence[Mapping[str, str]] = (),
        limit: int | None = None,
    ) -> datasets.Dataset:
        """The first rows of a split that show one thing and none of others.

        Args:
            split: which.
            size: rows before the filters; None for all.
            keep: keep only pictures with these factor values.
            withhold: leave out pictures that show any of these.
            limit: keep only the first rows; None for all.

        Raises:
            ValueError: if a factor or value is none of the world.
        """
        for concept in (keep or {}, *withhold):
            self.check(concept)
        rows = self.rows(split, size)
        labels = enumerate(labels_of(rows, self.grammar.factors))
        return rows.select([number for number, shown in labels if passes(shown, keep or {}, withhold)][:limit])

    def asked(self, split: str, count: int, concept: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """Factor values to ask a model for: of the first rows of a split, round and round if these are not enough.

        Args:
            split: which; one that no model was trained on.
            count: how many.
            concept: only of rows that show it.

        Raises:
            ValueError: if no row shows it.
        """
        found = [labels for labels in labels_of(self.rows(split), self.grammar.factors) if shows(labels, concept or {})]
        if not found:
            raise ValueError(f"no picture of the split {split!r} of {self.name} shows {concept}")
        return list(islice(cycle(found), count))

    def check(self, concept: Mapping[str, str]) -> None:
        """Refuse a concept that names no factor of this world, or no value of one.

        Raises:
            ValueError: naming the ones that there are.
        """
        check_factors(concept, self.grammar.factors, f"no such thing in {self.name}")


def check_factors(concept: Mapping[str, str], factors: Factors, start: str) -> None:
    """Refuse what names no factor, or no value of one.

    Args:
        concept: a value a factor.
        factors: those that there are, with their values.
        start: of the message.

    Raises:
        ValueError: naming the ones that there are.
    """
    for factor, value in concept.items():
        if factor not in factors:
            raise ValueError(f"{start}: no factor {factor!r} in factors: choose of {', '.join(factors)}")
        if value not in factors[factor]:
            raise ValueError(f"{start}: no {factor} {value!r} in factors: choose one of {', '.join(factors[factor])}")


def labels_of(rows: datasets.Dataset, factors: Factors) -> list[dict[str, str]]:
    """Factor values of rows, by name."""
    columns = [[values[label] for label in rows[name]] for name, values in factors.items()]
    return [dict(zip(factors, values, strict=True)) for values in zip(*columns, strict=True)]


def shows(labels: Mapping[str, str], concept: Mapping[str, str]) -> bool:
    """Whether a picture has every factor value of a concept, e.g. ``{"object": "umbrella"}``."""
    return all(labels[factor] == value for factor, value in concept.items())


def passes(labels: Mapping[str, str], keep: Mapping[str, str], withhold: Sequence[Mapping[str, str]]) -> bool:
    """Whether a picture shows one thing and none of others."""
    return shows(labels, keep) and not any(shows(labels, concept) for concept in withhold)


def features(factors: Factors) -> dict[str, Any]:
    """Columns of a world's rows, as `datasets` has them."""
    named = {factor: datasets.ClassLabel(names=list(values)) for factor, values in factors.items()}
    return {"image": datasets.Image(), "caption": datasets.Value("string"), **named}


def _holes(text: str) -> list[str]:
    try:
        return [name for _, name, *_ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is no text with factors in braces: {error}") from None
