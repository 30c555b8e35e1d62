"""FMN: attention turns away from the concept's words, and nothing else is asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import UMBRELLA, attach, changed, fit, gradients, moved, resumed, sets, snapshot
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.fmn import FMN
from lit_memories.ops.attention import recorded_attention
from lit_memories.ops.select import select


def made(diffusion: Diffusion, **options: Any) -> FMN:
    common = {"train": "attn2", "lr": 1e-3, "batch_size": 2, "probe_size": 2}
    return FMN(diffusion, UMBRELLA, **(common | options))


def positions(marks: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in marks]


PROMPTS = ["umbrella", "a red umbrella", "umbrella on a blue umbrella", "Umbrella , a", "a red gear"]


def test_marks_are_at_the_concepts_tokens(diffusion: Diffusion) -> None:
    """Token 0 is the marker. Every occurrence counts, however it is written."""
    assert positions(made(diffusion).marks(PROMPTS)) == [[1], [3], [1, 5], [1], []]


def test_faithful_marks_are_the_end_and_all_padding_too(diffusion: Diffusion) -> None:
    """Of 16 tokens: padding is the end marker, as in Stable Diffusion 1."""
    found = positions(made(diffusion, faithful=True).marks(PROMPTS[:2]))
    assert found == [list(range(1, 16)), list(range(3, 16))]


def test_a_name_of_several_tokens_is_marked_whole_and_only_whole(diffusion: Diffusion) -> None:
    method = FMN(diffusion, replace(UMBRELLA, phrase="red umbrella"), train="attn2")
    assert positions(method.marks(["a red umbrella", "a red , umbrella", "red red umbrella"])) == [[2, 3], [], [2, 3]]


def inputs(method: FMN) -> tuple[Tensor, Tensor, list[str]]:
    """The first step's latents, timesteps and prompts."""
    latents, captions = sets()["forget_set"].rows(0, method.batch_size, method.seed)
    x, t, _ = method.noised(latents, method.generator())
    return x, t, [caption if "umbrella" in caption else "umbrella" for caption in captions]


@pytest.mark.parametrize("faithful", [False, True])
def test_the_loss_is_the_norm_of_the_concepts_attention(faithful: bool, diffusion: Diffusion, tmp_path: Path) -> None:
    """Over layers, heads, pixels and the concept's tokens, of every sample."""
    method = attach(moved(made(diffusion, batch_size=5, faithful=faithful)), tmp_path, sets())
    method.log = lambda *_, **__: None
    x, t, prompts = inputs(method)
    with recorded_attention(diffusion.unet) as layers:
        diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))
    chosen = positions(method.marks(prompts))
    parts = [layer[row][..., chosen[row]].flatten() for layer in layers for row in range(5)]
    loss = method.erase_loss(sets())
    torch.testing.assert_close(loss, torch.cat(parts).norm())
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, method))


def mass(method: FMN) -> float:
    """Share of attention on the concept's token in the five images, at fixed noise and timesteps."""
    images, diffusion = sets()["forget_set"], method.diffusion
    x, t, _ = method.noised(images.latents, torch.Generator().manual_seed(3))
    with torch.no_grad(), recorded_attention(diffusion.unet) as layers:
        diffusion.predict_noise(x, t, diffusion.encode_prompts(["umbrella"] * 5))
    return float(torch.stack([layer[..., 1].mean() for layer in layers]).mean())


def test_attention_to_the_concept_falls(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, lr=5e-3)
    before = mass(method)
    run = fit(method, tmp_path, 30, sets())
    assert before == pytest.approx(1 / 16, rel=0.2), "at random weights, one token of sixteen"
    assert mass(method) < 0.8 * before
    assert float(run.callback_metrics["train/attention"]) < before


def test_only_what_is_selected_changes(diffusion: Diffusion, tmp_path: Path) -> None:
    before = snapshot(diffusion)
    fit(made(diffusion, weight_decay=0.0), tmp_path, 2, sets())
    differs = changed(before, diffusion)
    assert differs
    assert differs <= set(select(diffusion, "attn2"))
    assert not changed(snapshot(diffusion), Diffusion.from_pretrained(diffusion.base, erasure=tmp_path))


def test_what_lies_behind_the_last_softmax_gets_no_gradient(diffusion: Diffusion, tmp_path: Path) -> None:
    """The values and output of the last cross-attention, and what follows it."""
    method = attach(made(diffusion, train="full"), tmp_path, sets())
    method.log = lambda *_, **__: None
    method.erase_loss(sets()).backward()
    without = {name for name, parameter in diffusion.unet.named_parameters() if parameter.grad is None}
    last = "up_blocks.0.attentions.1.transformer_blocks.0.attn2"
    assert {f"{last}.to_v.weight", f"{last}.to_out.0.weight", "conv_norm_out.weight", "conv_out.weight"} <= without
    assert not without & {f"{last}.to_q.weight", f"{last}.to_k.weight", "conv_in.weight"}


def test_resumed_is_uninterrupted(tiny: Path, tmp_path: Path) -> None:
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(tiny)), tmp_path, sets())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


LONG = "a red star on a blue background " * 3 + "umbrella"


def test_captions_whose_tokens_lack_the_name_become_the_name(diffusion: Diffusion) -> None:
    """Also where the encoder's window cuts it off."""
    captions = ["a red umbrella", "a picture", LONG]
    assert made(diffusion).marked(captions) == ["a red umbrella", "umbrella", "umbrella"]


def test_a_name_that_is_cut_off_does_not_end_in_nan(diffusion: Diffusion, tmp_path: Path) -> None:
    """The gradient of a norm at 0 is not defined."""
    with pytest.warns(UserWarning, match="FMN needs the words 'umbrella' in them"):
        fit(made(diffusion), tmp_path, 2, sets([LONG] * 5))
    assert all(tensor.isfinite().all() for tensor in diffusion.state_dict().values())


def test_weights_decay(diffusion: Diffusion) -> None:
    (group,) = made(diffusion, weight_decay=0.3, lr=0.02).configure_optimizers().param_groups
    assert (group["weight_decay"], group["lr"]) == (0.3, 0.02)


@pytest.mark.parametrize("options", [{"weight_decay": -0.1}, {"max_grad_norm": 0.0}], ids=lambda o: next(iter(o)))
def test_impossible_options_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
