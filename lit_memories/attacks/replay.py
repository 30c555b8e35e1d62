"""Does what opened one model open another? Prompts and seeds that an attack found elsewhere, tried here as they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_memories.attacks.base import FIRST, IDS, SEED, VECTOR, Attack, Attempt, is_attack
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group
from lit_memories.records import artefact_path
from lit_memories.runs import read_run
from lit_memories.settings import short_hash
from lit_memories.storage.tensors import checksum, read_some

if TYPE_CHECKING:
    from lit_memories.words import Words


@dataclass(frozen=True)
class Found:
    """What an attack found for a picture.

    Args:
        prompt: that it drew under; None for the picture's own.
        ids: the same in tokens (window,), where it was sought as such; words need not give these.
        seed: that it drew from (c, h, w); None for the one that all attacks begin with.
    """

    prompt: str | None
    ids: Tensor | None
    seed: Tensor | None


class Replay(Attack):
    """Draw one picture for each that an attack on another model was made for, with what that attack found.

    A prompt that was sought in tokens is taken in tokens, of which words need not give all.

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
        if not self._found:
            raise ValueError(
                f"{run} holds neither prompts nor seeds of an attack {attack!r}: name an audit and one of its attacks "
                "that leaves some (a learnt vector is none)"
            )

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """One DDIM run."""
        return self.run_costs(num_inference_steps, 1)

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
        predict = group.predictor(self.guidance_scale, prompts)
        if any(one.ids is not None for one in found):
            words, typed = group.words, group.words.ids(prompts)
            pairs = zip(found, typed, strict=True)
            ids = [typing if one.ids is None else self._fits(one.ids, typing, words) for one, typing in pairs]
            predict = group.predictor_of(words.embeds(torch.stack(ids)), self.guidance_scale)
        yield Attempt(rollout_rows(predict, torch.stack(seeds), group.steps), prompts=prompts)

    def _fits(self, ids: Tensor, typed: Tensor, words: "Words") -> Tensor:
        """Tokens of a prompt on the model's device; refused if they are none of its vocabulary.

        Raises:
            ValueError: if another text encoder's tokens were found, or something that is none.
        """
        known = ids.dtype == torch.int64 and ids.shape == typed.shape
        if not known or not bool(((ids >= 0) & (ids < len(words.table))).all()):
            raise ValueError(
                f"{self.run} holds prompts of {self.attack} that are no tokens of this model: replay it on one with "
                "the same text encoder, or make that audit again"
            )
        return ids.to(typed.device)

    def settings(self, schedule: Any) -> dict[str, Any]:
        """What was found, instead of where it lies."""
        sums = [
            " ".join([key, str(one.prompt), *(checksum(key, x) for x in (one.ids, one.seed) if x is not None)])
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
        known = ", ".join(sorted(name for name, probe in run.info.asked.items() if is_attack(probe)))
        raise ValueError(f"{folder} was not asked {attack!r}; attacks that it was asked: {known or 'none'}")
    found = {}
    for record in run.of("concept", attack):
        made = read_some(artefact_path(folder, attack, record.key), [SEED, IDS, VECTOR])
        one = Found(record.value(f"{attack}.prompt"), made.get(IDS), made.get(SEED))
        if VECTOR not in made and (one.prompt is not None or one.seed is not None):
            found[record.key] = one
    return found
