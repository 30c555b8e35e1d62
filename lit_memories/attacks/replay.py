"""Does what opened one model open another? Prompts and seeds that an attack found elsewhere, tried here as they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.attacks.base import FIRST, Attack, Attempt, run_cost
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group
from lit_memories.records import artefact_path
from lit_memories.runs import read_run
from lit_memories.settings import short_hash
from lit_memories.storage.tensors import checksum, read_some

SEED = "seed"
"""What artefacts call latents that a picture begins with."""


@dataclass(frozen=True)
class Found:
    """What an attack found for a picture.

    Args:
        prompt: that it drew under; None for the picture's own.
        seed: that it drew from (c, h, w); None for the one that all attacks begin with.
    """

    prompt: str | None
    seed: Tensor | None


class Replay(Attack):
    """Draw one picture for each that an attack on another model was made for, with what that attack found.

    Prompts are taken as words: tokens that no words give are read anew, as by whoever types them.

    Args:
        run: folder of the audit in which the attack was made, of the same pictures with the same settings.
        attack: its name in that audit.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if that audit holds nothing that can be tried on another model.
    """

    question = "Does what opened another model open this one?"
    threat = "black box"
    says = "Transfer: what works on never-knew too says nothing of a memory."
    cost = "a guided DDIM run: with 20 steps 40"

    def __init__(
        self,
        run: Path,
        attack: str,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        self.run, self.attack = Path(run), attack
        self._found = found_by(self.run, attack)
        if not any(one.prompt or one.seed is not None for one in self._found.values()):
            raise ValueError(
                f"{run} holds neither prompts nor seeds of an attack {attack!r}: name an audit and one of its attacks "
                "that leaves some"
            )

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """One DDIM run."""
        return [run_cost(num_inference_steps, self.guidance_scale)]

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Draw.

        Raises:
            ValueError: if nothing was found for some of the pictures.
        """
        if missing := [key for key in group.keys if key not in self._found]:
            raise ValueError(
                f"{self.run} holds nothing of {self.attack} for {len(missing)} of these pictures: replay it on the "
                "same pictures with the same settings, or set a limit"
            )
        found = [self._found[key] for key in group.keys]
        prompts = [one.prompt or own for one, own in zip(found, group.prompts, strict=True)]
        drawn = group.draw_seeds(group.generators(FIRST))
        seeds = [own if one.seed is None else one.seed.to(own) for one, own in zip(found, drawn, strict=True)]
        latents = rollout_rows(group.noise(self.guidance_scale, prompts), torch.stack(seeds), group.steps)
        yield Attempt(latents, prompts=prompts)

    def settings(self, schedule: Any) -> dict[str, Any]:
        """What was found, instead of where it lies."""
        sums = [
            f"{key} {one.prompt} {'' if one.seed is None else checksum(key, one.seed)}"
            for key, one in sorted(self._found.items())
        ]
        return {**super().settings(schedule), "run": short_hash("\n".join(sums))}


def found_by(folder: Path, attack: str) -> Mapping[str, Found]:
    """What an attack of an audit found, by the key of the picture's record.

    Args:
        folder: of the audit.
        attack: its name.

    Raises:
        ValueError: if there is no audit, or it was not asked this attack.
    """
    run = read_run(folder)
    if attack not in run.info.probes:
        known = ", ".join(sorted(name for name, probe in run.info.asked.items() if is_attack(probe.numbers)))
        raise ValueError(f"{folder} was not asked {attack!r}; attacks that it was asked: {known or 'none'}")
    return {
        record.key: Found(
            record.value(f"{attack}.prompt"), read_some(artefact_path(folder, attack, record.key), [SEED]).get(SEED)
        )
        for record in run.of("concept", attack)
    }


def is_attack(numbers: Sequence[Any]) -> bool:
    """Whether a probe measures what attacks do."""
    return {"success", "evaluations", "looks"} <= {number.name for number in numbers}
