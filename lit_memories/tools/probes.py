"""``lit-memories probes``: what an audit can ask, what each question costs, and what its answer says."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from lit_memories.attacks import ASKABLE
from lit_memories.attacks.base import Attack
from lit_memories.probes.base import Need

NEEDS: dict[Need, str] = {
    "inverter": "the audit's inverter",
    "seeds": "the probe seed",
    "judge": "a judge",
    "gradients": "gradients of the network",
    "steps": "the audit's DDIM steps",
    "lesson": "pictures of each set to teach the model, about which it does not ask",
    "concept": "what the concept is called",
}
"""What probes need, in words."""


def probes() -> None:
    """List the probes there are, with their cost an image and what each can and cannot say.

    Name them in a recipe's ``model.probes``, or add one on the command line: ``--model.probes+=Likelihood``.
    """
    console = Console(highlight=False)
    for name, probe in ASKABLE.items():
        console.print(Text(f"{name}: {probe.question}", style="bold"))
        lines = [f"class_path {probe.__module__}.{probe.__name__}", f"of {', '.join(probe.sets)}"]
        lines[1] += "; under other prompts too" if probe.conditioned else ""
        if issubclass(probe, Attack):
            lines.append(f"an attack; whoever makes it has: {probe.threat}")
        lines.append(f"network evaluations: {probe.cost}")
        if probe.needs:
            lines.append(f"needs {', '.join(NEEDS[need] for need in probe.needs)}")
        if probe.uses:
            lines.append(f"says more with {', '.join(NEEDS[need] for need in probe.uses)}")
        measured = [number for number in probe.numbers if number.compare != "none"]
        told = (f"{number.title}{f', {number.unit}' if number.unit else ''} ({number.compare})" for number in measured)
        lines += [f"numbers: {'; '.join(told)}"] if measured else []
        console.print(Padding(Text("\n".join([*lines, probe.says])), (0, 0, 1, 2)))
