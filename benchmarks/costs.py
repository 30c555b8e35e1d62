"""What audits and erasures cost, in evaluations and in hours at a rate. Writes docs/results/costs.{md,json}.

    python benchmarks/costs.py
    python benchmarks/costs.py --rate 3e14   # operations a second, from docs/results/gpu.md or a data sheet

Erasures are counted by running the recipes of recipes/sd14/erase on a narrow network for some steps, inversions are
those of docs/results/inversion.json. Nothing here is a measured time.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from diffusers import UNet2DConditionModel
from gpu_models import SHAPES, TINY, build_diffusion, larger_operations, operations
from jsonargparse import auto_cli

from lit_memories.data.erasure import ErasureData
from lit_memories.probes import Denoising
from lit_memories.recipes import run

RECIPES = Path("recipes/sd14/erase")
BACKWARD = 3
"""An evaluation with its gradient, in evaluations."""
INVERTERS = {
    "ours": "FixedPoint, to 0.0003",
    "as officially, ReNoise": "ReNoise, as released",
    "as officially, null text": "NullText, faithful",
}
TITLES = {
    "sd14": "Stable Diffusion 1.4 at 512 pixels",
    "sdxl": "XL at 1024",
    "sd35-medium": "3.5 medium at 1024",
    "flux-dev": "FLUX.1-dev at 1024",
}
STEPS, IMAGES, KNOWN, DRAWN = 50, 100, 16, 48
"""Of an audit: DDIM steps, 50 pictures of the concept and as many others, known seeds, prompted samples of both."""


@dataclass
class Count:
    """Rows sent through the network.

    Args:
        plain: without a gradient.
        learning: with one.
    """

    plain: int = 0
    learning: int = 0

    @property
    def evaluations(self) -> float:
        """In evaluations without a gradient."""
        return self.plain + BACKWARD * self.learning


@contextmanager
def counted() -> Iterator[Count]:
    """Count calls of any U-Net within the context, but those that draw images for an eraser."""
    count, forward, made = Count(), UNet2DConditionModel.forward, ErasureData.setup
    drawing = False

    def call(self: Any, sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        if not drawing:
            name = "learning" if torch.is_grad_enabled() else "plain"
            setattr(count, name, getattr(count, name) + len(sample))
        return forward(self, sample, *args, **options)

    def setup(self: ErasureData, stage: str) -> None:
        nonlocal drawing
        drawing = True
        try:
            made(self, stage)
        finally:
            drawing = False

    with patch.object(UNet2DConditionModel, "forward", call), patch.object(ErasureData, "setup", setup):
        yield count


def erasure(recipe: Path, base: Path, folder: Path) -> dict[str, Any]:
    """Evaluations of a recipe: before its first step, a step, and to draw its images."""
    settings = yaml.safe_load(recipe.read_text())
    options, data = settings["model"]["init_args"], settings.get("data")
    steps, warmup = options.get("steps"), options.get("warmup_steps", 0)
    if isinstance(data, str):
        data = yaml.safe_load((recipe.parent / data).read_text())

    def tried(steps: int | None, images: int) -> Count:
        place = folder / f"{recipe.stem}-{steps}-{images}"
        arguments = ["fit", f"--config={recipe}", f"--model.diffusion.base={base}"]
        arguments += [f"--trainer.default_root_dir={place}", "--trainer.callbacks=[]", "--trainer.precision=32-true"]
        arguments += ["--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
        arguments += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_model_summary=false"]
        if steps is not None:
            arguments.append(f"--model.steps={steps}")
            if warmup:
                arguments.append(f"--model.warmup_steps={round(steps * warmup / options['steps'])}")
        if data:
            arguments += [f"--data.count={images}", "--data.num_inference_steps=1", f"--data.cache={place / 'cache'}"]
        with counted() as count:
            run(arguments)
        return count

    random_depth = "num_inference_steps" in options and not data  # of the way from noise at which a step trains
    few, images = None if steps is None else 40 if random_depth else 10, 8
    base_count = tried(few, images)
    found: dict[str, Any] = {"method": recipe.stem, "steps": steps or 1, "plain": 0.0, "learning": 0.0}
    before = base_count.evaluations
    if few is not None:
        more = tried(2 * few, images)
        for name in ("plain", "learning"):
            found[name] = (getattr(more, name) - getattr(base_count, name)) / few
        before -= few * (found["plain"] + BACKWARD * found["learning"])
    found["drawing"] = 0
    if data:
        given = data["init_args"]
        count = given.get("count", 200)
        before += (tried(few, 2 * images).evaluations - base_count.evaluations) / images * (count - images)
        sets = 2 if recipe.stem in {"salun", "erasediff", "scissorhands"} else 1
        guided = 1 if given.get("guidance_scale", 7.5) == 1 else 2
        found["drawing"] = count * sets * given.get("num_inference_steps", 50) * guided
    found["before"] = max(before, 0.0)
    training = found["steps"] * (found["plain"] + BACKWARD * found["learning"])
    return found | {"evaluations": found["before"] + training + found["drawing"]}


def audits(inversions: Path) -> list[dict[str, Any]]:
    """Evaluations of an audit: what decides by itself, then with the seeds of each of the inverters beside it."""
    rows = {(row["inverter"], row["steps"]): row["evaluations"] for row in json.loads(inversions.read_text())["rows"]}
    usual = Denoising()
    surprise = 2 * usual.levels * usual.noises  # with the prompt and without
    first = IMAGES * surprise + DRAWN * 2 * STEPS
    found = [{"audit": "none: surprise and samples", "an_image": surprise, "evaluations": first}]
    for title, name in INVERTERS.items():
        inverting = rows[name, STEPS] + STEPS
        seeds = IMAGES * inverting + KNOWN * (inverting + STEPS)
        found.append({"audit": title, "an_image": surprise + inverting, "evaluations": first + seeds})
    return found


def main(
    out: Path = Path("docs/results/costs"),
    rate: float = 1e14,
    inversions: Path = Path("docs/results/inversion.json"),
    methods: tuple[str, ...] = (),
) -> None:
    """Count everything.

    Args:
        out: where tables and numbers go, without suffix.
        rate: operations a second that the network reaches, for hours.
        inversions: what benchmarks/inversion.py wrote.
        methods: recipes of recipes/sd14/erase; all if none is named.
    """
    torch.set_num_threads(1)
    recipes = [file for file in sorted(RECIPES.glob("*.yaml")) if not methods or file.stem in methods]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        shape = replace(TINY["sd14"], tokens=77)
        build_diffusion(shape, torch.device("cpu")).pipeline().save_pretrained(base)
        erasures = []
        for recipe in recipes:
            print(recipe.stem, flush=True)
            erasures.append(erasure(recipe, base, Path(folder)))
    found = {
        "rate": rate,
        "operations": {key: operations(shape) for key, shape in SHAPES.items()} | larger_operations(),
        "audits": audits(inversions),
        "erasures": erasures,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(found))


def page(found: dict[str, Any]) -> str:
    """The page, in Markdown."""
    models = list(found["operations"])
    each = ", ".join(f"{found['operations'][key] / 1e12:.3g} in {TITLES[key]}" for key in models)

    def table(header: str, rows: list[tuple[list[str], float]]) -> list[str]:
        columns = f"{header} | {' | '.join(models)}"
        lines = [f"| {columns} |", "|" + "---|" * (columns.count("|") + 1)]
        for cells, evaluations in rows:
            hours = [evaluations * found["operations"][key] / found["rate"] / 3600 for key in models]
            lines.append(f"| {' | '.join([*cells, *(f'{x:.2g}' for x in hours)])} |")
        return [*lines, ""]

    audited = [
        ([row["audit"], f"{row['an_image']:.0f}", f"{row['evaluations']:,.0f}"], row["evaluations"])
        for row in found["audits"]
    ]
    erased = []
    for row in found["erasures"]:
        counts = [f"{row[name]:,.0f}" for name in ("steps", "plain", "learning", "before", "drawing", "evaluations")]
        erased.append(([row["method"], *counts], row["evaluations"]))
    return "\n".join(
        [
            "# What audits and erasures cost\n",
            f"`python benchmarks/costs.py`: counted, not timed. Operations of an evaluation of one row, in 10¹², a "
            f"multiplication with its sum being two: {each}; the last two are counted from their configurations, and "
            "cannot be audited here yet. The last columns are *hours*, at "
            f"{found['rate'] / 1e12:.0f}·10¹² operations a second, for scale: divide by what your device reaches. The "
            "autoencoder, which takes a few per cent, is left out.\n",
            f"**An audit** of {IMAGES} images, {KNOWN} known seeds and {DRAWN} samples, {STEPS} steps. Inversions are "
            "those of the pictogram model (docs/results/inversion.md); ReNoise and null text take as many on any. "
            "Beside them stands what surprise takes, with the prompt and without.\n",
            *table("inverter | evaluations an image | evaluations", audited),
            "**An erasure** by the recipes of `recipes/sd14/erase`, counted on a narrow network over ten steps, or "
            "forty where each goes a way of random length; with a gradient an evaluation counts "
            f"{BACKWARD}. *Drawing* makes the method's images, once, if none are given.\n",
            *table("method | steps | a step | with a gradient | before the first | drawing | evaluations", erased),
        ]
    )


if __name__ == "__main__":
    auto_cli(main)
