"""Configurations of models, as strangers may have written them: small files that could ask for any memory."""

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from diffusers import ConfigMixin

from lit_memories.storage.files import check_regular
from lit_memories.storage.plain import parse_json

JSON_LIMIT = 20 << 20
"""Bytes of a configuration, vocabulary or index that are read; CLIP's tokenizer takes less than four million."""
NUMBER_LIMIT = 1 << 20
"""No whole number of a pipeline's configuration is larger: neither words, nor channels, nor layers."""
RANGES: dict[str, tuple[float, float]] = {
    "sample_size": (1, 2048),
    "num_train_timesteps": (1, 100_000),
    "scaling_factor": (1e-6, 1e6),
    "block_out_channels": (1, NUMBER_LIMIT),
}
"""Entries that take memory which no weight accounts for, or that results are divided by."""
UNBOUNDED = ("rope_theta",)
"""Entries that take no memory however large they are."""
ALIKE = ("block_out_channels", "down_block_types", "up_block_types")
"""Lists with an entry for each level of a network."""


def check_size(file: Path) -> None:
    """Refuse a file that is too long to be a configuration, vocabulary or index, before it is read.

    Raises:
        ValueError: if it is longer than `JSON_LIMIT`, or a pipe or a device.
    """
    check_regular(file)
    if (size := file.stat().st_size) > JSON_LIMIT:
        raise ValueError(
            f"{file} has {size} bytes, and of such files at most {JSON_LIMIT} are read: it belongs to no model that is "
            "supported, or is damaged"
        )


def read_config(file: Path) -> dict[str, Any]:
    """A JSON object of bounded size and depth, without NaN and infinity.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming it, if it is none.
    """
    check_size(file)
    text = ""
    try:
        text = file.read_text(encoding="utf-8")
        config = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: it holds no configuration ({_entry(text)}{error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: it holds no configuration")
    return config


def check_config(config: Mapping[str, Any], file: Path, kind: type) -> None:
    """Refuse entries of another type than a class's constructor takes, and numbers out of range.

    Args:
        config: as `read_config` gives it.
        file: where it is, for messages.
        kind: the part's class; types are compared where it is one of diffusers', which compares none itself.

    Raises:
        ValueError: naming file and entry.
    """
    hints = get_type_hints(inspect.unwrap(kind.__init__)) if issubclass(kind, ConfigMixin) else {}  # type: ignore[misc]
    open_ones = {name for name, entry in inspect.signature(kind.__init__).parameters.items() if entry.default is None}  # type: ignore[misc]
    for name, value in config.items():
        numbers = [] if name in UNBOUNDED else list(numbers_of(value))
        fits = _fits(value, hints.get(name, Any)) or (value is None and name in open_ones)
        if not fits or (name in RANGES and not numbers):
            raise ValueError(f"{name} in {file} cannot be {_short(value)}: copy it from the model it was made of")
        low, high = RANGES.get(name, (-NUMBER_LIMIT, NUMBER_LIMIT))
        for number in numbers:
            if not low <= number <= high and (name in RANGES or isinstance(number, int)):
                raise ValueError(f"{name} in {file} must lie between {low:g} and {high:g}, got {_short(number)}")
    lengths = {name: len(config[name]) for name in ALIKE if isinstance(config.get(name), list)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{file} has lists of different length: {lengths}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type, as loosely as the libraries' own files need it."""
    parts = get_args(hint)
    if (hint is bool and value is None) or (value is False and NoneType in parts):
        return True  # old releases write one for the other
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(hint) is Literal:
        return any(type(value) is type(part) for part in parts)
    if get_origin(hint) in (tuple, list):
        entries = [part for part in parts if part is not Ellipsis]
        if not isinstance(value, list) or (len(entries) > 1 and len(value) != len(entries)):
            return False
        return all(any(_fits(part, entry) for entry in entries) for part in value)
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str, NoneType):
        return type(value) is hint
    return hint is Any or isinstance(value, list)  # an array


def numbers_of(value: Any) -> Iterator[int | float]:
    """All numbers in a value of JSON, in no particular depth, but for those of `UNBOUNDED` entries in it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | dict):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in entries:
            if name not in UNBOUNDED:
                yield from numbers_of(part)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _entry(text: str) -> str:
    """Which entry of a JSON object holds a number that is not finite, for a message."""
    try:
        values = json.loads(text)
        return next((f"{name}: " for name, value in values.items() if not _finite(value)), "")
    except (ValueError, AttributeError, RecursionError):  # it is no object, and something else is wrong
        return ""


def _finite(value: Any) -> bool:
    return all(isinstance(number, int) or math.isfinite(number) for number in numbers_of(value))
