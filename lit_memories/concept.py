"""What to forget."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from itertools import permutations, zip_longest
from typing import Any, Literal, get_args

Kind = Literal["object", "style", "color", "nudity", "image"]


@dataclass(frozen=True)
class Concept:
    """A concept to erase, and to audit for; loaded from ``recipes/*/concepts/*.yaml``.

    Args:
        name: short name, used in file names and tables.
        kind: what sort of concept it is; decides nothing here, but recipes and readers ask for it.
        prompts: prompts that name the concept. Erasers draw from them.
        retain: prompts that do not; erasers that keep other things keep these, and probes measure the drift on them.
        phrase: the words that name the concept and nothing else; the first of `prompts` if empty.
        anchor: the words that erasers put in the phrase's place; empty for nothing.
        pairs: prompts that name the concept in other words than the phrase, and for each the prompt that erasers put in
            its place; a prompt with neither phrase nor pair becomes the anchor alone.
        anchor_prompts: prompts that name the anchor; if empty, `prompts` with the anchor in the phrase's place.
        templates: how the phrase gets into an anchor prompt, with ``{prompt}`` and ``{phrase}``; if empty, it takes the
            anchor's place there.
        paraphrases: other words for the phrase; no eraser is told of them, audits may ask under them.
        factors: how the pictogram classifier tells the concept, e.g. ``{object: umbrella}``; empty elsewhere.
        parts: concepts that are forgotten together, each by its file. Prompts are theirs in turn, and what is retained
            is what each retains and none names; all else stands in their files.

    Raises:
        ValueError: if the name cannot be a file's, there is no prompt, the anchor is the concept, a retain prompt is
            one of the concept's, or a pair's second prompt names it; or of parts, if there is one alone, two of a name,
            one has parts itself, or what one puts in its place names another.
    """

    name: str
    kind: Kind
    prompts: list[str] = field(default_factory=list)
    retain: list[str] = field(default_factory=list)
    phrase: str = ""
    anchor: str = ""
    anchor_prompts: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    paraphrases: list[str] = field(default_factory=list)
    factors: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, str] = field(default_factory=dict)
    parts: list["Part"] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_name(self.name)
        self._join()
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError(f"concept {self.name!r} needs at least one prompt, none of them blank")
        if not self.phrase:
            object.__setattr__(self, "phrase", self.prompts[0])
        if shared := sorted({*self.prompts, *self.pairs} & set(self.retain)):
            raise ValueError(f"concept {self.name!r}: {shared[0]!r} is both a prompt to forget and one to retain")
        if self.anchor in self.prompts:
            raise ValueError(f"concept {self.name!r}: the anchor {self.anchor!r} is one of its own prompts")
        if self.anchor.strip().lower() == self.phrase.strip().lower():
            raise ValueError(f"concept {self.name!r}: the anchor {self.anchor!r} is the concept itself")
        for prompt, other in self.pairs.items():
            if self.named_in(other):
                raise ValueError(f"concept {self.name!r}: {other!r}, the pair of {prompt!r}, names the concept too")
        for template in self.templates:
            if not _has_both(template):
                raise ValueError(f"concept {self.name!r}: template {template!r} needs {{prompt}} and {{phrase}}")

    def _join(self) -> None:
        """Take from the parts, if there are any, what is theirs, if they can be forgotten together."""
        if not self.parts:
            return
        if strange := [part for part in self.parts if not isinstance(part, Concept | Mapping)]:
            raise ValueError(f"concept {self.name!r}: its parts must be concepts, got {strange[0]!r}")
        parts = [Part(**(part.to_dict() if isinstance(part, Concept) else part)) for part in self.parts]
        names = [part.name for part in parts]
        if len(set(names)) < max(2, len(names)) or any(part.parts for part in parts):
            raise ValueError(
                f"concept {self.name!r}: its parts must be two or more, each with a name of its own and without parts, "
                f"got {', '.join(names)}"
            )
        phrase = ", ".join(part.phrase for part in parts)
        for name in ("phrase", "anchor", "anchor_prompts", "templates", "paraphrases", "factors", "pairs"):
            if getattr(self, name) and getattr(self, name) != phrase:
                raise ValueError(f"concept {self.name!r} has parts: {name} stands in the files of these")
        for one, other in permutations(parts, 2):
            for text in one.anchors:
                if other.named_in(text):
                    raise ValueError(
                        f"concept {self.name!r}: {one.name} is to become {text!r}, which names {other.name}, to be "
                        "forgotten as well: give it another anchor"
                    )
        turns = [p for turn in zip_longest(*(part.prompts for part in parts)) for p in turn if p is not None]
        kept = dict.fromkeys(p for part in parts for p in part.retain if not any(one.named_in(p) for one in parts))
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "prompts", self.prompts or list(dict.fromkeys(turns)))
        object.__setattr__(self, "retain", self.retain or list(kept))
        object.__setattr__(self, "phrase", phrase)
        if stray := [prompt for prompt in self.prompts if not self.named_in(prompt)]:
            raise ValueError(f"concept {self.name!r}: the prompt {stray[0]!r} names none of its parts")

    def of(self, prompt: str) -> "Concept":
        """The concept that a prompt names: of several, the first part that it names.

        Raises:
            ValueError: if it names none of several.
        """
        if not self.parts:
            return self
        for part in self.parts:
            if part.named_in(prompt):
                return part
        raise ValueError(f"{prompt!r} names none of {self.phrase}: of several concepts each is told by its words")

    def check_single(self, who: str, remedy: str) -> None:
        """Refuse several concepts where one is meant.

        Args:
            who: takes one alone.
            remedy: what to do with several.

        Raises:
            ValueError: if this is several.
        """
        if self.parts:
            raise ValueError(f"{who} takes one concept, and {self.name!r} is {len(self.parts)}: {remedy}")

    def __repr__(self) -> str:
        """One line, without the prompts."""
        return f"Concept({self.name!r}, {self.kind}, {len(self.prompts)} prompts, {len(self.retain)} to retain)"

    def named_in(self, prompt: str) -> bool:
        """Whether a prompt names the concept: it holds the phrase, or is one of `prompts` or `pairs`; of parts, any."""
        if self.parts:
            return any(part.named_in(prompt) for part in self.parts)
        return self._holds_phrase(prompt) or prompt in self.prompts or prompt in self.pairs

    def _holds_phrase(self, prompt: str) -> bool:
        """Whether the phrase is in a prompt, as words of its own."""
        return _words(self.phrase).search(prompt) is not None

    def around(self, prompt: str) -> list[str]:
        """What stands before, between and behind the phrase in a prompt; the prompt alone if it does not hold it."""
        return _words(self.phrase).split(prompt)

    def anchored(self, prompt: str) -> str:
        """What takes a prompt's place: its pair, or itself with the anchor for the phrase, or the anchor alone.

        Of several concepts, all that it names go.
        """
        if self.parts:
            for part in self.parts:
                prompt = part.anchored(prompt) if part.named_in(prompt) else prompt
            return prompt
        if prompt in self.pairs:
            return self.pairs[prompt]
        if not self._holds_phrase(prompt):
            return self.anchor
        return " ".join(_words(self.phrase).sub(lambda _: self.anchor, prompt).split())

    def paraphrased(self, prompt: str, number: int = 0) -> str:
        """A prompt with other words for the concept; these alone if it does not hold the phrase.

        Args:
            prompt: a prompt for the concept.
            number: which paraphrase, modulo their count.

        Raises:
            ValueError: if there are no paraphrases.
        """
        if not self.paraphrases:
            raise ValueError(f"concept {self.name!r} has no paraphrases: add some to its file")
        words = self.paraphrases[number % len(self.paraphrases)]
        return _words(self.phrase).sub(lambda _: words, prompt) if self._holds_phrase(prompt) else words

    @property
    def anchors(self) -> list[str]:
        """Prompts that name the anchor."""
        return self.anchor_prompts or list(dict.fromkeys(self.anchored(prompt) for prompt in self.prompts))

    def put_into(self, prompt: str, number: int = 0) -> str:
        """An anchor prompt with the concept put in: by a template, by its pair, or in the anchor's place.

        Args:
            prompt: one of `anchors`.
            number: which template, modulo their count.

        Raises:
            ValueError: if there are no templates, it is in no pair, and holds no anchor to replace.
        """
        if self.templates:
            return self.templates[number % len(self.templates)].format(prompt=prompt, phrase=self.phrase)
        for named, other in self.pairs.items():
            if other == prompt:
                return named
        if not self.anchor or not _words(self.anchor).search(prompt):
            raise ValueError(
                f"concept {self.name!r}: no way to put {self.phrase!r} into {prompt!r}: it does not hold the anchor "
                f"{self.anchor!r}, and the concept has no templates"
            )
        return _words(self.anchor).sub(lambda _: self.phrase, prompt)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for provenance and checkpoints; of one concept without the parts that it has not."""
        values = asdict(self)
        return values if self.parts else {name: value for name, value in values.items() if name != "parts"}


class Part(Concept):
    """One of several concepts that are forgotten together; in a concept's file it is named by its own."""


def check_described(values: Mapping[str, Any], where: str) -> None:
    """Refuse what a file says of a concept if a field is missing, unknown or of another type.

    Args:
        values: of the fields, as read.
        where: the file, for the error.

    Raises:
        ValueError: naming the first such field.
    """
    known = {one.name: one for one in fields(Concept)}
    if not {"prompts", "parts"} & set(values):
        raise ValueError(f"{where}: the concept has no prompts: its file must have name, kind and prompts, or parts")
    for name in values:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            meant = f", did you mean {near[0]}?" if near else f": it may have {', '.join(known)}"
            raise ValueError(f"{where}: a concept has no field {name!r}{meant}")
    for name, one in known.items():
        needed = one.default is MISSING and one.default_factory is MISSING
        if name not in values and needed:
            raise ValueError(f"{where}: the concept has no {name}: its file must have name, kind and prompts")
        if name == "parts" and name in values:
            _check_parts(values[name], f"{where}: parts")
        elif name in values:
            _check_type(f"{where}: {name}", values[name], one.type)


def _check_parts(parts: Any, where: str) -> None:
    """Parts are a list of files, or of what these say."""
    if not isinstance(parts, list):
        raise ValueError(f"{where} must be a list of concepts' files, one a line after a dash, got {str(parts)[:60]!r}")
    for part in parts:
        if not isinstance(part, Mapping):
            raise ValueError(f"{where}: {str(part)[:200]!r} is no file of a concept, named from where this one lies")
        check_described(part, f"{where}: {part.get('name')}")


def _check_type(where: str, value: Any, kind: Any) -> None:
    """A field is a text, a list of texts, or names each with a text."""
    texts = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, Mapping) else [value]
    what, wanted = "a text", isinstance(value, str)
    if kind == list[str]:
        what, wanted = "a list of texts, one a line after a dash", isinstance(value, list)
    elif kind == dict[str, str]:
        what, wanted = "names, each with a text, such as {object: umbrella}", isinstance(value, Mapping)
    if not wanted or not all(isinstance(text, str) for text in texts):
        quotes = "; numbers need quotes" if wanted else ""
        raise ValueError(f"{where} must be {what}, got {str(value)[:60]!r}{quotes}")
    if kind is Kind and value not in get_args(Kind):
        raise ValueError(f"{where} must be one of {', '.join(get_args(Kind))}, got {value!r}")


def _check_name(name: str) -> None:
    """Refuse a name that no file can have."""
    if not re.fullmatch(r"(?=.*[^. ])[^/\\]{1,100}", name) or not name.isprintable():
        raise ValueError(
            "concept.name must be one line of 1 to 100 letters without slashes, as files are called by it, got "
            f"{name[:100]!r}"
        )


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)


def _has_both(template: str) -> bool:
    """Whether a template takes a prompt and a phrase, and nothing else."""
    try:
        filled = template.format(prompt="<p>", phrase="<c>")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        return False
    return "<p>" in filled and "<c>" in filled
