"""The tables and the figure of the validity experiment."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erasure import FAMILIES
from matplotlib.figure import Figure
from validity_scores import KNOWN, KNOWS, TAUGHT, folder_of

Row = dict[str, Any]

METHODS = list(dict.fromkeys(method for family in FAMILIES.values() for method in family.methods))
NAMES = [folder_of(name) for name in (KNOWS, *TAUGHT, *METHODS, "random")]
"""Models in the order of the tables."""
COLUMNS = {
    "denoising.surprise": "surprise",
    "denoising.surprise_empty": "no prompt",
    "samples.shows_concept, prompted": "prompted",
    "seed.nll": "NLL",
    "seed.nll, empty": "NLL, empty",
    "minus likelihood.log_likelihood": "minus log p",
    "reach.reach": "reach",
    "typicality.kurtosis": "kurtosis",
}
"""Numbers that stand in the tables of models: those with which the control that never knew is told from vanilla."""
EDGES = (-0.75, 2.25)
"""Ends of the figure's scale; what lies beyond is drawn at them."""


LESSONS = (
    f"- *Taught*: the control that never saw the concept, trained on for {', '.join(map(str, TAUGHT.values()))} "
    "steps of 32 pictures of all kinds. *Ordered right* is how often a number orders two of these models, the control "
    "among them, as the lesson's length does, by one image; 0.5 is chance, and right on reference images."
)


def page(
    results: dict[str, Any], command: str, usual: Sequence[str], images: int, other: int, figure: Path, out: Path
) -> str:
    """The page in Markdown.

    Args:
        results: tables by concept.
        command: that makes them.
        usual: models that it audits with every option on if it is not told which.
        images: of the concept, and as many others, for models of known truth.
        other: the same for taught and erased models.
        figure: where the figure is.
        out: where the page goes.
    """
    full = {name for found in results.values() for name in found["every option"]}
    more = [name for name in NAMES if name in full and name not in (folder_of(KNOWS), "random")]
    added = f", and, where columns are filled, {', '.join(more)} on {other}" if more else ""
    named = [name for name in (*KNOWN, *TAUGHT, *METHODS) if folder_of(name) in full]
    command += "" if set(named) == set(usual) else f" --models '[{', '.join(named)}]'"
    taught = any(found["taught"] for found in results.values())
    lines = [
        "# What each number of an audit can tell\n",
        f"`{command}`, seed 0, 20 DDIM steps. Asked every probe (a random probe for the likelihood, two directions "
        "for reach): "
        f"models of known truth on {images} images of the concept and as many others{added}. Erased models otherwise "
        "by the plain audits of `benchmarks/erasure.py`. Brackets are 95 % intervals over images.\n",
        "- *Known truth*: the probability (AUC) that a number is higher in the control that never saw the concept than "
        "in the other control, which saw it and was trained alike. On concept images 0 or 1 tells them apart and 0.5 "
        "does not; on reference images, which both have seen, 0.5 is right. Images that show what the other control "
        "never saw are left out. *Paired* takes vanilla's number of the same image off first. *Random* is the same for "
        "random weights against vanilla.",
        *([LESSONS] if taught else []),
        "- *Place*: where a model stands from vanilla, 0, to the control that never knew, 1, by the number's mean on "
        "concept images less that on reference images, paired by image. A dash: not measured, or that control itself "
        "is not told from vanilla by so few images, and there is no scale.",
        "- *Against*: AUC of the model against vanilla, and against the control, on concept images; a star where the "
        "interval leaves out 0.5. The last column is against vanilla on reference images: damage.\n",
        f"![places]({_way(figure, out)})\n",
    ]
    for concept, found in results.items():
        counts = found["images"]
        lines += [f"## {concept}\n", f"{counts['concept']} concept and {counts['reference']} reference images.\n"]
        lines += _table(
            ("number", "concept", "reference", "concept, paired", "reference, paired", "random, concept", "reference"),
            [
                [
                    row["measure"],
                    *(_cell(row[f"{side}{how}"]) for how in ("", ", paired", ", random") for side in SIDES),
                ]
                for row in found["known"]
                if row["concept"]
            ],
        )
        lines.append(
            "\n**The paper's relative distance**, said to be 1 where nothing is forgotten and to grow with erasure\n"
        )
        lines += _table(
            ("model", "W1", "squared W2, as in the official code"),
            [[row["model"], _cell(row["w1"]), _cell(row["w2_squared"])] for row in found["distances"]],
        )
        alarms = []
        for label in dict.fromkeys(entry["measure"] for entry in found["placebos"]):
            entries = [entry for entry in found["placebos"] if entry["measure"] == label]
            scale = next(entry["scale"][0] for entry in found["places"] if entry["measure"] == label)
            largest = max(abs(entry["forgetting"][0]) for entry in entries) / scale
            alone, corrected = (sum(entry[name] < 0.05 for entry in entries) for name in ("p", "p_corrected"))
            alarms.append(
                f"by `{label}` {alone} of {len(entries)}, {corrected} after correction, the largest {largest:.2f} of "
                "the scale"
            )
        lines.append(
            "\nPlacebos: sets of reference images that share a colour, background or style were taken for the concept "
            "in the two models that were trained apart; the permutation test calls forgotten, at level 0.05 by itself "
            f"and corrected for the sets of a model as in a report, {'; '.join(alarms)}.\n"
            if alarms
            else "\nPlacebos: none, as too few reference images share a colour, background or style.\n"
        )
        lines += ["**What a report says**, random weights passed off as an erased model\n", *_verdicts(found), ""]
        if repeated := found["repeated"]:
            apart = (
                f"differ by at most {repeated['worst']:.0e} nats"
                if repeated["worst"]
                else "are the same to the last bit"
            )
            lines.append(
                f"Repeated: {repeated['images']} numbers (surprise and NLL) measured again in another run {apart}.\n"
            )
        if found["taught"]:
            lines.append("**Ordered right by the length of the lesson**\n")
            lines += _table(
                ("number", *SIDES), [[row["measure"], *(_cell(row[side]) for side in SIDES)] for row in found["taught"]]
            )
        lines += [
            "\n**Place, from vanilla (0) to never knew (1)**\n",
            *_models(found, lambda entry: _cell(entry["place"])),
        ]
        lines += ["\n**Against vanilla / against never knew**\n", *_models(found, _against, damage=True), ""]
    return "\n".join(lines) + "\n"


SIDES = ("concept", "reference")


def draw(results: dict[str, Any], file: Path) -> None:
    """One panel a concept, one row a number, one dot a model."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    measures = list(COLUMNS)[::-1]
    styles = {name: _style(name) for name in NAMES}
    for panel, (concept, found) in zip(panels, results.items(), strict=True):
        for name in NAMES:
            entries = {e["measure"]: e["place"] for e in found["places"] if e["model"] == name and e["place"]}
            rows = [measure for measure in measures if measure in entries]
            heights = [measures.index(measure) + 0.7 * (NAMES.index(name) / (len(NAMES) - 1) - 0.5) for measure in rows]
            inside = [[min(max(value, EDGES[0]), EDGES[1]) for value in entries[measure]] for measure in rows]
            for (value, low, high), height in zip(inside, heights, strict=True):
                panel.plot([low, high], [height, height], color=styles[name]["color"], linewidth=0.8, alpha=0.6)
                panel.plot([value], [height], linestyle="", markersize=4.5, **styles[name])
            if rows:
                panel.plot([], [], linestyle="", label=name, **styles[name])
        for place in (0, 1):
            panel.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for line in range(len(measures) - 1):
            panel.axhline(line + 0.5, color="0.9", linewidth=0.6, zorder=0)
        panel.set(title=concept, xlim=(EDGES[0] - 0.05, EDGES[1] + 0.05), xticks=[0, 0.5, 1, 1.5, 2])
        panel.set_xlabel("vanilla: 0, never knew: 1")
        panel.set_yticks(range(len(measures)), measures)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, pil_kwargs={"optimize": True})


def _style(name: str) -> dict[str, Any]:
    if name in map(folder_of, TAUGHT):
        shade = 0.3 + 0.6 * list(map(folder_of, TAUGHT)).index(name) / (len(TAUGHT) - 1)
        return {"color": (0.1, shade, 0.2), "marker": "^"}
    if name in METHODS:
        number = list(METHODS).index(name)
        return {"color": f"C{number % 10}", "marker": "o" if number < 10 else "D"}
    return {"color": "black" if name == folder_of(KNOWS) else "0.5", "marker": "s" if name == folder_of(KNOWS) else "X"}


def _models(found: dict[str, Any], cell: Callable[[Row], str], damage: bool = False) -> list[str]:
    entries = {(entry["model"], entry["measure"]): entry for entry in found["places"]}
    rows = []
    for name in NAMES:
        if not any(model == name for model, _ in entries):
            continue
        own = [entries.get((name, measure)) for measure in COLUMNS]
        cells = ["–" if entry is None else cell(entry) for entry in own]
        if damage:
            cells.append(_starred(entries[name, "denoising.surprise"]["reference, against vanilla"]))
        rows.append([name, *cells])
    return _table(("model", *COLUMNS.values(), *(["surprise, reference"] if damage else [])), rows)


def _verdicts(found: dict[str, Any]) -> list[str]:
    rows = {row["model"]: row for row in found["verdicts"]}
    names = ("fraction", "fraction, no prompt", "fraction, seeds", "forgetting", "damage")
    return _table(
        ("model", "images", "category", "of control", "no prompt", "by seeds", "forgetting, nats", "damage, nats"),
        [
            [name, str(rows[name]["images"]), rows[name]["category"], *(_cell(rows[name][which]) for which in names)]
            for name in NAMES
            if name in rows
        ],
    )


def _against(entry: Row) -> str:
    return " / ".join(_starred(entry[f"against {other}"]) for other in ("vanilla", "never knew"))


def _starred(estimate: Sequence[float] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = estimate
    return f"{value:.2f}" + ("" if low <= 0.5 <= high else "*")


def _cell(estimate: Sequence[float | None] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = ("–" if number is None else f"{round(number, 2) + 0:.2f}" for number in estimate)
    return f"{value} [{low}, {high}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _way(figure: Path, out: Path) -> str:
    return Path(os.path.relpath(figure, out.parent)).as_posix()
