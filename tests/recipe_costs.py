"""What a recipe's comments say an audit costs, beside what `lit-memories plan` counts."""

import re
from collections.abc import Sequence
from pathlib import Path

from noise_pictures import noise_pictures

from lit_memories.tools.plan import planned

PROBE = re.compile(
    r" +- \{?class_path: lit_memories\.\w+\.(?P<probe>\w+)\.\w+.* # [^:]+: (?P<numbers>\d[\d,]*(?: to \d[\d,]*)?)"
)
TOTAL = re.compile(
    r"# Network evaluations by lit-memories plan: (?P<numbers>[\d,]+ to [\d,]+) for 50 \+ 50 pictures; .+"
)


def said(recipe: Path) -> dict[str, tuple[int, int]]:
    """The least and the most network evaluations of a sample, by probe, and of the whole audit as ``all``."""
    lines = recipe.read_text().splitlines()
    found = {m["probe"]: m["numbers"] for line in lines if (m := PROBE.fullmatch(line))}
    (found["all"],) = (m["numbers"] for line in lines if (m := TOTAL.fullmatch(line)))
    return {name: _ends(numbers) for name, numbers in found.items()}


def counted(recipe: Path, base: Path, folder: Path, *options: str) -> dict[str, tuple[int, int]]:
    """The same as a plan counts it, of a small model and fifty pictures a set.

    Args:
        recipe: file.
        base: folder of a model of the recipe's kind, whose size changes nothing of it.
        folder: an empty one, for pictures.
        options: of the command line.
    """
    called = {"concept": "a church by Van Gogh", "reference": "a tree"}
    pictures = noise_pictures(folder, {name: [f"{said}, {i}" for i in range(50)] for name, said in called.items()}, 16)
    source = "lit_memories.data.sources.ImageSource"
    arguments = [
        f"--config={recipe}",
        f"--model.diffusion.base={base}",
        f"--data.concept_images.path={pictures / 'concept'}",
        f"--data.reference_images={{class_path: {source}, init_args: {{path: {pictures / 'reference'}}}}}",
        *options,
    ]
    found = planned(["plan", *arguments])
    costs: dict[str, tuple[int, int]] = {}
    for (name, probe), price in found.prices.items():
        samples = found.samples[name, probe]
        costs[probe] = _per(price.least, samples), _per(price.most, samples)
    costs["all"] = tuple(int(sum(getattr(p, end) for p in found.prices.values())) for end in ("least", "most"))  # type: ignore[assignment]
    return costs


def _per(evaluations: float, samples: int) -> int:
    assert evaluations % samples == 0
    return int(evaluations // samples)


def _ends(numbers: str) -> tuple[int, int]:
    ends: Sequence[int] = [int(number.replace(",", "")) for number in numbers.split(" to ")]
    return ends[0], ends[-1]
