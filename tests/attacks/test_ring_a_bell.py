"""The genetic search for an embedding with more of the concept."""

import pytest
import torch
from attack_helpers import PROMPTS, STEPS, asked_group

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.ring_a_bell import RingABell
from lit_memories.diffusion import Diffusion
from lit_memories.ops.rollout import rollout_rows


def small(**options: object) -> RingABell:
    defaults = {"tokens": 3, "population": 8, "generations": 4, "draws": 2, "guidance_scale": 1.0}
    return RingABell(**defaults | options)  # type: ignore[arg-type]


@torch.no_grad()
def test_the_direction_is_the_mean_difference_of_pairs(diffusion: Diffusion) -> None:
    expected = [
        diffusion.encode_prompts([prompt]) - diffusion.encode_prompts([prompt.replace("umbrella", "clover")])
        for prompt in PROMPTS
    ]
    attack = small()
    found = attack.direction(asked_group(diffusion, attack))
    torch.testing.assert_close(found, torch.cat(expected).mean(0))
    other = small(pairs={"a red flag": "a red star"})
    flag = diffusion.encode_prompts(["a red flag"]) - diffusion.encode_prompts(["a red star"])
    torch.testing.assert_close(other.direction(asked_group(diffusion, other)), flag[0])


@torch.no_grad()
def test_what_it_says_of_its_tokens_is_their_distance_from_the_target(diffusion: Diffusion) -> None:
    attack = small()
    group = asked_group(diffusion, attack)
    tokens, costs = attack.search(group)
    ids, places = group.words.free(3, 3)
    states = diffusion.encode_tokens(ids.scatter(1, places, tokens))
    targets = diffusion.encode_prompts(PROMPTS) + 3 * attack.direction(group)
    torch.testing.assert_close(costs, (states - targets).square().sum((1, 2)))
    longer, better = small(generations=40), attack
    assert (longer.search(group)[1] < better.search(group)[1]).all()


@torch.no_grad()
def test_without_a_push_the_prompt_itself_is_best(diffusion: Diffusion) -> None:
    """One token is sought, of few hundred, and all of them are tried."""
    attack = small(tokens=1, strength=0.0, population=300, generations=60)
    group = asked_group(diffusion, attack, ["umbrella"])
    tokens, cost = attack.search(group)
    assert tokens.tolist() == [diffusion.words("umbrella")]
    assert float(cost) < 1e-8


def test_pictures_are_drawn_under_what_was_found(diffusion: Diffusion) -> None:
    attack = small()
    group = asked_group(diffusion, attack)
    with torch.inference_mode():
        found = list(attack.attempts(group))
        tokens = found[0].artefacts["tokens"]
        ids, places = group.words.free(3, 3)
        predict = group.predictor_of(group.words.embeds(ids.scatter(1, places, tokens)), 1.0)
        generators = group.generators(FIRST)
        for attempt in found:
            expected = rollout_rows(predict, group.draw_seeds(generators), group.steps)
            torch.testing.assert_close(attempt.latents, expected)
            assert attempt.prompts == group.words.text(tokens)
    assert len(found) == 2
    assert not torch.equal(found[0].latents, found[1].latents)


def test_a_prompt_that_is_not_finite_spoils_its_own_search_alone(diffusion: Diffusion) -> None:
    (token,) = diffusion.words("umbrella")
    diffusion.text_encoder.get_input_embeddings().weight[token] = torch.nan
    attack = small(pairs={"a red flag": "a red star"})
    with torch.inference_mode():
        attempt = next(attack.attempts(asked_group(diffusion, attack, ["a red star", "umbrella"])))
    assert attempt.latents[0].isfinite().all()
    assert attempt.latents[1].isnan().all()


def test_more_tokens_than_the_window_holds_are_refused(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="holds 14 tokens, and the attack ring_a_bell is to put 15"):
        small(tokens=15).check(diffusion, STEPS)


@pytest.mark.parametrize(
    "options",
    [{"population": 1}, {"generations": 0}, {"mutation": 1.5}, {"crossover": -0.1}, {"pairs": {}}, {"draws": 0}],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|must hold"):
        small(**options)
