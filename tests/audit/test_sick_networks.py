"""A network that gives NaN or infinity for one sample: that sample is flagged, its record is JSON, others are sound."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.judges.base import Verdict
from lit_memories.runs import read_run
from lit_memories.worlds import pictograms
from lit_memories.worlds.judge import WorldJudge

Arguments = Callable[..., list[str]]
INVERTERS: dict[str, tuple[dict[str, object], list[str]]] = {
    "fixed_point.FixedPoint": (
        {},
        ["--model.probes+=Likelihood", "--model.probes+={class_path: Reach, init_args: {directions: 1}}"],
    ),
    "ddim.DDIMInversion": ({}, []),
    "renoise.ReNoise": ({"lambda_ac": 0.1, "lambda_kl": 0.001}, []),
    "null_text.NullText": ({"guidance_scale": 3, "inner_steps": 1, "pivot": {"class_path": "FixedPoint"}}, []),
    "belm.BELM": ({}, []),
}
FEW = (
    *("--data.concept_images.limit=2", "--data.reference_images.limit=1", "--data.known=2", "--data.prompted=2"),
    "--data.conditionings=[empty]",
)


ILL = [*((name, math.nan) for name in INVERTERS), ("belm.BELM", math.inf)]


@pytest.mark.parametrize(
    ("name", "illness"),
    [pytest.param(*ill, marks=() if "ixed" in ill[0] or ill[1] == math.inf else pytest.mark.slow) for ill in ILL],
)
def test_a_sick_sample_is_flagged_and_no_other(
    name: str, illness: float, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = pictograms.build("audits", 200, keep={"object": "umbrella"}, limit=4)["caption"][1]
    healthy, asked = Diffusion.predict, 0

    def predict(self: Diffusion, latents: Tensor, timestep: int, prompt_embeds: Tensor, *more: Any) -> Tensor:
        nonlocal asked
        noise = healthy(self, latents, timestep, prompt_embeds, *more).clone()
        rows = torch.isclose(prompt_embeds, self.encode_prompts([sick])).all((1, 2))
        asked += int(rows.sum())
        noise[rows, 0, 0, 0] = illness
        return noise

    monkeypatch.setattr(Diffusion, "predict", predict)
    options, measures = INVERTERS[name]
    inverter = {"class_path": f"lit_memories.inverters.{name}", "init_args": options}
    main(arguments(tmp_path, f"--model.inverter={json.dumps(inverter)}", *FEW, *measures))
    assert asked > 0
    run = read_run(tmp_path)
    assert run.info.complete
    text = (tmp_path / "records.jsonl").read_text() + (tmp_path / "run.json").read_text()
    assert not {"NaN", "Infinity"} & set(text.replace(",", " ").replace("]", " ").split())
    own = [record for record in run.records if record.set == "concept" and record.conditioning is None]
    healthy_one, sick_one = (set(record.flags) for record in own)
    assert healthy_one == set()
    assert {"denoising", "seed"} <= sick_one, "typicality only where the seed itself was lost"
    for record in run.records:
        assert bool(record.flags) == (record.prompt == sick), record
        assert not record.value("seed.converged") or record.flag("seed") is None


@pytest.mark.parametrize("name", ["shows_concept", "probability"])
def test_a_judge_that_gives_no_number_flags_the_sample_and_no_other(
    name: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, asked = WorldJudge.look, []

    def look(self: WorldJudge, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        asked.append(prompt)
        return healthy(self, image, prompt, concept) | ({name: math.nan} if len(asked) == 2 else {})

    monkeypatch.setattr(WorldJudge, "look", look)
    main(arguments(tmp_path, "--model.probes=[Samples]", "--data.known=0", "--data.prompted=3"))
    run = read_run(tmp_path)
    assert run.info.complete
    drawn = [record for record in run.records if record.set == "prompted"]
    assert [record.flag("samples") for record in sorted(drawn, key=lambda r: r.index)] == [None, "not finite", None]
    assert "NaN" not in (tmp_path / "records.jsonl").read_text() + (tmp_path / "run.json").read_text()
