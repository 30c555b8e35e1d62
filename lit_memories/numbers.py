"""What a probe says of the numbers it measures: plain data, so that statistics and pages need not know the probe."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, get_args

Comparison = Literal["forgetting", "paired", "mean", "rate", "test", "none"]
"""How a number is compared. ``forgetting``: less vanilla's on the same image, of E less of R, and over the control's.
``paired``: its mean, and that less vanilla's. ``mean``: its mean. ``rate``: the share of samples in which it exceeds
0.5, and that less vanilla's. ``test``: the share of samples whose p-value, the second of two numbers, is below 0.05.
``none``: it stands in the records and in no table."""
Direction = Literal["up", "down", "none"]
"""Where a number goes when a model forgets; ``none`` if forgetting does not move it one way."""
COUNTS = {"evaluations", "decoder_passes", "looks"}
"""Numbers that are whole and not negative in any probe."""
SHARES = {"shows_concept", "probability", "met", "success", "p_value"}
"""Numbers that lie between 0 and 1 in any probe."""
BOUNDED = COUNTS | SHARES | {"flag"}
"""Whose values are more than numbers, truths or labels."""
LARGEST = 1e39
"""No number is larger, which leaves those that float32 has: squares and sums of them stay finite."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""What a probe, a number and a file made for them may be called."""


@dataclass(frozen=True)
class Number:
    """One number that a probe measures of every sample it is asked about.

    Args:
        name: its name in records; with the probe's before it, as in ``seed.nll``, its path.
        title: what tables call it, without the unit.
        compare: how models are compared by it.
        unit: of the value; empty for pure numbers.
        direction: where it goes when a model forgets; ``none`` if that is not known, or it is no matter of forgetting.
        zero: what 0 means, where that is no matter of course; for ``forgetting`` 0 is vanilla.
        one: what 1 means; for ``forgetting``, whose fraction is in units of the control's, a model that never knew.
        digits: decimals that tables show.
        percent: whether tables show it in percent.

    Raises:
        ValueError: if the name is none.
    """

    name: str
    title: str
    compare: Comparison = "none"
    unit: str = ""
    direction: Direction = "up"
    zero: str = ""
    one: str = ""
    digits: int = 1
    percent: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        texts = (self.title, self.unit, self.zero, self.one)
        if not all(isinstance(text, str) and text.isprintable() and len(text) <= 200 for text in texts):
            raise ValueError(f"what is said of the number {self.name} is too long or holds control characters")
        if self.compare not in get_args(Comparison) or self.direction not in get_args(Direction):
            raise ValueError(f"the number {self.name} cannot be compared by {self.compare!r}, {self.direction!r}")
        if type(self.digits) is not int or not 0 <= self.digits <= 9:
            raise ValueError(f"digits of {self.name} must be between 0 and 9, got {self.digits!r}")

    @property
    def sign(self) -> int:
        """-1 if the number falls as a model forgets, else 1."""
        return -1 if self.direction == "down" else 1


@dataclass(frozen=True)
class Asked:
    """A probe as a run was asked it.

    Args:
        name: of the probe.
        question: that it asks, in one sentence.
        settings: that its numbers depend on, besides those that all probes share.
        numbers: that it measures.
        sets: of samples it is asked about.
        conditioned: whether it is asked of images under other prompts too.
        leaves_seeds: whether each of its answers comes with a seed that is kept.

    Raises:
        ValueError: if a name is none or stands there twice.
    """

    name: str
    question: str
    settings: Mapping[str, Any]
    numbers: tuple[Number, ...]
    sets: tuple[str, ...]
    conditioned: bool = False
    leaves_seeds: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if not (isinstance(self.question, str) and self.question.isprintable() and len(self.question) <= 300):
            raise ValueError(f"the question of {self.name} is too long or holds control characters")
        names = [number.name for number in self.numbers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the probe {self.name} measures {', '.join(sorted(twice))} twice")

    def path(self, number: Number) -> str:
        """How records and results call one of its numbers."""
        return f"{self.name}.{number.name}"

    def to_dict(self) -> dict[str, Any]:
        """For ``run.json``; the name is the key there."""
        plain: dict[str, Any] = {"question": self.question, "settings": dict(self.settings), "sets": list(self.sets)}
        plain |= {"conditioned": self.conditioned, "leaves_seeds": self.leaves_seeds}
        return plain | {"numbers": [asdict(number) for number in self.numbers]}

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> "Asked":
        """From ``run.json``, which anybody may have written.

        Raises:
            ValueError: if it is not of this form.
        """
        try:
            numbers = tuple(Number(**number) for number in values["numbers"])
            sets = tuple(values["sets"])
            if not all(isinstance(name, str) for name in sets) or not isinstance(values["settings"], Mapping):
                raise TypeError("sets are no names, or settings no mapping")
            does = values["conditioned"] is True, values.get("leaves_seeds") is True
            return cls(name, values["question"], values["settings"], numbers, sets, *does)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the probe {name!r} is not described as one: {error}") from None


def check_name(name: object) -> None:
    """Names become file names and columns.

    Raises:
        ValueError: if this is none.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a probe or number: small letters, digits and _, at most 40")


STRONGEST = 100
"""Guidance beyond which there is no picture: usual are 1 to 15."""


LEARNING = 1e-12, 1e3
"""Learning rates between which something can come of it."""


def check_range(name: str, values: float | Sequence[float], low: float, high: float) -> None:
    """Refuse an option that is absurd, NaN among them, before anything is computed with it.

    Args:
        name: of the option.
        values: its value, or one or more of them.
        low: the least that there is sense in.
        high: the most.

    Raises:
        ValueError: naming the range.
    """
    listed = values if isinstance(values, Sequence) else [values]
    if not listed or not all(low <= value <= high for value in listed):
        what = "lie between" if listed is not values else "be one number or more, each between"
        raise ValueError(f"{name} must {what} {low:g} and {high:g}, got {values}")


def check_falling(name: str, shares: Sequence[float]) -> None:
    """Refuse an option of shares of a whole that are none, or not in (0, 1], or do not fall.

    Args:
        name: of the option.
        shares: its value.

    Raises:
        ValueError: saying what they must be.
    """
    if not shares or not all(0 < x <= 1 for x in shares) or any(later >= first for first, later in pairwise(shares)):
        raise ValueError(f"{name} must be one or more, each above 0 and at most 1, and fall, got {list(shares)}")


def check_answer(probe: str, answer: Mapping[str, Any]) -> None:
    """What a probe found is numbers, truths, labels, and lists and mappings of them, whoever wrote it down.

    Raises:
        ValueError: if not.
    """
    _check_names(probe, *answer)
    for name, value in answer.items():
        if name in BOUNDED:
            _check_bounded(f"{probe}.{name}", name, value)
        kind = type(value)  # most are floats, or lists of them, and there are millions
        if not (_are_small(value) if kind is list else kind is float and -LARGEST <= value <= LARGEST):
            _check_value(probe, name, value)


@lru_cache
def _check_names(*names: str) -> None:
    """The same few names stand in every record."""
    for name in names:
        check_name(name)


def _are_small(values: list[Any]) -> bool:
    """Whether these are numbers, or truths, that need no second look."""
    try:
        return min(values) > -(2**63) and max(values) < 2**63
    except (TypeError, ValueError):  # there is something else among them, or nothing
        return False


def _check_bounded(path: str, name: str, value: Any) -> None:
    if name in COUNTS and (type(value) is not int or value < 0):
        raise ValueError(f"{path} is no count")
    if name in SHARES and not (isinstance(value, bool | int | float) and 0 <= value <= 1):
        raise ValueError(f"{path} does not lie between 0 and 1")
    if name == "flag" and not isinstance(value, str):
        raise ValueError(f"{path} is no text")


def _check_value(probe: str, name: str, value: Any, depth: int = 2) -> None:
    """A number, a truth, a label, or lists and mappings of them."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("a label holds control characters")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{probe}.{name} is too large")
    if isinstance(value, float) and abs(value) > LARGEST:
        raise ValueError(f"{probe}.{name} is too large")
    if not isinstance(value, dict | list) or not value:
        return
    if not depth:
        raise ValueError(f"{probe}.{name} nests too deep")
    if isinstance(value, dict) and not "".join(value).isprintable():
        raise ValueError("a label holds control characters")
    parts = [*value.values()] if isinstance(value, dict) else value
    if not _are_small(parts):
        for part in parts:
            _check_value(probe, name, part, depth - 1)


def paths(asked: Sequence[Asked]) -> dict[str, Number]:
    """Every number of some probes, by its path."""
    return {probe.path(number): number for probe in asked for number in probe.numbers}
