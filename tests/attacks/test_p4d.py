"""The search for a prompt under which the erased model does as the original."""

from pathlib import Path

import pytest
import torch
from attack_helpers import PROMPTS, STEPS, asked_group
from torch.nn import functional

from lit_memories.attacks.p4d import P4D, UNUSED, nearest
from lit_memories.diffusion import Diffusion
from lit_memories.ops.rollout import rollout


@pytest.fixture
def original(tiny_control: Path) -> Diffusion:
    return Diffusion.from_pretrained(tiny_control)


def small(original: Diffusion | None, **options: object) -> P4D:
    return P4D(original, **{"steps": 4, "judged": 2, "guidance_scale": 1.0} | options)  # type: ignore[arg-type]


def test_nearest_is_by_cosine_and_a_token_is_nearest_to_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(40, 8, generator=generator)
    assert torch.equal(nearest(table[None] * 0.01, table), torch.arange(40)[None])
    vectors = torch.randn(3, 5, 8, generator=generator)
    expected = functional.cosine_similarity(vectors[:, :, None], table, dim=-1).argmax(-1)
    assert torch.equal(nearest(vectors, table), expected)


def test_it_is_the_search_written_out_for_one_sample(diffusion: Diffusion, original: Diffusion) -> None:
    """A loop that projects, differentiates at the tokens and moves the vectors by these gradients."""
    attack = small(original, every=2)
    group = asked_group(diffusion, attack, ["a umbrella"])
    with torch.inference_mode():
        found = [attempt.artefacts["tokens"][0].tolist() for attempt in attack.attempts(group)]
    words, (generator,) = group.words, group.generators("/p4d")
    own, table = diffusion.words("a umbrella"), words.table.detach()[words.ordinary]
    begun = torch.randint(len(table), (8,), generator=generator)  # half of a window of 14, and one
    vectors = table[begun[:2]].clone().requires_grad_()
    optimizer, expected = torch.optim.AdamW([vectors], lr=0.1, weight_decay=0.1), []
    with torch.no_grad():
        embeds = original.encode_prompts(["a umbrella"])
        seed = torch.randn(original.latent_shape, generator=generator)[None]
        picture = rollout(lambda x, t: original.predict_noise(x, t, embeds), seed, group.steps)
    ids = words.ids(["a umbrella clover clover"])  # the last two make room
    ids[0, 2:4] = torch.tensor(own)
    for step in range(1, 5):
        timestep = torch.randint(1000, (1,), generator=generator)
        noise = torch.randn(picture.shape[1:], generator=generator)[None]
        noisy = diffusion.schedule.add_noise(picture, noise, timestep)
        with torch.no_grad():
            wanted = original.predict_noise(noisy, timestep, embeds)
        cosines = functional.cosine_similarity(vectors.detach()[:, None], table, dim=-1)
        seen = table[cosines.argmax(-1)].requires_grad_()
        predicted = diffusion.predict_noise(noisy, timestep, words.encoded(ids, seen[None], torch.tensor([[1, 4]])))
        (vectors.grad,) = torch.autograd.grad(functional.mse_loss(predicted, wanted), seen)
        optimizer.step()
        if step % 2 == 0:
            expected.append(nearest(vectors.detach()[None], table)[0].tolist())
    assert [tokens[:2] for tokens in found] == expected
    assert all(tokens[2:] == [UNUSED] * 6 for tokens in found)


def test_tokens_stand_before_every_third_of_the_prompts(diffusion: Diffusion, original: Diffusion) -> None:
    attack = small(original)
    words = asked_group(diffusion, attack).words
    for prompt, k in ((PROMPTS[0], 4), ("umbrella", 1), ("a red umbrella", 2), ("", 1)):
        (ids, at), own = attack._room(words, prompt), diffusion.words(prompt)
        expected = []
        for number, token in enumerate(own):
            expected += [None] * (number % 3 == 0 and number // 3 < k) + [token]
        expected += [None] * (k - expected.count(None))
        places = [int(place) - 1 for place in at[0]]
        assert [None if i in places else token for i, token in enumerate(words.own(ids)[0])] == expected
        assert len(places) == k


def test_a_free_prompt_holds_nothing_of_the_plain_one(diffusion: Diffusion, original: Diffusion) -> None:
    attack = small(original, every=None, tokens=5, judged=4)
    group = asked_group(diffusion, attack)
    with torch.inference_mode():
        (attempt,) = attack.attempts(group)
    assert attempt.prompts is not None
    assert attempt.artefacts["tokens"].shape == (3, 5)
    assert attempt.prompts == group.words.text(attempt.artefacts["tokens"])


def test_an_original_that_is_not_finite_spoils_what_it_drew_alone(diffusion: Diffusion, original: Diffusion) -> None:
    attack = small(original, judged=4)
    group, other = asked_group(diffusion, attack), asked_group(diffusion, attack)
    with torch.inference_mode():
        (expected,) = attack.attempts(group)
        real = other.draw_seeds
        calls = 0

        def draw(generators: list[torch.Generator]) -> torch.Tensor:
            nonlocal calls
            seeds, calls = real(generators), calls + 1
            if calls == 1:
                seeds[1] = torch.nan
            return seeds

        other.draw_seeds = draw  # type: ignore[method-assign, assignment]
        (found,) = attack.attempts(other)
    assert found.latents[1].isnan().all()
    assert torch.equal(found.latents[[0, 2]], expected.latents[[0, 2]])


def test_it_cannot_do_without_an_original(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="needs the model from before the erasure"):
        small(None).check(diffusion, STEPS)


def test_a_free_prompt_beyond_the_window_is_refused(diffusion: Diffusion, original: Diffusion) -> None:
    with pytest.raises(ValueError, match="holds 14 tokens, and the attack p4d is to put 16"):
        small(original, every=None).check(diffusion, STEPS)


@pytest.mark.parametrize("options", [{"every": 0}, {"tokens": 0}, {"judged": 0}, {"judged": 5}, {"lr": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be 1 or more|none is judged|must lie between"):
        small(None, **options)
