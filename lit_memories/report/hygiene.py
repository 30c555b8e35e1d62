"""What the measurement can resolve, in sentences: sample size, placebos, precision."""

from lit_memories.report.formats import decimal, number
from lit_memories.statistics.placebos import LEVEL, Placebos
from lit_memories.statistics.quantities import RunStatistics, Summary


def resolution_sentence(summary: Summary, run: RunStatistics) -> list[str]:
    """The smallest forgetting these images resolve, and how many a forgetting worth resolving takes; or nothing."""
    found = run.leading.resolution
    if found is None:
        return []
    goal = f"{decimal(found.goal, 1)} nats" + (", a tenth of the control's forgetting," if summary.calibrated else "")
    concept, reference = (run.pairing[name].used for name in ("concept", "reference"))
    text = (
        f"With these {concept} + {reference} images a forgetting of {decimal(found.least, 1)} nats can be resolved "
        f"(80 % power at level {LEVEL:g})"
    )
    if found.least <= found.goal:
        return [f"{text}, which is enough for {goal.rstrip(',')}."]
    return [f"{text}; to resolve {goal} {found.images} images each are needed."]


def placebo_sentences(run: RunStatistics) -> list[str]:
    """How often placebos alarm, and what it means if they do too often."""
    found = run.leading.placebos
    if found is None:
        return []
    parts = []
    if found.words:
        are = "is" if found.distinguishable == 1 else "are"
        parts.append(
            f"{found.distinguishable} of {len(found.words)} placebos (reference images that share a word of their "
            f"prompts) {are} distinguishable from 0"
        )
    parts.append(
        f"of {found.splits} random halves of the reference images, the interval tells "
        f"{decimal(100 * found.split_intervals, 0)} % from the other half"
    )
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}.", *_alarm(found)]


def _alarm(found: Placebos) -> list[str]:
    if not found.alarm:
        return []
    named = [f"“{entry.word}”" for entry in found.words if entry.p_corrected < LEVEL]
    return [
        f"Warning: no placebo should be, but {', '.join(named)} {'are' if len(named) > 1 else 'is'} (chance alone does "
        f"so in at most {100 * LEVEL:g} % of audits): the model's change is uneven among reference images, and "
        "forgetting depends on which of them it is measured against."
    ]


def precision_sentences(summary: Summary) -> list[str]:
    """What each precision that was used does to seeds that are known."""
    firsts = {run.precision: run for run in reversed(summary.runs) if "seed" in run.asked}
    sentences = []
    for precision in sorted(firsts):
        run = firsts[precision]
        bias, error = run.inverter.nll_bias, run.inverter.seed_error
        if bias is None or error is None:
            sentences.append(f"Precision {precision}: its effect on seeds was not measured, no seed was known.")
            continue
        sentences.append(
            f"Precision {precision}: {run.inverter.known} known seeds of {run.name} come back with an NLL bias of "
            f"{number(bias, 'nats', 2)} and a relative error of {number(error, digits=4)}; the inverter's own error is "
            "part of that."
        )
    return sentences
