"""What the denoising bound says of models of known truth, and how few levels and noises it takes.

    python benchmarks/denoising.py

Writes docs/results/denoising.{md,json} and docs/figures/denoising.png. No picture is inverted: 32 images of the concept
and 32 others, at their latents' posterior mean, under their own prompts and under none, in every model that
benchmarks/validity.py and benchmarks/erasure.py have left; models that are not there are named.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from jsonargparse import auto_cli
from matplotlib import pyplot
from torch import Generator, Tensor
from validity_scores import CONTROLS, KNOWS, NEVER, TAUGHT, WITHHELD, folder_of

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.data.samples import ImageRows, Sample
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import WEIGHTS_FILE
from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.inference import auc
from lit_memories.metrics.intervals import mean_interval, ratio_interval
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.denoising import Denoising, denoise, log_snr
from lit_memories.ops.generators import seeded
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.worlds.pictograms import parse_caption
from lit_memories.worlds.sources import PictogramSource

BASE = "checkpoints/pictograms"
FINE, NOISES = 49, 4
"""Levels and noises of what the others are compared with; every grid below is a part of this one."""
GRIDS = (4, 5, 7, 9, 13, 17, 25, 49)
USUAL = 17
"""Levels of the tables, with one noise each."""
BLOCK = 16
SIDES = ("concept", "reference")


def main(
    concepts: tuple[str, ...] = tuple(CONTROLS),
    audits: Path = Path("runs/validity"),
    erasures: Path = Path("runs/erasure-table"),
    images: int = 32,
    out: Path = Path("docs/results/denoising"),
    figure: Path = Path("docs/figures/denoising.png"),
) -> None:
    """Measure everything.

    Args:
        concepts: umbrella, striped.
        audits: where benchmarks/validity.py left taught models.
        erasures: where benchmarks/erasure.py left erased ones.
        images: of the concept, and as many others.
        out: where tables and numbers go, without suffix.
        figure: where the figure goes.
    """
    torch.set_num_threads(1)
    results, profiles = {}, {}
    for concept in concepts:
        results[concept], profiles[concept] = measure(concept, audits / concept, erasures / concept, images)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(results, images))
    draw(profiles, figure)


def measure(concept: str, audits: Path, erasures: Path, images: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of a concept, and what the figure shows."""
    models = _models(concept, audits, erasures)
    factor, value = WITHHELD[concept]
    sources = [
        PictogramSource(keep={factor: value}, limit=images),
        PictogramSource(withhold=[{factor: value}], limit=images),
    ]
    vanilla = models.pop("vanilla")
    rows = {
        side: ImageRows(side, source, vanilla.image_size)  # type: ignore[arg-type]
        for side, source in zip(SIDES, sources, strict=True)
    }
    fine = {
        name: _asked(model, rows, FINE, NOISES, empty=False)
        for name, model in (("vanilla", vanilla), (NEVER, models[NEVER]))
    }
    own = {name: _asked(model, rows, USUAL, 1, empty=False) for name, model in {"vanilla": vanilla, **models}.items()}
    none = {name: _asked(model, rows, USUAL, 1, empty=True) for name, model in {"vanilla": vanilla, **models}.items()}
    other = next(pair for name, pair in WITHHELD.items() if name != concept)
    hidden = {
        side: torch.tensor([getattr(parse_caption(s.prompt), other[0]) == other[1] for s in rows[side].samples])
        for side in SIDES
    }
    found = {
        "grids": [_grid(fine, vanilla.schedule, count, noises) for count in GRIDS for noises in (1, 2, NOISES)],
        "models": [_model(name, own, none, _kept(name, hidden)) for name in models],
        "known": {
            side: _plain(
                auc(
                    (own[NEVER][side].surprise - own["vanilla"][side].surprise)[~hidden[side]],
                    (own[KNOWS][side].surprise - own["vanilla"][side].surprise)[~hidden[side]],
                )
            )
            for side in SIDES
        },
        "ordered": _ordered(own) if set(TAUGHT) <= set(own) else None,
    }
    shifts = {
        name: {
            side: (own[name][side].profile - own["vanilla"][side].profile)[_kept(name, hidden)[side]].mean(0).tolist()
            for side in SIDES
        }
        for name in models
        if name != "random"
    }
    return found, {"log_snr": own["vanilla"]["concept"].log_snr.tolist(), "shifts": shifts}


def _models(concept: str, audits: Path, erasures: Path) -> dict[str, Diffusion]:
    """Every model there is, the smallest first."""
    other = next(path for name, path in CONTROLS.items() if name != concept)
    models = {"vanilla": Diffusion(BASE), KNOWS: Diffusion(other), NEVER: Diffusion(CONTROLS[concept])}
    models["random"] = Diffusion(BASE, weights="random")
    for name in TAUGHT:
        place = audits / "models" / folder_of(name)
        if (place / "model_index.json").is_file():
            models[name] = Diffusion(str(place))
        else:
            print(f"{concept}: {name} is left out, as {place} does not hold it: python benchmarks/validity.py makes it")
    places = sorted((erasures / "models").iterdir()) if (erasures / "models").is_dir() else []
    models |= {place.name: Diffusion(BASE, place) for place in places if (place / WEIGHTS_FILE).is_file()}
    if not places:
        print(f"{concept}: no erased model is in {erasures}: python benchmarks/erasure.py makes them")
    return models


@torch.inference_mode()
def _asked(model: Diffusion, rows: dict[str, ImageRows], levels: int, noises: int, empty: bool) -> dict[str, Denoising]:
    """What a model says of the images of both sets."""
    found = {}
    for side, images in rows.items():
        samples = images.samples
        latents = in_blocks(model.encode_images, 1, torch.stack([images.pixels(sample.index) for sample in samples]))
        prompts = ["" if empty else sample.prompt for sample in samples]
        embeds = torch.cat([model.encode_prompts([prompt]) for prompt in prompts])
        predict = BlockwisePredictor(model, embeds, model.encode_prompts([""]), 1.0, BLOCK)
        steps = model.schedule.ladder(levels)
        found[side] = denoise(predict, latents, steps, _generators(samples), noises, antithetic=noises > 1)
    return found


def _generators(samples: Sequence[Sample]) -> list[Generator]:
    return [seeded(f"0/{sample.set}/{sample.content}/denoising") for sample in samples]


def _part(found: Denoising, levels: Tensor, noises: int) -> Denoising:
    """A finer measurement, as if it had been made at fewer levels, of those it has, and with fewer noises."""
    chosen = torch.isin(found.log_snr, levels)
    return Denoising(found.log_snr[chosen], found.errors[:noises, :, chosen])


def _grid(fine: dict[str, dict[str, Denoising]], schedule: NoiseSchedule, count: int, noises: int) -> dict[str, Any]:
    """The forgetting of the control with fewer evaluations: how far from the finest, and how far it scatters."""

    def shifts(count: int, noises: int) -> list[Tensor]:
        levels = torch.tensor([log_snr(step.alpha) for step in schedule.ladder(count)], dtype=torch.float64)
        never, vanilla = (
            [_part(fine[name][side], levels, noises).surprise for side in SIDES] for name in (NEVER, "vanilla")
        )
        return [a - b for a, b in zip(never, vanilla, strict=True)]

    here, best = shifts(count, noises), shifts(FINE, NOISES)
    return {
        "levels": count,
        "noises": noises,
        "evaluations": count * noises,
        "forgetting": _plain(mean_interval(*here)),
        "bias": _plain(mean_interval(here[0] - best[0], here[1] - best[1])),
        "scatter": float((here[0] - best[0]).std()),
    }


def _kept(name: str, hidden: dict[str, Tensor]) -> dict[str, Tensor]:
    """The images that say something of a model: the other control never saw what some of them show."""
    return {side: ~rows if name == KNOWS else torch.ones_like(rows) for side, rows in hidden.items()}


def _model(name: str, own: dict[str, Any], none: dict[str, Any], kept: dict[str, Tensor]) -> dict[str, Any]:
    """A model's forgetting, its place, the same without a prompt, damage, and how the gap to no prompt shrinks."""

    def shift(family: dict[str, Any], model: str, side: str) -> Tensor:
        return (family[model][side].surprise - family["vanilla"][side].surprise)[kept[side]]

    def place(family: dict[str, Any]) -> Estimate:
        pairs = [torch.stack([shift(family, name, side), shift(family, NEVER, side)], 1) for side in SIDES]
        return ratio_interval(*pairs)

    def gap(model: str) -> Tensor:
        return (none[model]["concept"].surprise - own[model]["concept"].surprise)[kept["concept"]]

    return {
        "model": name,
        "forgetting": _plain(mean_interval(shift(own, name, "concept"), shift(own, name, "reference"))),
        "place": _plain(place(own)),
        "place, no prompt": _plain(place(none)),
        "damage": _plain(mean_interval(shift(own, name, "reference"))),
        "above": float((shift(own, name, "concept") > 0).double().mean()),
        "images": [int(rows.sum()) for rows in kept.values()],
        "gap": _plain(mean_interval(gap(name))),
        "gap of vanilla": _plain(mean_interval(gap("vanilla"))),
    }


def _ordered(own: dict[str, Any]) -> dict[str, float]:
    """How often one image orders two models right of which one was taught for longer, never knew among them."""
    names = [NEVER, *TAUGHT]  # the longer the lesson, the smaller the surprise
    found = {}
    for side in SIDES:
        pairs = [(own[a][side].surprise > own[b][side].surprise) for a, b in pairwise(names)]
        pairs += [own[names[0]][side].surprise > own[names[-1]][side].surprise]
        found[side] = float(torch.stack(pairs).double().mean())
    return found


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _cell(estimate: dict[str, Any], digits: int) -> str:
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def page(results: dict[str, Any], images: int) -> str:
    """The page, in Markdown."""
    lines = [
        "# The denoising bound\n",
        f"`python benchmarks/denoising.py`, seed 0: {images} images of the concept and as many others, at their "
        f"latents' posterior mean, guidance 1, {USUAL} levels of `ladder` and a noise at each, which all models share. "
        "*Forgetting*: how much more surprised a model is than vanilla by images of the concept, less the same of "
        "others, nats; *place*: that over the control's; *damage*: the same of the others alone; *above*: the share of "
        "the concept's images by which it is more surprised than vanilla; *gap*: how much more surprised it is by them "
        "without their prompt. Brackets are 95 % intervals over images.\n",
        "![profiles](../figures/denoising.png)\n",
        "By level: how much more surprised than vanilla, nats by unit of log SNR, on images of the concept (left) and "
        "others (right).\n",
    ]
    for concept, found in results.items():
        known = " and ".join(f"{_cell(found['known'][side], 2)} on {side} images" for side in SIDES)
        lines += [f"## {concept}\n", f"Never knew against knows, AUC of one image less vanilla's: {known}."]
        if found["ordered"]:
            order = " and ".join(f"{found['ordered'][side]:.2f} on {side} images" for side in SIDES)
            lines.append(f"Ordered right by the length of the lesson, by one image: {order}.")
        knows = found["models"][0]
        lines += [
            f"Vanilla's gap is {_cell(found['models'][1]['gap of vanilla'], 1)}. *Knows* is compared on the "
            f"{knows['images'][0]} and {knows['images'][1]} images that do not show what it never saw.\n",
            "| model | forgetting | place | place, no prompt | damage | above | gap |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in found["models"]:
            cells = [_cell(row["forgetting"], 1), _cell(row["place"], 2), _cell(row["place, no prompt"], 2)]
            cells += [_cell(row["damage"], 1), f"{row['above']:.2f}", _cell(row["gap"], 1)]
            lines.append(f"| {row['model']} | {' | '.join(cells)} |")
        lines += [
            f"\n**Levels and noises**: the control's forgetting, how far it is from that of {FINE} levels and {NOISES} "
            "noises, and by how much an image's number scatters about the one there. Two and more noises are "
            "antithetic pairs.\n",
            "| levels | noises | evaluations | forgetting | bias | scatter |",
            "|---|---|---|---|---|---|",
        ]
        for row in found["grids"]:
            cells = [str(row["levels"]), str(row["noises"]), str(row["evaluations"]), _cell(row["forgetting"], 1)]
            cells += [_cell(row["bias"], 1), f"{row['scatter']:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def draw(profiles: dict[str, Any], file: Path) -> None:
    """By level how much more surprised than vanilla each model is."""
    mpl.use("Agg")
    figure, axes = pyplot.subplots(len(profiles), 2, figsize=(10, 4 * len(profiles)), squeeze=False, sharex=True)
    for row, (concept, found) in zip(axes, profiles.items(), strict=True):
        for axis, side in zip(row, SIDES, strict=True):
            for number, (name, shifts) in enumerate(found["shifts"].items()):
                style = ("-", "--", ":")[number // 10 % 3]
                axis.plot(found["log_snr"], shifts[side], style, label=name, color=f"C{number % 10}", linewidth=1)
            axis.axhline(0, color="black", linewidth=0.5)
            axis.set_title(f"{concept}: {side} images", fontsize=9)
            axis.set_xlabel("log SNR (noise on the left)")
        row[0].set_ylabel("nats by unit of log SNR, less vanilla's")
        row[0].set_yscale("symlog")
        row[1].set_yscale("symlog")
        row[1].legend(fontsize=6, ncols=2)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    auto_cli(main)
