"""What does the inverter add? Seeds that are known, made into pictures and inverted again."""

from lit_memories.inverters.base import relative_norm
from lit_memories.metrics.functional import gaussian_nll
from lit_memories.numbers import Number
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price, Terms
from lit_memories.probes.quality import sound_psnr
from lit_memories.probes.seed import CONVERGENCE, inverted


class Known(Probe):
    """Known seeds found again: how far from themselves, and how much likelier or less likely."""

    question = "How far are seeds that are known from what the inverter makes of their pictures?"
    sets = ("known",)
    numbers = (
        Number("nll_bias", "bias on known seeds", "mean", "nats", "none", digits=2),
        Number("seed_error", "seed error", "mean", direction="none", digits=4),
        Number("psnr_round_trip", "PSNR to the picture they made", "mean", "dB", "none"),
        Number("nll", "NLL of the seed found", unit="nats"),
        *CONVERGENCE,
    )
    leaves_seeds = True
    needs = ("inverter",)
    says = "Whether the inverter can be trusted on this model. Nothing of the concept."
    cost = "the seed probe's and the steps that make the picture, with 20 steps about 100"

    def price(self, terms: Terms) -> Price:
        """The run that makes it, its inversion, and the way back."""
        return terms.calls(terms.inverter.sampling, terms.inverter.inverting, terms.inverter.regenerating)

    def __call__(self, group: Group) -> Answers:
        """Draw, sample, invert, compare."""
        seeds, predict = group.draw_seeds(group.generators()), group.predictor(group.guidance_scale)
        latents = group.inverter.sample(predict, seeds, group.steps)
        inversion = group.inverter(predict, latents, group.steps)
        restored = group.inverter.regenerate(predict, inversion, group.steps)
        nll = gaussian_nll(inversion.seeds)
        return inverted(
            group.inverter,
            inversion,
            {
                "nll": nll,
                "psnr_round_trip": sound_psnr(group.decode(restored), group.decode(latents)),
                "seed_error": relative_norm(inversion.seeds - seeds, seeds),
                "nll_bias": nll - gaussian_nll(seeds),
            },
        )
