"""What ESD trades: prompted rate of the concept against accuracy of everything else. Writes docs/results/esd.{md,json}.

    python benchmarks/esd_frontier.py

One row a setting and concept, resumable: settings whose row is in the JSON are not run again.
"""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import auto_cli
from lightning import Trainer
from torch import Generator

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.esd import ESD
from lit_memories.metrics import wilson_interval
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.pictograms import draw

BASE: dict[str, Any] = {"num_inference_steps": 20, "batch_size": 8, "steps": 60}
GRID: tuple[dict[str, Any], ...] = (
    {"train": "attn2", "lr": 1e-3, "eta": 1.0, "direction": "prompt"},
    {"train": "attn2", "lr": 1e-3, "eta": 1.0, "direction": "phrase"},
    {"train": "attn2", "lr": 1e-3, "eta": 2.0, "direction": "phrase"},
    {"train": "attn2", "lr": 1e-3, "eta": 3.0, "direction": "phrase"},
    {"train": "not-attn2", "lr": 1e-4, "eta": 2.0, "direction": "phrase"},
)

RECOMMENDED: dict[str, dict[str, Any]] = {
    "umbrella": {"train": "attn2", "lr": 1e-3, "eta": 2.0, "direction": "phrase", "steps": 90},
    "striped": {"train": "attn2", "lr": 1e-3, "eta": 4.0, "direction": "phrase", "steps": 90},
}
"""What recipes/pictograms/erase/esd.yaml does, for the style with ``--model.eta 4``."""


def main(
    model: Path = Path("checkpoints/pictograms"),
    classifier: Path = Path("checkpoints/classifier"),
    out: Path = Path("docs/results/esd"),
    concepts: tuple[str, ...] = ("umbrella", "striped"),
    samples: int = 48,
) -> None:
    """Train and measure every setting for every concept.

    Args:
        model: pipeline folder.
        classifier: folder of the judge.
        out: where the table goes, without suffix.
        concepts: which concepts.
        samples: prompts of the concept, and as many others.
    """
    file = out.with_suffix(".json")
    rows = json.loads(file.read_text()) if file.is_file() else []
    judge = WorldJudge(classifier)
    for name in concepts:
        for setting in ({}, *GRID, RECOMMENDED[name]):
            label = {"concept": name, "samples": samples, **(BASE | setting if setting else {})}
            if any(row["setting"] == label for row in rows):
                continue
            diffusion = Diffusion.from_pretrained(model)
            if setting:
                _erase(diffusion, name, BASE | setting)
            rows.append({"setting": label, **_measure(diffusion, judge, _concept(name), samples)})
            print(rows[-1])
            out.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(rows, indent=2) + "\n")
    out.with_suffix(".md").write_text(_table(rows))


def _erase(diffusion: Diffusion, name: str, setting: dict[str, Any]) -> None:
    options = dict(setting)
    steps = options.pop("steps")
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, limit_train_batches=steps, limit_val_batches=0,
        default_root_dir=f"runs/frontier/{name}", **quiet,
    )  # fmt: skip
    trainer.fit(ESD(diffusion, _concept(name), **options))


def _concept(name: str) -> Concept:
    return Concept(**yaml.safe_load(Path(f"recipes/pictograms/concepts/{name}.yaml").read_text()))


@torch.no_grad()
def _measure(diffusion: Diffusion, judge: WorldJudge, concept: Concept, count: int) -> dict[str, Any]:
    factor, value = next(iter(concept.factors.items()))
    pool = [draw("test", i)[0] for i in range(20 * count)]
    groups = {
        "concept": [p for p in pool if getattr(p, factor) == value][:count],
        "others": [p for p in pool if getattr(p, factor) != value][:count],
    }
    verdicts = {}
    for group, pictures in groups.items():
        captions = [picture.caption for picture in pictures]
        found = []
        for start in range(0, len(captions), 16):
            batch = captions[start : start + 16]
            seeds = diffusion.draw_seeds([Generator().manual_seed(start + i) for i in range(len(batch))])
            found += judge(diffusion.generate(batch, seeds, 20, 3.0), batch, concept)
        verdicts[group] = found
    shown = sum(v["shows_concept"] for v in verdicts["concept"])
    right = {f: sum(v["correct"][f] for v in verdicts["others"]) / count for f in verdicts["others"][0]["correct"]}
    estimate = wilson_interval(int(shown), count)
    return {"prompted": [estimate.value, estimate.low, estimate.high], "others": right}


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# What ESD trades\n",
        "`python benchmarks/esd_frontier.py`: 8 latents a step, 20 DDIM steps, seed 0, on "
        "`checkpoints/pictograms`. *Prompted* is the share of prompts for the concept that show it, with its 95 % "
        "interval; the other columns are how often prompts for other things get each factor right. *Direction* is what "
        "is taken off: all that the prompt says, or what the concept's phrase adds. "
        f"{rows[0]['setting']['samples']} prompts of either kind, guidance 3, 20 steps.\n",
        "| concept | train | lr | eta | direction | steps | prompted | object | colour | background | style |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        s, (value, low, high), others = row["setting"], row["prompted"], row["others"]
        what = "vanilla | – | – | – | –"
        if "train" in s:
            what = f"{s['train']} | {s['lr']:g} | {s['eta']:g} | {s['direction']} | {s['steps']}"
        rates = " | ".join(f"{others[f]:.0%}" for f in ("object", "color", "background", "style"))
        lines.append(f"| {s['concept']} | {what} | {value:.0%} [{low:.0%}, {high:.0%}] | {rates} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main)
