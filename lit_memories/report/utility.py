"""Utility as papers quote it: the table, and what must be said beside it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.report.formats import Column, Table, Value
from lit_memories.statistics.quantities import RunStatistics, Summary
from lit_memories.statistics.utility import Against, SetDistance

THOUSANDS = 1000
"""Kernel distances are small; tables have them in thousandths, as is usual."""
HOW_TO_READ = (
    "Kernel distances (KID where the features are Inception's) are unbiased whatever the number of pictures, and may "
    "fall below 0 where two sets are alike. Fréchet distances (FID) grow with fewer pictures: one of so many compares "
    "with others of as many alone, and the one carried on to infinitely many is given from four pictures a feature on. "
    "Vanilla's pictures are those of the same prompts and noise, so that a model that was not changed has 0."
)
AGAINST: dict[Against, str] = {"vanilla": "vanilla's pictures", "reference": "real ones"}
SCORES = (
    ("clip_score", "CLIP score", 2),
    ("preference", "preference score", 2),
    ("distance", "perceptual distance to vanilla", 3),
)
"""Numbers of the probe utility, with their titles and digits."""


def utility_table(summary: Summary) -> list[Table]:
    """The table of utility, if any model's pictures were looked at for it; its first column names the run."""
    columns = [*_distances(summary), *_scores(summary)]
    name = Column("model", "model", lambda run: run.name, interval=False, left=True)
    title = "Utility: pictures of other things, as papers compare them"
    return [Table("utility", title, (name, *columns), summary.runs)] if columns else []


def _distances(summary: Summary) -> Iterator[Column]:
    """Columns of each network's distances, from vanilla's pictures first."""
    found = [one for run in summary.runs for one in run.utility]
    for against in AGAINST:
        for features in dict.fromkeys(one.features for one in found if one.against == against):
            column = partial(_distance, features=features, against=against)
            of = f"{features}, against {AGAINST[against]}"
            yield column("kid", f"kernel distance x {THOUSANDS}, {of}", lambda one: _thousandths(one.kid), 2)
            if any(one.cmmd is not None for one in found if one.features == features):
                yield column("cmmd", f"CMMD, {of}", lambda one: one.cmmd, 3)
            yield column("fid_infinity", f"Fréchet distance of infinitely many, {of}", lambda one: one.fid_infinity, 2)
            yield column("fid", f"of as many as there are, {of}", lambda one: one.fid, 2, interval=False)
            yield column("pictures", f"pictures, {of}", _sizes, interval=False)


def _distance(
    key: str,
    title: str,
    value: Callable[[SetDistance], Value],
    digits: int = 0,
    interval: bool = True,
    *,
    features: str,
    against: Against,
) -> Column:
    def of_run(run: RunStatistics) -> Value:
        one = next((one for one in run.utility if (one.features, one.against) == (features, against)), None)
        return None if one is None else value(one)

    return Column(f"{key}_{features}_{against}", title, of_run, digits, interval=interval)


def _thousandths(found: Estimate) -> Estimate:
    return replace(found, value=THOUSANDS * found.value, low=THOUSANDS * found.low, high=THOUSANDS * found.high)


def _sizes(one: SetDistance) -> Value:
    return f"{one.pictures} to {one.others}" if one.pictures != one.others else one.pictures


def _scores(summary: Summary) -> Iterator[Column]:
    """Columns of what every picture has by itself."""
    for name, title, digits in SCORES:
        path = f"utility.{name}"
        held = [run.numbers[path] for run in summary.runs if path in run.numbers]
        if held:
            yield Column(name, title, partial(_value, path=path, of="retained"), digits)
        if any(found.change("retained") is not None for found in held):
            yield Column(f"{name}_change", "less vanilla's", partial(_change, path=path), digits)
        if any(found.value("reference") is not None for found in held):
            real = partial(_value, path=path, of="reference")
            yield Column(f"{name}_reference", f"{title} of real ones", real, digits)


def _value(run: RunStatistics, path: str, of: str) -> Value:
    return run.value(path, of)


def _change(run: RunStatistics, path: str) -> Value:
    return run.change(path, "retained")
