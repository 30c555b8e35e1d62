"""What speaks against a verdict, in sentences: few images, seeds that are not to be trusted, placebos that alarm."""

import math

from lit_memories.records import TOO_FEW
from lit_memories.report.doors import door_cautions
from lit_memories.report.formats import decimal, number
from lit_memories.report.hygiene import placebo_sentences, resolution_sentence
from lit_memories.statistics.criteria import (
    BIAS_SHARE,
    FEW,
    bias_difference,
    biased,
    convergence,
    fewest,
    reach,
    unconverged,
    unmeasured,
    unverified,
)
from lit_memories.statistics.quantities import RunStatistics, Summary


def seed_sentences(summary: Summary, run: RunStatistics) -> list[str]:
    """The paper's number beside the one that carries the verdict."""
    seeds = run.numbers.get("seed.nll")
    if summary.by_seeds or seeds is None or seeds.forgetting is None:
        return []
    text = f"By the NLL of seeds, the paper's measure, forgetting is {number(seeds.forgetting, 'nats')}"
    if seeds.fraction is not None and not math.isnan(seeds.fraction.low):
        text += f", {number(seeds.fraction, digits=2)} of the control's"
    doubt = biased(summary, run) or unconverged(summary, run) or unverified(summary, run)
    return [f"{text}{'; its seeds are not to be trusted here' if doubt else ''}."]


def inverted(summary: Summary) -> str:
    """Of how many images seeds were sought, where they were not of all; else nothing."""
    parts = []
    for name, what in (("concept", "the concept"), ("reference", "other things")):
        counts = [
            (found.sets[name].count, run.pairing[name].used + run.pairing[name].left_out)
            for run in summary.runs
            if (found := run.numbers.get("seed.nll")) is not None and name in found.sets
        ]
        if counts and min(counts)[0] < max(total for _, total in counts):
            parts.append(f"{min(counts)[0]} of {max(total for _, total in counts)} images of {what}")
    return f"Numbers of seeds rest on {' and '.join(parts)}: no more were inverted, or count." if parts else ""


def cautions(summary: Summary, run: RunStatistics) -> list[str]:
    """Whatever a reader must hold against the numbers."""
    sentences = []
    moved = run.leading.change("concept")
    still = moved is not None and moved.low == moved.high == run.damage.low == run.damage.high == 0
    if still and (run.guard is None or run.guard.acts_on != "guidance"):
        sentences.append("All its numbers are vanilla's to the last digit: check that the erasure was applied at all.")
    if "seed.nll" in run.numbers:
        sentences += _inverter(summary, run)
    sentences += _left_out(run)
    few = fewest(run)
    if few < TOO_FEW:
        sentences.append(f"With {few} images in a set no conclusion is drawn; audit at least {FEW}.")
    elif few < FEW:
        sentences.append(f"There are only {few} images in a set: very skewed shifts would need more.")
    sentences += door_cautions(run)
    return [*sentences, *placebo_sentences(run), *resolution_sentence(summary, run)]


def _inverter(summary: Summary, run: RunStatistics) -> list[str]:
    """What is to be said of the seeds' accuracy."""
    sentences = []
    bias, share = bias_difference(summary, run), convergence(summary, run)
    if share is not None and unconverged(summary, run):
        sentences.append(
            f"Only {100 * share:.0f} % of the inversions converged: allow the inverter more iterations, or take "
            "another than a faithful one."
        )
    if names := ", ".join(one.name for one in unmeasured(summary, run)):
        sentences.append(
            f"The inverter's residual was not measured in {names} (option measure_residual), so nothing says of an "
            "image whether its inversion converged"
            + ("; no seed was known either: nothing vouches for these seeds." if unverified(summary, run) else ".")
        )
    if bias is None:
        sentences.append("The inverter was not checked on known seeds in both this run and vanilla's.")
    elif biased(summary, run):
        sentences.append(
            f"On seeds that are known, the inverter's error differs between models by {decimal(abs(bias), 1)} nats, "
            f"a sizeable part of the {decimal(reach(summary, run), 1)} nats to be resolved: improve the inverter first."
        )
    elif abs(bias) > BIAS_SHARE * _own(run):
        sentences.append(
            f"The inverter's error on known seeds differs between models by {decimal(abs(bias), 1)} nats: "
            "little on the scale of forgetting, but this model's own movement is of that size."
        )
    return sentences


def _own(run: RunStatistics) -> float:
    """Nats by which the run's own seeds moved."""
    forgetting = run.numbers["seed.nll"].forgetting
    return 0.0 if forgetting is None else abs(forgetting.value)


def _left_out(run: RunStatistics) -> list[str]:
    """On how many images a verdict rests, if not on all."""
    names = {"concept": "the concept", "reference": "other things"}
    parts = [
        f"{pairing.used} of {pairing.used + pairing.left_out} images of {names[name]}"
        for name, pairing in run.pairing.items()
        if pairing.left_out
    ]
    if not parts:
        return []
    return [f"This rests on {' and '.join(parts)}: the others are missing, flagged or not measured here or in vanilla."]
