"""Placebos: parts of the reference set in the concept's place; nobody erased them, and none must be found forgotten."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.inference import holm
from lit_memories.metrics.intervals import mean_interval
from lit_memories.statistics.chance import Chance

LEVEL = 0.05
"""At which tests and intervals are said to raise false alarms."""
SPLITS = 200
"""Random halves of the reference set."""
COMMON = 0.2, 0.8
"""A word serves as placebo if this share of the reference prompts has it."""
FEWEST = 5
"""Images that each side of a placebo needs."""
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Placebo:
    """Reference images whose prompts share a word, as if the word were the concept.

    Args:
        word: that they share.
        images: how many do.
        forgetting: shift of these less shift of the other reference images.
        p: of the permutation test that both moved alike.
        p_corrected: the same, corrected for all words (Holm).
    """

    word: str
    images: int
    forgetting: Estimate
    p: float
    p_corrected: float


@dataclass(frozen=True)
class Placebos:
    """False alarms on one run's own data.

    Args:
        splits: random halves of R that were compared with the other half.
        split_intervals: share of them whose interval excludes 0. Halves of one set are no independent cases: the share
            describes these images, and is no test of anything.
        words: sets that share a word, in alphabetical order.
        distinguishable: how many of these differ from 0 after correction for their number.
    """

    splits: int
    split_intervals: float
    words: tuple[Placebo, ...]
    distinguishable: int

    @property
    def alarm(self) -> bool:
        """Whether any placebo is told from 0: by chance in at most `LEVEL` of the sets in which nothing is there."""
        return self.distinguishable > 0


def placebos(shift: Tensor, prompts: Sequence[str], concept: str, chance: Chance) -> Placebos | None:
    """Put placebos to the test.

    Args:
        shift: a number less vanilla's of the reference images (n,).
        prompts: of the same images.
        concept: name of the concept; its own words are no placebos.
        chance: of the tests and of the halves.

    Returns:
        None where nothing moved, as in vanilla, or there are too few images.
    """
    if not _testable(shift):
        return None
    chance.prepare(sides(shift, prompts, concept).values())
    found = []
    for word, (inside, outside) in sides(shift, prompts, concept).items():
        p = chance.p_value(inside, outside)
        found.append(Placebo(word, len(inside), mean_interval(inside, outside), p, p))
    corrected = holm(torch.tensor([placebo.p for placebo in found], dtype=torch.float64)).tolist()
    return Placebos(
        splits=SPLITS,
        split_intervals=_halves(shift, chance.seed),
        words=tuple(replace(placebo, p_corrected=p) for placebo, p in zip(found, corrected, strict=True)),
        distinguishable=sum(p < LEVEL for p in corrected),
    )


def sides(shift: Tensor, prompts: Sequence[str], concept: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The shifts of the images whose prompts have a word, and of the others, by word; none where nothing is tested."""
    if not _testable(shift):
        return {}
    return {word: (shift[has], shift[~has]) for word, has in words(prompts, concept).items()}


def _testable(shift: Tensor) -> bool:
    return len(shift) >= 2 * FEWEST and bool(shift.any())


def words(prompts: Sequence[str], concept: str) -> dict[str, Tensor]:
    """Words that divide prompts, and which prompts have them (n,); of words that divide them alike the first stays."""
    texts = [set(WORD.findall(prompt.lower())) for prompt in prompts]
    found: dict[str, Tensor] = {}
    for word in sorted(set().union(*texts) - set(WORD.findall(concept.lower()))):
        has = torch.tensor([word in text for text in texts])
        share, sides = float(has.double().mean()), (int(has.sum()), int((~has).sum()))
        if COMMON[0] <= share <= COMMON[1] and min(sides) >= FEWEST:
            found |= {} if any(torch.equal(has, x) or torch.equal(~has, x) for x in found.values()) else {word: has}
    return found


def _halves(shift: Tensor, seed: int) -> float:
    """Share of random halves whose interval tells them from the other half."""
    generator, alarms = torch.Generator().manual_seed(seed), 0
    for _ in range(SPLITS):
        one, other = shift[torch.randperm(len(shift), generator=generator)].tensor_split(2)
        estimate = mean_interval(one, other)
        alarms += estimate.low > 0 or estimate.high < 0
    return alarms / SPLITS
