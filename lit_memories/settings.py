"""Settings as plain values: as JSON gives them back, as a hash, and what differs between two of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON gives it back.

    Example:
        >>> plain({"sizes": (1, 2)})
        {'sizes': [1, 2]}
    """
    return json.loads(json.dumps(value))


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
