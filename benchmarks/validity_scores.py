"""How well each number of an audit orders models of known truth, and where it puts the others: from records alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.data.pictograms import FACTORS, parse_caption
from lit_memories.metrics import Null, relative_distance
from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.inference import auc, permutation_test
from lit_memories.metrics.intervals import mean_interval, ratio_interval
from lit_memories.metrics.typicality import TESTS
from lit_memories.records import RUN_FILE, Record, Run, SetName, read_run

CONTROLS = {"umbrella": "checkpoints/without-umbrella", "striped": "checkpoints/without-striped"}
WITHHELD = {"umbrella": ("object", "umbrella"), "striped": ("style", "striped")}
SIDES: tuple[SetName, SetName] = ("concept", "reference")
KNOWS, NEVER = "knows", "never knew"
KNOWN = ("vanilla", KNOWS, NEVER, "random")
TAUGHT = {f"taught {steps}": steps for steps in (32, 128)}
"""Models that are the control that never knew, taught for so many steps of 32 pictures."""
ERASED = ("esd", "spm", "advunlearn", "salun")
"""Erased models that get every option by default: attention, an adapter, the text encoder, half of the network."""
Hidden = frozenset[tuple[str, int]]
"""Images left out, by set and row: a record under another conditioning has another prompt, but shows the same."""
FEWEST = 5
"""Images below which nothing is said."""


@dataclass(frozen=True)
class Measure:
    """A number of one image.

    Args:
        label: in tables.
        value: of a record; None where it has none.
        conditioning: of the records.
        sets: whose images it is to tell apart, and whose not, if any.
    """

    label: str
    value: Callable[[Record], float | None]
    conditioning: str | None = None
    sets: tuple[SetName, SetName | None] = SIDES

    def table(self, run: Run, which: int, hidden: Hidden = frozenset()) -> dict[str, float]:
        """The number of every countable image of one of the sets, by key, less those that are hidden."""
        name = self.sets[which]
        found = [] if name is None else run.of(name, self.conditioning)
        records = [record for record in found if (record.set, record.index) not in hidden]
        return {r.key: found for r in records if (found := self.value(r)) is not None}


NLL = Measure("NLL of the seed", lambda r: r.nll)
MEASURES = (
    Measure("prompted rate", lambda r: r.shows_concept, sets=("prompted", None)),
    NLL,
    Measure("PSNR", lambda r: r.psnr),
    Measure("PSNR to the round trip", lambda r: r.psnr_round_trip),
    Measure("concept seen in the rebuilt image", lambda r: r.shows_concept),
    Measure("minus log p(x)", lambda r: None if r.log_likelihood is None else -r.log_likelihood),
    Measure("reach", lambda r: r.reach),
    *(
        Measure(
            f"typicality: {name.replace('_', ' ')}",
            lambda r, name=name: (r.typicality or {}).get(name, [None])[0],  # type: ignore[misc]
        )
        for name in TESTS
    ),
    *(Measure(f"NLL of the seed, {label}", lambda r: r.nll, label) for label in ("empty", "own@3", "shuffled")),
)


def folder_of(name: str) -> str:
    """A model's folder."""
    return name.replace(" ", "-")


def score(concept: str, folder: Path, erasures: Path) -> dict[str, Any]:
    """All tables of a concept, from whatever is audited.

    Args:
        concept: umbrella, striped.
        folder: audits with every option on, of vanilla, knows, never knew, random, and others.
        erasures: plain audits of erased models, of vanilla and of never knew; they have more images and fewer numbers.
    """
    runs, plain = _audited(folder), _audited(erasures)
    if not {"vanilla", folder_of(NEVER)} <= set(plain):
        plain = {}
    hidden = _hidden(concept, runs["vanilla"])
    counts = {which: sum((r.set, r.index) not in hidden for r in runs["vanilla"].of(which)) for which in SIDES}
    places = []
    for name in dict.fromkeys([*runs, *plain]):
        if name in ("vanilla", folder_of(NEVER)):
            continue
        for measure in MEASURES:
            without = hidden if name == folder_of(KNOWS) else frozenset()
            found = [_place(measure, family, name, without) for family in (runs, plain) if name in family]
            if known := [entry for entry in found if entry]:
                most = max(known, key=lambda entry: entry["images"])
                places.append({"model": name, "measure": measure.label, **most})
    return {
        "every option": list(runs),
        "images": counts,
        "repeated": _repeated(runs, plain),
        "distances": [_distances(name, runs[folder_of(name)], hidden) for name in KNOWN],
        "known": [_known(measure, runs, hidden) for measure in MEASURES],
        "places": places,
        "taught": [_order(measure, runs) for measure in MEASURES] if set(map(folder_of, TAUGHT)) <= set(runs) else [],
        "placebos": _placebos(concept, runs, hidden),
    }


def _audited(folder: Path) -> dict[str, Run]:
    """Runs in which every image is inverted under its own prompt; under others it may be later."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    runs = [read_run(place) for place in places if (place / RUN_FILE).is_file()]
    return {run.folder.name: run for run in runs if all(_whole(run, side) for side in SIDES)}


def _whole(run: Run, side: SetName) -> bool:
    own = [record for record in run.records if record.set == side and record.conditioning is None]
    return len(own) == run.info.data[side]["rows"]


def _hidden(concept: str, vanilla: Run) -> Hidden:
    """Images that show what the other control never saw: of these, that one is no model that knows."""
    factor, value = next(pair for name, pair in WITHHELD.items() if name != concept)
    own = [r for r in vanilla.records if r.conditioning is None]
    return frozenset((r.set, r.index) for r in own if getattr(parse_caption(r.prompt), factor) == value)


def _repeated(runs: dict[str, Run], plain: dict[str, Run]) -> dict[str, Any] | None:
    """How far the NLL of an image's seed is from itself, inverted again in another run: at most, and of how many."""
    differences = []
    for name in ("vanilla", folder_of(NEVER)):
        one, other = (
            {(r.set, r.index): r.nll for side in SIDES for r in family[name].of(side)}
            for family in (runs, plain or runs)
        )
        differences += [abs(one[place] - other[place]) for place in one.keys() & other.keys()]
    return {"images": len(differences), "worst": max(differences)} if plain else None


def _distances(name: str, run: Run, hidden: Hidden) -> dict[str, Any]:
    """The paper's relative distance of a model of known truth, which is a number of whole sets."""
    sets = [torch.tensor(list(NLL.table(run, which, hidden).values()), dtype=torch.float64) for which in (0, 1)]
    null, forms = Null(run.info.dimension), ("w1", "w2_squared")
    return {"model": name} | {
        form: _plain(bootstrap(partial(relative_distance, null=null, form=form), sets)) for form in forms
    }


def _known(measure: Measure, runs: dict[str, Run], hidden: Hidden) -> dict[str, Any]:
    """The AUC of never knew against knows on either set, as it is and less vanilla's number of the same image."""
    row: dict[str, Any] = {"measure": measure.label}
    for which, side in enumerate(SIDES):
        never, knows, vanilla = _aligned(
            [measure.table(runs[folder_of(name)], which, hidden) for name in (NEVER, KNOWS, "vanilla")]
        )
        row[side], row[f"{side}, paired"] = _auc(never, knows), _auc(never - vanilla, knows - vanilla)
        random, vanilla = _aligned([measure.table(runs[name], which) for name in ("random", "vanilla")])
        row[f"{side}, random"] = _auc(random, vanilla)
    return row


def _place(measure: Measure, runs: dict[str, Run], name: str, hidden: Hidden) -> dict[str, Any] | None:
    """Where a model stands between vanilla, 0, and the control that never knew, 1; and its AUCs against both."""
    (own, control, base), (own_r, control_r, base_r) = (
        _aligned([measure.table(runs[one], which, hidden) for one in (name, folder_of(NEVER), "vanilla")])
        for which in (0, 1)
    )
    if len(own) < FEWEST:
        return None
    concept, reference = torch.stack([own - base, control - base], 1), None
    if len(own_r) >= FEWEST:  # the reference set may not have the number
        reference = torch.stack([own_r - base_r, control_r - base_r], 1)
    place = ratio_interval(concept, reference)
    return {
        "images": len(own),
        "scale": _plain(mean_interval(concept[:, 1], None if reference is None else reference[:, 1])),
        "place": None if math.isnan(place.low) else _plain(place),
        "against vanilla": _auc(own, base),
        "against never knew": _auc(own, control),
        "reference, against vanilla": _auc(own_r, base_r),
    }


def _order(measure: Measure, runs: dict[str, Run]) -> dict[str, Any]:
    """How often an image's number orders two models right of which one was taught for longer.

    Right is the way from never knew to vanilla, on images of the concept.
    """
    names = [folder_of(name) for name in (NEVER, *TAUGHT)]
    row: dict[str, Any] = {"measure": measure.label}
    sign = 1.0
    for which, side in enumerate(SIDES):
        *models, vanilla = _aligned([measure.table(runs[name], which) for name in (*names, "vanilla")])
        if len(vanilla) < FEWEST:
            row[side] = None
            continue
        if which == 0:
            sign = float((vanilla - models[0]).mean().sign())
        steps = [sign * (later - earlier) for earlier, later in combinations(models, 2)]
        right = torch.stack([(step > 0).double() + (step == 0).double() / 2 for step in steps]).mean(0)
        row[side] = _plain(wilson_interval(float(right.sum()), len(right)))
    return row


def _aligned(tables: Sequence[dict[str, float]]) -> list[Tensor]:
    """Numbers of the images that all tables have."""
    keys = [key for key in tables[0] if all(key in table for table in tables)]
    return [torch.tensor([table[key] for key in keys], dtype=torch.float64) for table in tables]


def _auc(higher: Tensor, lower: Tensor) -> list[float | None] | None:
    return _plain(auc(higher, lower)) if len(higher) >= FEWEST else None


def _plain(estimate: Estimate) -> list[float | None]:
    values = (estimate.value, estimate.low, estimate.high)
    return [round(value, 4) if math.isfinite(value) else None for value in values]


def _placebos(concept: str, runs: dict[str, Run], hidden: Hidden) -> list[dict[str, Any]]:
    """Forgetting of things both models have seen, which must not be distinguishable from none."""
    rows = []
    vanilla = {record.key: record for record in runs["vanilla"].of("reference")}
    for name in (NEVER, KNOWS):
        found = [r for r in runs[folder_of(name)].of("reference") if (r.set, r.index) not in hidden]
        shifts = [(r.nll - vanilla[r.key].nll, parse_caption(r.prompt)) for r in found if r.key in vanilla]
        for factor in ("color", "background", "style"):
            for value in FACTORS[factor]:
                inside = [shift for shift, shown in shifts if getattr(shown, factor) == value]
                outside = [shift for shift, shown in shifts if getattr(shown, factor) != value]
                if min(len(inside), len(outside)) < FEWEST or (factor, value) == WITHHELD[concept]:
                    continue
                e, r = torch.tensor(inside).double(), torch.tensor(outside).double()
                forgetting = _plain(mean_interval(e, r))
                test = permutation_test(e, r).p_value
                row = {"model": name, "factor": factor, "value": value, "images": len(inside), "p": round(test, 4)}
                rows.append(row | {"forgetting": forgetting})
    return rows
