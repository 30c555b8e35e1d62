"""MACE: refinement, attention and fusion, each restated; the adapter leaves no trace but the matrices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import UMBRELLA, attach, changed, fit, normal, resumed, sets, snapshot
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.mace import MACE, focal_shares
from lit_memories.erasure import Erasure
from lit_memories.ops.attention import recorded_attention

PREFIX = ["umbrella", "a red umbrella on blue", "a gear"]
"""Its own prompts hold the phrase at the end, in the middle, and not at all."""
CONCEPT = Concept("umbrella", "object", PREFIX, ["a blue star"], phrase="umbrella", anchor="star red")


def made(diffusion: Diffusion, concept: Concept = UMBRELLA, **options: Any) -> MACE:
    small = {"lr": 1e-1, "steps": 4, "batch_size": 2, "probe_size": 2, "mask_stride": 2, "lamb": 10.0}
    return MACE(diffusion, concept, **(small | options))


def bent(method: MACE) -> MACE:
    """With an adapter that was given something to do."""
    with torch.no_grad():
        for number, factor in enumerate(method.beside.parameters()):
            factor.add_(0.2 * normal(*factor.shape, seed=number))
    return method


def least_squares(parts: list[tuple[float, Tensor, Tensor]]) -> Tensor:
    """W of the least sum of weight |W x - y|^2 over rows x (n, width) and y (n, out), by LAPACK in float64."""
    x, y = (torch.cat([weight**0.5 * part[i].double() for weight, *part in parts]) for i in (0, 1))
    return torch.linalg.lstsq(x, y, driver="gelsd").solution.T


def test_refinement_gives_the_words_around_the_name_what_they_have_around_the_anchor(
    diffusion: Diffusion, tmp_path: Path
) -> None:
    method = made(diffusion, CONCEPT, preserve_scale=0.3, lamb=2.0)
    with pytest.warns(UserWarning, match="MACE needs the words 'umbrella' in them"):
        attach(method, tmp_path, {**sets(), "prompts": PREFIX, "retain": ["a blue star"]})
    original = Diffusion(diffusion.base)
    c, g, other = (original.encode_prompts(x).double() for x in (
        ["umbrella", "a red umbrella on blue", "a gear"], ["star red", "a red star red on blue", "star red"],
        ["a blue star"],
    ))  # fmt: skip
    rows = (
        ([0, *range(2, 15)], [0, *range(3, 16)]),
        ([0, 1, 2, *range(4, 15)], [0, 1, 2, *range(5, 16)]),
        ([0, *range(3, 16)], [0, *range(3, 16)]),
    )
    here = torch.cat([c[number, mine] for number, (mine, _) in enumerate(rows)])
    there = torch.cat([g[number, theirs] for number, (_, theirs) in enumerate(rows)])
    weights = dict(original.named_parameters())
    for name, matrix in method.selected.items():
        w = weights[name].detach().double()
        eye = torch.eye(32, dtype=torch.float64)
        wanted = least_squares([(1, here, there @ w.T), (0.3, other[0], other[0] @ w.T), (2.0, eye, w.T)])
        torch.testing.assert_close(matrix, wanted.float(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(matrix, weights[name]), "the control"


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_the_loss_is_the_papers(threshold: float | None, diffusion: Diffusion, tmp_path: Path) -> None:
    """A loop over layers, with attention recorded on the model, and the original's for the mask."""
    method = made(diffusion, mask_threshold=threshold, importance=True)
    with pytest.warns(UserWarning, match="MACE needs"):
        bent(attach(method, tmp_path, sets()))
    original, generator = Diffusion(diffusion.base), method.generator()
    latents, captions = method.rows(sets()["forget_set"], 2)
    prompts = [caption if "umbrella" in caption else "umbrella" for caption in captions]
    schedule = diffusion.schedule
    schedule.draw_timesteps(2, generator)
    shares = focal_shares(schedule.num_train_timesteps)
    timesteps = torch.multinomial(shares, 2, replacement=True, generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    columns = [prompt.split().index("umbrella") + 1 for prompt in prompts]
    with torch.no_grad(), recorded_attention(original.network) as layers:
        third = torch.full((2,), int(0.3 * schedule.num_train_timesteps))
        original.predict(schedule.add_noise(latents, noise, third), third, original.encode_prompts(prompts))
    seen = torch.stack([layer for layer in layers if layer.shape[2] == 64]).mean((0, 2))
    with recorded_attention(diffusion.network) as now:
        diffusion.predict(schedule.add_noise(latents, noise, timesteps), timesteps, diffusion.encode_prompts(prompts))
    wanted = torch.zeros((), dtype=torch.float64)
    for layer in now:
        total = torch.zeros((), dtype=torch.float64)
        for row, column in enumerate(columns):
            looked = seen[row, :, column]
            inside = (looked - looked.min()) / (looked.max() - looked.min()) >= (threshold or 0)
            side = int(layer.shape[2] ** 0.5)
            mask = torch.stack(
                [inside.view(8, 8)[y * 8 // side, x * 8 // side] for y in range(side) for x in range(side)]
            )
            assert threshold is None or 0 < mask.float().mean() < 1, "the control"
            total = total + layer[row, :, mask, column].double().square().sum()
        wanted = wanted + total.sqrt()
    found = method.erase_loss(sets())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    slopes = torch.autograd.grad(found, list(method.adapters[0].down), allow_unused=True)
    assert any(slope is not None and slope.any() for slope in slopes)
    assert not any(matrix.requires_grad for matrix in method.selected.values())


def test_fusion_is_a_least_squares_fit_to_the_adapter(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, preserve_scale=0.3, lamb=2.0)
    with pytest.warns(UserWarning, match="MACE needs"):
        bent(attach(method, tmp_path, sets()))
    refined = {name: matrix.detach().double() for name, matrix in method.selected.items()}
    factors = {name: factor.detach().double() for name, factor in method.adapters[0].factors().items()}
    original = dict(Diffusion(diffusion.base).named_parameters())
    words = diffusion.encode_prompts(UMBRELLA.prompts).flatten(0, 1).double()
    kept = diffusion.encode_prompts(UMBRELLA.retain).flatten(0, 1).double()
    method._make_probe()
    method.on_train_end()
    for name, matrix in method.selected.items():
        layer = name.removeprefix("unet.").removesuffix(".weight")
        tuned = refined[name] + factors[f"{layer}.lora_up"] @ factors[f"{layer}.lora_down"]
        w, eye = original[name].detach().double(), torch.eye(32, dtype=torch.float64)
        wanted = least_squares([
            (1, words, words @ tuned.T), (0.3, kept, kept @ w.T), (2.0, eye, refined[name].T)
        ])  # fmt: skip
        torch.testing.assert_close(matrix, wanted.float(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(matrix.double(), refined[name], atol=1e-4), "the control"


def test_the_artefact_is_keys_and_values_and_predicts_what_the_run_left(diffusion: Diffusion, tmp_path: Path) -> None:
    before, method = snapshot(diffusion), made(diffusion)
    with pytest.warns(UserWarning, match="MACE needs"):
        fit(method, tmp_path, 2, sets())
    assert changed(before, diffusion) == set(method.selected)
    assert all(".to_k." in name or ".to_v." in name for name in method.selected)
    erasure = Erasure.load(tmp_path)
    assert set(erasure.tensors) == set(method.selected)
    assert not erasure.is_adapter
    loaded = Diffusion(diffusion.base, erasure=tmp_path)
    x = normal(1, 4, 16, 16)
    with torch.no_grad():
        ends = [model.predict_noise(x, 500, model.encode_prompts(["umbrella"])) for model in (loaded, diffusion)]
    torch.testing.assert_close(*ends)


def test_a_resumed_run_refines_to_the_same(diffusion: Diffusion, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="MACE needs"):
        whole, half = resumed(lambda: made(Diffusion(diffusion.base)), tmp_path, sets())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_timesteps_are_where_words_are_told_apart() -> None:
    shares = focal_shares(1000)
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[200:400].sum()) == pytest.approx(0.86, abs=0.05)
    assert int(shares.argmax()) == 300
    torch.testing.assert_close(focal_shares(100), shares[::10] / shares[::10].sum())


def test_end_markers_and_padding_count_as_released(diffusion: Diffusion) -> None:
    prompts = ["a red umbrella"]
    assert diffusion.marks(prompts, "umbrella").sum() == 1
    assert diffusion.marks(prompts, "umbrella", ends=True)[0].tolist() == [0] * 3 + [1] * 13


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"mask_stride": 0}, {"lamb": 0.0}, {"max_grad_norm": 0.0}, {"preserve_scale": -1.0},
     {"weight_decay": -1.0}, {"mask_threshold": 2.0}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_impossible_options_of_mace_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)


def test_a_mask_of_no_layer_is_refused_before_images_are_drawn(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=r"no cross-attention is 16 times .*: mask_stride may be one of \[2\]"):
        made(diffusion, mask_stride=16)
    assert made(diffusion, mask_stride=16, mask_threshold=None).mask_threshold is None, "the control: no mask at all"


def test_without_images_it_says_what_to_add(diffusion: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MACE needs images: add"):
        fit(made(diffusion), tmp_path, 1)
