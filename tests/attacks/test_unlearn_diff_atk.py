"""The search for tokens before a prompt."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack_helpers import STEPS, asked_group
from torch import Tensor
from torch.nn import functional

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.unlearn_diff_atk import UnlearnDiffAtk
from lit_memories.diffusion import Diffusion
from lit_memories.ops.rollout import rollout_rows
from lit_memories.worlds.fresh import flow_pipeline
from lit_memories.worlds.pictograms import GRAMMAR


def small(**options: object) -> UnlearnDiffAtk:
    return UnlearnDiffAtk(**{"tokens": 2, "timesteps": 2, "steps": 3, "guidance_scale": 1.0} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize("faithful", [False, True])
def test_it_is_the_search_written_out_for_one_sample(diffusion: Diffusion, faithful: bool) -> None:
    """A loop without blocks or rows, with the one-hot draws and the optimisers of torch."""
    attack = small(faithful=faithful, lr=0.05)
    group = asked_group(diffusion, attack, ["umbrella"])
    with torch.inference_mode():
        found = [attempt.artefacts["tokens"] for attempt in attack.attempts(group)]
    words, (generator,) = group.words, group.generators("/unlearn_diff_atk")
    ids, table = words.ids(["umbrella"])[0], words.table.detach()
    ordinary = [i for i in range(len(table)) if i not in diffusion.tokenizer.all_special_ids]
    points = torch.full((2, len(ordinary)), 1 / len(ordinary)).requires_grad_()
    kind = torch.optim.Adam if faithful else torch.optim.AdamW
    optimizer = kind([points], lr=0.05, weight_decay=0.1)
    expected, latents = [], group.latents
    for timestep in (250, 750):
        for _ in range(3):
            uniform = torch.rand(2, generator=generator)
            sums = points.detach().cumsum(1)
            chosen = torch.stack([(row > u * row[-1]).int().argmax() for row, u in zip(sums, uniform, strict=True)])
            onehot = functional.one_hot(chosen, len(ordinary)).float().requires_grad_()
            noise = torch.randn(latents.shape[1:], generator=generator)[None]
            noisy = diffusion.schedule.add_noise(latents, noise, torch.tensor([timestep]))
            prompt = torch.cat([ids[:1], ids[:2], ids[1:-2]])[None]
            embeds = words.encoded(prompt, (onehot @ table[ordinary])[None], torch.tensor([[1, 2]]))
            error = functional.mse_loss(diffusion.predict_noise(noisy, timestep, embeds), noise)
            (points.grad,) = torch.autograd.grad(error, onehot)
            if faithful:
                points.grad.clamp_(-1, 1)
            optimizer.step()
            for row in points.data:
                low, high = float(row.min()) - 1, float(row.max())
                for _ in range(60):
                    middle = (low + high) / 2
                    low, high = (middle, high) if (row - middle).clamp_min(0).sum() > 1 else (low, middle)
                row.copy_((row - low).clamp_min(0))
        expected.append(torch.tensor(ordinary)[points.argmax(1)])
    assert [tokens[0].tolist() for tokens in found] == [tokens.tolist() for tokens in expected]


def test_a_picture_is_made_of_the_tokens_themselves(diffusion: Diffusion) -> None:
    attack = small(timesteps=1)
    group = asked_group(diffusion, attack)
    with torch.inference_mode():
        (attempt,) = attack.attempts(group)
        tokens, words = attempt.artefacts["tokens"], group.words
        assert tokens.shape == (3, 2)
        assert words.ordinary[tokens].all()
        own = words.own(words.ids(group.prompts))
        prompts = [[*row, *old] for row, old in zip(tokens.tolist(), own, strict=True)]
        marked = [[words.diffusion.tokenizer.bos_token_id, *row] for row in prompts]
        full = [row + [words.diffusion.tokenizer.eos_token_id] * (words.window - len(row)) for row in marked]
        embeds = words.embeds(torch.tensor(full))
        seeds = group.draw_seeds(group.generators(FIRST))
        expected = rollout_rows(group.predictor_of(embeds, 1.0), seeds, group.steps)
    torch.testing.assert_close(attempt.latents, expected)
    assert attempt.prompts == words.text(torch.tensor(full))
    assert attempt.prompts is not None
    assert all(
        prompt.endswith(old.replace(",", " ,")) for prompt, old in zip(attempt.prompts, group.prompts, strict=True)
    )


def test_of_a_flow_the_velocity_is_sought(tiny_autoencoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that says noise less picture, whatever the tokens, leaves nothing to gain."""
    attack = small()
    diffusion = Diffusion.from_pipeline(flow_pipeline(GRAMMAR, tiny_autoencoder, 32, 2, 32))
    group = asked_group(diffusion, attack, ["umbrella"])

    def knowing(*_: object) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def predict(noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
            here = diffusion.schedule.frames(timesteps, noisy)
            return (noisy - here.cosine * group.latents) / here.sine - group.latents

        return predict

    monkeypatch.setattr(group, "predictor_of", knowing)
    words, count = group.words, len(group.words.table)
    ids, places = words.inserted(words.ids(["umbrella"]), [[0, 0]])
    loss = attack._loss(group, 600, ids, words.table.detach(), places, group.generators())
    assert loss(torch.full((1, 2, count), 1 / count), 0) < 1e-8
    assert group.latents.square().mean() > 1e-3, "the control: noise alone is something else"


def test_a_picture_that_is_not_finite_spoils_its_own_search_alone(diffusion: Diffusion) -> None:
    attack = small()
    sound, sick = asked_group(diffusion, attack), asked_group(diffusion, attack)
    with torch.inference_mode():
        sick.latents[1] = torch.nan
        expected, found = list(attack.attempts(sound)), list(attack.attempts(sick))
    for one, other in zip(expected, found, strict=True):
        assert other.latents[1].isnan().all()
        assert torch.equal(one.latents[[0, 2]], other.latents[[0, 2]])
        assert torch.equal(one.artefacts["tokens"][[0, 2]], other.artefacts["tokens"][[0, 2]])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"tokens": 15}, "holds 14 tokens, and the attack unlearn_diff_atk is to put 15"),
        ({"timesteps": 1001}, "1001 timesteps, and the model 1000"),
    ],
)
def test_what_the_model_has_no_room_for_is_refused(diffusion: Diffusion, options: dict[str, int], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        small(**options).check(diffusion, STEPS)


@pytest.mark.parametrize("options", [{"tokens": 0}, {"steps": 0}, {"lr": 0.0}, {"weight_decay": -1.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be 1 or more|must lie between"):
        small(**options)
