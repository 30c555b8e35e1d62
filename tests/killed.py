"""A process that is killed at some operation on the disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OPERATIONS = "replace", "unlink", "mkdir", "chmod"


class Killed(BaseException):
    """What ends a process at some moment."""


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the context the operation of this number, counted from 1, is not done, and none after it."""
    left = number

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def operation(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return function(*arguments, **options)

        return operation

    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(Path, name, dying(getattr(Path, name)))
        yield
