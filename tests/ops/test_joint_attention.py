"""One row of text in place of many equal ones, and a look into attention over text and picture."""

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.transformers import transformer_flux
from torch import Generator, Tensor

from lit_memories.ops.joint_attention import RepeatedRow, joint_attentions, recorded_joint_attention


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(0), dtype=torch.float64)


def call(net: SD3Transformer2DModel) -> Tensor:
    return net(normal(2, 4, 8, 8), normal(2, 5, 12), normal(2, 10), torch.tensor([900.0, 3.0])).sample


def network(dual: bool) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
        dual_attention_layers=(1,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    ).double()


@pytest.mark.parametrize("dual", [False, True])
def test_one_row_does_for_many(dual: bool) -> None:
    plain, short = network(dual), network(dual)
    short.set_attn_processor(RepeatedRow())
    generator = Generator().manual_seed(0)
    latents, text, pooled = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 4, 8, 8), (2, 5, 12), (2, 10))
    )
    rows = torch.cat([text, torch.zeros(2, 256, 12, dtype=torch.float64)], 1)
    when = torch.tensor([900.0, 3.0])
    with torch.no_grad():
        expected = plain(latents, rows, pooled, when).sample
        found = short(latents, rows[:, :6], pooled, when, joint_attention_kwargs={"repeated": 256}).sample
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(short(latents, rows, pooled, when).sample, expected, rtol=1e-10, atol=1e-10)
        without = short(latents, rows[:, :6], pooled, when).sample
    assert (without - expected).abs().max() > 1e-3, "the control"


@pytest.mark.parametrize("dual", [False, True])
@torch.no_grad()
def test_recorded_probabilities_are_the_ones_that_act_in_stable_diffusion_3(dual: bool) -> None:
    """Values mixed by them, and by the picture's own, are what a layer puts out."""
    net = network(dual)
    layer = net.transformer_blocks[0].attn
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    layer.register_forward_hook(
        lambda _m, _a, options, output: seen.append(
            (options["hidden_states"], options["encoder_hidden_states"], output[0])
        ),
        with_kwargs=True,
    )
    with recorded_joint_attention(net) as recorded:
        call(net)
    assert [tuple(x.shape) for x in recorded] == [(2, 2, 16, 5)] * 3
    (picture, text, output), found = seen[0], recorded[0]
    heads = {
        name: getattr(layer, name)(x).unflatten(2, (2, -1)).transpose(1, 2)
        for name, x in (
            ("to_q", picture),
            ("to_k", picture),
            ("to_v", picture),
            ("add_k_proj", text),
            ("add_v_proj", text),
        )
    }
    query, key, added = (
        heads[name] if norm is None else norm(heads[name])
        for name, norm in (("to_q", layer.norm_q), ("to_k", layer.norm_k), ("add_k_proj", layer.norm_added_k))
    )
    logits = query @ torch.cat([key, added], 2).transpose(2, 3) / 8**0.5
    weights = logits.softmax(-1)
    torch.testing.assert_close(found, weights[..., 16:])
    mixed = weights[..., :16] @ heads["to_v"] + found @ heads["add_v_proj"]
    torch.testing.assert_close(layer.to_out[0](mixed.transpose(1, 2).flatten(2)), output)


@torch.no_grad()
def test_a_repeated_row_is_recorded_as_all_it_stands_for() -> None:
    plain, short = network(False), network(False)
    short.set_attn_processor(RepeatedRow())
    latents, text, pooled = (normal(2, 4, 8, 8), normal(2, 5, 12), normal(2, 10))
    rows, when = torch.cat([text, torch.zeros(2, 7, 12, dtype=torch.float64)], 1), torch.tensor([900.0, 3.0])
    with recorded_joint_attention(plain) as long:
        plain(latents, rows, pooled, when)
    with recorded_joint_attention(short) as few:
        short(latents, rows[:, :6], pooled, when, joint_attention_kwargs={"repeated": 7})
    for one, other in zip(long, few, strict=True):
        torch.testing.assert_close(one[..., :5], other[..., :5])
        torch.testing.assert_close(one[..., 5:].sum(-1), other[..., 5])


def flux() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(4, 6, 6),
    )


def call_flux(net: FluxTransformer2DModel) -> Tensor:
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(2.0))
    return net(
        hidden_states=normal(2, 6, 16).float(),
        encoder_hidden_states=normal(2, 5, 12).float(),
        pooled_projections=normal(2, 10).float(),
        timestep=torch.tensor([0.9, 0.1]),
        txt_ids=torch.zeros(5, 3),
        img_ids=places,
    ).sample


@torch.no_grad()
def test_recorded_probabilities_are_the_ones_that_act_in_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """What diffusers' kernel is asked, in blocks of two streams and of one, with the rotary embedding."""
    asked: list[tuple[Tensor, Tensor]] = []
    plain = transformer_flux.dispatch_attention_fn

    def watch(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        asked.append((query, key))
        return plain(query, key, value, **options)

    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", watch)
    with recorded_joint_attention(net := flux()) as recorded:
        call_flux(net)
    assert len(recorded) == len(asked) == 2
    for found, (query, key) in zip(recorded, asked, strict=True):
        weights = (query.transpose(1, 2) @ key.permute(0, 2, 3, 1) / 4).softmax(-1)
        assert found.shape == (2, 2, 6, 5)
        torch.testing.assert_close(found, weights[:, :, 5:, :5])
        assert found.std() > 0


@pytest.mark.parametrize("make", [lambda: network(True), flux])
def test_looking_changes_nothing_and_leaves_no_hook(make: Any) -> None:
    net = make()
    ask = call_flux if isinstance(net, FluxTransformer2DModel) else call
    before = ask(net)
    with recorded_joint_attention(net, [name for name in joint_attentions(net) if ".0." in name][:1]) as recorded:
        assert torch.equal(ask(net), before)
    assert len(recorded) == 1
    assert recorded[0].requires_grad
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_unet_has_no_joint_attention(unet: UNet2DConditionModel) -> None:
    assert joint_attentions(unet) == {}
