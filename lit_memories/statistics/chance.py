"""How bootstraps and tests draw, and the permutation tests of a report, which are made together."""

from collections.abc import Iterable
from hashlib import blake2b

from torch import Tensor

from lit_memories.metrics.permutation import permutation_tests


class Chance:
    """How bootstraps and tests draw.

    Tests that are known of beforehand are made at once (`prepare`), which takes a fraction of the time and changes no
    result.

    Args:
        draws: resamples and relabellings.
        seed: of them.
    """

    def __init__(self, draws: int, seed: int) -> None:
        self.draws, self.seed = draws, seed
        self._known: dict[bytes, float] = {}

    def prepare(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Make the permutation tests of pairs of sets, one number a sample each, float64."""
        wanted = {key: pair for pair in pairs if (key := _key(*pair)) not in self._known}
        tests = permutation_tests(list(wanted.values()), self.draws, self.seed)
        self._known |= {key: test.p_value for key, test in zip(wanted, tests, strict=True)}

    def p_value(self, concept: Tensor, reference: Tensor) -> float:
        """Of the permutation test that two sets have one mean, see `permutation_test`."""
        self.prepare([(concept, reference)])
        return self._known[_key(concept, reference)]


def _key(*sets: Tensor) -> bytes:
    found = blake2b(str([len(values) for values in sets]).encode())
    for values in sets:
        found.update(values.contiguous().numpy().tobytes())
    return found.digest()
