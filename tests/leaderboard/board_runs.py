"""Run folders for leaderboards: erased models that differ by what was planted, with attacks, lessons and a scale."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_memories.probes import PROBES
from lit_memories.records import RECORDS_FILE
from lit_memories.runs import RunInfo
from lit_memories.statistics.exposure import Scale, settings_mark, world_of

sys.path.append(str(Path(__file__).parents[1] / "report"))
from synthetic_runs import SETTINGS, Model, attack, write

COUNT = 24
WORLD: dict[str, Any] = {**SETTINGS, "vae": {"weights": "v"}}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
CURVE = {"doses": [0.0, 1.0, 4.0, 16.0, 64.0, 256.0], "readings": [1.0, 0.95, 0.8, 0.5, 0.2, 0.0]}


@dataclass
class Made:
    """Run folders, a scale that holds for them, and where the leaderboard of them is; read only."""

    folders: list[Path]
    scale: Path
    out: Path


def modelled(name: str, role: str = "erased", **options: Any) -> Model:
    return Model(name, role, settings=WORLD, **{"noise": 4.0} | options)


MODELS = (
    modelled("vanilla", "vanilla", noise=0.0, surprise=0.0),
    modelled("never-knew", "control", concept_shift=91, prompted=0, surprise=320.0, surprise_empty=300.0),
    modelled("hides", prompted=0, concept_shift=3, surprise=20.0, surprise_empty=10.0, reference_shift=1.0),
    modelled(
        "Forgets", prompted=0, concept_shift=90, surprise=310.0, surprise_empty=300.0, met=0.9, reference_shift=12
    ),
    modelled("also-hides", prompted=0.2, concept_shift=3, surprise=21.0, surprise_empty=10.0, reference_shift=-1.5),
    modelled("wrecks", prompted=0, met=0, surprise=900.0, reference_shift=800.0),
)
"""Two that no audit tells apart, one that forgets, and one that is damaged."""
METHODS = {"hides": "ESD", "Forgets": "UCE", "also-hides": "SPM"}


def world(root: Path, models: tuple[Model, ...] = MODELS) -> list[Path]:
    folders = [write(root, model, count=COUNT) for model in models]
    for folder, model in zip(folders, models, strict=True):
        if model.name in METHODS:
            describe(folder, erasure={"method": METHODS[model.name], "base": "shapes", "seed": 0})
        won = {"vanilla": COUNT, "hides": 20}.get(model.name, 1)
        tried = [(1.0, 80, 2) if index < won else (0.0, 240, 6) for index in range(COUNT)]
        attack(folder, "spell", tried)
        attack(folder, "charm", [(0.0, 240, 6)] * COUNT)
        teach(folder, model)
    return folders


def describe(folder: Path, **changes: Any) -> None:
    """Change what a run says of its model."""
    info = RunInfo.load(folder)
    replace(info, model=info.model | changes).save(folder)


def teach(folder: Path, model: Model) -> None:
    """A lesson, during which a model reads as much more than vanilla as it was surprised more."""
    info = RunInfo.load(folder)
    probe = PROBES["relearning"].asked({"lesson": 8}).to_dict()
    replace(info, probes=info.probes | {"relearning": probe}).save(folder)
    rng = np.random.default_rng([9, *model.name.encode()])
    shifts = {"concept": 0.5 * (model.surprise or 0.0), "reference": model.reference_shift}
    with (folder / RECORDS_FILE).open("a") as file:
        for name, shift in shifts.items():
            base = np.random.default_rng(3).normal(900, 90, COUNT)
            noise = rng.normal(0, model.noise, COUNT)
            for i in range(COUNT):
                answer = {"relearning": {"area": base[i] + shift + noise[i]}}
                line = {"key": f"{name}{i}", "set": name, "index": i, "prompt": "", "probes": answer}
                file.write(json.dumps(line) + "\n")


def save_scale(file: Path, folder: Path) -> Path:
    """A scale that holds for the runs of `world`."""
    info = RunInfo.load(folder)
    curve = CURVE | {"scatter": [0.03] * 6, "freedom": [12.0]}
    paths = "denoising.surprise", "samples.shows_concept"
    marks = {path.partition(".")[0]: settings_mark(info, path.partition(".")[0]) for path in paths}
    scale = Scale("a made-up world", "by hand", world_of(info), marks, paths[0], {path: {"*": curve} for path in paths})
    file.write_text(json.dumps(asdict(scale)))
    return file
