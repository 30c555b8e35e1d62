"""Negative prompts and SLD on the tiny pipeline, against plain loops in double precision."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.diffusion import Diffusion
from lit_memories.guards.base import Guard, official_step
from lit_memories.guards.negative_prompt import NegativePrompt
from lit_memories.guards.sld import SLD, Strength
from lit_memories.ops.path import DDIMStep, ddim_step
from lit_memories.ops.rollout import rollout, rollout_eta, rollout_rows

PROMPTS = ["a red umbrella", "a blue star", "a green gear"]
OFFICIAL = {  # as in the paper's table: warm-up, scale, threshold, momentum scale and beta
    "weak": (15, 20.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}
SCALE = 3.0


def guarded(base: Path, guard: Guard | None) -> Diffusion:
    return Diffusion(str(base), guard=guard)


@pytest.fixture(scope="module")
def seeds(tiny: Path) -> Tensor:
    shape = guarded(tiny, None).latent_shape
    return torch.stack([torch.randn(shape, generator=Generator().manual_seed(i)) for i in range(len(PROMPTS))])


def official(diffusion: Diffusion, seeds: Tensor, strength: str, steps: Sequence[DDIMStep]) -> Tensor:
    """A run as the official pipeline has it, sample by sample and number by number, in double precision."""
    warmup, scale, threshold, momentum_scale, beta = OFFICIAL[strength]
    ends = []
    for seed, prompt in zip(seeds.double(), PROMPTS, strict=True):
        latents, momentum = seed[None], torch.zeros_like(seed[None])
        for i, step in enumerate(steps):
            empty, own, concept = (
                diffusion.predict(latents, step.timestep, diffusion.encode_prompts([text]).double())
                for text in ("", prompt, "umbrella")
            )
            away = torch.zeros_like(own)
            for place in range(own.numel()):
                e, p, s = (x.view(-1)[place].item() for x in (empty, own, concept))
                mu = 0.0 if p - s >= threshold else min(1.0, abs(p - s) * scale)
                away.view(-1)[place] = mu * (s - e) + momentum_scale * momentum.view(-1)[place].item()
            momentum = beta * momentum + (1 - beta) * away
            found = own - empty - away if i >= warmup else own - empty
            latents = ddim_step(latents, empty + SCALE * found, step)
        ends.append(latents)
    return torch.cat(ends)


@pytest.mark.parametrize("strength", ["weak", "medium", "strong", "max"])
def test_sld_is_the_official_loop(tiny: Path, seeds: Tensor, strength: Strength) -> None:
    """Fifty steps are official; the first 18 pass every warm-up."""
    plain, safe = guarded(tiny, None).double(), guarded(tiny, SLD("umbrella", strength)).double()
    steps = plain.schedule.ddim_steps(50)[:18]
    embeds = safe.encode_prompts(PROMPTS)
    with torch.no_grad():
        found = rollout(safe.predict_fn(embeds, SCALE), seeds.double(), steps)
        unguarded = rollout(plain.predict_fn(embeds, SCALE), seeds.double(), steps)
        wanted = official(plain, seeds, strength, steps)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert (found - unguarded).abs().max() > 1e-4, "it does something"


def test_a_negative_prompt_stands_where_the_empty_one_did(tiny: Path, seeds: Tensor) -> None:
    plain, safe = guarded(tiny, None), guarded(tiny, NegativePrompt("umbrella"))
    embeds, negative = plain.encode_prompts(PROMPTS), plain.encode_prompts(["umbrella"] * 3)
    with torch.no_grad():
        found = safe.predict(seeds, 500, embeds, SCALE)
        assert torch.equal(found, plain.predict(seeds, 500, embeds, SCALE, negative))
        assert torch.equal(found, safe.predict_fn(embeds, SCALE)(seeds, 500))
        away, own = (plain.predict(seeds, 500, x) for x in (negative, embeds))
    torch.testing.assert_close(found, away + SCALE * (own - away), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guard", [NegativePrompt("umbrella"), SLD("umbrella", "max")])
def test_without_guidance_a_guard_does_nothing(tiny: Path, seeds: Tensor, guard: Guard) -> None:
    plain, safe = guarded(tiny, None), guarded(tiny, guard)
    embeds = plain.encode_prompts(PROMPTS)
    with torch.no_grad():
        assert torch.equal(safe.predict(seeds, 500, embeds), plain.predict(seeds, 500, embeds))
    assert safe.evaluations(1.0) == 1
    assert safe.weights_fingerprint() == plain.weights_fingerprint()


def test_what_guidance_costs(tiny: Path) -> None:
    costs = [guarded(tiny, guard).evaluations(SCALE) for guard in (None, NegativePrompt("a"), SLD("a"))]
    assert costs == [2, 2, 3]


def predictor_of(diffusion: Diffusion, prompts: list[str], block_size: int) -> BlockwisePredictor:
    embeds = torch.cat([diffusion.encode_prompts([prompt]) for prompt in prompts])
    empty, beside = diffusion.encode_prompts([""]), diffusion.beside_embeds()
    return BlockwisePredictor(diffusion, embeds, empty, SCALE, block_size, None, beside)


def test_company_and_order_change_no_bit_of_what_is_remembered(tiny: Path, seeds: Tensor) -> None:
    safe = guarded(tiny, SLD("umbrella", "strong"))
    steps = safe.schedule.ddim_steps(6)
    with torch.no_grad():
        together = rollout_rows(predictor_of(safe, PROMPTS, 2), seeds, steps)
        alone = [rollout_rows(predictor_of(safe, PROMPTS[i : i + 1], 2), seeds[i : i + 1], steps) for i in range(3)]
        backwards = rollout_rows(predictor_of(safe, PROMPTS[::-1], 2), seeds.flip(0), steps)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, backwards.flip(0))


def test_every_way_begins_without_a_memory(tiny: Path, seeds: Tensor) -> None:
    """One predictor draws many pictures; what it counted is three evaluations a step."""
    safe = guarded(tiny, SLD("umbrella", "max"))
    steps, predict = safe.schedule.ddim_steps(6), predictor_of(safe, PROMPTS, 3)
    fresh = [Generator().manual_seed(0) for _ in PROMPTS]
    with torch.no_grad():
        first, second = (rollout_rows(predict, seeds, steps) for _ in range(2))
        third = rollout_eta(predict, seeds, steps, fresh, eta=0.0)
        forgetful = rollout_rows(lambda x, t, rows: predict(x, t, rows), seeds, steps)
        own = rollout(safe.predict_fn(safe.encode_prompts(PROMPTS), SCALE), seeds, steps)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, third, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first, own, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(first, forgetful, rtol=1e-3, atol=1e-4), "the momentum matters"
    assert predict.tally.evaluations == 4 * 3 * 3 * len(steps)


@pytest.mark.parametrize("spacing", [("leading", 0), ("leading", 1), ("trailing", 0)])
def test_steps_are_counted_as_officially_in_every_spacing(spacing: tuple[str, int]) -> None:
    kind, offset = spacing
    first = 999 if kind == "trailing" else 980 + offset
    timesteps = first - 20 * torch.arange(50)
    assert official_step(timesteps / 1000).tolist() == list(range(50))


def test_a_flow_begins_at_step_zero() -> None:
    assert official_step(torch.tensor([1.0])).tolist() == [0]


@pytest.mark.parametrize("concept", ["", "  "])
def test_an_empty_concept_is_refused(concept: str) -> None:
    for guard in (NegativePrompt, SLD):
        with pytest.raises(ValueError, match="must not be empty: say in words"):
            guard(concept)


def test_a_strength_that_is_none_of_the_four_is_refused() -> None:
    with pytest.raises(ValueError, match="one of weak, medium, strong, max, got 'huge'"):
        SLD("umbrella", "huge")  # type: ignore[arg-type]


def test_settings_are_part_of_what_a_model_is(tiny: Path) -> None:
    guards = None, NegativePrompt("a"), NegativePrompt("b"), SLD("a", "weak"), SLD("a", "max")
    prints = {guarded(tiny, guard).guarded_fingerprint() for guard in guards}
    assert len(prints) == len(guards)
    assert guarded(tiny, None).guarded_fingerprint() == guarded(tiny, None).weights_fingerprint()


def test_a_pipeline_cannot_hold_a_guard(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot hold a guard \(SLD\)"):
        guarded(tiny, SLD("umbrella")).pipeline()
