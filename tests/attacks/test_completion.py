"""Pictures that one model begins and another ends."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_helpers import Attacked
from given_group import Other, given
from torch import Tensor

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.completion import Completion
from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.ops.rollout import rollout
from lit_memories.records import ARTEFACTS
from lit_memories.runs import read_run
from lit_memories.storage.tensors import read_tensors


def audited(latents: Tensor, timestep: int, prompt: str) -> Tensor:
    return latents * 0.3


def before(latents: Tensor, timestep: int, prompt: str) -> Tensor:
    return latents * 0.01 * len(prompt) - 0.2


def test_each_cut_is_begun_by_the_one_and_ended_by_the_other() -> None:
    prompts = ["a cat", "two dogs"]
    group = given(prompts, audited, 6)
    attack = Completion(Other(before), cuts=[1, 2, 5])  # type: ignore[arg-type]
    seeds, costs = group.draw_seeds(group.generators(FIRST)), []
    for cut, attempt in zip([1, 2, 5], attack.attempts(group), strict=True):
        costs.append(len(group.asked) / 2)  # type: ignore[attr-defined]
        assert attempt.artefacts["cut"].tolist() == [cut, cut]
        for row, prompt in enumerate(prompts):
            seed = seeds[row : row + 1]
            begun = rollout(lambda x, t, p=prompt: before(x, t, p), seed, group.steps[:cut])
            ended = rollout(lambda x, t, p=prompt: audited(x, t, p), begun, group.steps[cut:])
            torch.testing.assert_close(attempt.latents[row : row + 1], ended)
    assert costs == [6, 6 + 5, 6 + 5 + 4]
    attack.calls = 1
    assert attack.plan(6) == costs
    assert Completion().plan(50) == [100, 198, 294], "as its cost says"


@pytest.mark.parametrize("cuts", [[], [0, 1], [2, 1], [1, 1]])
def test_cuts_grow(cuts: list[int]) -> None:
    with pytest.raises(ValueError, match="1 or more steps each and grow"):
        Completion(cuts=cuts)


def test_another_model_must_be_given_and_fit(attacked: Attacked, tiny: Path, tmp_path: Path) -> None:
    def said(**options: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main(attacked("completion", tmp_path / "run", **options))
        return str(stop.value)

    assert "needs the model from before the erasure" in said(vanilla=None)
    assert "leaves none of 4 to the audited model" in said(cuts=[1, 4])
    assert "as its autoencoder is another" in said(vanilla={"base": "checkpoints/pictograms"})
    assert not (tmp_path / "run/records.jsonl").exists()


def test_another_model_has_the_same_latents_and_levels(diffusion: Diffusion, tiny_control: Path) -> None:
    other = Diffusion.from_pretrained(tiny_control)
    attack = Completion(other, cuts=[1])
    attack.check(diffusion, 4)
    schedule = other.schedule
    other.schedule = replace(schedule, alphas_cumprod=schedule.alphas_cumprod * 0.999)
    with pytest.raises(ValueError, match="timesteps mean other noise levels"):
        attack.check(diffusion, 4)
    other.schedule = schedule
    other.image_size = (32, 32)
    with pytest.raises(ValueError, match=r"its latents are \(4, 8, 8\), not"):
        attack.check(diffusion, 4)


def test_the_cut_that_won_is_kept_and_the_other_model_named(
    attacked: Attacked, tiny_control: Path, tmp_path: Path
) -> None:
    main(attacked("completion", tmp_path / "run", least=-1.0))
    other = Diffusion.from_pretrained(tiny_control).weights_fingerprint()
    assert read_run(tmp_path / "run").info.probes["completion"]["settings"]["vanilla"] == {"fingerprint": other}
    kept = sorted((tmp_path / "run" / ARTEFACTS / "completion").iterdir())
    assert [int(read_tensors(file)["cut"]) for file in kept] == [1] * 5
