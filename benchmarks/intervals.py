"""How often intervals hold the truth: of means, ratios, rates, and how often placebos raise a false alarm.

Writes docs/results/intervals.{md,json}.

    python benchmarks/intervals.py

Everything is simulated with the functions that reports call, seed 0; a share of 4000 data sets is known to 0.007.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Generator, Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.inference import resolvable
from lit_memories.metrics.intervals import mean_interval, paired_rate_interval, ratio_interval
from lit_memories.statistics.chance import Chance
from lit_memories.statistics.placebos import placebos

Law = Callable[[tuple[int, int], Generator], Tensor]
DRAWS = 4000
SIZES = 8, 16, 32, 64
UNEQUAL = (8, 32), (32, 8), (16, 64), (64, 16)
CONTROLS = (90, 25, 16), (90, 25, 32), (90, 25, 64), (12, 25, 16), (6, 25, 32)
"""Mean and spread of a control's shifts, nats, and images a set."""
TRUE_FRACTION = 0.3
LOSSES = 0, 2, 5, 10, 20


def _normal(shape: tuple[int, int], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _t3(shape: tuple[int, int], generator: Generator) -> Tensor:
    squares = sum(_normal(shape, generator).square() for _ in range(3))
    return _normal(shape, generator) / squares.sqrt()


def _exponential(shape: tuple[int, int], generator: Generator) -> Tensor:
    return -torch.rand(shape, generator=generator, dtype=torch.float64).clamp_min(1e-300).log() - 1


def _lognormal(shape: tuple[int, int], generator: Generator) -> Tensor:
    return (_normal(shape, generator).exp() - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def _outliers(shape: tuple[int, int], generator: Generator) -> Tensor:
    wide = torch.rand(shape, generator=generator) < 0.05
    return _normal(shape, generator) * wide.double().mul(9).add(1) / math.sqrt(5.95)


LAWS: dict[str, Law] = {
    "normal": _normal,
    "t, 3 degrees": _t3,
    "exponential": _exponential,
    "lognormal": _lognormal,
    "5 % outliers": _outliers,
}
"""Of mean 0 and spread 1."""


def coverage(estimates: Iterable[Estimate], truth: float) -> float:
    """Share of intervals that hold a value; one that is not known excludes nothing."""
    found = [not (estimate.low > truth or estimate.high < truth) for estimate in estimates]
    return sum(found) / len(found)


def of_means(law: Law, n: int, m: int, ratio: float, draws: int, generator: Generator) -> float:
    """Coverage of the difference of two means, the first set `ratio` times as wide."""
    first, second = ratio * law((draws, n), generator), law((draws, m), generator)
    return coverage((mean_interval(a, b) for a, b in zip(first, second, strict=True)), 0)


def of_one_mean(law: Law, n: int, draws: int, generator: Generator) -> float:
    """Coverage of one mean."""
    return coverage((mean_interval(x) for x in law((draws, n), generator)), 0)


def of_fractions(mean: float, sd: float, n: int, draws: int, generator: Generator) -> float:
    """Coverage of the share of a control's forgetting, as the control's own is shown or not."""
    estimates = []
    for _ in range(draws):
        own, control = (sd * _normal((2, n), generator) for _ in range(2))
        shifts = torch.stack([TRUE_FRACTION * mean + 0.5 * own[0], mean + control[0]], 1)
        estimates.append(ratio_interval(shifts, torch.stack([0.5 * own[1], control[1]], 1)))
    return coverage(estimates, TRUE_FRACTION)


def of_rates(loss: float, n: int) -> float:
    """Coverage of a change by -`loss` where no case gains, summed over all that can happen."""
    shares = [math.comb(n, lost) * loss**lost * (1 - loss) ** (n - lost) for lost in range(n + 1)]
    inside = [coverage([paired_rate_interval(0, lost, n)], -loss) for lost in range(n + 1)]
    return sum(share * held for share, held in zip(shares, inside, strict=True))


def alarms(law: Law, n: int, draws: int, generator: Generator) -> float:
    """Share of reference sets in which placebos raise an alarm though nothing is there."""
    colours, things = ("red", "green", "blue"), ("gear", "star", "clover", "heart")
    prompts = [f"a {colours[i % 3]} {things[i % 4]} on {'black' if i % 2 else 'white'}" for i in range(n)]
    found = [placebos(law((1, n), generator)[0], prompts, "umbrella", Chance(500, seed)) for seed in range(draws)]
    return sum(one is not None and one.alarm for one in found) / draws


def of_power(n: int, ratio: float, draws: int, generator: Generator) -> float:
    """How often the smallest forgetting that is said to be resolvable with power 0.8 is found."""
    effect = resolvable(ratio, n, 1.0, n)
    first, second = ratio * _normal((draws, n), generator) + effect, _normal((draws, n), generator)
    return 1 - coverage((mean_interval(a, b) for a, b in zip(first, second, strict=True)), 0)


def main(draws: int = DRAWS, sets: int = 200, out: Path = Path("docs/results/intervals")) -> None:
    """Simulate, and write the page.

    Args:
        draws: data sets a cell.
        sets: reference sets a cell of the placebos.
        out: where the tables go, without suffix.
    """
    generator = Generator().manual_seed(0)
    results: dict[str, Any] = {"draws": draws, "sets": sets}
    results["means"] = {
        name: {f"{n}, 1:1": of_means(law, n, n, 1, draws, generator) for n in SIZES}
        | {f"{n}, 3:1": of_means(law, n, n, 3, draws, generator) for n in SIZES}
        for name, law in LAWS.items()
    }
    results["unequal"] = {
        name: {f"{n} + {m}, 3:1": of_means(law, n, m, 3, draws, generator) for n, m in UNEQUAL}
        for name, law in LAWS.items()
    }
    results["one mean"] = {
        name: {str(n): of_one_mean(law, n, draws, generator) for n in SIZES} for name, law in LAWS.items()
    }
    results["fractions"] = {
        f"{mean} ± {sd}, {n} images": {"coverage": of_fractions(mean, sd, n, draws // 4, generator)}
        for mean, sd, n in CONTROLS
    }
    results["rates"] = {
        f"{n} samples": {f"-{loss} points": of_rates(loss / 100, n) for loss in LOSSES} for n in (8, 16, 24, 48)
    }
    results["placebos"] = {
        name: {str(n): alarms(law, n, sets, generator) for n in (32, 64)} for name, law in LAWS.items()
    }
    results["power"] = {
        f"{ratio}:1": {str(n): of_power(n, ratio, draws, generator) for n in (5, 8, 16, 32)} for ratio in (1, 3)
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(results), encoding="utf-8")


TABLES = {
    "means": (
        "Forgetting: the difference of two means",
        "Images a set, and the spread of the first set to that of the second.",
    ),
    "unequal": ("The same, sets of unequal size", "Where the smaller set is the wider and skewed one, less is held."),
    "one mean": ("Damage: one mean", "Images."),
    "fractions": (
        "Fraction of the control's forgetting",
        f"True fraction {TRUE_FRACTION}; the control's mean shift and its spread, nats. An interval that cannot be "
        "given, as the control is not told from vanilla, excludes nothing.",
    ),
    "rates": ("Change of the retained rate", "True change; exact, no sample gains."),
    "placebos": ("False alarms of placebos in null data", "Reference images; the stated rate is at most 0.05."),
    "power": (
        "Power at the smallest resolvable forgetting",
        "Images a set; said to be 0.80 for normal shifts. Spread of the first set to that of the second.",
    ),
}


def page(results: dict[str, Any]) -> str:
    """The tables in Markdown."""
    lines = [
        "# What intervals hold\n",
        f"`python benchmarks/intervals.py`, seed 0: {results['draws']} data sets a cell (a quarter of them for "
        f"fractions, {results['sets']} for placebos), with the functions that reports call. Where it is not said "
        "otherwise, a cell is the share of nominal 95 % intervals that hold the truth.\n",
    ]
    for name, (title, text) in TABLES.items():
        rows = results[name]
        columns = list(next(iter(rows.values())))
        lines += [f"## {title}\n", f"{text}\n", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {row} | {' | '.join(f'{cells[c]:.3f}' for c in columns)} |" for row, cells in rows.items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main)
