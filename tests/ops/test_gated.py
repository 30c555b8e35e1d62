"""Gated maps, moments and whitening against loops in double precision."""

import pytest
import torch
from torch import Generator, Tensor, nn
from unet_like import Attending

from lit_memories.ops.gated import METRIC, PARTS, GatedMaps, change, score, shapes, ways_out
from lit_memories.ops.moments import Moments, principal, whitener


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def maps(concepts: int, width: int = 6, metric: bool = False) -> dict[str, Tensor]:
    """Some that are half open, each tensor drawn."""
    made = {
        part: normal(*shape, seed=i) for i, (part, shape) in enumerate(shapes(concepts, width, 2, 3, metric).items())
    }
    made["gate.basis"] = torch.linalg.qr(made["gate.basis"]).Q
    return made | {
        "gate.centre": torch.full((concepts,), 0.4, dtype=torch.float64),
        "gate.slope": torch.arange(1, concepts + 1).double() * 5,
        "gate.below": torch.full((concepts,), 500.0),
    }


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("concepts", [1, 3])
def test_each_place_gets_the_map_of_the_widest_gate(concepts: int, metric: bool) -> None:
    outputs, parts = normal(2, 4, 6, seed=20), maps(concepts, metric=metric)
    found = change(outputs, parts, torch.tensor([100, 499]))
    chosen = set()
    for row in range(2):
        for place in range(4):
            y = outputs[row, place]
            gates, mapped = [], []
            for n in range(concepts):
                apart = y - parts["gate.mean"][n]
                apart = parts[METRIC][n].T @ apart if metric else apart
                share = sum((apart @ column) ** 2 for column in parts["gate.basis"][n].T) / (apart @ apart)
                gates.append(1 / (1 + torch.exp(-parts["gate.slope"][n] * (share - 0.4))))
                inner = parts["away.down"][n] @ (y - parts["away.mean"][n])
                mapped.append(parts["to.mean"][n] + parts["to.up"][n] @ inner)
            widest = max(range(concepts), key=lambda n: gates[n])
            chosen.add(widest)
            torch.testing.assert_close(found[row, place], gates[widest] * (mapped[widest] - y))
    assert concepts == 1 or len(chosen) > 1, "the control: not all places are one concept's"


def test_a_gate_is_shut_by_its_slope_and_near_to_noise() -> None:
    outputs, parts = normal(2, 4, 6), maps(1)
    early, late = change(outputs, parts, torch.tensor([500, 499]))
    assert not early.any()
    assert late.any()
    assert not change(outputs, parts | {"gate.slope": torch.zeros(1)}, torch.tensor([100, 100])).any()


def test_moments_are_those_of_all_vectors_together() -> None:
    vectors, point = normal(50, 4), normal(4, seed=1)
    found = Moments.of(vectors[:20].float()) + Moments.of(vectors[20:].float())
    torch.testing.assert_close(found.mean, vectors.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.covariance, vectors.T.cov(correction=0), rtol=1e-5, atol=1e-5)
    about = sum(torch.outer(v - point, v - point) for v in vectors) / 50
    torch.testing.assert_close(found.about(point), about, rtol=1e-5, atol=1e-5)


def test_principal_directions_are_the_svds() -> None:
    matrix = normal(30, 5).T.cov()
    found, reference = principal(matrix, 3), torch.linalg.svd(matrix).Vh[:3].T
    torch.testing.assert_close(found @ found.T, reference @ reference.T)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(matrix @ found[:, :1], torch.linalg.eigvalsh(matrix)[-1] * found[:, :1])


def test_whitened_vectors_are_white() -> None:
    vectors = normal(200, 5) @ normal(5, 5, seed=1)
    covariance = vectors.T.cov(correction=0)
    white = vectors @ whitener(covariance, 1e-9)
    torch.testing.assert_close(white.T.cov(correction=0), torch.eye(5).double(), rtol=1e-5, atol=1e-5)


def test_whitening_sees_what_plain_distances_do_not() -> None:
    """A concept apart in a direction in which nothing else varies, beside one in which all does."""
    spread = torch.tensor([10.0, 0.1, 0.1]).double()
    others, mine = normal(400, 3) * spread, normal(400, 3, seed=1) * spread + torch.tensor([0.0, 2.0, 0.0])
    a, b = Moments.of(others), Moments.of(mine)
    plain = principal(b.about(a.mean), 1)
    metric = whitener(a.covariance, 1e-6)
    white = principal(metric @ b.about(a.mean) @ metric, 1)
    told = [
        (score(mine, a.mean, basis, m).median() - score(others, a.mean, basis, m).median()).item()
        for basis, m in ((plain, None), (white, metric))
    ]
    assert told[0] < 0.1 < 0.5 < told[1]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Attending(6).double()


def test_switched_off_or_shut_the_network_is_the_original(network: nn.Module) -> None:
    x = normal(2, 4, 6)
    plain = network(x, torch.tensor([10, 600]))
    adapter = GatedMaps.fresh(network, 1, 2, 3)
    assert torch.equal(network(x, torch.tensor([10, 600])), plain)
    with torch.no_grad():
        for name, tensor in adapter.factors().items():
            tensor.copy_(maps(1)[name.split("to_out.0.")[1]])
    acted = network(x, torch.tensor([10, 600]))
    assert not torch.allclose(acted[0], plain[0])
    assert torch.equal(acted[1], plain[1]), "nearer to noise than it acts"
    with adapter.off():
        assert torch.equal(network(x, torch.tensor([10, 600])), plain)
    adapter.strength = torch.tensor([0.5, 0.5]).double()
    torch.testing.assert_close(network(x, torch.tensor([10, 600])), plain + 0.5 * (acted - plain))
    torch.testing.assert_close(network(x, timestep=torch.tensor(10))[0], plain[0] + 0.5 * (acted - plain)[0])


def test_maps_that_fit_no_network_are_refused(network: nn.Module) -> None:
    (layer,) = ways_out(network)
    whole = {f"{layer}.{part}": tensor for part, tensor in maps(1).items()}
    GatedMaps(network, whole | {f"{layer}.{METRIC}": normal(1, 6, 6)})
    for change_, message in (
        ({f"{layer}.{PARTS[0]}": None}, "is not whole"),
        ({f"{layer}.to.up": normal(1, 5, 3)}, "do not fit"),
        ({f"{layer}.{METRIC}": normal(1, 6, 5)}, "do not fit"),
        ({f"other.{PARTS[0]}": normal(1, 6, 2)}, "no way out of cross-attention"),
    ):
        factors = {name: tensor for name, tensor in (whole | change_).items() if tensor is not None}
        with pytest.raises(ValueError, match=message):
            GatedMaps(network, factors)
