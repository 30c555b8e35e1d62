"""Null-text inversion against a loop with torch's own Adam, and the official form against plain DDIM."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from small_models import SCHEDULE, STEPS, TOKENS, Counted, Prompted, curved, latents, predictor
from torch import Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import PromptedPredictor, relative_norm
from lit_memories.inverters.belm import BELM
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.ops.path import DDIMStep, ddim_step
from lit_memories.ops.rollout import rollout

PIVOT = FixedPoint(8, 1e-5)


def tuned(model: Prompted, row: int, z: Tensor, inner_steps: int, early_stop: float, scale: float) -> list[Tensor]:
    """Latents and embeddings of one image, as in the paper: one step, one optimiser, one loss at a time."""
    mine, pivots = model.of(torch.tensor([row])), [z[row : row + 1]]
    for step in reversed(STEPS):
        pivots.insert(0, PIVOT(mine, pivots[0], [step]).seeds)
    x, null, chosen = pivots[0], mine.empty[None].clone(), []
    for number, step in enumerate(STEPS):
        null = null.clone().requires_grad_()
        optimiser = torch.optim.Adam([null], lr=0.01 * (1 - number / (2 * len(STEPS))))
        own, best = mine(x, step.timestep, torch.tensor([0])), None
        for count in range(inner_steps + 1):
            other = mine.under(x, step.timestep, null, torch.arange(len(x)))
            reached = ddim_step(x, other + scale * (own - other), step)
            loss = torch.nn.functional.mse_loss(reached, pivots[number + 1])
            if best is None or loss < best[0]:
                best = (float(loss.detach()), reached.detach(), null.detach().clone())
            if loss < early_stop + 2e-5 * 50 / len(STEPS) * number or count == inner_steps:  # the original's 50 steps
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        _, x, null = best
        chosen.append(null[0])
    return [x[0], torch.stack(chosen)]


def test_it_is_the_papers_loop() -> None:
    z, model = latents(3), Prompted(3)
    inverter = NullText(guidance_scale=4, inner_steps=6, early_stop=1e-4, pivot=PIVOT)
    found = inverter(model, z, STEPS)
    reached = inverter.regenerate(model, found, STEPS)
    for row in range(3):
        expected, embeds = tuned(model, row, z, 6, 1e-4, 4)
        torch.testing.assert_close(reached[row], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.state[row], embeds, rtol=0, atol=1e-4)


def test_guided_regeneration_returns_what_was_inverted() -> None:
    """Tuned at a guidance and replayed at the same: near the image, where the empty prompt's embeddings are not."""
    z, model = latents(3), Prompted(3)
    errors = {}
    for inner_steps in (0, 30):
        inverter = NullText(guidance_scale=4, inner_steps=inner_steps, lr=0.3, early_stop=1e-6, pivot=PIVOT)
        found = inverter(model, z, STEPS)
        errors[inner_steps] = relative_norm(inverter.regenerate(model, found, STEPS) - z, z)
    assert (errors[30] < errors[0] / 3).all()
    assert relative_norm(found.seeds - PIVOT(model, z, STEPS).seeds, z).max() < 1e-3, "the seeds are the pivot's"


def test_a_step_is_done_sooner_the_later_it_comes() -> None:
    """As in the original, whose 50 steps end at errors of 1e-5 + 2e-5 i."""
    steps, z = SCHEDULE.ddim_steps(50), latents(1)
    model, errors = Prompted(1), []
    tune = NullText._tune

    def spy(self: NullText, *arguments: object) -> object:
        errors.append(arguments[-1])
        return tune(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NullText, "_tune", spy)
        NullText(inner_steps=0)(model, z, steps)
    assert errors == pytest.approx([1e-5 + 2e-5 * i for i in range(50)])


def test_samples_stop_on_their_own() -> None:
    """One that needs no tuning takes one forward pass a step; another in the same batch takes all it may."""
    z, model = latents(2), Prompted(2)
    model.prompts[0] = model.empty  # guidance changes nothing
    inverter = NullText(guidance_scale=4, inner_steps=5, early_stop=1e-6, pivot=PIVOT)
    idle, busy = inverter(model, z, STEPS).evaluations.tolist()
    assert idle < busy
    assert busy <= len(STEPS) * (PIVOT.max_evaluations + 1 + 6)


def test_the_official_form_is_plain_ddim() -> None:
    """Explicit transitions between the timesteps; guidance 1 on the way back, where tuned embeddings cancel."""
    z, model = latents(3), Counted(curved, 3)
    inverter, lower = NullText(faithful=True), STEPS[1:]
    found = inverter(model, z, STEPS)
    steps = [DDIMStep(low.timestep, high.alpha, low.alpha) for high, low in pairwise(STEPS)]
    assert torch.equal(found.seeds, DDIMInversion()(model, z, steps).seeds)
    again = rollout(curved, found.seeds, STEPS[:-1])
    assert torch.equal(inverter.regenerate(model, found, STEPS), again)
    x = z
    for high, low in reversed(list(zip(STEPS, lower, strict=False))):
        e = curved(x, low.timestep)
        original = (x - (1 - low.alpha) ** 0.5 * e) / low.alpha**0.5
        x = high.alpha**0.5 * original + (1 - high.alpha) ** 0.5 * e
    torch.testing.assert_close(found.seeds, x, rtol=1e-4, atol=1e-4)
    assert found.evaluations.tolist() == [2 * 9] * 3
    unmeasured = NullText(measure_residual=False, faithful=True)(model, z, STEPS)
    assert torch.equal(unmeasured.seeds, found.seeds)
    assert unmeasured.evaluations.tolist() == [9] * 3


def test_tuned_embeddings_have_no_effect_at_guidance_one() -> None:
    """Why the official form may skip them."""
    z, model = latents(2), Prompted(2)
    inverter = NullText(guidance_scale=7.5, inner_steps=3, pivot=PIVOT)
    found = inverter(model, z, STEPS)
    replay = NullText(guidance_scale=1.0)
    torch.testing.assert_close(
        replay.regenerate(model, found, STEPS), replay.sample(model, found.seeds, STEPS), rtol=0, atol=1e-5
    )


def test_a_plain_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"NullText predicts under other embeddings .* Counted cannot"):
        NullText()(Counted(curved, 2), latents(2), STEPS)


def test_guided_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="guided already, by 3: set the audit's guidance_scale to 1"):
        NullText()(Prompted(2, guidance_scale=3.0), latents(2), STEPS)


@pytest.mark.parametrize("options", [{"inner_steps": -1}, {"lr": 0.0}, {"early_stop": -1.0}], ids=str)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        NullText(**options)


def test_the_pivot_must_be_ddim() -> None:
    with pytest.raises(ValueError, match="BELM inverts another sampler"):
        NullText(pivot=BELM())


def test_it_tunes_within_inference_mode(diffusion: Diffusion) -> None:
    """Lightning predicts there; everything it is given was made there, too."""
    inverter, steps = NullText(3.0, inner_steps=2), diffusion.schedule.ddim_steps(3)
    results = []
    for inference in (False, True):
        with torch.inference_mode(inference), torch.no_grad():
            size = diffusion.latent_shape[1]
            z = latents(3, size=size) * 0.5
            predict = predictor(diffusion, ["umbrella", "a red star", ""])
            assert isinstance(predict, PromptedPredictor)
            found = inverter(predict, z, steps)
            results.append((found.seeds, found.state, inverter.regenerate(predict, found, steps)))
    for outside, inside in zip(*results, strict=True):
        assert torch.equal(outside, inside)
    assert not torch.equal(found.state[0, 0], predict.empty), "embeddings moved"
    assert found.state.shape == (3, 3, *predict.empty.shape)


@pytest.mark.parametrize("gated", [True, False])
def test_what_is_no_text_is_not_tuned(gated: bool) -> None:
    """A row more is the empty prompt's pooled embedding, or a gated adapter's strength for the sample's own prompt."""
    seen = []

    def predict(x: Tensor, timestep: int, embeds: Tensor, *_: object) -> Tensor:
        seen.append(embeds)
        return x

    diffusion = SimpleNamespace(
        predict=predict,
        conditioning=SimpleNamespace(tokens=TOKENS),
        adapter=object() if gated else None,
        evaluations=lambda _: 1,
    )
    prompts, empty = torch.ones(2, TOKENS + 1, 5), torch.full((1, TOKENS + 1, 5), 7.0)
    seen_by = BlockwisePredictor(diffusion, prompts, empty, 1.0, 2)
    assert seen_by.empty.shape == (TOKENS, 5)
    seen_by.under(latents(2), 1, torch.zeros(2, TOKENS, 5), torch.arange(2))
    assert seen[-1][:, :TOKENS].eq(0).all()
    assert seen[-1][:, TOKENS:].eq(1 if gated else 7).all()
    seen_by(latents(2), 1, torch.arange(2))
    assert torch.equal(seen[-1], prompts)
