"""AC: the concept's prediction becomes its anchor's, on images of the anchor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, changed, fit, gradients, moved, pictures, probed, resumed, snapshot
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.ac import AC
from lit_memories.ops.attention import detached_first_token
from lit_memories.ops.select import select

STYLE = replace(UMBRELLA, templates=["{prompt}, {phrase} style", "{phrase} {prompt}"])


def made(diffusion: Diffusion, concept: Concept = UMBRELLA, **options: Any) -> AC:
    common = {"train": "attn2-kv", "lr": 1e-3, "batch_size": 2, "probe_size": 2}
    return AC(diffusion, concept, **(common | options))


def stars() -> Batch:
    """Images of the anchor."""
    return {**PROMPTS, "forget_set": pictures(["a star", "a red star", "star on a blue background", "a blue star"])}


def byhand(method: AC) -> Tensor:
    """The first step's loss: equation 3 or 5, and the prior."""
    latents, captions = stars()["forget_set"].rows(0, 2, method.seed)
    generator, diffusion = method.generator(), method.diffusion
    x, t, noise = method.noised(latents, generator)
    torch.randint(2**31, (2,), generator=generator)  # the choice of templates

    def predict(x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        return diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))

    target = noise if method.target == "noise" else predict(x, t, captions).detach()
    squares = (predict(x, t, [caption.replace("star", "umbrella") for caption in captions]) - target).square()
    mask = torch.ones(len(x), 1, *x.shape[2:])  # as the official loss has it: summed over channels, mean over pixels
    loss = ((squares * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean()
    if method.prior_weight:
        x, t, noise = method.noised(latents, generator)
        loss = loss + method.prior_weight * (predict(x, t, captions) - noise).square().mean()
    return loss


@pytest.mark.parametrize(
    "options",
    [{"target": target, "prior_weight": weight} for target in ("model", "noise") for weight in (0.0, 0.5, 1.0)],
)
def test_the_loss_is_the_official_one(options: dict[str, Any], diffusion: Diffusion) -> None:
    """Also away from the start: the teacher is the live model."""
    method = moved(made(diffusion, **options))
    torch.testing.assert_close(method.erase_loss(stars()), byhand(method))


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_the_first_token_gives_no_gradient(prior: float, diffusion: Diffusion) -> None:
    method = moved(made(diffusion, prior_weight=prior))
    found = gradients(method.erase_loss(stars()), method)
    with detached_first_token(diffusion.unet):
        expected = gradients(byhand(method), method)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    whole = gradients(byhand(method), method)
    assert all(not torch.allclose(ours, theirs) for ours, theirs in zip(found, whole, strict=True)), "the control"


def prompts_seen(method: AC, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of each prediction in a step."""
    seen: list[list[str]] = []
    encode = method.diffusion.encode_prompts
    monkeypatch.setattr(
        method.diffusion, "encode_prompts", lambda prompts: seen.append(list(prompts)) or encode(prompts)
    )
    method.erase_loss(batch)
    return seen


def test_the_concept_is_put_into_the_anchors_captions(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, renamed = prompts_seen(made(diffusion), stars(), monkeypatch)
    assert anchors == stars()["forget_set"].rows(0, 2, 0)[1]
    assert renamed == [caption.replace("star", "umbrella") for caption in anchors]


def test_templates_are_drawn_for_each_sample(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    method = made(diffusion, STYLE, batch_size=16)
    anchors, renamed = prompts_seen(method, stars(), monkeypatch)
    ways = {
        next(number for number in range(2) if STYLE.put_into(anchor, number) == prompt)
        for anchor, prompt in zip(anchors, renamed, strict=True)
    }
    assert ways == {0, 1}


def test_only_what_is_selected_changes(diffusion: Diffusion, tmp_path: Path) -> None:
    before = snapshot(diffusion)
    fit(made(diffusion), tmp_path, 2, stars())
    assert changed(before, diffusion) == set(select(diffusion, "attn2-kv"))
    assert not changed(snapshot(diffusion), Diffusion.from_pretrained(diffusion.base, erasure=tmp_path))


def test_resumed_is_uninterrupted(tiny: Path, tmp_path: Path) -> None:
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(tiny), STYLE), tmp_path, stars())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_the_concept_comes_nearer_to_the_anchor(diffusion: Diffusion, tmp_path: Path) -> None:
    """As long as the live teacher has not drifted, which at random weights it soon does."""
    start, end = probed(made(diffusion, lr=3e-5, batch_size=4), tmp_path, 40, stars())
    assert start["val/erase_ratio"] == 1
    assert end["val/erase_ratio"] < 0.8


@pytest.mark.parametrize("norm", [1e-3, 1e3])
def test_gradients_are_clipped_to_the_methods_norm(norm: float, diffusion: Diffusion, tmp_path: Path) -> None:
    method = moved(made(diffusion, max_grad_norm=norm, target="noise"))
    method.configure_optimizers = lambda: torch.optim.SGD(method.selected.values(), lr=1.0)
    with detached_first_token(diffusion.unet):
        whole = torch.cat([gradient.flatten() for gradient in gradients(byhand(method), method)]).norm()
    before = torch.cat([parameter.detach().flatten() for parameter in method.selected.values()])
    fit(method, tmp_path, 1, stars())
    after = torch.cat([parameter.detach().flatten() for parameter in method.selected.values()])
    assert 1e-3 < whole < 1e3
    assert float((after - before).norm()) == pytest.approx(min(norm, float(whole)), rel=1e-2)


def test_the_trainers_own_clipping_comes_first(diffusion: Diffusion, tmp_path: Path) -> None:
    method = moved(made(diffusion, max_grad_norm=1e3, target="noise"))
    method.configure_optimizers = lambda: torch.optim.SGD(method.selected.values(), lr=1.0)
    before = torch.cat([parameter.detach().flatten() for parameter in method.selected.values()])
    fit(method, tmp_path, 1, stars(), gradient_clip_val=2e-3)
    after = torch.cat([parameter.detach().flatten() for parameter in method.selected.values()])
    assert float((after - before).norm()) == pytest.approx(2e-3, rel=1e-2)


def test_weights_decay(diffusion: Diffusion) -> None:
    (group,) = made(diffusion, weight_decay=0.3, lr=0.02).configure_optimizers().param_groups
    assert (group["weight_decay"], group["lr"]) == (0.3, 0.02)


def test_a_concept_that_cannot_be_put_in_is_refused(diffusion: Diffusion, tmp_path: Path) -> None:
    """At once where the concept's own anchors tell, before the first step where captions do."""
    with pytest.raises(ValueError, match="no way to put 'umbrella' into"):
        made(diffusion, replace(UMBRELLA, anchor=""))
    with pytest.raises(ValueError, match="no way to put 'umbrella' into 'a house'"):
        made(diffusion, replace(UMBRELLA, anchor_prompts=["a star", "a house"]))
    before = snapshot(diffusion)
    with pytest.raises(ValueError, match="no way to put 'umbrella' into 'a house'"):
        fit(made(diffusion), tmp_path, 1, {**PROMPTS, "forget_set": pictures(["a star"] * 9 + ["a house"])})
    assert not changed(before, diffusion)


@pytest.mark.parametrize(
    "options", [{"prior_weight": -1.0}, {"weight_decay": -0.1}, {"max_grad_norm": 0.0}], ids=lambda o: next(iter(o))
)
def test_impossible_options_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
