"""Placebos: parts of the reference set in the concept's place; nobody erased them, and none must be found forgotten."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.inference import binomial_tail, holm, permutation_test

LEVEL = 0.05
"""At which tests and intervals are said to raise false alarms."""
ALARM = 0.001
"""Placebos that alarm so often that chance does it with less than this probability are a warning."""
SPLITS, SPLIT_DRAWS, DRAWS_PER_SPLIT, FEWEST_SPLITS = 200, 1000, 50, 20
"""At most so many random halves with so many draws each, one for so many draws of the report; none if they were few."""
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
        forgetting: shift of these less shift of the other reference images, nats.
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
        split_tests: share of them that the permutation test calls different. It holds its level by construction:
            halves are relabellings, which is what the test draws.
        split_intervals: share of them whose bootstrap interval excludes 0, which nothing guarantees.
        split_excess: probability of as many such intervals or more, if they had their stated rate.
        words: sets that share a word, in alphabetical order.
        distinguishable: how many of these differ from 0 after correction for their number.
        word_excess: probability of as many words or more with an uncorrected p below 0.05, if they were independent and
            nothing but chance; None without words.
    """

    splits: int
    split_tests: Estimate | None
    split_intervals: Estimate | None
    split_excess: float | None
    words: tuple[Placebo, ...]
    distinguishable: int
    word_excess: float | None

    @property
    def too_many(self) -> bool:
        """Whether placebos alarm more often than they may."""
        excess = [p for p in (self.split_excess, self.word_excess) if p is not None]
        return self.distinguishable > 0 or any(p < ALARM for p in excess)


def placebos(shift: Tensor, prompts: Sequence[str], concept: str, draws: int, seed: int) -> Placebos | None:
    """Put placebos to the test.

    Args:
        shift: NLL less vanilla's of the reference images (n,), nats.
        prompts: of the same images.
        concept: name of the concept; its own words are no placebos.
        draws: resamples and relabellings.
        seed: of both, and of the halves.

    Returns:
        None where nothing moved, as in vanilla, or nothing can be asked: too few images, draws and common words.
    """
    if len(shift) < 2 * FEWEST or not bool(shift.any()):
        return None
    tests, intervals = _halves(shift, draws, seed)
    found = []
    for word, has in words(prompts, concept).items():
        inside, outside = shift[has], shift[~has]
        p = permutation_test(inside, outside, draws, seed).p_value
        found.append(Placebo(word, len(inside), _forgetting(inside, outside, draws, seed), p, p))
    if not tests and not found:
        return None
    corrected = holm(torch.tensor([placebo.p for placebo in found], dtype=torch.float64)).tolist()
    alarms = sum(placebo.p < LEVEL for placebo in found)
    return Placebos(
        splits=len(tests),
        split_tests=wilson_interval(sum(tests), len(tests)) if tests else None,
        split_intervals=wilson_interval(sum(intervals), len(intervals)) if intervals else None,
        split_excess=binomial_tail(sum(intervals), len(intervals), LEVEL) if intervals else None,
        words=tuple(replace(placebo, p_corrected=p) for placebo, p in zip(found, corrected, strict=True)),
        distinguishable=sum(p < LEVEL for p in corrected),
        word_excess=binomial_tail(alarms, len(found), LEVEL) if found else None,
    )


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


def _halves(shift: Tensor, draws: int, seed: int) -> tuple[list[bool], list[bool]]:
    """For each of many random halves against the other half: whether the test, and whether the interval alarms."""
    generator = torch.Generator().manual_seed(seed)
    tests: list[bool] = []
    intervals: list[bool] = []
    splits = min(SPLITS, draws // DRAWS_PER_SPLIT)
    for split in range(splits if splits >= FEWEST_SPLITS else 0):
        order = torch.randperm(len(shift), generator=generator)
        one, other = shift[order].tensor_split(2)
        tests.append(permutation_test(one, other, min(SPLIT_DRAWS, draws), seed + split).p_value < LEVEL)
        estimate = _forgetting(one, other, min(SPLIT_DRAWS, draws), seed + split)
        intervals.append(estimate.low > 0 or estimate.high < 0)
    return tests, intervals


def _forgetting(inside: Tensor, outside: Tensor, draws: int, seed: int) -> Estimate:
    return bootstrap(lambda e, r: e.mean(-1) - r.mean(-1), [inside, outside], draws=draws, seed=seed)
