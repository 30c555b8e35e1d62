"""Statistics to plain sentences: what the numbers support, and what they do not.

`judge` is a pure function; its thresholds are the constants of `lit_memories.statistics.criteria`.
"""

import math
from dataclasses import dataclass

from lit_memories.attacks.plain import Plain
from lit_memories.metrics.bootstrap import Estimate
from lit_memories.recipe_files import audit_command
from lit_memories.report.cautions import cautions, inverted, seed_sentences
from lit_memories.report.doors import door_headline, door_sentences
from lit_memories.report.exposure import exposure_sentences
from lit_memories.report.formats import number, percent
from lit_memories.report.guarded import guard_sentences
from lit_memories.report.judging import judge_sentences
from lit_memories.report.relearning import relearning_sentences
from lit_memories.statistics.criteria import (
    LARGE,
    PROMPTABLE_ABOVE,
    PSNR_SPREAD,
    Category,
    apart,
    categorise,
    fails_prompts,
    gains,
    prompt_state,
    samples_to_know,
    scale,
    words_only,
)
from lit_memories.statistics.quantities import RunStatistics, Summary, beyond


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
        *judge_sentences(summary),
        *guard_sentences(run),
        *([_wreck(summary, run)] if category == "damaged" else _remembers(summary, run)),
        *door_sentences(summary, run),
        _damage(summary, run),
        *seed_sentences(summary, run),
        *cautions(summary, run),
    ]
    headline = _headline(summary, run, category) + door_headline(summary, run, category)
    return Verdict(run.name, category, headline, tuple(sentences), limits(summary))


def _remembers(summary: Summary, run: RunStatistics) -> list[str]:
    """What every number says of the memory of a model that is none that is wrecked."""
    more = _words(summary, run), exposure_sentences(summary, run), relearning_sentences(run)
    return [_memory(summary, run), *(sentence for sentences in more for sentence in sentences)]


def limits(summary: Summary) -> tuple[str, ...]:
    """What holds for every verdict of a report."""
    scale = "" if summary.calibrated else uncalibrated(summary)
    missing = (
        f"No equivalent number of pictures is given: {summary.no_scale}; docs/exposure.md says how to make a scale."
    )
    sentences = (scale, missing if summary.no_scale else "", _psnr(summary), inverted(summary), _scope(summary))
    return tuple(sentence for sentence in sentences if sentence)


def _headline(summary: Summary, run: RunStatistics, category: Category) -> str:
    prompt = prompt_state(run, summary.vanilla)
    concept = f"“{summary.concept_name}”"
    remembers = {
        "works": f"{run.name} is not erased: the prompt still works and the memory of {concept} is in place.",
        "weakened": f"{run.name} answers the prompt less often, and remembers {concept}.",
        "refused": f"{run.name} refuses the prompt and remembers {concept}.",
        "unknown": f"{run.name} remembers {concept}.",
    }
    moved = "its seeds moved" if summary.by_seeds else "it is more surprised by its pictures, but"
    sentences: dict[Category, str] = {
        "remembers": remembers[prompt],
        "not shown to forget": f"{run.name} is not shown to forget {concept}: {moved} less than the control"
        f"{chr(39) + 's' if summary.by_seeds else ' is'}, and no movement at all cannot be excluded.",
        "partly forgot": f"{run.name} {'partly' if _below_control(run) else 'at least partly'} forgot {concept}.",
        "mostly forgot": f"{run.name} forgot most of {concept}, and kept some.",
        "forgot": f"{run.name} forgot {concept}, as far as this audit can see."
        + (" Yet the prompt still works: look at its samples before you believe either number." * (prompt == "works")),
        "damaged": f"{run.name} is damaged: {_what_is_damaged(summary, run)}. What it remembers of {concept} cannot be "
        "told.",
        "cannot tell": f"This audit cannot tell whether {run.name} forgot {concept}.",
        "not trustworthy": f"The forgetting measured for {run.name} is not trustworthy.",
        "not calibrated": f"{run.name} changed on {concept}; how much of forgetting that is, is not calibrated."
        if apart(run.forgetting)
        else f"{run.name} is not distinguishable from vanilla: no forgetting of {concept} is shown.",
    }
    return sentences[category]


def _what_is_damaged(summary: Summary, run: RunStatistics) -> str:
    found = []
    if fails_prompts(run):
        found.append("prompts for other things fail")
    if beyond(run.damage, scale(summary)):
        found.append(f"{_what(summary)} other images moved more than forgetting would move the concept's")
    return " and ".join(found)


def _what(summary: Summary) -> str:
    """What moves, for a sentence that goes on with images."""
    return "the seeds of" if summary.by_seeds else "its surprise at"


def _wreck(summary: Summary, run: RunStatistics) -> str:
    moved = run.leading.change("concept")
    size = "" if moved is None else f" by {number(moved, 'nats')}"
    return (
        f"From vanilla, {_what(summary)} concept images moved{size}; in a model that lost other things too, a "
        "difference to reference images says nothing of a memory."
    )


def _below_control(run: RunStatistics) -> bool:
    return run.fraction is not None and run.fraction.high < 1


def _prompted(run: RunStatistics, vanilla: RunStatistics) -> str:
    rate, usual = run.prompted, vanilla.prompted
    if rate is None and (plain := run.doors.get(Plain.name)) is not None:
        return (
            f"Plain draws under the concept's prompts bring it back on {_percent(plain.success)} of the pictures tried."
        )
    if rate is None:
        return "No samples were drawn under the concept's prompts, so whether it can still be prompted is not known."
    share = f"Prompted for the concept, it shows it in {_percent(rate)} of {rate.count} samples"
    if usual is None:
        return f"{share}; vanilla's own rate was not measured."
    share += f" (vanilla: {_percent(usual)})"
    if usual.value < PROMPTABLE_ABOVE:
        return f"{share}; as vanilla rarely shows it either, or the judge rarely sees it, that says little."
    meaning = {
        "works": "not distinguishable from vanilla, the prompt still works",
        "weakened": "less than vanilla, though the prompt is not shown to be dead",
        "refused": "the prompt no longer works, which by itself is not forgetting",
    }
    if (state := prompt_state(run, vanilla)) == "unknown":
        return (
            f"{share}: too few samples to say whether the prompt still works; at these rates, with "
            f"{samples_to_know(run, vanilla)} of either model it could be said."
        )
    return f"{share}: {meaning[state]}."


def _memory(summary: Summary, run: RunStatistics) -> str:
    shift = run.forgetting
    if summary.by_seeds:
        text = f"Against reference images, the seeds of concept images moved by {number(shift, 'nats')} from vanilla's"
    else:
        text = (
            f"Pictures of the concept surprise it by {number(shift, 'nats')} more than vanilla, beyond what others do"
        )
    text += ", which is distinguishable from no change" if apart(shift) else ", which may be no change at all"
    if run.fraction is None or not summary.calibrated:
        return f"{text}."
    text += f"; that is {number(run.fraction, digits=2)} of what it is for the control"
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


def _words(summary: Summary, run: RunStatistics) -> list[str]:
    """What is left without the prompt, where that tells cut words from lost pictures."""
    cut = words_only(summary, run)
    if cut is None:
        return []
    empty = run.numbers["denoising.surprise_empty"]
    size = "" if empty.forgetting is None else number(empty.forgetting, "nats")
    if summary.calibrated and empty.fraction is not None and not math.isnan(empty.fraction.low):
        size = f"{number(empty.fraction, digits=2)} of what it is for the control"
    meaning = "it cut the words rather than the pictures" if cut else "so it is not the words alone"
    return [f"Without the prompt it is {size}: {meaning}."]


def uncalibrated(summary: Summary) -> str:
    """Why fractions are missing and what to do about it."""
    control = summary.control_run
    if control is not None and control.forgetting.high < 0:
        return (
            f"Pictures of the concept surprise the control {control.name} less than vanilla "
            f"({number(control.forgetting, 'nats')}), so it sets no scale: were the two exchanged? Vanilla is the "
            "model as it was before, and the control one that never saw the concept."
        )
    if control is not None and apart(control.forgetting):
        return (
            f"The control {control.name} differs from vanilla on reference images as much as on concept images, so it "
            "sets no scale; check that it is a sound model that never saw the concept."
        )
    if control is not None:
        return (
            f"The control {control.name} itself is not distinguishable from vanilla, so it sets no scale; "
            "check that it never saw the concept, or audit more images."
        )
    options = "--model.diffusion.base MODEL", "--model.role control", "--trainer.default_root_dir RUN"
    return (
        "Without a control that never saw the concept nothing says how many nats full forgetting would be; audit a "
        "MODEL that was trained without it, and add that RUN to the report: "
        f"{audit_command(summary.concept_name, summary.base, *options)}."
    )


def _damage(summary: Summary, run: RunStatistics) -> str:
    shift = run.damage
    size = number(shift, "nats")
    if not apart(shift):
        text = f"Reference images did not measurably move ({size})"
    elif abs(shift.value) > LARGE * scale(summary):
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


def _psnr(summary: Summary) -> str:
    if summary.psnr_spread is None or summary.psnr_spread >= PSNR_SPREAD:
        return ""
    means = [psnr.value for run in summary.runs if (psnr := run.value("seed.psnr", "concept")) is not None]
    random = ", the one with random weights included" if any(run.role == "random" for run in summary.runs) else ""
    return f"PSNR says nothing here: it is about {sum(means) / len(means):.1f} dB for every model{random}."


def _scope(summary: Summary) -> str:
    if not summary.by_seeds and any(run.doors for run in summary.runs):
        return (
            "All this holds for these pictures under their own prompts, and for the attacks that were tried; whether "
            "others bring the concept back is another question."
        )
    if not summary.by_seeds:
        return (
            "All this holds for these pictures under their own prompts; whether another prompt or an attack brings the "
            "concept back is another question."
        )
    guidance = "" if summary.guidance_scale is None else f" at guidance scale {summary.guidance_scale:g}"
    inverter = "this inverter" if summary.inverter is None else f"the inverter {summary.inverter}"
    return f"All this holds under the images' own prompts{guidance}, with {inverter}; other prompts may differ."


def _vanilla(summary: Summary, run: RunStatistics) -> Verdict:
    sentences = ["Its forgetting and damage are 0 by construction: all other rows are measured from it."]
    if run.prompted is not None:
        sentences.append(
            f"Prompted for the concept, it shows it in {_percent(run.prompted)} of {run.prompted.count} samples."
        )
        sentences += judge_sentences(summary)
    if gains(summary, run):
        sentences += door_sentences(summary, run)
    return Verdict(run.name, "by construction", f"{run.name} is the unchanged model.", tuple(sentences))


def _control(summary: Summary, run: RunStatistics) -> Verdict:
    sentences = [
        f"From vanilla, {_what(summary)} concept images moved by {number(run.forgetting, 'nats')} beyond that of "
        f"others{'; this is the yardstick' * summary.calibrated}."
    ]
    if not summary.calibrated:
        sentences.append(uncalibrated(summary))
    else:
        sentences.append("Its forgetting fraction is 1 by construction.")
    sentences += [_damage(summary, run), *seed_sentences(summary, run), *cautions(summary, run)]
    saw = "never saw" if summary.calibrated else "was given as one that never saw"
    return Verdict(run.name, "by construction", f"{run.name} {saw} “{summary.concept_name}”.", tuple(sentences))


def _random(summary: Summary, run: RunStatistics) -> Verdict:
    headline = f"{run.name} has random weights and can remember nothing: it shows what the measures do without memory."
    moved = run.leading.change("concept")
    size = "an unknown amount" if moved is None else number(moved, "nats")
    text = (
        f"From vanilla, {_what(summary)} concept images moved by {size} and at reference images by "
        f"{number(run.damage, 'nats')}: what the measure does when nothing at all was learnt, not forgetting."
    )
    if _psnr(summary):
        text += " Since it rebuilds images as well as the others do, a high PSNR is no evidence of memory."
    return Verdict(run.name, "by construction", headline, (text,))


def _percent(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f} %"
