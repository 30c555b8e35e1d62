"""Cross-attention looked into, and its first token closed, without a change to what the network computes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lit_memories.ops.attention import cross_attentions, detached_first_token, recorded_attention, strides

TOKENS = 5
Context = Callable[[nn.Module], AbstractContextManager[Any]]
CONTEXTS = pytest.mark.parametrize("context", [recorded_attention, detached_first_token])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def call(network: UNet2DConditionModel) -> Tensor:
    return network(normal(2, 4, 8, 8), torch.tensor([3, 700]), normal(2, TOKENS, 12, seed=1)).sample


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@contextmanager
def watched(network: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor, Tensor]]]:
    """Each cross-attention layer with its inputs, hidden and encoded, and its output, in the order of their calls."""
    seen: list[tuple[nn.Module, Tensor, Tensor, Tensor]] = []

    def see(layer: nn.Module, args: tuple[Tensor, ...], options: dict[str, Any], output: Tensor) -> None:
        seen.append((layer, args[0], options["encoder_hidden_states"], output))

    handles = [
        layer.register_forward_hook(see, with_kwargs=True)
        for name, layer in network.named_modules()
        if name.endswith("attn2")
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def test_recorded_probabilities_are_those_of_diffusers_own_scores(unet: UNet2DConditionModel) -> None:
    with watched(unet) as seen, recorded_attention(unet) as recorded:
        call(unet)
    assert len(recorded) == len(seen) == len(cross_attentions(unet))
    pixels = [layer.shape[2] for layer in recorded]
    assert pixels == [64, 16, 64, 64], "down, middle, up: the order of the calls"
    for probabilities, (layer, hidden, encoded, _) in zip(recorded, seen, strict=True):
        queries = layer.head_to_batch_dim(layer.to_q(hidden))
        keys = layer.head_to_batch_dim(layer.to_k(encoded))
        expected = layer.get_attention_scores(queries, keys).unflatten(0, (2, layer.heads))
        assert probabilities.shape == (2, 2, hidden.shape[1], TOKENS)
        torch.testing.assert_close(probabilities, expected)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))
        assert probabilities.std() > 0


@torch.no_grad()
def test_recorded_probabilities_are_the_ones_that_act(unet: UNet2DConditionModel) -> None:
    """Values mixed by them are what the layer, which never holds them, puts out."""
    with watched(unet) as seen, recorded_attention(unet) as recorded:
        call(unet)
    for probabilities, (layer, _, encoded, output) in zip(recorded, seen, strict=True):
        values = layer.to_v(encoded).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        mixed = (probabilities @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(layer.to_out[0](mixed), output)


def test_gradients_flow_through_recorded_probabilities(unet: UNet2DConditionModel) -> None:
    """Against finite differences, along a random direction of each layer's query and key matrices."""

    def mass() -> Tensor:
        with recorded_attention(unet) as recorded:
            call(unet)
        return torch.stack([layer[..., 1].square().sum() for layer in recorded]).sum()

    for number, layer in enumerate(cross_attentions(unet).values()):
        for weight in (layer.to_q.weight, layer.to_k.weight):
            direction = normal(*weight.shape, seed=number)
            (gradient,) = torch.autograd.grad(mass(), [weight])
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.add_(step * direction)
                    sides.append(float(mass()))
                    weight.sub_(step * direction)
            assert float((gradient * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4)
            assert gradient.abs().max() > 0


@CONTEXTS
@torch.no_grad()
def test_the_output_is_the_same_to_the_bit(context: Context, unet: UNet2DConditionModel) -> None:
    before = call(unet)
    with context(unet):
        assert torch.equal(call(unet), before)
    assert torch.equal(call(unet), before)


@CONTEXTS
def test_no_hook_is_left_behind_also_after_an_error(context: Context, unet: UNet2DConditionModel) -> None:
    def fail() -> None:
        with context(unet):
            assert hooks(unet) > 0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert hooks(unet) == 0


@torch.no_grad()
def test_every_call_is_recorded_and_none_outside(unet: UNet2DConditionModel) -> None:
    with recorded_attention(unet) as recorded:
        call(unet)
        call(unet)
    call(unet)
    assert len(recorded) == 2 * len(cross_attentions(unet))
    assert torch.equal(recorded[0], recorded[4])


def test_a_network_without_cross_attention_is_named() -> None:
    with pytest.raises(ValueError, match=r"Linear has no cross-attention \(attn2\) layers"):
        cross_attentions(nn.Linear(2, 2))


def test_layers_are_found_by_their_own_name(unet: UNet2DConditionModel) -> None:
    """All of them, and none of their parts."""
    names = {name for name, _ in unet.named_modules() if name.endswith(".attn2")}
    assert set(cross_attentions(unet)) == names
    assert len(names) == 4


def gradients(network: UNet2DConditionModel) -> dict[str, Tensor]:
    parameters = {name: parameter for name, parameter in network.named_parameters() if ".attn2." in name}
    return dict(
        zip(parameters, torch.autograd.grad(call(network).square().sum(), list(parameters.values())), strict=True)
    )


def test_the_first_tokens_contribution_is_taken_out_of_the_gradient(unet: UNet2DConditionModel) -> None:
    """A matrix's gradient is a sum over tokens: keys' and values' gradients, each times its token's embedding."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> None:
            output.retain_grad()
            kept[name] = output

        return hook

    handles = [
        getattr(layer, part).register_forward_hook(keep(f"{name}.{part}"))
        for name, layer in cross_attentions(unet).items()
        for part in ("to_k", "to_v")
    ]
    call(unet).square().sum().backward()
    for handle in handles:
        handle.remove()
    whole = {name: parameter.grad.clone() for name, parameter in unet.named_parameters() if ".attn2." in name}
    with detached_first_token(unet):
        found = gradients(unet)
    embeds = normal(2, TOKENS, 12, seed=1)
    for name, gradient in found.items():
        layer = name.removesuffix(".weight")
        if layer in kept:
            expected = torch.einsum("nto,nti->oi", kept[layer].grad[:, 1:], embeds[:, 1:])
            torch.testing.assert_close(gradient, expected)
            assert not torch.allclose(gradient, whole[name]), "the control"
        else:
            torch.testing.assert_close(gradient, whole[name])


def test_afterwards_the_gradient_is_whole_again(unet: UNet2DConditionModel) -> None:
    before = gradients(unet)
    with detached_first_token(unet):
        inside = gradients(unet)
    after = gradients(unet)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())
    assert any(not torch.equal(inside[name], gradient) for name, gradient in before.items())


def test_strides_are_those_of_the_places_that_a_call_attends() -> None:
    """In a network whose layers come down, stay, and go up again, with attention at some of its levels."""
    network = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(4, 8, 8),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    seen: dict[str, int] = {}
    for name, layer in cross_attentions(network).items():
        layer.register_forward_hook(lambda _layer, args, _, name=name: seen.update({name: args[0].shape[1]}))
    network(torch.randn(1, 4, 16, 16), 3, torch.randn(1, TOKENS, 12))
    found = strides(network)
    assert {name: (16 // stride) ** 2 for name, stride in found.items()} == seen
    assert set(found.values()) == {1, 4}
