"""How soon does decoder inversion get where the official optimiser ends? Writes docs/results/decoder.{md,json}.

    python benchmarks/decoder.py

Latents are sought that decode to umbrellas, from the latents of other pictures, the audit's second stage. Everything is
fixed by --images and --passes.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from lit_memories.data.sources import read_picture
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.inverters.decoder import DecoderInversion
from lit_memories.metrics.bootstrap import bootstrap
from lit_memories.worlds.sources import PictogramSource


def main(
    model: Path = Path("checkpoints/pictograms"),
    out: Path = Path("docs/results/decoder"),
    images: int = 4,
    passes: int = 3000,
) -> None:
    """Invert the decoder with Adam and with L-BFGS.

    Args:
        model: pipeline folder.
        out: where the table goes, without suffix.
        images: how many pairs of a support and an umbrella.
        passes: of Adam through the decoder, the official 3000.
    """
    diffusion = Diffusion.from_pretrained(model)
    umbrella = {"object": "umbrella"}
    queries = _pictures(PictogramSource(keep=umbrella, limit=images), diffusion)
    supports = _pictures(PictogramSource(withhold=[umbrella], limit=images), diffusion)
    with torch.no_grad():
        starts = diffusion.encode_images(supports) / diffusion.vae.config.scaling_factor
    default, official = DecoderInversion(), DecoderInversion(passes, faithful=True)
    pairs = []
    for query, start in zip(queries.split(1), starts.split(1), strict=True):
        curves = [_curve(inversion, diffusion, query, start) for inversion in (default, official)]
        level = min(curve[-1] for curve in curves)  # what both reach
        first, second = (_first(curve, level) for curve in curves)
        pair = {"default": _end(curves[0]), "official": _end(curves[1]), "level": level}
        pairs.append(pair | {"default_at_level": first, "official_at_level": second, "fewer": second / first})
        print(pairs[-1], flush=True)
    settings = {"model": str(model), "images": images, "passes": passes}
    logs = torch.tensor([pair["fewer"] for pair in pairs]).double().log()
    mean = bootstrap(lambda x: x.mean(-1), [logs])
    fewer = {name: math.exp(getattr(mean, name)) for name in ("value", "low", "high")}
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {"settings": settings, "pairs": pairs, "times_fewer": fewer}
    out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    out.with_suffix(".md").write_text(_page(pairs, fewer, settings))


def _pictures(source: PictogramSource, diffusion: Diffusion) -> torch.Tensor:
    return torch.stack([to_tensor(read_picture(row["image"], diffusion.image_size)) for row in source.load()])


def _curve(inversion: DecoderInversion, diffusion: Diffusion, query: torch.Tensor, start: torch.Tensor) -> list[float]:
    """PSNR in dB of the decoder's output at every pass, and in the end that of what was found."""
    psnrs: list[float] = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = diffusion.decode_unscaled(latents)
        psnrs.append(float(-10 * (decoded.detach().clamp(0, 1) - query).square().mean().log10()))
        return decoded

    inversion(decode, query, start)
    return psnrs


def _end(curve: list[float]) -> dict[str, float]:
    return {"psnr": curve[-1], "passes": len(curve) - 1}


def _first(curve: list[float], psnr: float) -> int:
    """The number of the first pass that reaches a PSNR, up to a hundredth of a dB."""
    return next(number for number, value in enumerate(curve, 1) if value >= psnr - 0.01)


def _page(pairs: list[dict[str, Any]], fewer: dict[str, float], settings: dict[str, Any]) -> str:
    options = "".join(
        f" --{name} {settings[name]}" for name, usual in (("images", 4), ("passes", 3000)) if settings[name] != usual
    )
    ends = {name: [pair[name]["psnr"] for pair in pairs] for name in ("default", "official")}
    gain = sum(a - b for a, b in zip(ends["default"], ends["official"], strict=True)) / len(pairs)
    lines = [
        "# Decoder inversion\n",
        f"`python benchmarks/decoder.py{options}`: towards umbrellas, from the latents of other pictures, "
        f"{settings['images']} pairs, autoencoder of `checkpoints/pictograms`, fp32. L-BFGS is the default, Adam at "
        f"1e-2 for {settings['passes']} passes the official optimiser (`faithful`). PSNR in dB at the end; passes "
        "through the decoder, forwards and backwards; the pass at which each first reached the lower of both ends.\n",
        "| pair | L-BFGS, dB | passes | Adam, dB | passes | both reach, dB | L-BFGS at pass | Adam at pass | times |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, pair in enumerate(pairs):
        cells = [f"{pair[name][key]:{form}}" for name in ends for key, form in (("psnr", ".2f"), ("passes", "d"))]
        cells += [f"{pair['level']:.2f}", str(pair["default_at_level"]), str(pair["official_at_level"])]
        lines.append(f"| {number} | {' | '.join(cells)} | {pair['fewer']:.1f} |")
    lines.append(
        f"\nTo the same PSNR L-BFGS needs **{fewer['value']:.1f} [{fewer['low']:.1f}, {fewer['high']:.1f}]** times "
        "fewer passes (geometric mean over pairs, bootstrap 95 % interval). It ends on average "
        f"{abs(gain):.1f} dB {'above' if gain >= 0 else 'below'} Adam."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main)
