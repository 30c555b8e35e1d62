"""A classifier's gradient by hand, what a classifier learns, and what it is taught on."""

import pytest
import torch
from attack_helpers import PROMPTS, asked_group
from given_group import SCHEDULE, SHAPE
from torch import Generator, Tensor

from lit_memories.attacks.base import FIRST
from lit_memories.attacks.classifier_guidance import ClassifierGuidance
from lit_memories.diffusion import Diffusion
from lit_memories.ops.generators import seeded
from lit_memories.ops.noisy_classifier import NoisyClassifier, guided, log_gradient, trained
from lit_memories.ops.rollout import rollout_rows

ROWS = torch.arange(3)


def latents(count: int = 3, shift: float = 0.0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=Generator().manual_seed(4), dtype=torch.float64) + shift


def linear(noisy: Tensor, alphas: Tensor) -> Tensor:
    """Log odds that are linear: the gradient of log p is (1 - p) / 2 everywhere."""
    return noisy.flatten(1).mean(1) * noisy[0].numel() / 2


def constant(noisy: Tensor, timestep: int, rows: Tensor) -> Tensor:
    return torch.full_like(noisy, 0.7)


def test_guidance_is_the_papers_equation() -> None:
    noisy = latents()
    found = guided(constant, linear, SCHEDULE, 3.0)(noisy, 500, ROWS)
    expected = 0.7 - (1 - SCHEDULE.alpha(500)) ** 0.5 * 3.0 * (1 - linear(noisy, ROWS).sigmoid()) / 2
    torch.testing.assert_close(found, expected[:, None, None, None].expand_as(found))
    assert torch.equal(guided(constant, linear, SCHEDULE, 0.0)(noisy, 500, ROWS), torch.full_like(noisy, 0.7))


def test_guidance_finds_the_posterior_of_a_gaussian_world() -> None:
    """The concept is N(m, 1) and all else N(-m, 1): with a scale of 1 the mixture's score becomes the concept's."""
    alpha, m = SCHEDULE.alpha(300), 0.05

    def odds(noisy: Tensor, alphas: Tensor) -> Tensor:
        return 2 * alpha**0.5 * m * noisy.flatten(1).sum(1)

    def mixture(noisy: Tensor, timestep: int, rows: Tensor) -> Tensor:
        p = odds(noisy, rows).sigmoid()[:, None, None, None]
        return (1 - alpha) ** 0.5 * (noisy - alpha**0.5 * m * (2 * p - 1))

    found = guided(mixture, odds, SCHEDULE, 1.0)(latents(), 300, ROWS)
    torch.testing.assert_close(found, (1 - alpha) ** 0.5 * (latents() - alpha**0.5 * m))


def test_a_latent_that_breaks_leaves_the_others_alone() -> None:
    network, noisy = NoisyClassifier(4).double(), latents()
    whole = log_gradient(network, noisy, 0.5)
    noisy[1] = torch.inf
    broken = guided(constant, network, SCHEDULE, 1.0)(noisy, 300, ROWS)
    assert not broken[1].isfinite().any()
    torch.testing.assert_close(
        broken[2], 0.7 - (1 - SCHEDULE.alpha(300)) ** 0.5 * log_gradient(network, noisy[2:], SCHEDULE.alpha(300))[0]
    )
    assert whole.isfinite().all()


def test_a_classifier_learns_at_low_noise_and_says_nothing_at_high() -> None:
    """Latents with and without a square in a place of its own; those it is asked about it has not seen."""

    def made(seed: int) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(seed)
        clean, shows = 0.3 * torch.randn(64, *SHAPE, generator=generator), torch.arange(64) < 32
        for row in range(32):
            down, right = torch.randint(6, (2,), generator=generator).tolist()
            clean[row, 0, down : down + 3, right : right + 3] += 2
        return clean, shows

    network = trained(*made(0), SCHEDULE, 120, "a test")
    clean, shows = made(1)

    def right(timestep: int) -> float:
        timesteps = torch.full((64,), timestep)
        noisy = SCHEDULE.add_noise(clean, torch.randn(clean.shape, generator=Generator().manual_seed(2)), timesteps)
        return float(((network(noisy, SCHEDULE.alphas_at(timesteps)) > 0) == shows).float().mean())

    assert right(20) > 0.9
    assert right(999) < 0.75
    again = trained(*made(0), SCHEDULE, 120, "a test")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    other = trained(*made(0), SCHEDULE, 1, "another test")
    assert not torch.equal(other.head.weight, trained(*made(0), SCHEDULE, 1, "a test").head.weight)


def test_the_classifier_learns_from_pairs_that_the_other_model_draws(
    diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = ClassifierGuidance(diffusion, scales=[0.0], pairs=4, training=1, guidance_scale=1.0)
    given: list[Tensor] = []
    network = NoisyClassifier(4).requires_grad_(False)

    def watched(latents: Tensor, shows: Tensor, *more: object) -> NoisyClassifier:
        given.extend([latents, shows])
        return network

    monkeypatch.setattr("lit_memories.attacks.classifier_guidance.trained", watched)
    group = asked_group(diffusion, attack)
    with torch.inference_mode():
        attempt, again = next(attack.attempts(group)), next(attack.attempts(group))
        plain = rollout_rows(group.predictor(1.0), group.draw_seeds(group.generators(FIRST)), group.steps)
        torch.testing.assert_close(attempt.latents, plain, msg="with a scale of 0 there is no guidance")
        assert torch.equal(attempt.latents, again.latents)
        assert group.evaluations == attack.shared(4) + 3 * len(PROMPTS) * 4, "taught once"
        latents, shows = given
        assert shows.tolist() == [True] * 4 + [False] * 4
        seeds = group.draw_seeds([seeded(f"classifier_guidance/{number}") for number in range(4)])
        for row, prompt in enumerate(["umbrella", "clover"]):  # the second of the concept's prompts, and its anchor
            alone = rollout_rows(group.predictor(1.0, [prompt]), seeds[1:2], group.steps)
            torch.testing.assert_close(latents[1 + 4 * row], alone[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scales": []}, "scales must be one number or more"),
        ({"scales": [float("nan")]}, "scales must"),
        ({"etas": [1e9]}, "between 0 and 100"),
        ({"pairs": 0}, "pairs and training must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClassifierGuidance(**options)  # type: ignore[arg-type]


def test_it_costs_what_it_says() -> None:
    assert ClassifierGuidance().plan(50)[-1] == 2 * 64 * 100 + 400 == 13200
