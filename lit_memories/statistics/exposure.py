"""How many pictures has a model seen that remembers as much? Audits' numbers on the scale of models that learnt.

A scale is measured once, on models that were shown exactly n pictures of a concept (benchmarks/worlds.py,
docs/exposure.md), and kept as a small file. It holds for audits with the same settings of models of the same world:
the same autoencoder, tokenizer and architecture. Everywhere else there is none, which is said rather than guessed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.crossed import least_difference
from lit_memories.metrics.dose import Curve, dose_response, equivalent
from lit_memories.runs import RunInfo
from lit_memories.settings import short_hash
from lit_memories.statistics.criteria import damaged
from lit_memories.statistics.quantities import NumberStatistics, RunStatistics, Summary
from lit_memories.storage.plain import parse

SHIPPED = Path(__file__).parent / "scales" / "pictograms.json"
"""The scale of the pictogram world, made by benchmarks/worlds_scale.py."""
ANY = "*"
"""In the place of a concept: the curve for concepts that have none of their own."""
LARGEST_FILE = 10**7
_Points = dict[str, list[float]]


@dataclass(frozen=True)
class Scale:
    """Dose-response curves of an audit's numbers.

    Args:
        name: of the scale, for people.
        made_by: the command that measured it.
        world: what models must share with those it was measured on, as `world_of` says.
        marks: hashes of the settings of the probes whose numbers it has.
        best: path of the number that predicted doses best on trainings held out.
        curves: by path of the number and name of the concept (or `ANY`): ``doses``, ``readings``, ``scatter`` and
            ``freedom`` (one value), as `dose_response` takes them.
    """

    name: str
    made_by: str
    world: dict[str, str]
    marks: dict[str, str]
    best: str
    curves: dict[str, dict[str, _Points]]

    def __post_init__(self) -> None:
        if not self.curves.get(self.best):
            raise ValueError(f"best is {self.best!r}, of which it has no curve")
        texts = (self.name, self.made_by, *self.world, *self.world.values(), *self.marks, *self.curves)
        names = (*texts, *(concept for concepts in self.curves.values() for concept in concepts))
        if not all(text.isprintable() and 0 < len(text) <= 300 for text in names):
            raise ValueError("a name in it is empty, longer than 300 characters, or holds control characters")
        for path, concepts in self.curves.items():
            if path.partition(".")[0] not in self.marks:
                raise ValueError(f"it does not say with which settings {path} was measured")
            for concept in concepts:
                self.curve(path, concept)

    def curve(self, path: str, concept: str) -> Curve | None:
        """The curve of a number for a concept, or for any.

        Raises:
            ValueError: if the points are no curve.
        """
        points = self.curves[path].get(concept, self.curves[path].get(ANY))
        if points is None:
            return None
        try:
            (freedom,) = points["freedom"]
            return dose_response(points["doses"], points["readings"], points["scatter"], freedom)
        except KeyError as error:
            raise ValueError(f"its curve of {path} for {concept!r} lacks {error}") from None
        except ValueError as error:
            raise ValueError(f"its curve of {path} for {concept!r} is none: {error}") from None


def read_scale(file: Path) -> Scale:
    """A scale from its file.

    Args:
        file: as benchmarks/worlds_scale.py writes it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged or no scale.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no scale in {file}: docs/exposure.md says how to make one")
    if file.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{file} is no scale: it is larger than {LARGEST_FILE} bytes")
    try:
        return parse(Scale, file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no scale, or damaged: {error}") from None


def world_of(info: RunInfo) -> dict[str, str]:
    """What a scale's models and an audited one must share: the autoencoder, the tokenizer and the architecture."""
    vae: Any = info.settings.get("vae")
    parts: Any = info.model.get("configuration")
    found = dict(parts) if isinstance(parts, Mapping) else {}
    found.pop("gate", None)  # of an erasure's adapter: no part of the world that it was made in
    found["vae"] = vae.get("weights") if isinstance(vae, Mapping) else None
    return {str(name): str(value) for name, value in sorted(found.items())}


def settings_mark(info: RunInfo, probe: str) -> str:
    """A hash of a probe's settings but for those that name the concept or its pictures; the same for every concept."""
    settings = {k: v for k, v in info.probes[probe]["settings"].items() if k not in ("judge", "taught")}
    return short_hash(json.dumps(settings, sort_keys=True))


def misfit(scale: Scale, info: RunInfo) -> str | None:
    """Why a scale does not hold for the audit of a vanilla model; None if it does."""
    own, others = world_of(info), scale.world
    if different := sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name)):
        return f"the scale of {scale.name} was measured on models with another {' and '.join(different)}"
    asked = {path.partition(".")[0] for path in scale.curves} & info.probes.keys()
    if different := sorted(name for name in asked if settings_mark(info, name) != scale.marks[name]):
        return f"the scale of {scale.name} was measured with other settings of {' and '.join(different)}"
    if not asked:
        return f"the scale of {scale.name} has none of the numbers that were measured"
    return None


def reading(number: NumberStatistics) -> Estimate | None:
    """What a number says on a scale: 0 as vanilla, 1 as the control; of rates, the share of samples that lack it.

    Returns:
        None if it is neither compared by forgetting nor a rate of prompted samples, or its interval is not known.
    """
    if number.number.compare == "rate":
        rate = number.value("prompted")
        return None if rate is None else replace(rate, value=1 - rate.value, low=1 - rate.high, high=1 - rate.low)
    found = number.fraction
    return None if found is None or not found.low <= found.high else found


def expose(summary: Summary, scale: Scale, info: RunInfo) -> Summary:
    """The summary, and of every run the number of pictures at which a model that learnt reads the same.

    Args:
        summary: of the runs.
        scale: that may or may not hold for them.
        info: of the vanilla run.
    """
    if (why := misfit(scale, info)) is not None:
        return replace(summary, scale=None, no_scale=why)
    paths = sorted(scale.curves, key=lambda path: path != scale.best)
    curves = {path: curve for path in paths if (curve := scale.curve(path, summary.concept_name)) is not None}
    runs = tuple(replace(run, exposures=_exposures(run, curves, summary)) for run in summary.runs)
    doses = next((tuple(curve.doses.tolist()) for curve in curves.values()), ())
    notes = (*summary.notes, *_between_trainings(runs, scale, curves.get(scale.best)))
    return replace(summary, runs=runs, scale=scale.name, doses=doses, notes=notes)


def _between_trainings(runs: Sequence[RunStatistics], scale: Scale, curve: Curve | None) -> list[str]:
    """What a report of several erased models cannot say of their methods, with the scatter that the scale knows."""
    erased = [run.exposures for run in runs if run.role == "erased"]
    places = [found[scale.best].value for found in erased if scale.best in found]
    if curve is None or len(places) < 2:
        return []
    _, scatter = curve.at(torch.tensor(places, dtype=torch.float64))
    most = float(scatter.max())
    return [
        f"Each method is one model here, and intervals are over images: another seed may read otherwise. Where these "
        f"models stand, trainings alike differ by {most:.2f} of the scale of {scale.name} (standard deviation); were "
        f"erasures as different, three of each method would tell a difference of {least_difference(most, 3):.2f} from "
        f"none with power 0.8, ten one of {least_difference(most, 10):.2f}, however many images."
    ]


def _exposures(run: RunStatistics, curves: Mapping[str, Curve], summary: Summary) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    if damaged(summary, run):
        return found
    for path, curve in curves.items():
        number = run.numbers.get(path)
        if number is None or (number.number.compare == "forgetting" and not summary.calibrated):
            continue
        if (read := reading(number)) is not None:
            error = (read.high - read.low) / 2 / _NORMAL
            found[path] = equivalent(curve, read.value, error)
    return found


_NORMAL = 1.959964
"""Half a 95 % interval in standard errors."""
