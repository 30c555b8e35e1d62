"""The quality of a world's model on held-out prompts and images: the figures of its model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import Generator, Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.metrics import psnr, wilson_interval
from lit_memories.storage.files import check_place, check_writable, write
from lit_memories.terminal import printable
from lit_memories.worlds.base import World, labels_of, shows
from lit_memories.worlds.classifier import WorldClassifier, load_classifier
from lit_memories.worlds.pictograms import PictogramWorld

CONCEPTS = ({"object": "umbrella"}, {"style": "striped"})
"""What the shipped controls of the pictogram world never saw."""
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
    world: World | None = None,
    withheld: Sequence[dict[str, str]] = CONCEPTS,
) -> None:
    """Measure a world's model and print the figures.

    Args:
        model: pipeline folder.
        classifier: folder of the judge.
        out: JSON file for the figures.
        prompts: how many held-out prompts to sample, and as many again that ask for each withheld concept over 4.
        images: how many held-out images to send through the autoencoder and the judge.
        guidance_scale: of the samples.
        num_inference_steps: DDIM steps of the samples.
        world: whose model it is; None: pictograms.
        withheld: concepts that are asked for apart from all others.

    Raises:
        OSError: if `out` cannot be written.
        ValueError: if it is a link that leads out of its folder, or no file, or a concept is none of the world.
    """
    if out is not None:
        check_place(out)
        check_writable(out.parent)
    world = world or PictogramWorld()
    for concept in withheld:
        world.check(concept)
    diffusion, judge = Diffusion.from_pretrained(model), load_classifier(classifier)
    figures: dict[str, Any] = {
        "settings": {
            "prompts": prompts,
            "images": images,
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
        },
        **_measure_images(world, diffusion, judge, images),
        "samples": {},
    }
    groups = {HELD_OUT: world.asked("test", prompts)}
    groups |= {f"{_value(concept)} prompts": world.asked("asked", prompts // 4, concept) for concept in withheld}
    for name, asked in groups.items():
        drawn = _sample(diffusion, [world.grammar.say(labels) for labels in asked], guidance_scale, num_inference_steps)
        figures["samples"][name] = _score(judge, asked, drawn)
        for concept in withheld if name == HELD_OUT else ():
            others = [row for row, labels in enumerate(asked) if not shows(labels, concept)]
            chosen = [asked[row] for row in others]
            figures["samples"][f"held-out, not {_value(concept)}"] = _score(judge, chosen, drawn[others])
    if out is not None:
        write(out, json.dumps(figures, indent=2) + "\n")
    _print(str(model), figures)


def _value(concept: Mapping[str, str]) -> str:
    return " ".join(concept.values())


def _sample(diffusion: Diffusion, captions: Sequence[str], guidance_scale: float, steps: int) -> Tensor:
    batches = []
    for start in track(range(0, len(captions), 16), description="sampling"):
        batch = list(captions[start : start + 16])
        seeds = diffusion.draw_seeds([Generator().manual_seed(start + i) for i in range(len(batch))])
        batches.append(diffusion.generate(batch, seeds, steps, guidance_scale))
    return torch.cat(batches)


def _score(judge: WorldClassifier, asked: Sequence[Mapping[str, str]], images: Tensor) -> dict[str, Any]:
    scores = {}
    for factor, seen in judge.predict(images).items():
        right = sum(value == labels[factor] for value, labels in zip(seen, asked, strict=True))
        estimate = wilson_interval(right, len(asked))
        scores[factor] = {"rate": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"count": len(asked), **scores}


def _measure_images(world: World, diffusion: Diffusion, judge: WorldClassifier, count: int) -> dict[str, Any]:
    rows, factors = world.rows("test", count), world.grammar.factors
    decibels, labels, right = [], labels_of(rows, factors), dict.fromkeys(factors, 0)
    for start in track(range(0, count, 20), description="images"):
        images = torch.stack([to_tensor(image) for image in rows[start : start + 20]["image"]])
        decibels.append(psnr(diffusion.decode_latents(diffusion.encode_images(images)), images))
        for factor, seen in judge.predict(images).items():
            shown = labels[start : start + 20]
            right[factor] += sum(value == one[factor] for value, one in zip(seen, shown, strict=True))
    values = torch.cat(decibels)
    return {
        "autoencoder_psnr": {"mean": float(values.mean()), "lowest": float(values.min())},
        "classifier_accuracy": {factor: hits / count for factor, hits in right.items()},
    }


def _print(name: str, figures: dict[str, Any]) -> None:
    factors = list(figures["classifier_accuracy"])
    console, table = Console(), Table("samples of", "count", *factors, title=Text(printable(name)))
    for group, scores in figures["samples"].items():
        rates = [f"{scores[f]['rate']:.1%} [{scores[f]['low']:.1%}, {scores[f]['high']:.1%}]" for f in factors]
        table.add_row(group, str(scores["count"]), *rates)
    console.print(table)
    console.print(f"autoencoder PSNR {figures['autoencoder_psnr']['mean']:.2f} dB")
    console.print("classifier " + ", ".join(f"{f} {v:.1%}" for f, v in figures["classifier_accuracy"].items()))
