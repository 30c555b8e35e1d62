"""What a model draws of everything in the pictogram world: the same prompts and noise for every model."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Generator

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.recipes import run
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.pictograms import FACTORS, OBJECTS, Pictogram, draw

RECIPES = Path("recipes/pictograms")
TOLD = ("object", "color", "style")
"""The factors whose values are things to forget; a background is a colour's other use."""
STEPS, GUIDANCE, ROWS = 20, 3.0, 16
Shown = list[dict[str, bool]]
"""By picture, whether each factor is as its prompt says."""


def prompts(each: int) -> list[Pictogram]:
    """Held-out pictures to ask for, the first `each` of every object."""
    left, found = dict.fromkeys(OBJECTS, each), []
    for index in count():
        picture, _ = draw("test", index)
        if left[picture.object]:
            left[picture.object] -= 1
            found.append(picture)
        if not any(left.values()):
            return found
    raise AssertionError("the pictures have no end")


@torch.no_grad()
def shown(diffusion: Diffusion, judge: WorldJudge, pictures: Sequence[Pictogram]) -> Shown:
    """What the judge sees in what a model draws of pictures' captions, each from noise of its own."""
    anything = Concept("anything", "object", ["anything"], factors={"object": "umbrella"})
    found: Shown = []
    for start in range(0, len(pictures), ROWS):
        captions = [picture.caption for picture in pictures[start : start + ROWS]]
        seeds = diffusion.draw_seeds([Generator().manual_seed(start + row) for row in range(len(captions))])
        images = diffusion.generate(captions, seeds, STEPS, GUIDANCE)
        found += [{name: bool(right) for name, right in verdict["correct"].items()}
                  for verdict in judge(images, captions, anything)]  # fmt: skip
    return found


def rates(found: Shown, pictures: Sequence[Pictogram]) -> dict[str, float]:
    """By value of a factor, the share of pictures asked for with it that show it."""
    return {
        value: sum(seen[factor] for seen in rows) / len(rows)
        for factor, value in things()
        if (rows := [s for s, p in zip(found, pictures, strict=True) if getattr(p, factor) == value])
    }


def things() -> Iterator[tuple[str, str]]:
    """Everything that can be forgotten: a factor and its value each."""
    return ((factor, value) for factor in TOLD for value in FACTORS[factor])


def concept_of(factor: str, value: str, size: int = 30) -> Concept:
    """A thing of the world as a concept: captions of training pictures that show it, and of as many that do not.

    Its anchor is the value that follows it in the world's own order.
    """
    values = FACTORS[factor]
    pool = [draw("train", index)[0] for index in range(100 * size)]
    named = [p.caption for p in pool if getattr(p, factor) == value]
    others = [p.caption for p in pool if value not in (p.object, p.color, p.background, p.style)]
    words = (lambda v: f"{v} style") if factor == "style" else str
    return Concept(
        name=value,
        kind="object" if factor == "object" else "color" if factor == "color" else "style",
        phrase=words(value),
        anchor=words(values[(values.index(value) + 1) % len(values)]),
        prompts=[words(value), *list(dict.fromkeys(named))[:size]],
        retain=list(dict.fromkeys(others))[:size],
        factors={factor: value},
    )


def erased(recipe: str, concept: Concept | Path, folder: Path, options: Sequence[str] = ()) -> Diffusion:
    """The shipped model with a concept erased by a recipe, trained if it is not in a folder."""
    if not (folder / "erasure.safetensors").is_file():
        file = concept
        if isinstance(concept, Concept):
            file = folder.with_suffix(".yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(concept.to_dict(), sort_keys=False))
        place = f"--trainer.default_root_dir={folder}"
        run(["fit", f"--config={RECIPES}/erase/{recipe}.yaml", f"--model.concept={file}", place, *options])
    return Diffusion("checkpoints/pictograms", str(folder))


def packed(found: Shown) -> dict[str, str]:
    """The same as a text of 0 and 1 a factor, for lines of JSON."""
    return {name: "".join("01"[seen[name]] for seen in found) for name in found[0]}


def unpacked(texts: Mapping[str, Any]) -> Shown:
    """What `packed` was made of."""
    return [dict(zip(texts, (digit == "1" for digit in row), strict=True)) for row in zip(*texts.values(), strict=True)]
