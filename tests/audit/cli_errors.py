"""How a command ends that is refused."""

import pytest

from lit_memories.cli import main


def refused(arguments: list[str]) -> str:
    """The message with which a command ends; one line."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    message = str(stop.value)
    assert "\n" not in message
    return message
