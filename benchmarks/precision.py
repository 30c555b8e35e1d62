"""What does a network in low precision cost an audit in accuracy? Writes docs/results/precision.{md,json}.

    python benchmarks/precision.py

Known seeds first: what comes back of them, by tolerance of the inverter. Then what an audit is for: the forgetting of a
control that never saw the concept, with its images inverted in each precision. All is fixed by --seed except seconds,
which are one thread's. A second run does what is missing of the same settings.
"""

import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from torch import Generator, Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.data.sources import read_picture
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.inverters.base import Inversion, relative_norm
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.metrics import bootstrap, gaussian_nll, psnr
from lit_memories.ops.blocks import in_blocks
from lit_memories.worlds.pictograms import draw
from lit_memories.worlds.sources import PictogramSource

BLOCK = 8
"""Rows of a network call, an audit's default."""
TOLERANCE = 3e-4
"""The inverter's default."""
COARSE = 2e-3
"""What bfloat16 can meet at 20 steps and more."""


@dataclass(frozen=True)
class Precision:
    """A way to compute the network.

    Args:
        known: tolerances of the inverter to try on known seeds.
        audited: those to audit with.
        autocast: what matrix products and convolutions are computed in, if not in the type of the weights.
        weights: what weights are stored in; latents never are.
    """

    known: tuple[float, ...]
    audited: tuple[float, ...]
    autocast: torch.dtype | None = None
    weights: Literal["float32", "bfloat16"] = "float32"


PRECISIONS = {
    "32-true": Precision((TOLERANCE, COARSE), (TOLERANCE, COARSE)),
    "bf16-mixed": Precision((TOLERANCE, 1e-3, COARSE), (COARSE,), torch.bfloat16),
    "16-mixed": Precision((TOLERANCE,), (TOLERANCE,), torch.float16),
    "weights in bfloat16": Precision((TOLERANCE,), (COARSE,), weights="bfloat16"),
}


@torch.no_grad()
def main(
    model: Path = Path("checkpoints/pictograms"),
    control: Path = Path("checkpoints/without-umbrella"),
    out: Path = Path("docs/results/precision"),
    images: int = 16,
    steps: tuple[int, ...] = (20, 50),
    seed: int = 0,
) -> None:
    """Measure all precisions.

    Args:
        model: pipeline folder of the vanilla model.
        control: pipeline folder of one that never saw umbrellas.
        out: where tables and numbers go, without suffix.
        images: how many seeds, and how many images of each set.
        steps: DDIM steps to try; the audit takes the first.
        seed: of the seeds.
    """
    torch.set_num_threads(1)
    vanilla, never = (
        {name: Diffusion(str(folder), torch_dtype=how.weights) for name, how in PRECISIONS.items()}
        for folder in (model, control)
    )
    settings: dict[str, Any] = {"images": images, "seed": seed, "steps": list(steps)}
    for name, folder, models in (("model", model, vanilla), ("control", control, never)):
        settings |= {name: str(folder), f"{name}_fingerprint": models["32-true"].weights_fingerprint()}
    there = json.loads(out.with_suffix(".json").read_text()) if out.with_suffix(".json").is_file() else {}
    kept = there if there.get("settings") == settings else {"known": [], "audits": []}
    known = [
        _find(kept["known"], precision=name, steps=count, tolerance=tolerance)
        or _known(name, vanilla[name], count, tolerance, images, seed)
        for count in steps
        for name, how in PRECISIONS.items()
        for tolerance in how.known
    ]
    audit = Audit(vanilla, never, steps[0], images)
    audits = [
        _find(kept["audits"], precision=name, tolerance=tolerance) or audit(name, tolerance)
        for name, how in PRECISIONS.items()
        for tolerance in how.audited
    ]
    numbers = {"settings": settings, "known": known, "audits": audits}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n")
    out.with_suffix(".md").write_text(_page(known, audits, settings))


def _find(rows: list[dict[str, Any]], **identity: Any) -> dict[str, Any] | None:
    return next((row for row in rows if identity.items() <= row.items()), None)


def _predictor(diffusion: Diffusion, how: Precision, prompts: list[str]) -> BlockwisePredictor:
    embeds, empty = (diffusion.encode_prompts(texts).float() for texts in (prompts, [""]))
    return BlockwisePredictor(diffusion, embeds, empty, 1.0, BLOCK, how.autocast)


def _known(name: str, diffusion: Diffusion, count: int, tolerance: float, images: int, seed: int) -> dict[str, Any]:
    steps, inverter = diffusion.schedule.ddim_steps(count), FixedPoint(tolerance=tolerance)
    seeds = diffusion.draw_seeds([Generator().manual_seed(seed + i) for i in range(images)])
    predict = _predictor(diffusion, PRECISIONS[name], [draw("test", i)[0].caption for i in range(images)])
    latents = inverter.sample(predict, seeds, steps)
    began = time.process_time()
    found = inverter(predict, latents, steps)
    seconds = time.process_time() - began
    again = inverter.regenerate(predict, found, steps)
    bias = gaussian_nll(found.seeds) - gaussian_nll(seeds)
    pictures = [in_blocks(diffusion.decode_latents, 1, x).float() for x in (again, latents)]
    return {
        "precision": name,
        "steps": count,
        "tolerance": tolerance,
        "evaluations": float(found.evaluations.double().mean()),
        "residual": float(found.residual.max()),
        "converged": float(found.converged.double().mean()),
        "seed_error": float(relative_norm(found.seeds - seeds, seeds).mean()),
        "nll_bias": _interval(bias),
        "absolute_bias": _interval(bias.abs()),
        "psnr_round_trip": float(psnr(pictures[0], pictures[1]).mean()),
        "seconds": seconds / images,
    }


class Audit:
    """What inverting images in a precision does to them, and to the forgetting of a model that never saw the concept.

    Args:
        vanilla: the model, by precision.
        never: the model that never saw it.
        count: DDIM steps.
        images: how many of the concept, and of other things.
    """

    def __init__(self, vanilla: dict[str, Diffusion], never: dict[str, Diffusion], count: int, images: int) -> None:
        self.models, self.count = (vanilla, never), count
        umbrella = {"object": "umbrella"}
        concept = PictogramSource(keep=umbrella, limit=images)
        self.sets = [list(x.load()) for x in (concept, PictogramSource(withhold=[umbrella], limit=images))]

    def __call__(self, name: str, tolerance: float) -> dict[str, Any]:
        """The row of a precision and a tolerance."""
        own, exact = self.inverted(name, tolerance), self.inverted("32-true", TOLERANCE)
        nll, plain = ([gaussian_nll(x.seeds) for x in found] for found in (own, exact))
        shifts, plain_shifts = ([x[1] - x[0], x[3] - x[2]] for x in (nll, plain))
        apart = [relative_norm(a.seeds - b.seeds, b.seeds) for a, b in zip(own, exact, strict=True)]
        return {
            "precision": name,
            "tolerance": tolerance,
            "converged": float(torch.cat([x.converged for x in own]).double().mean()),
            "seed_distance": float(torch.cat(apart).mean()),
            "nll_difference": float((torch.cat(nll) - torch.cat(plain)).abs().mean()),
            "forgetting": _difference(*shifts),
            "damage": _interval(shifts[1]),
            "forgetting_less_exact": _difference(*(a - b for a, b in zip(shifts, plain_shifts, strict=True))),
        }

    @cache  # noqa: B019 - there is one of these, and it lives as long as the program
    def inverted(self, name: str, tolerance: float) -> list[Inversion]:
        """The concept's images in both models, then the others in both."""
        return [self._invert(models[name], name, tolerance, rows) for rows in self.sets for models in self.models]

    def _invert(self, diffusion: Diffusion, name: str, tolerance: float, rows: list[dict[str, Any]]) -> Inversion:
        pictures = torch.stack([to_tensor(read_picture(row["image"], diffusion.image_size)) for row in rows])
        latents = in_blocks(diffusion.encode_images, 1, pictures).float()
        predict = _predictor(diffusion, PRECISIONS[name], [row["caption"] for row in rows])
        return FixedPoint(tolerance=tolerance)(predict, latents, diffusion.schedule.ddim_steps(self.count))


def _interval(values: Tensor) -> list[float]:
    found = bootstrap(lambda draws: draws.mean(-1), [values])
    return [found.value, found.low, found.high]


def _difference(concept: Tensor, reference: Tensor) -> list[float]:
    found = bootstrap(lambda e, r: e.mean(-1) - r.mean(-1), [concept, reference])
    return [found.value, found.low, found.high]


def _page(known: list[dict[str, Any]], audits: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    images = settings["images"]
    lines = [
        "# Precision\n",
        "`python benchmarks/precision.py`: the U-Net of `checkpoints/pictograms` in each precision, all else in "
        f"float32, but for the autoencoder among weights in bfloat16; `FixedPoint` in calls of {BLOCK} rows, guidance "
        f"1, seed {settings['seed']}. On a CPU, where `16-mixed` is torch's own autocast to float16; a trainer offers "
        "it on GPUs only.\n",
        f"**Known seeds**, {images} of them, made and inverted in the same precision. Evaluations an image; worst "
        "relative residual of a step; NLL bias in nats; PSNR in dB of the regenerated picture against the one "
        "inverted; processor seconds an image, one thread.\n",
        "| steps | precision | tolerance | evaluations | residual | converged | seed error | NLL bias [95 %] | "
        "absolute [95 %] | PSNR | s |",
        "|" + "---|" * 11,
    ]
    for row in known:
        cells = [
            *(str(row["steps"]), row["precision"], f"{row['tolerance']:g}", f"{row['evaluations']:.0f}"),
            *(f"{row['residual']:.1e}", f"{row['converged']:.0%}", f"{row['seed_error']:.4f}", _cell(row["nll_bias"])),
            *(_cell(row["absolute_bias"]), f"{row['psnr_round_trip']:.1f}", f"{row['seconds']:.2f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"\n**An audit**: {images} + {images} images inverted in the base and in the control that never saw umbrellas, "
        f"{settings['steps'][0]} steps. Distance of an image's seed from the one found in float32, relative; mean "
        "absolute difference of its NLL, nats; forgetting and damage of the control, nats; forgetting less that in "
        "float32, image by image.\n",
        "| precision | tolerance | converged | seeds apart | NLL apart | forgetting [95 %] | damage [95 %] | "
        "forgetting, less float32's [95 %] |",
        "|" + "---|" * 8,
    ]
    for row in audits:
        cells = [
            *(row["precision"], f"{row['tolerance']:g}", f"{row['converged']:.0%}", f"{row['seed_distance']:.4f}"),
            *(f"{row['nll_difference']:.2f}", _cell(row["forgetting"]), _cell(row["damage"])),
            _cell(row["forgetting_less_exact"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: list[float]) -> str:
    value, low, high = estimate
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    auto_cli(main)
