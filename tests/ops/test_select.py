"""Selections counted on Stable Diffusion 1.4's U-Net, built without weights."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from lit_memories.ops.select import PREDICATES, select


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            layers_per_block=2,
            attention_head_dim=8,
        )


@pytest.mark.parametrize(
    ("rule", "tensors", "millions"),
    [
        ("full", 686, 859.52),
        ("attn2", 80, 43.96),
        ("attn2-kv", 32, 19.17),
        ("attn1", 80, 49.57),
        ("attn", 160, 93.54),
        ("not-attn2", 598, 813.50),
    ],
)
def test_counts_are_those_of_the_facts(unet: UNet2DConditionModel, rule: str, tensors: int, millions: float) -> None:
    chosen = select(unet, rule)
    assert len(chosen) == tensors
    assert sum(parameter.numel() for parameter in chosen.values()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_selections_are_parts_of_one_another(unet: UNet2DConditionModel) -> None:
    of = {rule: set(select(unet, rule)) for rule in PREDICATES}
    assert of["attn2-kv"] < of["attn2"] < of["attn"] < of["not-time"] < of["full"]
    assert of["attn1"] == of["attn"] - of["attn2"]
    assert of["not-attn2"] == of["not-time"] - of["attn2"]
    assert not any(name.startswith(("time_embedding", "conv_out", "conv_norm_out")) for name in of["not-attn2"])


def test_xlayer_and_selflayer_are_the_old_scripts_blocks(unet: UNet2DConditionModel) -> None:
    """CompVis output blocks 6 and 8, input blocks 4 and 7; five tensors each: q, k, v, and out with its bias."""
    prefixes = {name.split(".transformer")[0] for name in select(unet, "xlayer")}
    assert prefixes == {"up_blocks.2.attentions.0", "up_blocks.2.attentions.2"}
    assert len(select(unet, "xlayer")) == 10
    assert all(".attn2." in name for name in select(unet, "xlayer"))
    prefixes = {name.split(".transformer")[0] for name in select(unet, "selflayer")}
    assert prefixes == {"down_blocks.1.attentions.0", "down_blocks.2.attentions.0"}
    assert len(select(unet, "selflayer")) == 10
    assert all(".attn1." in name for name in select(unet, "selflayer"))


def test_the_parameters_are_the_modules_own(unet: UNet2DConditionModel) -> None:
    parameters = dict(unet.named_parameters())
    assert all(parameter is parameters[name] for name, parameter in select(unet, "attn2").items())


def test_unknown_and_empty_selections_are_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ValueError, match="unknown selection 'xattn': choose one of attn2"):
        select(unet, "xattn")
    with pytest.raises(ValueError, match="selection 'attn2' matches none of the Linear's parameters"):
        select(torch.nn.Linear(2, 2), "attn2")
