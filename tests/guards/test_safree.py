"""SAFREE on the tiny pipeline, against its equations number by number."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.guards.safree import SAFREE, mean_of_others, projector
from lit_memories.ops.rollout import rollout
from lit_memories.words import Words

CONCEPTS = ["umbrella", "a red umbrella"]
PROMPT = "a blue umbrella on a green background"


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Diffusion:
    return Diffusion(str(tiny))


@pytest.fixture(scope="module")
def safe(tiny: Path) -> Diffusion:
    return Diffusion(str(tiny), guard=SAFREE(CONCEPTS))


def projected(diffusion: Diffusion, prompt: str, alpha: float) -> tuple[Tensor, list[int], float]:
    """All rows projected, the rows that carry the concept, and t': by least squares and loops."""

    def pooled(ids: Tensor) -> Tensor:
        return diffusion.text_encoder(ids).pooler_output.double()

    def onto(columns: Tensor, vector: Tensor) -> Tensor:
        return columns @ torch.linalg.lstsq(columns, vector[:, None], driver="gelsd").solution[:, 0]

    ids = diffusion.tokenize([prompt])
    count = len(diffusion.words(prompt))
    concept = pooled(diffusion.tokenize(CONCEPTS)).T
    masked = []
    for i in range(count):
        one = ids.clone()
        one[0, 1 + i] = 0
        masked.append(pooled(one)[0])
    inputs = torch.stack(masked, 1)
    distances = [(x - onto(concept, x)).norm().item() for x in masked]
    carrying = []
    for i, distance in enumerate(distances):
        others = [d for j, d in enumerate(distances) if j != i]
        if distance >= (1 + alpha) * sum(others) / len(others):
            carrying.append(1 + i)
    rows = diffusion.encode_prompts([prompt])[0].double()
    away = []
    for row in rows:
        within = onto(inputs, row)
        away.append(within - onto(concept, within))
    cosines = [torch.dot(a, r) / a.norm() / r.norm() for a, r in zip(away, rows, strict=True)][: count + 2]
    beta = 1 - sum(cosines).item() / len(cosines)
    return torch.stack(away), carrying, round(10 / (1 + math.exp(-2.5 * (10 * beta - 5.333))))


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_the_tokens_that_carry_the_concept_are_projected(tiny: Path, plain: Diffusion, alpha: float) -> None:
    safe = Diffusion(str(tiny), guard=SAFREE(CONCEPTS, alpha))
    with torch.no_grad():
        rows, carrying, last = projected(plain, PROMPT, alpha)
        before = plain.encode_prompts([PROMPT])[0]
        told = safe.encode_prompts([PROMPT])[0]
    count = len(before)
    assert torch.equal(told[:count], before)
    wanted = before.double()
    wanted[carrying] = rows[carrying]
    assert len(carrying) in range(1, len(plain.words(PROMPT))), "some tokens carry it and some do not"
    torch.testing.assert_close(told[count : 2 * count].double(), wanted, rtol=1e-3, atol=1e-4)
    assert told[-1, 0].item() == last


def test_early_levels_are_told_of_the_projected_prompt_and_late_ones_are_not(plain: Diffusion, safe: Diffusion) -> None:
    latents = torch.randn(1, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = safe.encode_prompts([PROMPT])
        told[:, -1] = 4.0  # t'
        rows = plain.conditioning.tokens
        for timestep, part in ((981, slice(rows, 2 * rows)), (901, slice(rows, 2 * rows)), (881, slice(rows))):
            wanted = plain.predict(latents, timestep, told[:, part])
            assert torch.equal(safe.predict(latents, timestep, told), wanted)


def test_the_empty_prompt_is_left_alone(plain: Diffusion, safe: Diffusion) -> None:
    latents = torch.randn(1, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = safe.predict(latents, 981, safe.encode_prompts([""]))
        assert torch.equal(found, plain.predict(latents, 981, plain.encode_prompts([""])))
        assert torch.equal(safe.beside_embeds(), safe.encode_prompts([""]))


def test_a_prompt_of_one_token_carries_the_concept(plain: Diffusion, safe: Diffusion) -> None:
    with torch.no_grad():
        told, before = safe.encode_prompts(["umbrella"])[0], plain.encode_prompts(["umbrella"])[0]
    count = len(plain.words("umbrella"))
    rows = told[len(before) : 2 * len(before)]
    changed = (rows != before).any(1).nonzero()[:, 0].tolist()
    assert changed == [1] if count == 1 else set(changed) <= set(range(1, 1 + count))


def test_company_does_not_change_what_is_told(safe: Diffusion) -> None:
    prompts = [PROMPT, "a star", ""]
    with torch.no_grad():
        plain = torch.cat([safe.conditioning.encode([prompt]) for prompt in prompts])
        ids = safe.tokenize(prompts)
        together = safe.told(plain, ids)
        alone = [safe.told(plain[i : i + 1], ids[i : i + 1]) for i in (2, 0, 1)]
    assert torch.equal(together, torch.cat([alone[1], alone[2], alone[0]]))


def test_attackers_words_are_told_as_prompts_are(safe: Diffusion) -> None:
    with torch.no_grad():
        found = Words(safe).embeds(safe.tokenize([PROMPT]))
        assert torch.equal(found, safe.encode_prompts([PROMPT]).float())


def test_officially_it_guides_away_from_the_words_too(tiny: Path, plain: Diffusion) -> None:
    """The words themselves are not projected: they are what to go away from."""
    official = Diffusion(str(tiny), guard=SAFREE(CONCEPTS, faithful=True))
    latents = torch.randn(1, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    negative = plain.encode_prompts([", ".join(CONCEPTS)])
    with torch.no_grad():
        told = official.encode_prompts([PROMPT])
        seen = official.guard.seen(told, torch.tensor([0.981])) if official.guard else told
        found = official.predict(latents, 981, told, 3.0)
        assert torch.equal(found, plain.predict(latents, 981, seen, 3.0, negative))


def test_a_run_takes_it(safe: Diffusion, plain: Diffusion) -> None:
    seeds = torch.randn(2, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    steps = plain.schedule.ddim_steps(50)[:2]
    prompts = [PROMPT, "umbrella"]
    with torch.no_grad():
        found, without = (
            rollout(one.predict_fn(one.encode_prompts(prompts), 3.0), seeds, steps) for one in (safe, plain)
        )
    assert found.isfinite().all()
    assert not torch.equal(found, without)


def test_projectors_are_projectors() -> None:
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    found = projector(torch.cat([vectors, vectors[:1]]))
    torch.testing.assert_close(found @ found, found)
    torch.testing.assert_close(found @ vectors.T.double(), vectors.T.double())
    assert found.trace().item() == pytest.approx(3)


def test_the_only_value_has_no_others() -> None:
    assert mean_of_others(torch.tensor([2.0])).isnan().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concepts": []}, "must not be empty"),
        ({"concepts": ["umbrella", " "]}, "must not be empty"),
        ({"concepts": ["a"], "upper": 51}, "upper between 0 and 50"),
        ({"concepts": ["a"], "alpha": -1.0}, "alpha must be between 0 and 10"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SAFREE(**options)  # type: ignore[arg-type]
