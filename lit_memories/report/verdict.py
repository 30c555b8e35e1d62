"""Statistics to plain sentences: what the numbers support, and what they do not.

`judge` is a pure function; its thresholds are the constants of `lit_memories.report.criteria`.
"""

import math
from dataclasses import dataclass

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.records import SetName
from lit_memories.report.criteria import (
    BIAS_SHARE,
    DAMAGE_SD,
    FEW,
    PROMPTABLE_ABOVE,
    PSNR_SPREAD,
    TOO_FEW,
    Category,
    apart,
    bias_difference,
    biased,
    categorise,
    convergence,
    fails_prompts,
    prompt_state,
    reach,
    samples_to_know,
    scale,
    unconverged,
    unmeasured,
    unverified,
)  # fmt: skip
from lit_memories.report.formats import decimal, number, percent
from lit_memories.report.hygiene import placebo_sentences, resolution_sentence
from lit_memories.report.pairing import AUDIT_COMMAND
from lit_memories.report.quantities import RunStatistics, Summary, beyond


@dataclass(frozen=True)
class Verdict:
    """What the audit says about one model.

    Args:
        name: of the run.
        category: the conclusion in one of a few words.
        headline: the conclusion in one sentence.
        sentences: what it rests on, and what speaks against it.
        limits: where the audit as a whole ends; the same for all models.
    """

    name: str
    category: Category
    headline: str
    sentences: tuple[str, ...]
    limits: tuple[str, ...] = ()

    def paragraph(self) -> str:
        """Everything, as one paragraph."""
        return " ".join((self.headline, *self.sentences, *self.limits))


def judge(summary: Summary) -> list[Verdict]:
    """A verdict for each run, in the order of the runs."""
    return [_judge_one(summary, run) for run in summary.runs]


def _judge_one(summary: Summary, run: RunStatistics) -> Verdict:
    if run.role == "vanilla":
        return _vanilla(summary, run)
    if run.role == "control" and run.name == summary.control:
        return _control(summary, run)
    if run.role == "random":
        return _random(summary, run)
    category = categorise(summary, run)
    sentences = [
        _prompted(run, summary.vanilla),
        _wreck(run) if category == "damaged" else _memory(summary, run),
        _damage(summary, run),
        *_cautions(summary, run),
    ]
    return Verdict(run.name, category, _headline(summary, run, category), tuple(sentences), limits(summary))


def limits(summary: Summary) -> tuple[str, ...]:
    """What holds for every verdict of a report."""
    scale = "" if summary.calibrated else uncalibrated(summary)
    return tuple(sentence for sentence in (scale, _psnr(summary), _scope(summary)) if sentence)


def _headline(summary: Summary, run: RunStatistics, category: Category) -> str:
    prompt = prompt_state(run, summary.vanilla)
    concept = f"“{summary.concept_name}”"
    remembers = {
        "works": f"{run.name} is not erased: the prompt still works and the memory of {concept} is in place.",
        "weakened": f"{run.name} answers the prompt less often, and remembers {concept}.",
        "refused": f"{run.name} refuses the prompt and remembers {concept}.",
        "unknown": f"{run.name} remembers {concept}.",
    }
    sentences: dict[Category, str] = {
        "remembers": remembers[prompt],
        "not shown to forget": f"{run.name} is not shown to forget {concept}: its seeds moved less than the control's, "
        "and no movement at all cannot be excluded.",
        "partly forgot": f"{run.name} {'partly' if _below_control(run) else 'at least partly'} forgot {concept}.",
        "forgot": f"{run.name} forgot {concept}, as far as this audit can see."
        + (" Yet the prompt still works: look at its samples before you believe either number." * (prompt == "works")),
        "damaged": f"{run.name} is damaged: {_what_is_damaged(summary, run)}. What it remembers of {concept} cannot be "
        "told.",
        "cannot tell": f"This audit cannot tell whether {run.name} forgot {concept}.",
        "not trustworthy": f"The forgetting measured for {run.name} is not trustworthy.",
        "not calibrated": f"The seeds of {run.name} moved; how much of forgetting {concept} that is, is not calibrated."
        if apart(run.forgetting)
        else f"{run.name} is not distinguishable from vanilla: no forgetting of {concept} is shown.",
    }
    return sentences[category]


def _what_is_damaged(summary: Summary, run: RunStatistics) -> str:
    found = []
    if fails_prompts(run):
        found.append("prompts for other things fail")
    if beyond(run.damage, scale(summary)):
        found.append("the seeds of other images moved more than forgetting would move the concept's")
    return " and ".join(found)


def _wreck(run: RunStatistics) -> str:
    return (
        f"The seeds of concept images moved by {number(run.concept.shift, 'nats')} from vanilla's; in a model "
        "that lost other things too, a difference to those of reference images says nothing of a memory."
    )


def _below_control(run: RunStatistics) -> bool:
    return run.fraction is not None and run.fraction.high < 1


def _prompted(run: RunStatistics, vanilla: RunStatistics) -> str:
    rate, usual = run.prompted, vanilla.prompted
    if rate is None:
        return "No samples were drawn under the concept's prompts, so whether it can still be prompted is not known."
    share = f"Prompted for the concept, it shows it in {_percent(rate)} of {rate.count} samples"
    if usual is None:
        return f"{share}; vanilla's own rate was not measured."
    share += f" (vanilla: {_percent(usual)})"
    if usual.value < PROMPTABLE_ABOVE:
        return f"{share}; as vanilla rarely shows it either, or the judge rarely sees it, that says little."
    needed = samples_to_know(vanilla)
    meaning = {
        "works": "not distinguishable from vanilla, the prompt still works",
        "weakened": "less than vanilla, though the prompt is not shown to be dead",
        "refused": "the prompt no longer works, which by itself is not forgetting",
        "unknown": "too few samples to say whether the prompt still works; with "
        f"{needed} of either model it could be said",
    }
    return f"{share}: {meaning[prompt_state(run, vanilla)]}."


def _memory(summary: Summary, run: RunStatistics) -> str:
    shift = run.forgetting
    text = f"Against reference images, the seeds of concept images moved by {number(shift, 'nats')} from vanilla's"
    text += ", which is distinguishable from no change" if apart(shift) else ", which may be no change at all"
    if run.fraction is None or not summary.calibrated:
        return f"{text}."
    text += f"; that is {number(run.fraction, digits=2)} of the control's movement"
    if math.isnan(run.fraction.low):
        text += ", with an interval the data cannot give"
    elif run.fraction.low > 1:
        text += ", more than a model that never saw the concept: it may suppress the concept rather than ignore it"
    elif apart(run.fraction) or apart(run.fraction, 1):
        whether = "excludes" if apart(run.fraction, 1) else "covers"
        text += f" (1 = as if it had never seen the concept, which the interval {whether})"
    else:
        text += ": the interval covers both vanilla (0) and the control (1); more images would narrow it"
    return f"{text}."


def uncalibrated(summary: Summary) -> str:
    """Why fractions are missing and what to do about it."""
    control = summary.control_run
    if control is not None and apart(control.forgetting):
        return (
            f"The seeds of reference images moved as much in the control {control.name} as those of concept images, so "
            "it sets no scale; check that it is a sound model that never saw the concept."
        )
    if control is not None:
        return (
            f"The control {control.name} itself is not distinguishable from vanilla, so it sets no scale; "
            "check that it never saw the concept, or audit more images."
        )
    return (
        "Without a control that never saw the concept nothing says how many nats full forgetting would be; make one "
        f"with {AUDIT_COMMAND} on a model trained without the concept, role control, and add its folder to the report."
    )


def _damage(summary: Summary, run: RunStatistics) -> str:
    shift, sd = run.damage, summary.null_sd
    size = f"{number(shift, 'nats')}, {decimal(shift.value / sd, 2)} sd of the null"
    if not apart(shift):
        text = f"Reference images did not measurably move ({size})"
    elif abs(shift.value) > DAMAGE_SD * sd:
        text = f"Reference images moved a lot, by {size}: the model was changed well beyond the concept"
    else:
        text = f"Reference images moved slightly, by {size}"
    change = run.retained_change
    if change is None:
        return f"{text}; whether prompts for other things are still met was not measured."
    points = f"{number(percent(change), 'points', 0)} against vanilla"
    if not apart(change):
        return f"{text}; no change in how well prompts for other things are met is measurable ({points})."
    direction = "less" if change.value < 0 else "more"
    return f"{text}, and prompts for other things are met {direction} often: {points}."


def _cautions(summary: Summary, run: RunStatistics) -> list[str]:
    sentences = []
    if run.concept.shift.low == run.concept.shift.high == run.damage.low == run.damage.high == 0:
        sentences.append("All its seeds are vanilla's to the last digit: check that the erasure was applied at all.")
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
    elif abs(bias) > BIAS_SHARE * abs(run.forgetting.value):
        sentences.append(
            f"The inverter's error on known seeds differs between models by {decimal(abs(bias), 1)} nats: "
            "little on the scale of forgetting, but this model's own movement is of that size."
        )
    sentences += _left_out(run)
    fewest = min(run.concept.count, run.reference.count)
    if fewest < TOO_FEW:
        sentences.append(f"With {fewest} images in a set no conclusion is drawn; audit at least {FEW}.")
    elif fewest < FEW:
        sentences.append(f"There are only {fewest} images in a set: very skewed shifts would need more.")
    return [*sentences, *placebo_sentences(run), *resolution_sentence(summary, run)]


def _left_out(run: RunStatistics) -> list[str]:
    """On how many images a verdict rests, if not on all."""
    names: dict[SetName, str] = {"concept": "the concept", "reference": "other things"}
    parts = [
        f"{pairing.used} of {pairing.used + pairing.left_out} images of {names[name]}"
        for name, pairing in run.pairing.items()
        if pairing.left_out
    ]
    if not parts:
        return []
    return [f"This rests on {' and '.join(parts)}: the others are missing, flagged or not measured here or in vanilla."]


def _psnr(summary: Summary) -> str:
    if summary.psnr_spread is None or summary.psnr_spread >= PSNR_SPREAD:
        return ""
    means = [run.concept.psnr.value for run in summary.runs if run.concept.psnr is not None]
    random = ", the one with random weights included" if any(run.role == "random" for run in summary.runs) else ""
    return f"PSNR says nothing here: it is about {sum(means) / len(means):.1f} dB for every model{random}."


def _scope(summary: Summary) -> str:
    guidance = "" if summary.guidance_scale is None else f" at guidance scale {summary.guidance_scale:g}"
    inverter = "this inverter" if summary.inverter is None else f"the inverter {summary.inverter}"
    return f"All this holds under the images' own prompts{guidance}, with {inverter}; other prompts may differ."


def _vanilla(summary: Summary, run: RunStatistics) -> Verdict:
    sentences = ["Its forgetting and damage are 0 by construction: all other rows are measured from it."]
    if run.prompted is not None:
        sentences.append(
            f"Prompted for the concept, it shows it in {_percent(run.prompted)} of {run.prompted.count} samples."
        )
    return Verdict(run.name, "by construction", f"{run.name} is the unchanged model.", tuple(sentences))


def _control(summary: Summary, run: RunStatistics) -> Verdict:
    sentences = [
        f"Its seeds of concept images moved by {number(run.forgetting, 'nats')} from vanilla's; this is the yardstick."
    ]
    if not summary.calibrated:
        sentences.append(uncalibrated(summary))
    else:
        sentences.append("Its forgetting fraction is 1 by construction.")
    sentences += [_damage(summary, run), *_cautions(summary, run)]
    return Verdict(run.name, "by construction", f"{run.name} never saw “{summary.concept_name}”.", tuple(sentences))


def _random(summary: Summary, run: RunStatistics) -> Verdict:
    headline = f"{run.name} has random weights and can remember nothing: it shows what the measures do without memory."
    text = (
        f"Its seeds moved by {number(run.concept.shift, 'nats')} for concept and {number(run.damage, 'nats')} for "
        "reference images: what the measure does when nothing at all was learnt, not forgetting."
    )
    if _psnr(summary):
        text += " Since it rebuilds images as well as the others do, a high PSNR is no evidence of memory."
    return Verdict(run.name, "by construction", headline, (text,))


def _percent(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f} %"
