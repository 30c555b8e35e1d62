"""Settings as plain values: as JSON gives them back, as a hash, and what differs between two of them."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from lit_memories.storage.hub import redact


def plain(value: Any) -> Any:
    """A value as JSON gives it back, without the secrets that addresses in it may hold.

    Example:
        >>> plain({"sizes": (1, 2)})
        {'sizes': [1, 2]}
    """
    return json.loads(redact(json.dumps(value)))


MOST = 1_000_000
"""Whole number that an option of this package may be: beyond it are typing errors, which would take all memory."""
FREE = ("seed", "limit", "where")
"""Ends of the names of options that cost nothing, however large they are."""


def check_numbers(value: Any, name: str = "") -> None:
    """Refuse numbers that neither JSON nor a tensor has, wherever they stand in settings that somebody gave.

    Args:
        value: settings, and whatever is in them.
        name: of the value, by which errors call it; names within follow after dots.

    Raises:
        ValueError: naming the first one.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must have 64 bits at most, got {str(value)[:40]}")
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_numbers(part, _within(name, key))
    elif isinstance(value, list | tuple):
        for part in value:
            check_numbers(part, name)


def check_sizes(value: Any, name: str = "") -> None:
    """Refuse whole numbers for which there is neither memory nor time, and limits that leave nothing.

    Args:
        value: settings, and whatever is in them; those of others' classes are theirs to check.
        name: of the value, by which errors call it; names within follow after dots.

    Raises:
        ValueError: naming the first one.
    """
    if name.endswith("limit") and isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}: leave it out to have all")
    if name.endswith(FREE):
        return
    if isinstance(value, int) and value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}: choose a smaller one")
    if isinstance(value, Mapping) and str(value.get("class_path", __name__)).startswith("lit_memories."):
        for key, part in value.items():
            check_sizes(part, _within(name, key))
    elif isinstance(value, list | tuple):
        for part in value:
            check_sizes(part, name)


def _within(name: str, key: Any) -> str:
    """The name of a setting within another, as users write it."""
    return f"{name}.{key}".removeprefix(".").replace(".init_args.", ".")


def short_hash(text: str) -> str:
    """By which settings and samples are told apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, one line ``name: this | that`` a value."""
    lines = []
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {left!r} | {right!r}")
    return lines
