"""How well does an inverter find seeds that are known, and at what cost? Writes docs/results/inversion.{md,json}.

    python benchmarks/inversion.py
    python benchmarks/inversion.py --family flow  # docs/results/inversion-flow.{md,json}

Seeds are drawn, the inverter's sampler makes latents of them, the inverter is to find the seeds again. Everything is
fixed by --seed, except times: those are of one thread's work, and only their ratios mean anything. A row is written as
soon as it is done, and a second run does what is missing.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from erasure import FAMILIES, FamilyName
from jsonargparse import auto_cli
from torch import Generator, Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inversion, Inverter, relative_norm
from lit_memories.inverters.belm import BELM
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.inverters.renoise import ReNoise
from lit_memories.metrics import bootstrap, gaussian_nll, psnr
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import RowPredictFn
from lit_memories.records import finite
from lit_memories.worlds.pictograms import draw


class AsReleased(Inverter):
    """The audit's official ReNoise as its code runs it: an image at a time, with the passes whose result it drops."""

    def __init__(self) -> None:
        self.inverter = ReNoise(faithful=True, measure_residual=False)

    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents through `steps`."""
        found = []
        for row in range(len(latents)):
            rows = torch.tensor([row])

            def one(x: Tensor, timestep: int, _: Tensor, rows: Tensor = rows) -> Tensor:
                return predict(x, timestep, rows)

            found.append(self.inverter(one, latents[row : row + 1], steps))
            for step in steps:  # from timestep 250 on the reference is never used, below it the last substitution
                one(found[-1].seeds, step.timestep, rows)
        fields = {name: torch.cat([getattr(one, name) for one in found]) for name in ("seeds", "residual", "converged")}
        evaluations = torch.cat([one.evaluations for one in found]) + len(steps)
        return Inversion(evaluations=evaluations, **fields)


@dataclass(frozen=True)
class Entry:
    """A row to measure.

    Args:
        inverter: as its cost is measured.
        guidance: of inversion and regeneration.
        measured: the same with its residual measured, where that costs more.
        sampler: what makes the latents of the seeds; the inverter's own if None.
        block: rows of a network call while it is timed; an audit's default.
        signal: whether it needs some signal where a run begins, which a rectified flow has not.
    """

    inverter: Inverter
    guidance: float = 1.0
    measured: Inverter | None = None
    sampler: Inverter | None = None
    block: int = 8
    signal: bool = False


RELEASED = "ReNoise, as released"
BEST = "FixedPoint, to 0.0003"
ENTRIES = {
    "DDIMInversion": Entry(DDIMInversion(measure_residual=False), measured=DDIMInversion()),
    RELEASED: Entry(AsReleased(), measured=ReNoise(faithful=True), block=1, signal=True),
    "ReNoise, faithful": Entry(
        ReNoise(faithful=True, measure_residual=False), measured=ReNoise(faithful=True), signal=True
    ),
    "ReNoise": Entry(ReNoise(measure_residual=False), measured=ReNoise()),
    "ReNoise, a tenth of the weights": Entry(ReNoise(lambda_ac=2.0, lambda_kl=0.0065), signal=True),
    "NullText, faithful": Entry(NullText(measure_residual=False, faithful=True), measured=NullText(faithful=True)),
    "NullText, guidance 3 on FixedPoint": Entry(NullText(3.0, pivot=FixedPoint())),
    "BELM": Entry(BELM(), signal=True),
    "BELM, seeds of DDIM": Entry(BELM(), sampler=FixedPoint(), signal=True),
    "FixedPoint, 3 a step": Entry(FixedPoint(max_evaluations=3, tolerance=1e-9)),
    **{f"FixedPoint, to {tolerance:g}": Entry(FixedPoint(tolerance=tolerance)) for tolerance in (1e-3, 3e-4, 1e-4)},
    "FixedPoint, guidance 3": Entry(FixedPoint(), guidance=3.0),
    "FixedPoint, guidance 7.5": Entry(FixedPoint(max_evaluations=30), guidance=7.5),
}
STEPS: dict[FamilyName, tuple[int, ...]] = {"unet": (20, 50), "flow": (28, 50)}
"""Steps to try: the audits' and the papers'; of the flow Stable Diffusion 3's own."""
COLUMNS = (
    *("inverter", "evaluations", "residual", "converged", "seed error", "NLL bias [95 %]", "absolute [95 %]", "worst"),
    *("PSNR", "s", "time"),
)


@torch.no_grad()
def main(
    family: FamilyName = "unet",
    out: Path = Path("docs/results/inversion"),
    images: int = 16,
    seed: int = 0,
) -> None:
    """Invert known seeds with every inverter.

    Args:
        family: of the base model whose seeds they are.
        out: where table and rows go, without suffix, behind which the family's stands; rows there of the same settings
            are kept.
        images: how many seeds.
        seed: of the seeds.
    """
    torch.set_num_threads(1)
    model, out = Path(FAMILIES[family].base), FAMILIES[family].own(out)
    diffusion = Diffusion.from_pretrained(model)
    settings = {"model": str(model), "fingerprint": diffusion.weights_fingerprint(), "images": images, "seed": seed}
    rows = _kept(out.with_suffix(".json"), settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: entry for name, entry in ENTRIES.items() if _has_signal(diffusion) or not entry.signal}
    for count in STEPS[family]:
        for name, entry in entries.items():
            identity = {"inverter": name, "steps": count, "guidance": entry.guidance}
            identity["options"] = json.loads(json.dumps(entry.inverter.settings(), default=vars))
            if not any(identity.items() <= row.items() for row in rows):
                rows = [row for row in rows if (row["inverter"], row["steps"]) != (name, count)]
                rows.append(identity | _measure(diffusion, entry, count, images, seed))
                print(json.dumps(rows[-1]), flush=True)
                rows.sort(key=lambda row: (row["steps"], list(ENTRIES).index(row["inverter"])))
                out.with_suffix(".json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    command = "python benchmarks/inversion.py" + (f" --family {family}" if FAMILIES[family].suffix else "")
    out.with_suffix(".md").write_text(_page(rows, command, settings))


def _has_signal(diffusion: Diffusion) -> bool:
    return diffusion.schedule.predicts == "epsilon"


def _kept(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    there = json.loads(file.read_text()) if file.is_file() else {}
    rows = there["rows"] if there.get("settings") == settings else []
    return [row for row in rows if row["inverter"] in ENTRIES]


def _measure(diffusion: Diffusion, entry: Entry, count: int, images: int, seed: int) -> dict[str, Any]:
    steps = diffusion.schedule.ddim_steps(count)
    seeds = diffusion.draw_seeds([Generator().manual_seed(seed + i) for i in range(images)])
    embeds = diffusion.encode_prompts([draw("test", i)[0].caption for i in range(images)])
    whole, noise = (
        BlockwisePredictor(diffusion, embeds, diffusion.encode_prompts([""]), entry.guidance, block)
        for block in (images, entry.block)
    )
    latents = (entry.sampler or entry.inverter).sample(whole, seeds, steps)
    began = time.process_time()
    found = entry.inverter(noise, latents, steps)
    seconds = time.process_time() - began
    judged = found if entry.measured is None else entry.measured(whole, latents, steps)
    again = entry.inverter.regenerate(whole, found, steps)
    bias = gaussian_nll(found.seeds) - gaussian_nll(seeds)
    mean, absolute = (bootstrap(lambda draws: draws.mean(-1), [values]) for values in (bias, bias.abs()))
    return {
        "evaluations": float(found.evaluations.double().mean()),
        "residual": finite(float(judged.residual.max())),
        "seed_error": float(relative_norm(found.seeds - seeds, seeds).mean()),
        "nll_bias": [mean.value, mean.low, mean.high],
        "absolute_bias": [absolute.value, absolute.low, absolute.high],
        "worst_bias": float(bias.abs().max()),
        "psnr_round_trip": float(psnr(diffusion.decode_latents(again), diffusion.decode_latents(latents)).mean()),
        "converged": float(judged.converged.double().mean()),
        "seconds": seconds / images,
    }


def _page(rows: list[dict[str, Any]], command: str, settings: dict[str, Any]) -> str:
    compared = any(row["inverter"] == RELEASED for row in rows)
    theirs = ", and as a part of those of the official ReNoise as released, which inverts one image at a time"
    parts = [
        "# Inverters on known seeds\n",
        f"`{command}`: {settings['images']} known seeds of `{settings['model']}`, seed {settings['seed']}, fp32, "
        "guidance 1 if not said otherwise. Evaluations an image, a guided one being two passes; worst relative "
        "residual of a step; NLL bias in nats: mean, mean absolute, and the worst of the images; PSNR in dB of the "
        "regenerated picture against the one inverted; processor seconds an image in calls of 8 rows"
        f"{theirs if compared else ''}.",
    ]
    columns = COLUMNS if compared else COLUMNS[:-1]
    for count in sorted({row["steps"] for row in rows}):
        group = [row for row in rows if row["steps"] == count]
        by_name = {row["inverter"]: row for row in group}
        parts += [f"\n**{count} steps**\n", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        parts += [_line(row, by_name.get(RELEASED)) for row in group]
        parts.append("\n" + _aims(by_name[BEST], by_name.get(RELEASED)))
    return "\n".join(parts) + "\n"


def _line(row: dict[str, Any], released: dict[str, Any] | None) -> str:
    cells = [
        *(row["inverter"], f"{row['evaluations']:.0f}", f"{row['residual']:.1e}", f"{row['converged']:.0%}"),
        *(f"{row['seed_error']:.4f}", _interval(row["nll_bias"]), _interval(row["absolute_bias"])),
        *(f"{row['worst_bias']:.2f}", f"{row['psnr_round_trip']:.1f}", f"{row['seconds']:.2f}"),
        *([] if released is None else [f"{row['seconds'] / released['seconds']:.2f}"]),
    ]
    return f"| {' | '.join(cells)} |"


def _interval(estimate: list[float]) -> str:
    value, low, high = estimate
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _aims(best: dict[str, Any], released: dict[str, Any] | None) -> str:
    """What was aimed at, and what was reached."""
    bias = best["absolute_bias"][0]
    aims = [
        (f"a mean absolute bias of {bias:.2f} nats (aim: at most 0.5)", bias <= 0.5),
        (f"{best['evaluations']:.0f} evaluations (at most 150)", best["evaluations"] <= 150),
    ]
    if released is not None:
        evaluations, seconds = (released[name] / best[name] for name in ("evaluations", "seconds"))
        theirs = released["absolute_bias"][0]
        aims += [
            (f"{evaluations:.1f} times fewer than ReNoise as released (2)", evaluations >= 2),
            (f"{seconds:.1f} times less time (4)", seconds >= 4),
            (f"against its bias of {theirs:.2f} nats (no worse)", bias <= theirs),
        ]
    said = "; ".join(text + ("" if reached else " **missed**") for text, reached in aims)
    return f"`{best['inverter']}` at {best['steps']} steps: {said}."


if __name__ == "__main__":
    auto_cli(main)
