"""Low-rank adapters: nothing when off, a function of a strength a sample, and a plain weight when merged."""

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lit_memories.ops.adapters import Adapter, attention_layers, gate, initial_factors, merged

STRENGTHS = [0.0, 0.3, 1.0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


class Mixed(nn.Module):
    """One layer of each kind that an adapter can sit on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 5, 1, bias=False)
        self.last = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).tanh()).flatten(2).transpose(1, 2))


def trained(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Factors that do something."""
    return {name: 0.5 * normal(*tensor.shape, seed=number) for number, (name, tensor) in enumerate(factors.items())}


def adapted(rank: int = 2) -> tuple[Mixed, Adapter]:
    network = Mixed().requires_grad_(False)
    return network, Adapter(network, trained(initial_factors(dict(network.named_children()), rank, generator())))


def with_merged(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> nn.Module:
    """A copy without hooks, the adapter worked into its weights."""
    other = copy.deepcopy(network)
    for module in other.modules():
        module._forward_hooks.clear()
    factors = adapter.factors()
    with torch.no_grad():
        for name in adapter.names:
            weight = other.get_submodule(name).weight
            weight.copy_(merged(weight, factors[f"{name}.lora_down"], factors[f"{name}.lora_up"], strength))
    return other


def test_off_it_is_the_original_to_the_bit() -> None:
    x = normal(3, 4, 8, 8)
    original = Mixed().requires_grad_(False)(x)  # with gradients another kernel runs, on some processors
    network, adapter = adapted()
    assert not torch.allclose(network(x), original), "the control"
    adapter.strength = 0.0
    assert torch.equal(network(x), original)
    adapter.strength = torch.zeros(3)
    assert torch.equal(network(x), original)


def test_fresh_it_does_nothing_to_the_bit() -> None:
    network, x = Mixed(), normal(3, 4, 8, 8)
    original = network(x)
    factors = initial_factors(dict(network.named_children()), 2, generator())
    Adapter(network, factors)
    assert torch.equal(network(x), original)
    assert all(not tensor.any() for name, tensor in factors.items() if name.endswith("lora_up"))
    assert all(tensor.any() for name, tensor in factors.items() if name.endswith("lora_down"))


def test_the_weights_and_their_names_stay() -> None:
    network, _ = adapted()
    original = Mixed().state_dict()
    assert set(network.state_dict()) == set(original)
    assert all(torch.equal(tensor, original[name]) for name, tensor in network.state_dict().items())


def test_fresh_factors_are_those_of_a_fresh_layer() -> None:
    """Uniform within one over the root of the fan-in; a function of the generator."""
    layers = dict(Mixed().named_children())
    factors = initial_factors(layers, 50, generator())
    for name, layer in layers.items():
        down = factors[f"{name}.lora_down"]
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert down.shape == (50, *layer.weight.shape[1:])
        assert bound * 0.9 < down.abs().max() <= bound
        assert float(down.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    again, other = initial_factors(layers, 50, generator()), initial_factors(layers, 50, generator(1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in factors.items())
    assert not torch.equal(factors["last.lora_down"], other["last.lora_down"])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_merged_weights_are_the_adapter_on_every_kind_of_layer(rank: int, strength: float) -> None:
    """Linear, 1 x 1, and a 3 x 3 convolution with stride."""
    network, adapter = adapted(rank)
    x = normal(3, 4, 8, 8)
    adapter.strength = strength
    torch.testing.assert_close(with_merged(network, adapter, strength)(x), network(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_merged_weights_are_the_adapter_on_a_whole_network(unet: UNet2DConditionModel) -> None:
    unet = unet.float()
    layers = attention_layers(unet)
    adapter = Adapter(unet, {k: 0.2 * v for k, v in trained(initial_factors(layers, 1, generator())).items()})
    inputs = normal(2, 4, 8, 8), torch.tensor([3, 700]), normal(2, 5, 12, seed=1)
    on = unet(*inputs).sample
    torch.testing.assert_close(with_merged(unet, adapter)(*inputs).sample, on, rtol=0, atol=1e-5)
    adapter.strength = 0.0
    assert not torch.allclose(unet(*inputs).sample, on, atol=1e-3), "the control"


def test_a_strength_a_sample_is_a_run_a_sample() -> None:
    network, adapter = adapted()
    x = normal(3, 4, 8, 8)
    adapter.strength = torch.tensor(STRENGTHS)
    together = network(x)
    for row, strength in enumerate(STRENGTHS):
        adapter.strength = strength
        torch.testing.assert_close(together[row : row + 1], network(x[row : row + 1]), rtol=0, atol=1e-6)


def test_only_the_factors_get_gradients() -> None:
    network, adapter = adapted()
    network(normal(3, 4, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapter.factors().values())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_factors_are_found_again_under_their_names() -> None:
    network = Mixed()
    given = trained(initial_factors(dict(network.named_children()), 2, generator()))
    found = Adapter(network, given).factors()
    assert set(found) == set(given)
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nowhere.lora_down": torch.ones(1, 2), "nowhere.lora_up": torch.ones(2, 1)}, "factors for nowhere"),
        ({"last.lora_up": None}, "only one of the two factors of last"),
        ({"last.lora_down": None}, "only one of the two factors of last"),
        (
            {"last.lora_down": torch.ones(2, 6)},
            r"\(2, 6\) and \(7, 2\) do not fit last: expected \(\(2, 5\), \(7, 2\)\)",
        ),
        ({"last.lora_up": torch.ones(7, 3)}, "do not fit last"),
        ({"first.lora_down": torch.ones(2, 4, 1, 1)}, "do not fit first"),
        ({"first.lora_up": torch.ones(6, 2)}, "do not fit first"),
    ],
)
def test_factors_that_do_not_fit_are_named_and_nothing_is_hooked(change: dict[str, Tensor | None], named: str) -> None:
    network = Mixed()
    factors = initial_factors(dict(network.named_children()), 2, generator()) | change
    with pytest.raises(ValueError, match=named):
        Adapter(network, {name: tensor for name, tensor in factors.items() if tensor is not None})
    assert not any(module._forward_hooks for module in network.modules())


def test_attention_layers_are_spms(sd_unet: UNet2DConditionModel) -> None:
    """192 layers in SD 1.4, which rank 1 gives 423 936 parameters."""
    layers = attention_layers(sd_unet)
    assert len(layers) == 192
    assert sum(tensor.numel() for tensor in initial_factors(layers, 1, generator()).values()) == 423_936
    endings = {name.split("transformer_blocks.0.")[-1].split(".attentions.")[-1] for name in layers}
    assert {"attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2", "1.proj_in", "1.proj_out"} <= endings
    assert not any("resnets" in name or name.startswith(("conv", "time")) for name in layers)


def test_a_network_without_attention_blocks_is_named() -> None:
    with pytest.raises(ValueError, match="Mixed has no attention blocks"):
        attention_layers(Mixed())


def strengths(
    embeds: Tensor, concepts: Tensor, tokens: list[set[int]] | None = None, concept_tokens: list[set[int]] | None = None
) -> list[float]:
    tokens = tokens or [set() for _ in embeds]
    return gate(embeds, concepts, tokens, concept_tokens or [{-1} for _ in concepts]).tolist()


def test_the_gate_is_one_for_the_concept_and_the_cosine_elsewhere() -> None:
    concept, other = normal(1, 4, 6), normal(1, 4, 6, seed=1)
    cosine = float(torch.cosine_similarity(concept.flatten(), other.flatten(), dim=0))
    found = strengths(torch.cat([concept, 3 * concept, other, -concept]), concept)
    assert found == pytest.approx([1, 1, max(0.0, cosine), 0], abs=1e-6)
    assert found[2] < 1


def test_the_gate_counts_the_concepts_words_in_a_prompt() -> None:
    """Orthogonal embeddings, so that nothing but words counts: none, one of two, both among others."""
    concept, others = torch.eye(8)[:1].reshape(1, 2, 4), torch.eye(8)[1:4].reshape(3, 2, 4)
    assert strengths(others, concept, [{7}, {1, 7}, {1, 2, 7}], [{1, 2}]) == pytest.approx([0, 0.5, 1])


def test_the_gate_opens_for_the_nearest_of_several_concepts() -> None:
    concepts = torch.eye(8)[:2].reshape(2, 2, 4)
    prompts = torch.stack([torch.eye(8)[1], torch.eye(8)[0] + torch.eye(8)[5], torch.eye(8)[6]]).reshape(3, 2, 4)
    assert strengths(prompts, concepts) == pytest.approx([1, 2**-0.5, 0], abs=1e-6)
    assert strengths(prompts, concepts, [{1}, {1}, {1}], [{1, 2, 3}, {1, 2}]) == pytest.approx(
        [1, 2**-0.5, 0.5], abs=1e-6
    )


def test_a_concept_without_words_opens_nothing_by_them() -> None:
    assert strengths(torch.eye(8)[:1].reshape(1, 2, 4), torch.eye(8)[1:2].reshape(1, 2, 4), [{1}], [set()]) == [0]
