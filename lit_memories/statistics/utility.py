"""How far a model's pictures of other things are from vanilla's, and from real ones: features of records to numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.picture_sets import cases_of, cmmd, frechet, frechet_infinity, kid
from lit_memories.probes.utility import OUT_OF_REACH, Utility
from lit_memories.records import Record, SetName, artefact_path
from lit_memories.runs import Run
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.pairing import Comparison
from lit_memories.storage.tensors import read_sound

Against = Literal["vanilla", "reference"]
"""Vanilla's pictures of the same prompts and noise, or the reference set's real ones."""
PICTURES: tuple[SetName, SetName] = "retained", "reference"
"""The sets whose pictures have features."""
CMMD_OF = "clip"
"""The features that CMMD is made of."""


@dataclass(frozen=True)
class SetDistance:
    """How far a model's pictures under other prompts are from other pictures, by the features of one network.

    Args:
        features: what they are called.
        dimension: how many there are.
        against: what the pictures are compared with.
        pictures: of the model.
        others: that they are compared with.
        kid: kernel distance (KID where the features are Inception's), unbiased; its count is that of prompts.
        cmmd: the same with CMMD's kernel, of CLIP's features; None of others.
        fid: Fréchet distance (FID where the features are Inception's) of so many pictures; it grows with fewer.
        fid_infinity: the same carried on to infinitely many; NaN where there are too few to do so.
    """

    features: str
    dimension: int
    against: Against
    pictures: int
    others: int
    kid: Estimate
    cmmd: Estimate | None
    fid: float
    fid_infinity: Estimate

    @property
    def singular(self) -> bool:
        """Whether a set has no more pictures than there are features, so that its covariance is singular."""
        return min(self.pictures, self.others) <= self.dimension


class Seen(NamedTuple):
    """Features of a set's pictures (n, d), the pictures' records, and how many more lack them."""

    features: Tensor
    records: list[Record]
    lost: int


def set_distances(comparison: Comparison, row: int, seed: int = 0) -> tuple[SetDistance, ...]:
    """The distances of a run's pictures, by each network whose features it kept.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        seed: of divisions.
    """
    run, vanilla = comparison.runs[row], comparison.runs[comparison.vanilla]
    found = []
    for name in _kept(run):
        own = seen(run, "retained", name)
        real = seen(run, "reference", name)
        if row != comparison.vanilla and name in _kept(vanilla):
            found += _distance(name, "vanilla", *_shared(own, seen(vanilla, "retained", name)), seed)
        found += _distance(name, "reference", own, real, seed)
    return tuple(found)


def utility_notes(comparison: Comparison, found: Mapping[str, tuple[SetDistance, ...]]) -> list[str]:
    """What a reader must know of these distances, in sentences.

    Args:
        comparison: runs that may be compared.
        found: their distances, by the run's name.
    """
    notes = [note for run in comparison.runs for note in _lacking(run)]
    each = [one for distances in found.values() for one in distances if one.singular]
    few = {(one.features, min(one.pictures, one.others), one.dimension) for one in each}
    return notes + [
        f"Fréchet distances of {count} pictures by the {dimension} features of {name} are those of singular "
        "covariances, and mostly tell how few the pictures are: read the kernel distance."
        for name, count, dimension in sorted(few)
    ]


def _lacking(run: Run) -> list[str]:
    """Which networks a run could not reach, and how many pictures have no features."""
    out = [name for name, identity in _measures(run).items() if identity == OUT_OF_REACH]
    lost = {name: sum(seen(run, of, name).lost for of in PICTURES) for name in _kept(run)}
    return [
        *(f"{run.info.name} goes without {name}: it was {OUT_OF_REACH} when the audit ran." for name in out),
        *(
            f"{run.info.name} lacks features of {name} of {count} pictures, which do not count: run the same audit "
            "again to make them anew."
            for name, count in lost.items()
            if count
        ),
    ]


def seen(run: Run, of: SetName, name: str) -> Seen:
    """Features of a set's pictures as a run keeps them; those that are damaged, or of another size, are left out.

    Args:
        run: that kept them.
        of: the set.
        name: of the features.
    """
    rows: list[Tensor] = []
    records, asked = [], run.of(of, Utility.name)
    for record in asked:
        row = dict(read_sound(artefact_path(run.folder, Utility.name, record.key), [name])).get(name)
        if row is None or row.ndim != 1 or not row.is_floating_point() or not bool(row.isfinite().all()):
            continue
        if not rows or len(row) == len(rows[0]):
            rows.append(row.float())
            records.append(record)
    return Seen(torch.stack(rows) if rows else torch.empty(0, 0), records, len(asked) - len(rows))


def _measures(run: Run) -> Mapping[str, str]:
    """What looked at pictures, by its identity; of a run folder that anybody may have made."""
    asked = asked_of(run.info).get(Utility.name)
    found = {} if asked is None else asked.settings.get("measures")
    return {str(name): str(one) for name, one in found.items()} if isinstance(found, Mapping) else {}


def _kept(run: Run) -> list[str]:
    """Names of the features that a run keeps."""
    start = "features of "
    return [
        name.removeprefix(start)
        for name, identity in sorted(_measures(run).items())
        if name.startswith(start) and identity != OUT_OF_REACH
    ]


def _shared(own: Seen, others: Seen) -> tuple[Seen, Seen]:
    """Those pictures of two sets that both hold, in one order."""
    keys = {record.key for record in own.records} & {record.key for record in others.records}

    def part(of: Seen) -> Seen:
        rows = [row for row, record in enumerate(of.records) if record.key in keys]
        return Seen(of.features[rows], [of.records[row] for row in rows], of.lost)

    return part(own), part(others)


def _distance(name: str, against: Against, own: Seen, others: Seen, seed: int) -> list[SetDistance]:
    """The distance of two sets; none where one is too small, or they have other features."""
    x, y = own.features, others.features
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        return []
    prompts = ([record.prompt for record in part.records] for part in (own, others))
    cases_x, cases_y = cases_of(*prompts)
    return [
        SetDistance(
            features=name,
            dimension=x.shape[1],
            against=against,
            pictures=len(x),
            others=len(y),
            kid=kid(x, y, cases_x, cases_y),
            cmmd=cmmd(x, y, cases_x, cases_y) if name == CMMD_OF else None,
            fid=frechet(x, y),
            fid_infinity=frechet_infinity(x, y, cases_x, cases_y, seed),
        )
    ]
