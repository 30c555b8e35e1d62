"""Selections counted on Stable Diffusion 1.4, built without weights."""

import pytest
import torch
from torch import nn

from lit_memories.ops.select import PREDICATES, select

UNET = [rule for rule, (component, _) in PREDICATES.items() if component == "unet."]
TEXT = [rule for rule in PREDICATES if rule not in UNET]


@pytest.mark.parametrize(
    ("rule", "tensors", "millions"),
    [
        ("full", 686, 859.52),
        ("attn2", 80, 43.96),
        ("attn2-kv", 32, 19.17),
        ("attn2-v", 16, 9.58),
        ("attn1", 80, 49.57),
        ("attn", 160, 93.54),
        ("not-attn2", 598, 813.50),
        ("selfup", 10, 8.19),
        ("text-layers", 192, 85.05),
        ("text-full", 194, 85.06),
    ],
)
def test_counts_are_those_of_the_facts(sd: nn.Module, rule: str, tensors: int, millions: float) -> None:
    chosen = select(sd, rule)
    assert len(chosen) == tensors
    assert sum(parameter.numel() for parameter in chosen.values()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_there_are_rules_for_both_components() -> None:
    assert {"attn2", "selfup", "full"} <= set(UNET)
    assert set(TEXT) == {"text-layers", "text-full", "text-mlp", "text-attn"}


def test_selections_are_parts_of_one_another(sd: nn.Module) -> None:
    of = {rule: set(select(sd, rule)) for rule in PREDICATES}
    assert of["attn2-v"] < of["attn2-kv"] < of["attn2"] < of["attn"] < of["not-time"] < of["full"]
    assert of["attn1"] == of["attn"] - of["attn2"]
    assert of["selfup"] < of["attn1"]
    assert of["not-attn2"] == of["not-time"] - of["attn2"]
    ends = ("unet.time_embedding", "unet.conv_out", "unet.conv_norm_out")
    assert any(name.startswith(ends) for name in of["full"])
    assert not any(name.startswith(ends) for name in of["not-attn2"])


def test_no_rule_leaves_its_component(sd: nn.Module) -> None:
    for rule in PREDICATES:
        prefix = "unet." if rule in UNET else "text_encoder."
        assert all(name.startswith(prefix) for name in select(sd, rule)), rule


def blocks(sd: nn.Module, rule: str) -> set[str]:
    return {name.split(".transformer")[0].removeprefix("unet.") for name in select(sd, rule)}


@pytest.mark.parametrize(
    ("rule", "wanted", "layer"),
    [
        ("xlayer", {"up_blocks.2.attentions.0", "up_blocks.2.attentions.2"}, ".attn2."),
        ("selflayer", {"down_blocks.1.attentions.0", "down_blocks.2.attentions.0"}, ".attn1."),
        ("selfup", {"up_blocks.1.attentions.1", "up_blocks.2.attentions.1"}, ".attn1."),
    ],
)
def test_named_layers_are_the_old_scripts_blocks(sd: nn.Module, rule: str, wanted: set[str], layer: str) -> None:
    """CompVis output blocks 6 and 8, input blocks 4 and 7, output blocks 4 and 7: q, k, v, and out with its bias."""
    assert blocks(sd, rule) == wanted
    assert len(select(sd, rule)) == 10
    assert all(layer in name for name in select(sd, rule))


def test_text_rules_are_whole_layers_or_one_part_of_them(sd: nn.Module) -> None:
    of = {rule: set(select(sd, rule)) for rule in TEXT}
    assert of["text-full"] - of["text-layers"] == {
        "text_encoder.final_layer_norm.weight",
        "text_encoder.final_layer_norm.bias",
    }
    assert len(of["text-mlp"]) == 12 * 4
    assert len(of["text-attn"]) == 12 * 8
    norms = of["text-layers"] - of["text-mlp"] - of["text-attn"]
    assert len(norms) == 12 * 4
    assert all(".layer_norm" in name for name in norms)
    assert not any("embedding" in name for names in of.values() for name in names), "embeddings never change"


def test_text_rules_know_the_older_names_too(sd: nn.Module) -> None:
    """Before transformers 5 a text encoder's parameters began with ``text_model.``."""
    old = nn.ModuleDict({"unet": sd["unet"], "text_encoder": nn.ModuleDict({"text_model": sd["text_encoder"]})})
    for rule in TEXT:
        names = {name.replace("text_encoder.", "text_encoder.text_model.") for name in select(sd, rule)}
        assert set(select(old, rule)) == names


def test_the_parameters_are_the_modules_own(sd: nn.Module) -> None:
    parameters = dict(sd.named_parameters())
    for rule in ("attn2", "text-mlp"):
        assert all(parameter is parameters[name] for name, parameter in select(sd, rule).items())


def test_unknown_and_empty_selections_are_refused(sd: nn.Module) -> None:
    with pytest.raises(ValueError, match="unknown selection 'xattn': choose one of attn2"):
        select(sd, "xattn")
    with pytest.raises(ValueError, match="selection 'attn2' matches none of the model's parameters"):
        select(nn.ModuleDict({"unet": torch.nn.Linear(2, 2)}), "attn2")
    with pytest.raises(ValueError, match="selection 'text-layers' matches none"):
        select(nn.ModuleDict({"unet": sd["unet"]}), "text-layers")
