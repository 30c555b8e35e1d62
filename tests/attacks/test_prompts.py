"""Other words for the concept: what is asked, and from which seed."""

import re
from pathlib import Path

import pytest
import torch
from attack_helpers import Attacked
from given_group import given
from torch import Tensor

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.prompts import Prompts
from lit_memories.cli import main
from lit_memories.ops.rollout import rollout


def by_length(latents: Tensor, timestep: int, prompt: str) -> Tensor:
    return latents * 0.01 * len(prompt)


def test_a_prompt_that_the_model_does_not_see_the_end_of_is_refused(attacked: Attacked, tmp_path: Path) -> None:
    long = "an umbrella " * 60
    with pytest.raises(SystemExit) as stop:
        main(attacked("prompts", tmp_path / "run", prompts=["umbrella", long]))
    assert "prompt 2 of the attack's prompts is longer than the model's text encoder reads" in str(stop.value)
    assert len(str(stop.value).splitlines()) == 1
    assert not (tmp_path / "run/records.jsonl").exists()


def test_a_list_without_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="no prompt to try"):
        Prompts([])


def test_each_is_tried_from_the_same_seed_with_the_samples_own_prompt_put_in() -> None:
    group = given(["a cat", "two dogs"], by_length)
    attempts = list(Prompts(["umbrella", "no {prompt}, {prompt}"]).attempts(group))
    assert [attempt.prompts for attempt in attempts] == [
        ["umbrella", "umbrella"],
        ["no a cat, a cat", "no two dogs, two dogs"],
    ]
    seeds = group.draw_seeds(group.generators(FIRST))
    for attempt in attempts:
        for row, prompt in enumerate(attempt.prompts or []):
            expected = rollout(lambda x, t, p=prompt: by_length(x, t, p), seeds[row : row + 1], group.steps)
            torch.testing.assert_close(attempt.latents[row : row + 1], expected)


def test_a_prompt_costs_a_run() -> None:
    assert Prompts(["a", "b"], guidance_scale=3.0).plan(20) == [40, 80]
    assert Prompts(["a", "b"], guidance_scale=1.0).plan(20) == [20, 40]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red umbrella\\non white", "prompt 2 of the attack's prompts holds a line break"),
        (" ", "prompt 2 of the attack's prompts is empty"),
        ("{promt} x", "prompt 2 of the attack's prompts has a brace that is no {prompt}"),
    ],
)
def test_prompts_that_are_none_are_refused(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Prompts(["umbrella", prompt.replace("\\n", "\n")])
