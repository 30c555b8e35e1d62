"""ANT: attraction early and repulsion later, against the equation restated, and the masks' intersection."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, attach, changed, fit, gradients, moved, snapshot
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.ant import ANT
from lit_memories.ops.generators import seeded
from lit_memories.ops.rollout import rollout

NAMES = ["umbrella", "a red umbrella"]


def made(diffusion: Diffusion, **options: Any) -> ANT:
    small = {"train": "attn2", "steps": 2, "probe_size": 2, "num_inference_steps": 6, "before": 2, "mask_batches": 1}
    return ANT(diffusion, UMBRELLA, **(small | {"mask_seeds": 0, "batch_size": 2} | options))


def places(method: ANT, seed: str) -> list[tuple[Tensor, int]]:
    """Where the terms are looked at, by a run of the model as it is now, restated."""
    generator, found = seeded(seed), []
    steps = method.diffusion.schedule.ddim_steps(6)
    for first, stop in ((0, 2), (2, 6)):
        k = first + int(torch.randint(stop - first, (1,), generator=generator))
        seeds = torch.randn(2, *method.diffusion.latent_shape, generator=generator)
        predict = method.diffusion.predict_fn(method.diffusion.encode_prompts(NAMES), method.start_guidance)
        with torch.no_grad():
            found.append((rollout(predict, seeds, steps[:k]), steps[k].timestep))
    return found


def test_the_loss_is_the_equation(diffusion: Diffusion) -> None:
    """Written out with a second, original model; the empty prompt counts at both places."""
    original = Diffusion.from_pretrained(diffusion.base)
    method = moved(made(diffusion, eta=1.5, attract_weight=0.7, empty_weight=0.3))
    total = torch.zeros(())
    for (x, t), attracts in zip(places(method, "a"), (True, False), strict=True):
        with torch.no_grad():
            concept, empty = (original.predict_noise(x, t, original.encode_prompts(p)) for p in (NAMES, ["", ""]))
        goal = concept if attracts else empty - 1.5 * (concept - empty)
        student = diffusion.predict_noise(x, t, diffusion.encode_prompts(NAMES))
        still = diffusion.predict_noise(x, t, diffusion.encode_prompts(["", ""]))
        term = (student - goal).square().mean() + 0.3 * (still - empty).square().mean()
        total = total + (0.7 if attracts else 1.0) * term
    found = method.objective(NAMES, seeded("a"))
    torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(gradients(found, method), gradients(total, method), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_early_steps_attract_and_later_ones_repel(diffusion: Diffusion) -> None:
    """From above: timesteps of the first two of six steps, and of the last four; released code has them exchanged."""
    steps = [step.timestep for step in diffusion.schedule.ddim_steps(6)]
    for faithful in (False, True):
        method, seen = made(diffusion, faithful=faithful), []
        run = method.mismatched if faithful else method.stopped

        def watched(*arguments: Any, run: Any = run, seen: Any = seen) -> Any:
            seen.append(run(*arguments))
            return seen[-1]

        setattr(method, "mismatched" if faithful else "stopped", watched)
        for number in range(6):
            method.objective(NAMES, seeded(str(number)))
        attract, repel = {t for _, t in seen[::2]}, {t for _, t in seen[1::2]}
        if faithful:
            assert max(attract) < 2 * 166 <= min(repel)
        else:
            assert attract <= set(steps[:2])
            assert repel <= set(steps[2:])
            assert min(attract) > max(repel)


def test_as_released_nothing_keeps_the_empty_prompt(diffusion: Diffusion) -> None:
    """Its terms are in the loss that is shown, and have no gradient."""
    method, other = (moved(made(diffusion, faithful=True, empty_weight=weight)) for weight in (5.0, 0.0))
    loss, without = (one.objective(NAMES, seeded("a")) for one in (method, other))
    del other
    assert loss > without
    method.empty_weight = 0.0
    plain = gradients(method.objective(NAMES, seeded("a")), method)
    method.empty_weight = 5.0
    for a, b in zip(gradients(method.objective(NAMES, seeded("a")), method), plain, strict=True):
        assert torch.equal(a, b)
    method.faithful = False
    kept = gradients(method.objective(NAMES, seeded("a")), method)
    assert any(not torch.allclose(a, b) for a, b in zip(kept, plain, strict=True)), "the control"


@pytest.mark.parametrize("faithful", [False, True])
def test_what_all_masks_mark_moves_and_nothing_else(faithful: bool, diffusion: Diffusion, tmp_path: Path) -> None:
    """Masks of the largest gradients, tensor by tensor; as released, of the smallest."""
    method = made(diffusion, mask_seeds=2, mask_ratio=0.6, lr=1e-2, faithful=faithful)
    masks = []
    for number in range(2):
        found = gradients(method.objective(["umbrella"] * 2, seeded(f"0/mask/{number}/0")), method)
        masks.append([])
        for gradient in found:
            ordered = gradient.abs().flatten().sort().values
            share = 0.4 if faithful else 0.6
            least = ordered[len(ordered) - max(1, round(share * len(ordered)))]
            large = (gradient.abs() >= least) & (gradient != 0)
            masks[-1].append(~large if faithful else large)
    before = {name: parameter.detach().clone() for name, parameter in method.selected.items()}
    fit(method, tmp_path)
    for (name, mask), one, two in zip(method.mask.items(), *masks, strict=True):
        assert torch.equal(mask, one & two)
        assert not ((method.selected[name] != before[name]) & ~mask).any()
    assert any(bool((method.selected[name] != old).any()) for name, old in before.items())


def test_a_resumed_runs_mask_is_that_of_the_original_weights(diffusion: Diffusion, tmp_path: Path) -> None:
    method = attach(made(diffusion, mask_seeds=1), tmp_path)
    first, method = method.mask, moved(method)
    method.prepare(PROMPTS)
    assert all(torch.equal(mask, first[name]) for name, mask in method.mask.items())


def test_without_masks_all_that_is_selected_may_move(diffusion: Diffusion, tmp_path: Path) -> None:
    before, method = snapshot(diffusion), made(diffusion, lr=1e-2)
    fit(method, tmp_path)
    assert changed(before, diffusion) == set(method.selected)


def test_masks_with_nothing_in_common_are_said(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, mask_seeds=2)
    one = {name: torch.rand(p.shape, generator=seeded(name)) > 0.5 for name, p in method.selected.items()}
    masks = [one, {name: ~mask for name, mask in one.items()}]
    method._mask = masks.__getitem__
    with pytest.raises(ValueError, match="ANT's 2 masks have no weight in common: choose a larger mask_ratio"):
        attach(method, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"before": 0},
        {"before": 6},
        {"attract_weight": -1.0},
        {"empty_weight": -0.5},
        {"mask_seeds": -1},
        {"mask_batches": 0},
        {"mask_ratio": 1.0},
    ],
)
def test_impossible_options_of_ant_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
