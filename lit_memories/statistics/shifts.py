"""A number less vanilla's, image by image: what forgetting, its fraction and damage are made of.

A run is compared on the images that it and vanilla hold, and in units of the control's forgetting on those that the
control holds as well. No other run of a report has a say in its numbers.
"""

from dataclasses import dataclass

from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.intervals import mean_interval, ratio_interval
from lit_memories.records import SetName
from lit_memories.statistics.pairing import PAIRED, Comparison


@dataclass(frozen=True)
class Shifts:
    """How a number of one run moved, in the direction in which forgetting moves it.

    Args:
        concept: the number of E less vanilla's (n,).
        reference: the same of R (m,).
        scaled: of the images that the control holds too, the run's own shifts and the control's: of E (n, 2) and of R
            (m, 2); None without a control, or if it holds none of them.
    """

    concept: Tensor
    reference: Tensor
    scaled: tuple[Tensor, Tensor] | None

    @property
    def forgetting(self) -> Estimate:
        """Mean shift of E less that of R."""
        return mean_interval(self.concept, self.reference)

    @property
    def damage(self) -> Estimate:
        """Mean shift of R."""
        return mean_interval(self.reference)

    @property
    def fraction(self) -> Estimate | None:
        """Forgetting in units of the control's; its interval is NaN where the control is not told from vanilla."""
        return None if self.scaled is None else ratio_interval(*self.scaled)


def shifts(
    comparison: Comparison, row: int, path: str, sign: int = 1, conditioning: str | None = None
) -> Shifts | None:
    """The shifts of a run under a conditioning; None if it and vanilla have no image in common there.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        path: of the number.
        sign: 1 if it grows as a model forgets, else -1.
        conditioning: under which the images were looked at, if not under their own prompts.
    """

    def table(rows: list[int], name: SetName) -> Tensor:
        return sign * _values(comparison, rows, name, path, conditioning)

    rows = [row, comparison.vanilla]
    concept, reference = (table(rows, name) for name in PAIRED)
    if not len(concept) or not len(reference):
        return None
    scaled = None
    if comparison.control is not None:
        sets = [table([*rows, comparison.control], name) for name in PAIRED]
        if all(map(len, sets)):
            e, r = (found[:, [0, 2]] - found[:, [1]] for found in sets)
            scaled = e, r
    return Shifts(concept[:, 0] - concept[:, 1], reference[:, 0] - reference[:, 1], scaled)


def _values(comparison: Comparison, rows: list[int], name: SetName, path: str, conditioning: str | None) -> Tensor:
    """A number of the images that some runs hold (images, runs)."""
    found = comparison.table(rows, name, path, conditioning)
    if not len(found) and name == "reference" and conditioning is not None:
        # Where a conditioning changes nothing for reference images they have no records of it: it is their own.
        return comparison.table(rows, name, path)
    return found
