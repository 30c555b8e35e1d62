"""What benchmarks/replicates.py found, as a section of docs/results/erasure.md."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from replicates_numbers import HELD_BACK, ROWS, Parts, Replicates, power
from worlds_page import grid_of

from lit_memories.metrics.bootstrap import Estimate

REMEMBERS = 0.5
"""Methods whose fraction lies below are near the end of the scale that knows."""
BOOTSTRAPS, HELD = "76 to 95 %", "97 to 98 %"
"""Coverage of both kinds of intervals, by design."""
TEXT = """
## Other erasures, other trainings

`python benchmarks/replicates.py`: {models} erased models. Everything above is one erasure of one model, and its
intervals are over pictures. Here every method erases from {trainings} trainings of the base ({rows} pictures each after
a trunk that saw none of the concepts; smaller models than the shipped one), each with never-knew controls of its own;
from the first of them {erasures} times, with other seeds of the erasure and other images drawn for it. No recipe was
tuned on any of these models; {held} was held back from all tuning. Each model is asked about {images} + {images}
pictures, with {prompted} + {prompted} samples.

*Fraction*: forgetting by surprise in units of the control's of the same training: 0 is vanilla, 1 never knew. Erasures
of one training are averaged first; intervals are over trainings, erasures and pictures together (`metrics.crossed`).
A bootstrap that draws trainings, erasures and pictures again has three trainings to draw from, which is too few:
in the simulation of tests/metrics/test_nested.py its 95 % intervals hold {boot}, where these hold {held_by}.

{fractions}
*Prompted*, *others*: shares of samples in percent, mean over models and concepts, and the range of single models.
*Damage*: nats of other pictures. *Savings*: how much sooner it relearns than the model that never knew (1 as vanilla, 0
as never-knew; factors of rank 4, 8 pictures, docs/results/relearning.md); one erasure each, intervals over pictures.

{practice}
### Which ranking is stable

Methods in the order of their fraction, mean over concepts; the *ranks* that 95 % intervals of pairwise differences
(paired by training and picture) leave to each, and in how many pairs of concept and training a method lies below the
next one.

{ranks}
{stable}

### Where the scatter comes from

Standard deviations of the fraction of one erasure of one training on {images} + {images} pictures, root mean squares
over concepts, and each source's share of the variance.

{parts}
### What it takes to tell two methods apart

The least difference between two methods' fractions that is told with power 0.8 at level 0.05, by the number of
trainings, each erased once by either method (the methods' own trainings; erasing from the same ones is better still),
for methods near the end that knows (fraction below {remembers}) and for the others, with as many pictures and with four
times as many.

{power}"""


def section(file: Path) -> str:
    """The section as Markdown; empty if there is nothing to tell.

    Args:
        file: lines of benchmarks/replicates.py.
    """
    if not file.is_file() or not (found := Replicates(file)).concepts:
        return ""
    lines = [line for line in found.lines.values() if line["model"] in found.methods]
    first = lines[0]["numbers"]
    counts = [len(found.erasures(c, 0, m)) for c in found.concepts for m in found.methods if 0 in found.trainings(c)]
    return TEXT.format(
        models=len(lines), trainings=len({line["training"] for line in lines}), rows=f"{ROWS:,}",
        erasures=max(counts, default=1), held=" and ".join(HELD_BACK),
        images=len(first["concept"]["denoising.surprise"]), boot=BOOTSTRAPS, held_by=HELD,
        prompted=len(first["prompted"]["samples.shows_concept"]), fractions=_fractions(found),
        practice=_practice(found), ranks=_ranks(found), stable=_stable(found), parts=_parts(found),
        remembers=REMEMBERS, power=_power(found),
    )  # fmt: skip


def _fractions(found: Replicates) -> str:
    head = ["method", *found.concepts, "mean", "trainings × erasures of the first"]
    rows = []
    for method in found.methods:
        cells, counts = [method], set()
        for concept in found.concepts:
            fraction = found.fraction(concept, method)
            cells.append("–" if fraction is None else _shown(fraction))
            counts.add((0 if fraction is None else fraction.count, len(found.erasures(concept, 0, method))))
        overall = found.overall(method)
        cells.append("–" if overall is None else _shown(overall.interval()))
        rows.append([*cells, ", ".join(f"{t} × {e}" for t, e in sorted(counts))])
    return grid_of(head, rows)


def _practice(found: Replicates) -> str:
    head = ["method", "prompted", "others", *(f"damage, {c}" for c in found.concepts)]
    head += [f"savings, {c}" for c in found.concepts]
    rows = []
    for method in found.methods:
        cells = [method]
        for side, path in (("prompted", "samples.shows_concept"), ("retained", "samples.met")):
            rates = [100 * x for c in found.concepts for x in found.rates(c, method, side, path)]
            cells.append(f"{statistics.fmean(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})" if rates else "–")
        cells += [
            _shown(found.damage(c, method).interval(), 0) if found.fraction(c, method) else "–" for c in found.concepts
        ]
        cells += ["–" if (s := found.savings(c, method)) is None else _shown(s) for c in found.concepts]
        rows.append(cells)
    return grid_of(head, rows)


def _ranks(found: Replicates) -> str:
    ranks, rows = found.ranks(), []
    for number, (method, (value, low, high)) in enumerate(ranks.items()):
        after = list(ranks)[number + 1 : number + 2]
        below = [" of ".join(map(str, found.agreement(method, other))) for other in after]
        rows.append([method, f"{value:.2f}", f"{low} to {high}" if low < high else str(low), *(below or ["–"])])
    return grid_of(["method", "fraction", "ranks", "below the next"], rows)


def _stable(found: Replicates) -> str:
    names = list(found.ranks())
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    compared = [(pair, interval) for pair in pairs if (interval := found.compared(*pair)) is not None]
    told = [pair for pair, one in compared if one.count > 1 and not one.interval().low <= 0 <= one.interval().high]
    always = [pair for pair in pairs if len(set(found.agreement(*pair))) == 1]
    return (
        f"Of {len(pairs)} pairs of methods {len(told)} are told apart by an interval over trainings, erasures and "
        f"pictures; {len(always)} stand in the same order for every concept and training."
    )


def _parts(found: Replicates) -> str:
    rows = []
    for method in found.methods:
        one = found.parts(method)
        rows.append([method, *(_part(getattr(one, name), one) for name in ("trainings", "erasures", "pictures"))])
    return grid_of(["method", "trainings", "erasures", "pictures"], rows)


def _part(sd: float, whole: Parts) -> str:
    if sd != sd:  # NaN: there is nothing to tell it from
        return "–"
    return f"{sd:.2f} ({100 * sd**2 / whole.total**2:.0f} %)" if whole.total else "0.00"


def _power(found: Replicates) -> str:
    ranks = found.ranks()
    knows = [found.parts(method) for method, (value, *_) in ranks.items() if abs(value) < REMEMBERS]
    others = [found.parts(method) for method, (value, *_) in ranks.items() if abs(value) >= REMEMBERS]
    head = ["trainings of each", "near vanilla", "with 4 × the pictures", "the others", "with 4 × the pictures"]
    rows = [
        [str(t), *(f"{power(kind, t, more):.2f}" if kind else "–" for kind in (knows, others) for more in (1, 4))]
        for t in (2, 3, 5, 10)
    ]
    return grid_of(head, rows)


def _shown(estimate: Estimate, digits: int = 2) -> str:
    ends: Sequence[float] = (estimate.low, estimate.high)
    value = f"{estimate.value:.{digits}f}"
    return value if any(end != end for end in ends) else f"{value} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
