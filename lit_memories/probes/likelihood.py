"""How likely are a picture's latents by the probability flow, the map's volume included? By `ops.likelihood`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_memories.numbers import Number
from lit_memories.ops.likelihood import log_likelihood
from lit_memories.probes.base import Answers, Group, Probe, by_block
from lit_memories.probes.prices import Price, Terms


class Likelihood(Probe):
    """Log-likelihood of an image's latents under its prompt at guidance 1.

    Args:
        probes: random probes of the divergence, which models share; each costs a vector-Jacobian product a step.

    Raises:
        ValueError: if there is none.
    """

    question = "How likely are the picture's latents by the probability flow? (arXiv:2011.13456, eq. 39)"
    numbers = (
        Number("log_likelihood", "log p(x)", "forgetting", "nats", "down", one="a model that never saw the concept"),
        Number("bits_per_dim", "bits per dimension", "mean", digits=3),
        Number("gap", "gap of the integration's rules"),
    )
    needs = ("gradients", "steps")
    says = (
        "How much is left, in the likelihood's own terms, where its integration is sound: the gap says where it is "
        "not, and off the data's support it is wrong by any amount."
    )
    cost = "one a step, each with a gradient a probe: with 20 steps 20"

    def __init__(self, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(
                f"probes must be at least 1, got {probes}: leave the likelihood out of model.probes instead"
            )
        self.probes = probes

    def price(self, terms: Terms) -> Price:
        """An evaluation, with its gradient, a level."""
        return Price.of(len(terms.schedule.ladder(len(terms.steps), whole=True)))

    def __call__(self, group: Group) -> Answers:
        """Integrate, a block at a time: gradients keep what calls held."""
        return Answers(by_block(group, self._measure))

    def _measure(self, group: Group) -> Mapping[str, Tensor]:
        levels, generators = group.schedule.ladder(len(group.steps), whole=True), group.generators("/probes")
        with torch.inference_mode(False):  # latents made in inference mode cannot take part in gradients
            found = log_likelihood(group.predictor(1.0), group.latents.clone(), levels, generators, self.probes)
        return {"log_likelihood": found.log_likelihood, "bits_per_dim": found.bits_per_dim, "gap": found.gap}
