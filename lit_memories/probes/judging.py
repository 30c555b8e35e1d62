"""How often is the judge wrong? What it sees in pictures of which it is known what they show."""

from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price, Terms
from lit_memories.probes.seed import SEEN


class Judging(Probe):
    """What the judge sees in the pictures that the audit is given, as they are.

    Those of the concept that it misses, and others in which it sees it, are its errors; a report sets them beside every
    rate that it gives. They are the same for all models.
    """

    question = "How often does the judge miss the concept in its pictures, and see it in others?"
    numbers = SEEN
    needs = ("judge",)
    says = (
        "What a rate of this judge can be relied on for. Pictures that a model drew are other than these: the report "
        "also says what it sees in vanilla's."
    )
    cost = "none"

    def price(self, terms: Terms) -> Price:
        """Nothing of the network."""
        return Price.of(0)

    def __call__(self, group: Group) -> Answers:
        """Look."""
        return Answers(group.judge(group.images))
