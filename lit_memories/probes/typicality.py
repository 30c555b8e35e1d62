"""Does a seed look like a draw of the prior? Six tests with exact or nearly exact nulls (`metrics.typicality`)."""

from torch import Tensor

from lit_memories.metrics.typicality import combined_p_value, typicality
from lit_memories.numbers import Number
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price, Terms
from lit_memories.records import finite

TESTS = "norm", "channel_mean", "channel_variance", "autocorrelation", "kurtosis", "ks", "combined"
"""Names of the tests, and of all together."""


class Typicality(Probe):
    """Which of six tests tell an image's seed from one of the prior."""

    question = "Does the seed look like a draw of the prior, beyond its norm?"
    numbers = tuple(
        Number(name, f"atypical {name.replace('_', ' ')}", "test", percent=True, digits=0) for name in TESTS
    )
    conditioned = True
    needs = ("seeds",)
    says = "Which ways a seed is unlike noise. It tells models of known truth apart no better than the NLL does."
    cost = "none beyond the seed probe's"

    def price(self, terms: Terms) -> Price:
        """Nothing: the seeds are there."""
        return Price()

    def __call__(self, group: Group) -> Answers:
        """Value and p-value of each test."""
        columns = [_tests(seed) for seed in group.seeds.cpu().split(1)]
        lost = [any(None in pair for pair in tests.values()) for tests in columns]
        flags = ["not finite" if some else None for some in lost]
        return Answers({name: [tests[name] for tests in columns] for name in TESTS}, flags)


def _tests(seed: Tensor) -> dict[str, list[float | None]]:
    """Tests of one seed (1, c, h, w); one at a time, as sums over several seeds at once round in another order."""
    tests = typicality(seed)
    whole = combined_p_value(tests)
    pairs = {name: (test.value, test.p_value) for name, test in tests.items()} | {"combined": (whole, whole)}
    return {name: [finite(float(x)) for x in pair] for name, pair in pairs.items()}
