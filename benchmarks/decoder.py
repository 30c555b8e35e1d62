"""How soon does decoder inversion get where the official optimiser ends? Writes docs/results/decoder.{md,json}.

    python benchmarks/decoder.py

Latents are sought that decode to umbrellas, from the latents of other pictures, the audit's second stage. Everything is
fixed by --images and --passes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from lit_memories.data.sources import PictogramSource, read_picture
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.inverters.decoder import DecoderInversion


def main(
    model: Path = Path("checkpoints/pictograms"),
    out: Path = Path("docs/results/decoder"),
    images: int = 1,
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
        start = diffusion.encode_images(supports) / diffusion.vae.config.scaling_factor
    rows: list[dict[str, Any]] = []
    for name, inversion in {
        "L-BFGS (default)": DecoderInversion(),
        "Adam, 1e-2 (`faithful`)": DecoderInversion(passes, faithful=True),
    }.items():
        seen: list[Any] = []  # the error at every pass, from the decoder's own outputs

        def decode(latents: torch.Tensor, seen: list[Any] = seen) -> torch.Tensor:
            decoded = diffusion.decode_unscaled(latents)
            seen.append(decoded.detach())
            return decoded

        parts = []
        for query, first in zip(queries.split(1), start.split(1), strict=True):
            seen.clear()
            found = inversion(decode, query, first)
            errors = torch.stack([(x.clamp(0, 1) - query).square().mean() for x in seen])
            parts.append((float(found.psnr), int(found.passes), -10 * errors.log10()))
        rows.append(
            {
                "optimiser": name,
                "psnr": [psnr for psnr, _, _ in parts],
                "passes": [count for _, count, _ in parts],
                "trace": [curve for _, _, curve in parts],
            }
        )
    default, official = rows
    pairs = list(zip(default.pop("trace"), official["psnr"], strict=True))
    default["passes_to_faithful"] = [_first(curve, psnr) for curve, psnr in pairs]
    pairs = list(zip(official.pop("trace"), default["psnr"], strict=True))
    official["passes_to_default"] = [_first(curve, psnr) for curve, psnr in pairs]
    print(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"model": str(model), "images": images, "passes": passes}
    out.with_suffix(".json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    out.with_suffix(".md").write_text(_table(default, official, settings))


def _pictures(source: PictogramSource, diffusion: Diffusion) -> torch.Tensor:
    return torch.stack([to_tensor(read_picture(row["image"], diffusion.image_size)) for row in source.load()])


def _first(curve: torch.Tensor, psnr: float) -> int | None:
    """The number of the first pass that reaches a PSNR, up to a hundredth of a dB."""
    reached = (curve >= psnr - 0.01).nonzero()
    return int(reached[0]) + 1 if len(reached) else None


def _table(default: dict[str, Any], official: dict[str, Any], settings: dict[str, Any]) -> str:
    options = f" --images {settings['images']}" if settings["images"] != 1 else ""
    options += f" --passes {settings['passes']}" if settings["passes"] != 3000 else ""
    lines = [
        "# Decoder inversion\n",
        f"`python benchmarks/decoder.py{options}`: towards umbrellas, from the latents of other pictures, "
        f"{settings['images']} pair(s), autoencoder of `checkpoints/pictograms`, fp32. PSNR in dB at the end; passes "
        "through the decoder, forwards and backwards; at which pass each reached what the other ended with.\n",
        "| pair | L-BFGS (default) | passes | reached Adam's | Adam, 1e-2 (`faithful`) | passes | reached L-BFGS's |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in range(settings["images"]):
        cells = [
            f"{row['psnr'][pair]:.2f} | {row['passes'][pair]} | {row[other][pair] or 'never'}"
            for row, other in ((default, "passes_to_faithful"), (official, "passes_to_default"))
        ]
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main)
