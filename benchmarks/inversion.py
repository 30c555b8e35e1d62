"""How well does an inverter find seeds that are known? Writes docs/results/inversion.{md,json}.

    python benchmarks/inversion.py

Seeds are drawn, DDIM makes latents of them, the inverter is to find the seeds again. Everything is fixed by --seed.
"""

import json
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Generator

from lit_memories.data.pictograms import draw
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inverter, relative_norm
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.metrics import bootstrap, gaussian_nll, psnr
from lit_memories.ops.rollout import rollout
from lit_memories.records import finite

INVERTERS: dict[str, Inverter] = {
    "DDIMInversion": DDIMInversion(measure_residual=False),
    "FixedPoint, 3 a step": FixedPoint(max_evaluations=3, tolerance=1e-9),
    **{f"FixedPoint, to {tolerance:g}": FixedPoint(tolerance=tolerance) for tolerance in (1e-3, 3e-4, 1e-4)},
}
COLUMNS = (
    "inverter",
    "steps",
    "evaluations",
    "residual",
    "seed error",
    "NLL bias [95 %]",
    "worst",
    "PSNR",
    "converged",
)


@torch.no_grad()
def main(
    model: Path = Path("checkpoints/pictograms"),
    out: Path = Path("docs/results/inversion"),
    images: int = 16,
    steps: tuple[int, ...] = (20, 50),
    seed: int = 0,
) -> None:
    """Invert known seeds with every inverter.

    Args:
        model: pipeline folder.
        out: where the table goes, without suffix.
        images: how many seeds.
        steps: DDIM steps to try.
        seed: of the seeds.
    """
    diffusion = Diffusion.from_pretrained(model)
    seeds = diffusion.draw_seeds([Generator().manual_seed(seed + i) for i in range(images)])
    embeds = diffusion.encode_prompts([draw("test", i)[0].caption for i in range(images)])
    rows = []
    for count in steps:
        schedule = diffusion.schedule.ddim_steps(count)
        latents = rollout(diffusion.noise_fn(embeds), seeds, schedule)
        decoded = diffusion.decode_latents(latents)
        for name, inverter in INVERTERS.items():
            found = inverter(lambda x, t, rows: diffusion.predict_noise(x, t, embeds[rows]), latents, schedule)
            again = diffusion.decode_latents(rollout(diffusion.noise_fn(embeds), found.seeds, schedule))
            bias = gaussian_nll(found.seeds) - gaussian_nll(seeds)
            estimate = bootstrap(lambda draws: draws.mean(-1), [bias])
            rows.append(
                {
                    "inverter": name,
                    "steps": count,
                    "evaluations": float(found.evaluations.double().mean()),
                    "residual": finite(float(found.residual.max())),
                    "seed_error": float(relative_norm(found.seeds - seeds, seeds).mean()),
                    "nll_bias": [estimate.value, estimate.low, estimate.high],
                    "worst_bias": float(bias.abs().max()),
                    "psnr_round_trip": float(psnr(again, decoded).mean()),
                    "converged": float(found.converged.double().mean()),
                }
            )
            print(rows[-1])
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"model": str(model), "images": images, "seed": seed, "guidance_scale": 1.0}
    out.with_suffix(".json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    out.with_suffix(".md").write_text(_table(rows, images, seed))


def _table(rows: list[dict], images: int, seed: int) -> str:
    lines = [
        "# Inverters on known seeds\n",
        f"`python benchmarks/inversion.py`: {images} known seeds of `checkpoints/pictograms`, seed {seed}, guidance 1, "
        "fp32. Evaluations an image; worst relative residual of a step; NLL bias in nats (mean with interval, and the "
        "worst of the images), PSNR in dB of the regenerated picture against the one inverted.\n",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for row in rows:
        value, low, high = row["nll_bias"]
        lines.append(
            f"| {row['inverter']} | {row['steps']} | {row['evaluations']:.0f} | {_scientific(row['residual'])} "
            f"| {row['seed_error']:.4f} | {value:.2f} [{low:.2f}, {high:.2f}] | {row['worst_bias']:.2f} "
            f"| {row['psnr_round_trip']:.1f} | {row['converged']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def _scientific(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


if __name__ == "__main__":
    auto_cli(main)
