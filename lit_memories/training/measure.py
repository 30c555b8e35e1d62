"""The quality of a pictogram model on held-out prompts and images: the figures of its model card."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import Generator, Tensor

from lit_memories.classifier import PictogramClassifier, load_classifier
from lit_memories.data.pictograms import FACTORS, Pictogram, draw, render, shows
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.metrics import psnr, wilson_interval
from lit_memories.storage.files import check_place, check_writable, write
from lit_memories.terminal import printable

CONCEPTS = ({"object": "umbrella"}, {"style": "striped"})
"""What the shipped controls never saw."""
HELD_OUT = "held-out prompts"


@torch.no_grad()
def measure(
    model: Path,
    classifier: Path = Path("checkpoints/classifier"),
    out: Path | None = None,
    prompts: int = 320,
    images: int = 1000,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 30,
) -> None:
    """Measure a pictogram model and print the figures.

    Args:
        model: pipeline folder.
        classifier: folder of the judge.
        out: JSON file for the figures.
        prompts: how many held-out prompts to sample, and as many again that ask for each withheld concept over 4.
        images: how many held-out images to send through the autoencoder and the judge.
        guidance_scale: of the samples.
        num_inference_steps: DDIM steps of the samples.

    Raises:
        OSError: if `out` cannot be written.
        ValueError: if it is a link that leads out of its folder, or no file.
    """
    if out is not None:
        check_place(out)
        check_writable(out.parent)
    diffusion, judge = Diffusion.from_pretrained(model), load_classifier(classifier)
    figures: dict[str, Any] = {
        "settings": {
            "prompts": prompts,
            "images": images,
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
        },
        **_measure_images(diffusion, judge, images),
        "samples": {},
    }
    groups = {HELD_OUT: _pictures("test", prompts, {})}
    groups |= {f"{_value(concept)} prompts": _pictures("asked", prompts // 4, concept) for concept in CONCEPTS}
    for name, pictures in groups.items():
        drawn = _sample(diffusion, pictures, guidance_scale, num_inference_steps)
        figures["samples"][name] = _score(judge, pictures, drawn)
        for concept in CONCEPTS if name == HELD_OUT else ():
            others = [row for row, picture in enumerate(pictures) if not shows(picture, concept)]
            chosen = [pictures[row] for row in others]
            figures["samples"][f"held-out, not {_value(concept)}"] = _score(judge, chosen, drawn[others])
    if out is not None:
        write(out, json.dumps(figures, indent=2) + "\n")
    _print(str(model), figures)


def _value(concept: dict[str, str]) -> str:
    return " ".join(concept.values())


def _pictures(split: str, count: int, concept: dict[str, str]) -> list[Pictogram]:
    """Held-out pictures to ask for: the first of a split, or as many that show a concept."""

    def matching() -> Iterator[Pictogram]:
        index = 0
        while True:
            picture, _ = draw(split, index)
            index += 1
            if shows(picture, concept):
                yield picture

    pictures = matching()
    return [next(pictures) for _ in range(count)]


def _sample(diffusion: Diffusion, pictures: Sequence[Pictogram], guidance_scale: float, steps: int) -> Tensor:
    batches = []
    for start in track(range(0, len(pictures), 16), description="sampling"):
        batch = pictures[start : start + 16]
        seeds = diffusion.draw_seeds([Generator().manual_seed(start + i) for i in range(len(batch))])
        batches.append(diffusion.generate([p.caption for p in batch], seeds, steps, guidance_scale))
    return torch.cat(batches)


def _score(judge: PictogramClassifier, pictures: Sequence[Pictogram], images: Tensor) -> dict[str, Any]:
    predicted = judge.predict(images)
    scores = {}
    for factor in FACTORS:
        right = sum(seen == getattr(p, factor) for seen, p in zip(predicted[factor], pictures, strict=True))
        estimate = wilson_interval(right, len(pictures))
        scores[factor] = {"rate": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"count": len(pictures), **scores}


def _measure_images(diffusion: Diffusion, judge: PictogramClassifier, count: int) -> dict[str, Any]:
    decibels, right = [], dict.fromkeys(FACTORS, 0)
    for start in track(range(0, count, 20), description="images"):
        drawn = [draw("test", index) for index in range(start, min(start + 20, count))]
        images = torch.stack([to_tensor(render(*row)) for row in drawn])
        decibels.append(psnr(diffusion.decode_latents(diffusion.encode_images(images)), images))
        for factor, seen in judge.predict(images).items():
            right[factor] += sum(a == getattr(p, factor) for a, (p, _) in zip(seen, drawn, strict=True))
    values = torch.cat(decibels)
    return {
        "autoencoder_psnr": {"mean": float(values.mean()), "lowest": float(values.min())},
        "classifier_accuracy": {factor: hits / count for factor, hits in right.items()},
    }


def _print(name: str, figures: dict[str, Any]) -> None:
    console, table = Console(), Table("samples of", "count", *FACTORS, title=Text(printable(name)))
    for group, scores in figures["samples"].items():
        rates = [f"{scores[f]['rate']:.1%} [{scores[f]['low']:.1%}, {scores[f]['high']:.1%}]" for f in FACTORS]
        table.add_row(group, str(scores["count"]), *rates)
    console.print(table)
    console.print(f"autoencoder PSNR {figures['autoencoder_psnr']['mean']:.2f} dB")
    console.print("classifier " + ", ".join(f"{f} {v:.1%}" for f, v in figures["classifier_accuracy"].items()))
