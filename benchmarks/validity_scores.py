"""How well each number of an audit orders models of known truth, and where it puts the others: from records alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.metrics import Null, relative_distance
from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.inference import auc, holm
from lit_memories.metrics.intervals import mean_interval, ratio_interval
from lit_memories.metrics.permutation import permutation_test
from lit_memories.records import RUN_FILE, SetName
from lit_memories.report.verdict import judge
from lit_memories.runs import Run, read_run
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.pairing import HEADLINES, compare_runs
from lit_memories.statistics.summary import summarise
from lit_memories.worlds.pictograms import FACTORS, parse_caption

CONTROLS = {"umbrella": "checkpoints/without-umbrella", "striped": "checkpoints/without-striped"}
WITHHELD = {"umbrella": ("object", "umbrella"), "striped": ("style", "striped")}
SIDES: tuple[SetName, SetName] = ("concept", "reference")
KNOWS, NEVER = "knows", "never knew"
KNOWN = ("vanilla", KNOWS, NEVER, "random")
TAUGHT = {f"taught {steps}": steps for steps in (8, 32, 128, 512)}
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
        path: of the number.
        sign: 1, or -1 if the number is compared by forgetting and falls as a model forgets.
        conditioning: of the records.
        sets: whose images it is to tell apart, and whose not, if any.
    """

    path: str
    sign: int = 1
    conditioning: str | None = None
    sets: tuple[SetName, SetName | None] = SIDES

    @property
    def label(self) -> str:
        """In tables."""
        label = self.path if self.sign > 0 else f"minus {self.path}"
        if self.sets[0] not in SIDES:
            label = f"{label}, {self.sets[0]}"
        return label if self.conditioning is None else f"{label}, {self.conditioning}"

    def table(self, run: Run, which: int, hidden: Hidden = frozenset()) -> dict[str, float]:
        """The number of every countable image of one of the sets, by key, less those that are hidden."""
        name = self.sets[which]
        found = [] if name is None else run.of(name, self.path.partition(".")[0], self.conditioning)
        records = [record for record in found if (record.set, record.index) not in hidden]
        values = {record.key: record.value(self.path) for record in records}
        first = {key: value[0] if isinstance(value, list) else value for key, value in values.items()}
        return {key: self.sign * float(value) for key, value in first.items() if value is not None}


NLL, SURPRISE = Measure("seed.nll"), Measure("denoising.surprise")


def measures_of(vanilla: Run) -> list[Measure]:
    """Every number that the probes of a run declare to be compared, and those of images under other prompts too."""
    found = []
    for asked in asked_of(vanilla.info).values():
        for number in asked.numbers:
            sides = [side for side in SIDES if side in asked.sets]
            sets: tuple[SetName, SetName | None] = ("prompted", None) if not sides else (sides[0], (*sides, None)[1])
            if number.compare == "none" or sets[0] not in (*asked.sets, *sides):
                continue
            sign = number.sign if number.compare == "forgetting" else 1
            found.append(Measure(asked.path(number), sign, sets=sets))
    others = [
        Measure(measure.path, measure.sign, label)
        for measure in found
        if measure.path in HEADLINES
        for label in vanilla.conditionings
    ]
    return found + others


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
    measures = measures_of(runs["vanilla"])
    if not {"vanilla", folder_of(NEVER)} <= set(plain):
        plain = {}
    hidden = _hidden(concept, runs["vanilla"])
    counts = {
        which: sum((r.set, r.index) not in hidden for r in runs["vanilla"].of(which, "denoising")) for which in SIDES
    }
    places = []
    for name in dict.fromkeys([*runs, *plain]):
        if name in ("vanilla", folder_of(NEVER)):
            continue
        for measure in measures:
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
        "known": [told_apart(measure, runs, hidden) for measure in measures],
        "places": places,
        "taught": [_order(measure, runs) for measure in measures] if set(map(folder_of, TAUGHT)) <= set(runs) else [],
        "placebos": _placebos(concept, runs, hidden),
        "verdicts": _verdicts(runs, plain),
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
    """How far surprise and NLL of an image are from themselves, measured again in another run: at most, of how many."""
    differences = []
    for name, path in product(("vanilla", folder_of(NEVER)), HEADLINES):
        one, other = (
            {(r.set, r.index): r.number(path) for side in SIDES for r in family[name].of(side, path.partition(".")[0])}
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


def told_apart(measure: Measure, runs: dict[str, Run], hidden: Hidden) -> dict[str, Any]:
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
    every = []
    for name, measure in product((NEVER, KNOWS), (SURPRISE, NLL)):
        rows: list[dict[str, Any]] = []
        own, vanilla = (measure.table(runs[one], 1, hidden) for one in (folder_of(name), "vanilla"))
        prompts = {record.key: parse_caption(record.prompt) for record in runs["vanilla"].of("reference", "seed")}
        shifts = [(own[key] - vanilla[key], prompts[key]) for key in own if key in vanilla and key in prompts]
        for factor in ("color", "background", "style"):
            for value in FACTORS[factor]:
                inside = [shift for shift, shown in shifts if getattr(shown, factor) == value]
                outside = [shift for shift, shown in shifts if getattr(shown, factor) != value]
                if min(len(inside), len(outside)) < FEWEST or (factor, value) == WITHHELD[concept]:
                    continue
                e, r = torch.tensor(inside).double(), torch.tensor(outside).double()
                row = {"model": name, "measure": measure.label, "factor": factor, "value": value, "images": len(inside)}
                row["p"] = round(permutation_test(e, r).p_value, 4)
                rows.append(row | {"forgetting": _plain(mean_interval(e, r))})
        corrected = holm(torch.tensor([row["p"] for row in rows], dtype=torch.float64)).tolist()
        every += [row | {"p_corrected": round(p, 4)} for row, p in zip(rows, corrected, strict=True)]
    return every


def _verdicts(runs: dict[str, Run], plain: dict[str, Run]) -> list[dict[str, Any]]:
    """What a report says of each model, random weights passed off as an erased one, by the audit with more images."""
    rows = []
    for name in dict.fromkeys([*runs, *plain]):
        if name in ("vanilla", folder_of(NEVER)):
            continue
        family = plain if name in plain else runs
        run = replace(family[name], info=replace(family[name].info, role="erased"))
        summary = summarise(compare_runs([family["vanilla"], family[folder_of(NEVER)], run]), draws=100)
        found, category = summary.runs[1], judge(summary)[1].category
        empty, seeds = (found.numbers.get(path) for path in ("denoising.surprise_empty", "seed.nll"))
        row: dict[str, Any] = {"model": name, "images": found.pairing["concept"].used, "category": category}
        row |= {"forgetting": _plain(found.forgetting), "damage": _plain(found.damage)}
        for label, fraction in (
            ("fraction", found.fraction),
            ("fraction, no prompt", None if empty is None else empty.fraction),
            ("fraction, seeds", None if seeds is None else seeds.fraction),
        ):
            row[label] = None if fraction is None else _plain(fraction)
        rows.append(row)
    return rows
