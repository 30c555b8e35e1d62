"""A network that is taught stays what it was, and what it is taught is what plain training would have made of it."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor, nn

from lit_memories.ops.adapters import UP
from lit_memories.ops.lessons import Learner, check_teachable, computing_with


class Network(nn.Module):
    """Two layers and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second((self.first(x + self.shift)).tanh())
        return out


X = torch.randn(5, 3, generator=Generator().manual_seed(1))
Y = torch.randn(5, 2, generator=Generator().manual_seed(2))


def frozen() -> Network:
    return Network().requires_grad_(False)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_within_the_context_it_computes_with_other_weights_and_after_it_has_its_own() -> None:
    network, before = frozen(), dict(Network().named_parameters())
    own = dict(network.named_parameters())
    zero = torch.zeros(2, 4, requires_grad=True)
    with computing_with(network, {"second.weight": zero}):
        out = network(X)
    assert torch.equal(out, network.second.bias.expand(5, 2))
    out.sum().backward()
    assert zero.grad is not None
    assert zero.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="lost"), computing_with(network, {"first.bias": torch.zeros(4)}):
        raise RuntimeError("lost")
    for name, parameter in network.named_parameters():
        assert parameter is own[name], "the very same objects"
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad


@pytest.mark.parametrize("marks", [[0, 1, 3], [3]])
def test_all_weights_are_taught_as_by_plain_training(marks: list[int]) -> None:
    network = frozen()
    before = state(network)
    learner = Learner(network, None, Generator())
    course = learner.course(lambda step: (network(X[step:]) - Y[step:]).square().mean(), 0.01, marks)
    plain = Network()
    optimizer, expected = torch.optim.Adam(plain.parameters(), 0.01), []
    for step in range(4):
        if step in marks:
            expected.append(copy.deepcopy(dict(plain.named_parameters())))
        loss = (plain(X[step:]) - Y[step:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for found, wanted in zip(course, expected, strict=True):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return network.requires_grad_(False).eval()


def test_factors_begin_as_nothing_and_change_the_attention_alone(unet: UNet2DConditionModel) -> None:
    before = state(unet)
    x, words = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8)
    learner = Learner(unet, 2, Generator().manual_seed(0))
    plain = unet(x, 10, words).sample
    course = learner.course(lambda _: unet(x, 10, words).sample.square().mean(), 0.1, [0, 2])
    with computing_with(unet, learner.weights(course[0])):
        assert torch.equal(unet(x, 10, words).sample, plain)
    weights = learner.weights(course[1])
    assert all("transformer" in name or "attentions" in name for name in weights)
    assert any(tensor.abs().sum() > 0 for name, tensor in course[1].items() if name.endswith(UP))
    with computing_with(unet, weights):
        assert unet(x, 10, words).sample.square().mean() < plain.square().mean()
    assert torch.equal(unet(x, 10, words).sample, plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


def test_networks_that_cannot_be_taught_are_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ValueError, match="half precision cannot be taught in all its weights"):
        check_teachable(frozen().half(), None)
    check_teachable(copy.deepcopy(unet).half(), 4)
    with pytest.raises(ValueError, match="factors of rank 1000 are larger than the layers they stand beside, of rank "):
        check_teachable(unet, 1000)
    network = frozen()
    network.first.compile(backend="eager")
    for rank in (None, 4):
        with pytest.raises(ValueError, match=r"leave the model's speed\.compile out"):
            check_teachable(network, rank)
