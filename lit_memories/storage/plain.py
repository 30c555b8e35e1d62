"""Plain values, read from JSON as if a stranger had written it: what they must be is checked, whatever they are."""

import math
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import orjson

DEPTH_LIMIT = 32
"""Lists and objects of JSON within each other."""
T = TypeVar("T")
Fit: TypeAlias = Callable[[Any], Any]
"""Gives a value back if it is of a type, with whole numbers as float where that is asked for; else a ValueError."""


def parse(cls: type[T], text: str) -> T:
    """An instance of a dataclass from JSON, every value of the type it is declared with.

    Args:
        cls: dataclass whose fields are plain values: unions, lists, dicts and literals of them.
        text: a JSON object. It has neither NaN nor infinity, nests at most `DEPTH_LIMIT` deep and is valid Unicode.

    Raises:
        ValueError: saying what is wrong.
    """
    return fit(cls, parse_json(text))


def parse_json(text: str) -> Any:
    """Plain values from JSON; see `parse`. A whole number of more than 64 bits becomes a float.

    Raises:
        ValueError: saying what is wrong.
    """
    if not text.strip():
        raise ValueError("it is empty")
    value = orjson.loads(text)
    # Nothing nests deeper than there are brackets.
    if text.count("{") + text.count("[") > DEPTH_LIMIT:
        _check_depth(value, DEPTH_LIMIT)
    return value


def fit(cls: type[T], values: Any) -> T:
    """An instance of a dataclass from plain values, which become its own; see `parse`.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__} where an object with named fields is expected")
    fits = _fields(cast("Any", cls))
    if not values.keys() <= fits.keys():
        raise ValueError(f"unknown fields {sorted(values.keys() - fits.keys())}")
    fitted = {}
    for name, value in values.items():
        try:
            fitted[name] = fits[name](value)
        except ValueError:
            raise ValueError(f"{name} cannot be {_short(value)}") from None
    try:
        return cls(**fitted)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


def _finite(number: str | int) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{_short(number)} is no finite number")
    return value


def _check_depth(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError("it nests too deep")
    for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(entry, depth - 1)


@cache
def _fields(cls: type) -> dict[str, Fit]:
    return {name: _fit(hint) for name, hint in get_type_hints(cls).items()}


def _fit(hint: Any) -> Fit:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (Union, UnionType):
        return _fit_union(arguments)
    if origin is Literal:
        return _literal(arguments)
    if origin is dict:
        return _dict(arguments[1])
    if origin is list:
        return _list(_fit(arguments[0]))
    return _float if hint is float else _whole if hint is int else _exactly(hint)


def _fit_union(hints: tuple[Any, ...]) -> Fit:
    fits, nothing = [_fit(hint) for hint in hints if hint is not NoneType], NoneType in hints

    def fitted(value: Any) -> Any:
        if value is None and nothing:
            return None
        for one in fits:
            try:
                return one(value)
            except ValueError:
                continue
        raise ValueError

    return fitted


def _literal(values: tuple[Any, ...]) -> Fit:
    def fitted(value: Any) -> Any:
        if value in values:
            return value
        raise ValueError

    return fitted


def _dict(hint: Any) -> Fit:
    entry = _fit(hint)

    def fitted(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError
        if hint is not Any:
            for name, part in value.items():
                value[name] = entry(part)
        return value

    return fitted


def _list(entry: Fit) -> Fit:
    def fitted(value: Any) -> Any:
        if type(value) is not list:
            raise ValueError
        return [entry(part) for part in value]

    return fitted


def _exactly(kind: type) -> Fit:
    def fitted(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise ValueError

    return fitted


def _whole(value: Any) -> Any:
    if type(value) is int and abs(value) < 2**63:
        return value
    raise ValueError


def _float(value: Any) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        return _finite(value)
    raise ValueError


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
