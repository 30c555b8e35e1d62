"""What erasers may change of Stable Diffusion 3.5 medium and FLUX.1-dev: counted by hand from their shapes."""

import pytest
import torch
from real_transformers import REAL
from torch import nn

from lit_memories.ops.adapters import attention_layers, initial_factors
from lit_memories.ops.select import TRANSFORMER, Selection, select


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a layer with bias."""
    return (inputs + 1) * outputs


S, F = linear(1536, 1536), linear(3072, 3072)
"""A projection of attention."""
COUNTS = [
    # 24 blocks; the last one's text is not read any more, so that it has no way out; 13 blocks are dual.
    ("sd35", "attn2-kv", 2 * 48, 48 * S),
    ("sd35", "attn2", 2 * (3 * 24 + 23), (3 * 24 + 23) * S),
    ("sd35", "attn1", 2 * 4 * (24 + 13), 4 * (24 + 13) * S),
    ("sd35", "attn", 2 * (3 * 24 + 23 + 4 * 37), (3 * 24 + 23 + 4 * 37) * S),
    ("sd35", "context", 2, linear(4096, 1536)),
    ("sd35", "embedders", 2, (4096 + 2048) * 1536),
    ("sd35", "full", 908, 2_243_171_520),
    # 19 blocks of two streams, 38 of one; what leaves these is part of a larger layer.
    ("flux", "attn2-kv", 2 * 38, 38 * F),
    ("flux", "attn2", 2 * 4 * 19, 4 * 19 * F),
    ("flux", "attn1", 2 * 4 * 19, 4 * 19 * F),
    ("flux", "single", 2 * 3 * 38, 3 * 38 * F),
    ("flux", "attn", 2 * (8 * 19 + 3 * 38), (8 * 19 + 3 * 38) * F),
    ("flux", "context", 2, linear(4096, 3072)),
    ("flux", "embedders", 2, (4096 + 768) * 3072),
    ("flux", "full", 1160, 11_901_408_320),
]


@pytest.fixture(scope="module")
def real() -> dict[str, nn.Module]:
    return {name: make() for name, make in REAL.items()}


@pytest.mark.parametrize(("model", "rule", "tensors", "parameters"), COUNTS)
def test_counts_follow_from_the_shapes(
    model: str, rule: Selection, tensors: int, parameters: int, real: dict[str, nn.Module]
) -> None:
    chosen = select(real[model], rule)
    assert len(chosen) == tensors
    assert sum(parameter.numel() for parameter in chosen.values()) == parameters


@pytest.mark.parametrize("model", REAL)
def test_selections_are_parts_of_one_another(model: str, real: dict[str, nn.Module]) -> None:
    of = {rule: set(select(real[model], rule)) for rule in TRANSFORMER if (model, rule) != ("sd35", "single")}
    assert of["attn2-kv"] < of["attn2"] < of["attn"] < of["not-time"] < of["full"]
    assert of["attn"] == of["attn1"] | of["attn2"] | of.get("single", set())
    assert not of["attn1"] & of["attn2"]
    assert of["not-attn2"] == of["not-time"] - of["attn2"]
    assert of["embedders"] - of["context"] == {"transformer.time_text_embed.text_embedder.linear_1.weight"}
    ends = {name.split(".")[1] for name in of["full"] - of["not-time"]}
    assert ends == {"time_text_embed", "norm_out", "proj_out"}
    assert all(name.startswith("transformer.") for names in of.values() for name in names)


@pytest.mark.parametrize(("model", "rule"), [("sd35", "single"), ("sd35", "selfup"), ("flux", "xlayer")])
def test_a_rule_without_a_match_says_which_there_are(model: str, rule: Selection, real: dict[str, nn.Module]) -> None:
    known = "attn2, attn2-kv, attn1, attn, not-attn2, not-time, full"
    with pytest.raises(ValueError, match=f"selection '{rule}' matches none .* choose one of {known}"):
        select(real[model], rule)


def test_text_rules_are_refused_where_several_encoders_read(real: dict[str, nn.Module]) -> None:
    encoders = {"text_encoder": nn.Linear(1, 1), "text_encoder_2": nn.Linear(1, 1)}
    with pytest.raises(ValueError, match="'text-full' is for a model with one text encoder"):
        select(nn.ModuleDict({**dict(real["sd35"].named_children()), **encoders}), "text-full")


@pytest.mark.parametrize(
    ("model", "layers", "parameters"),
    [
        # attention, and feed-forward of picture and text: 4 and 2, 3 and 1 (all but the last) and 2 (all but the last).
        ("sd35", 24 * (4 + 3 + 2) + 23 * 3 + 13 * 4, 2 * 1536 * (24 * 7 + 23 + 13 * 4) + 5 * 1536 * 2 * (24 + 23)),
        (
            "flux",
            19 * (8 + 4) + 38 * 5,
            2 * 3072 * (19 * 8 + 38 * 3) + 5 * 3072 * 38 * 2 + 5 * 3072 * 38 + 6 * 3072 * 38,
        ),
    ],
)
def test_adapters_stand_beside_attention_and_feed_forward(
    model: str, layers: int, parameters: int, real: dict[str, nn.Module]
) -> None:
    found = attention_layers(real[model].transformer)
    assert len(found) == layers
    assert not any("norm" in name or name.startswith(("context", "x_embed", "time")) for name in found)
    shapes = [layer.weight.shape for layer in found.values()]
    assert sum(inputs + outputs for outputs, inputs in shapes) == parameters


def test_factors_are_stored_in_float32() -> None:
    layers = {"a": nn.Linear(3, 4, dtype=torch.bfloat16), "b": nn.Linear(3, 4, dtype=torch.float64)}
    factors = initial_factors(layers, 1, torch.Generator().manual_seed(0))
    assert factors["a.lora_down"].dtype == factors["a.lora_up"].dtype == torch.float32
    assert factors["b.lora_up"].dtype == torch.float64
