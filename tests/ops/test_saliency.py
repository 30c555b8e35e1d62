"""Which weights matter for some data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_memories.ops.saliency import largest, summed_gradients


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def rows() -> Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


def test_summed_gradients_are_the_whole_sets() -> None:
    model, data = network(), rows()
    parameters = dict(model.named_parameters())
    found = summed_gradients((model(part).square().sum() for part in data.split(2)), parameters)
    model(data).square().sum().backward()
    assert set(found) == set(parameters)
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_absolute_gradients_do_not_cancel() -> None:
    model, data = network(), rows()
    parameters = dict(model.named_parameters())
    expected = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for part in data.split(2):
        model.zero_grad()
        model(part).sum().backward()
        for name, parameter in parameters.items():
            expected[name] += parameter.grad.abs()
    found = summed_gradients((model(part).sum() for part in data.split(2)), parameters, absolute=True)
    signed = summed_gradients((model(part).sum() for part in data.split(2)), parameters)
    for name in parameters:
        torch.testing.assert_close(found[name], expected[name])
        assert (found[name] >= signed[name].abs() - 1e-6).all()
    assert any((found[name] > signed[name].abs() + 1e-3).any() for name in parameters), "the control"


def test_a_parameter_no_loss_depends_on_gets_zeros_and_no_grad_is_left_behind() -> None:
    model, idle = network(), nn.Parameter(torch.ones(2, 2))
    found = summed_gradients([model(rows()).sum()], {"idle": idle, **dict(model.named_parameters())})
    assert torch.equal(found["idle"], torch.zeros(2, 2))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in found.values())


def test_losses_are_asked_for_one_after_the_other() -> None:
    """Each batch's graph is freed before the next is made."""
    weight, made = nn.Parameter(torch.ones(1)), []

    def losses() -> object:
        for number in range(3):
            made.append(number)
            yield (weight * (number + 1)).sum()

    stream = losses()
    assert not made
    assert summed_gradients(stream, {"w": weight})["w"].item() == 6


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.floats(0.01, 1), st.integers(0, 1000))
def test_largest_marks_the_asked_share_by_one_threshold(count: int, ratio: float, seed: int) -> None:
    scores = 0.1 + torch.randperm(count, generator=torch.Generator().manual_seed(seed)).float()
    cut = max(1, count // 3)
    masks = largest({"a": scores[:cut], "b": scores[cut:].reshape(-1, 1)}, ratio)
    assert masks["a"].shape == (cut,)
    assert masks["b"].shape == (count - cut, 1)
    marked = torch.cat([masks["a"], masks["b"].flatten()])
    assert marked.dtype == torch.bool
    assert int(marked.sum()) == max(1, round(ratio * count))
    if not marked.all():
        assert scores[marked].min() > scores[~marked].max()


def test_the_threshold_is_one_for_all_tensors() -> None:
    masks = largest({"small": torch.tensor([0.1, 0.2]), "large": torch.tensor([5.0, 6.0])}, 0.5)
    assert masks["small"].tolist() == [False, False]
    assert masks["large"].tolist() == [True, True]


def test_ties_with_the_threshold_are_all_marked() -> None:
    assert largest({"a": torch.tensor([1.0, 2.0, 2.0, 2.0])}, 0.25)["a"].tolist() == [False, True, True, True]


def test_a_score_of_zero_is_never_marked() -> None:
    assert largest({"a": torch.tensor([0.0, 0.0, 3.0])}, 1.0)["a"].tolist() == [False, False, True]
    assert not largest({"a": torch.zeros(3)}, 0.5)["a"].any()


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01])
def test_a_share_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"share of weights must be in \(0, 1\], got {ratio}"):
        largest({"a": torch.ones(2)}, ratio)
