"""What probes need of an audit: which of its arguments are settings of whose numbers, and what must not be missing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lit_memories.attacks import ASKABLE
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inverter
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


def guidances_of(guidance_scale: float, probes: Iterable[Probe], data: Any) -> set[float]:
    """The guidances of all predictions of an audit, as far as its options say.

    Args:
        guidance_scale: of its inversions.
        probes: that it asks.
        data: its data module, whose conditionings may say one.
    """
    found = {guidance_scale, 1.0}
    return found | guidances_of_probes(probes) | guidances_of_data(data)


def guidances_of_probes(probes: Iterable[Probe]) -> set[float]:
    """The guidances of pictures that probes draw."""
    return {probe.guidance_scale for probe in probes if hasattr(probe, "guidance_scale")}


def guidances_of_data(data: Any) -> set[float]:
    """The guidances that a data module's conditionings say, under which its pictures are inverted too."""
    asked = (how.guidance_scale for how in getattr(data, "conditionings", ()))
    return {guidance for guidance in asked if guidance is not None}


def check_guidance(diffusion: Diffusion, guidances: Iterable[float], inverter: Inverter) -> None:
    """Refuse, before anything is asked, guidance that a model was not taught, or not in the inverter's way.

    Raises:
        ValueError: saying what to do instead.
    """
    for guidance in sorted(guidances):
        diffusion.evaluations(guidance)
    asked = diffusion.denoiser
    if hasattr(inverter, "guidance_scale") and (asked.takes_guidance or not asked.guidable):
        raise ValueError(
            f"{type(inverter).__name__} optimises the empty prompt that guidance goes away from, and {diffusion.base} "
            "is distilled and not guided so: invert with FixedPoint, DDIMInversion or plain ReNoise"
        )
