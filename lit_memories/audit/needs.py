"""What probes need of an audit: which of its arguments are settings of whose numbers, and what must not be missing."""

from collections.abc import Mapping, Sequence

from lit_memories.attacks import ASKABLE
from lit_memories.probes.base import Probe

INVERTER = "inverter", "num_inference_steps", "guidance_scale"
NEEDED: Mapping[str, tuple[str, ...]] = {
    "inverter": INVERTER,
    "seeds": INVERTER,
    "steps": ("num_inference_steps",),
    "judge": ("judge",),
    "lesson": ("taught",),
    "concept": ("named",),
}
"""Arguments of an audit on which only those probes' numbers depend that have the need."""


def needed_by(probe: Probe) -> list[str]:
    """Arguments of the audit on which a probe's numbers depend, besides those on which all do."""
    return sorted({name for need in (*probe.needs, *probe.uses) for name in NEEDED.get(need, ())})


def by_name(probes: Sequence[Probe], judged: bool) -> dict[str, Probe]:
    """Probes by their names.

    Args:
        probes: in the order in which they are to be asked.
        judged: whether the audit has a judge.

    Raises:
        ValueError: if there is none, one is named twice or as one of this package's, or lacks what it needs.
    """
    if not probes:
        raise ValueError("no probe is named: an audit asks at least one question; lit-memories probes lists them")
    named = {probe.name: probe for probe in probes}
    names = [probe.name for probe in probes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the probe {', '.join(twice)} is named twice: name each once in model.probes")
    if taken := [probe for probe in probes if type(probe) is not ASKABLE.get(probe.name, type(probe))]:
        raise ValueError(f"the probe {taken[0].name} is another than this package's of that name: rename its class")
    lacking = {
        "seeds": ("seed" in named, "the seeds that the probe seed finds: add it to model.probes"),
        "judge": (judged, "a judge that sees the concept: add one to the recipe"),
    }
    for name, probe in named.items():
        for need, (there, what) in lacking.items():
            if need in probe.needs and not there:
                raise ValueError(f"the probe {name} needs {what}")
    return named
