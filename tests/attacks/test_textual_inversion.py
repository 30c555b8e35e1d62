"""A word learnt on a lesson."""

import pytest
import torch
from attack_helpers import PROMPTS, STEPS, asked_group

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.textual_inversion import TextualInversion
from lit_memories.diffusion import Diffusion
from lit_memories.ops.rollout import rollout_rows
from lit_memories.words import Caption


def small(**options: object) -> TextualInversion:
    defaults = {"lesson": 2, "steps": [0, 2, 3], "batch_size": 2, "lr": 0.05, "guidance_scale": 1.0}
    return TextualInversion(**defaults | options)  # type: ignore[arg-type]


def test_the_vector_stands_where_the_phrase_was(diffusion: Diffusion) -> None:
    group = asked_group(diffusion, small())
    words, vector = group.words, torch.ones(32)
    for prompt, text, others in (
        (PROMPTS[0], "a red * on a blue background, solid style", "a red on a blue background, solid style"),
        ("Umbrella", "*", ""),
        ("an umbrella, umbrella", "an *,", "an ,"),
        ("umbrellas", "a red *", "a red"),
        ("a clover", "a red *", "a red"),
    ):
        caption = Caption.of(group.words, group.concept, prompt, "a red {}")
        assert caption.text == text
        (own,), place = words.own(caption.ids), int(caption.place) - 1
        assert place == len(diffusion.words(text.split("*")[0]))
        assert own[:place] + own[place + 1 :] == diffusion.words(others)
        other = caption.ids.clone()
        other[0, 1 + place] = 5
        assert torch.equal(words.embeds(other, vector[None, None], caption.place), caption.embeds(words, vector))


def test_a_template_that_the_model_does_not_see_the_end_of_is_refused(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="template is longer than the model's text encoder reads"):
        small(template="{} " + "a photo of it " * 40).check(diffusion, STEPS)


def test_with_the_phrases_own_vector_it_is_the_plain_prompt(diffusion: Diffusion) -> None:
    group = asked_group(diffusion, small())
    (token,) = diffusion.words("umbrella")
    caption = Caption.of(group.words, group.concept, PROMPTS[0], "{}")
    found = caption.embeds(group.words, group.words.table[token])
    assert torch.equal(found, group.words.embeds(group.words.ids([PROMPTS[0]])))


def test_it_is_adam_on_the_training_loss(diffusion: Diffusion) -> None:
    attack = small()
    group = asked_group(diffusion, attack, [*PROMPTS, "a blue umbrella"], taught=2)
    with torch.inference_mode():
        found = [attempt.artefacts["vector"] for attempt in attack.attempts(group)]
    lesson, words = group.audit.lessons["concept"], group.words
    (generator, *_), latents = lesson.generators("/textual_inversion"), lesson.latents
    vector = words.table[words.ordinary].mean(0).detach().requires_grad_()
    optimizer, expected = torch.optim.AdamW([vector], lr=0.05, weight_decay=0.0), []
    for step in range(4):
        if step in attack.steps:
            expected.append(vector.detach().clone())
        rows = torch.randint(2, (2,), generator=generator)
        noisy, timesteps, noise = diffusion.schedule.noised(latents[rows], generator)
        captions = [Caption.of(lesson.words, lesson.concept, lesson.prompts[row], "{}") for row in rows.tolist()]
        embeds = torch.cat([caption.embeds(words, vector) for caption in captions])
        loss = (diffusion.predict_noise(noisy, timesteps, embeds) - noise).square().mean()
        (vector.grad,) = torch.autograd.grad(loss, vector)
        optimizer.step()
    torch.testing.assert_close(torch.stack(found), torch.stack(expected)[:, None].expand(-1, 2, -1))


def test_pictures_are_drawn_under_held_out_prompts_with_the_vector(diffusion: Diffusion) -> None:
    attack = small(steps=[1])
    group = asked_group(diffusion, attack, taught=1)
    with torch.inference_mode():
        (attempt,) = attack.attempts(group)
        embeds = [
            Caption.of(group.words, group.concept, p, "{}").embeds(group.words, attempt.artefacts["vector"][0])
            for p in PROMPTS[1:]
        ]
        predict = group.predictor_of(torch.cat(embeds), 1.0)
        expected = rollout_rows(predict, group.draw_seeds(group.generators(FIRST)), group.steps)
    torch.testing.assert_close(attempt.latents, expected)
    assert attempt.prompts == ["*", "a green * on a white background, striped style"]


def test_the_lesson_is_learnt_once_and_no_further_than_it_is_paid_for(diffusion: Diffusion) -> None:
    attack = small(budget=STEPS * 2 + 4)
    group = asked_group(diffusion, attack, taught=1)
    assert attack.plan(STEPS) == [STEPS, 4 + 2 * STEPS, 6 + 3 * STEPS]
    assert attack.shared(STEPS) == 4
    with torch.inference_mode():
        assert len(list(attack.attempts(group))) == 2
        first = group.spent()
        assert first == 4 + 2 * (2 * STEPS)
        list(attack.attempts(group))
        assert group.spent() == first - 4


def test_a_lesson_that_is_not_finite_spoils_every_picture(diffusion: Diffusion) -> None:
    attack = small()
    group = asked_group(diffusion, attack, taught=1)
    with torch.inference_mode():
        group.lesson.latents.fill_(torch.nan)
        before, *after = attack.attempts(group)
    assert before.latents.isfinite().all(), "nothing was learnt yet"
    assert all(attempt.latents.isnan().all() for attempt in after)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"lesson": 0}, "must be positive"),
        ({"lr": 0.0}, "lr must lie between"),
        ({"steps": []}, "that grow"),
        ({"steps": [3, 3]}, "that grow"),
        ({"template": "a photo"}, "one {} for the vector"),
        ({"limit": 2}, "leaves none to ask about"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        small(**options)
