"""What the probes of a run say of their numbers: this package's own by themselves, others by ``run.json``."""

from dataclasses import replace

from lit_memories.attacks import ASKABLE
from lit_memories.numbers import Asked
from lit_memories.runs import RunInfo


def asked_of(info: RunInfo) -> dict[str, Asked]:
    """The probes that a run was asked, by name.

    Nothing that a run folder names is imported: it may be anybody's.
    """
    found = {}
    for name, asked in info.asked.items():
        own = ASKABLE.get(name)
        found[name] = asked if own is None else replace(own.asked(asked.settings), settings=asked.settings)
    return found
