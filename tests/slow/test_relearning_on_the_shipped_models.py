"""On models of known truth: what was never known is learnt later, what is known is there, and a placebo is as ever."""

import json
from pathlib import Path

import pytest
import torch

from lit_memories.cli import main
from lit_memories.metrics.savings import steps_to
from lit_memories.probes import Relearning
from lit_memories.runs import read_run

ROOT = Path(__file__).parents[2]
MODELS = {"vanilla": "pictograms", "knows": "without-striped", "never": "without-umbrella"}
STEPS = 16


def pictures(name: str) -> str:
    """Eight of an object, none of them striped: one of the models never saw stripes."""
    options = {"keep": {"object": name}, "withhold": [{"style": "striped"}], "limit": 8}
    return json.dumps({"class_path": "PictogramSource", "init_args": options})


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 4])
def test_a_concept_that_was_never_known_is_learnt_later(rank: int | None, tmp_path: Path) -> None:
    """By the mean of four pictures, and castles, which all three know, stay together."""
    courses = {}
    probe = {"lesson": 4, "steps": STEPS, "rank": rank, "levels": 5, "draw": False, "limit": 8}
    asked = json.dumps([{"class_path": "Relearning", "init_args": probe}])
    for name, folder in MODELS.items():
        main(
            [
                "predict",
                f"--config={ROOT / 'recipes/pictograms/audit/umbrella.yaml'}",
                f"--model.diffusion.base={ROOT / 'checkpoints' / folder}",
                f"--model.judge.classifier={ROOT / 'checkpoints/classifier'}",
                f"--model.probes={asked}",
                f"--data.concept_images={pictures('umbrella')}",
                f"--data.reference_images={pictures('castle')}",
                "--data.known=0",
                "--data.prompted=0",
                "--trainer.callbacks=[]",
                f"--trainer.default_root_dir={tmp_path / name}",
            ]
        )
        run = read_run(tmp_path / name)
        for side in ("concept", "reference"):
            found = run.holding(side, "relearning.curve")
            curves = torch.tensor([found[key].value("relearning.curve") for key in sorted(found)])
            courses[name, side] = curves.mean(0)
    looks = Relearning(steps=STEPS).looks
    never, vanilla, knows = (courses[name, "concept"] for name in ("never", "vanilla", "knows"))
    assert (never > vanilla + 30).all(), "it is behind at every look"
    assert (knows - vanilla).abs().max() < 0.4 * (never[0] - vanilla[0])
    if rank is None:
        assert never[-1] < never[0] - 50, "and catches up"
        assert float(steps_to(knows, never[-1], looks)) == 0
    castles = torch.stack([courses[name, "reference"] for name in MODELS])
    assert (castles.amax(0) - castles.amin(0)).max() < 0.25 * (never[0] - vanilla[0])
