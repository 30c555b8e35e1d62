"""Low-rank adapters of Stable Diffusion XL: original names of blocks, two text encoders, and bases that are others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.tools.convert import convert

KEYS = {
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    ),
    "lora_unet_input_blocks_2_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_middle_block_1_transformer_blocks_1_ff_net_0_proj": (
        "unet.mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj"
    ),
    "lora_unet_output_blocks_1_2_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_2_0_emb_layers_1": "unet.up_blocks.1.resnets.0.time_emb_proj",
    "lora_unet_label_emb_0_0": "unet.add_embedding.linear_1",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": "text_encoder.encoder.layers.0.mlp.fc1",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1": "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
    "lora_te2_text_projection": "text_encoder_2.text_projection",
}
"""Layers as kohya's files call them; with one layer a block where the real SDXL has two."""
RANK = 2


def factors(weight: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    down = torch.randn(RANK, *weight.shape[1:], generator=generator)
    return down, torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=generator)


def test_each_layer_gets_its_own(model: Diffusion, sdxl: Path, tmp_path: Path) -> None:
    state = {name.replace("text_encoder.text_model.", "text_encoder."): t for name, t in model.state_dict().items()}
    made = {key: factors(state[f"{name}.weight"], seed) for seed, (key, name) in enumerate(KEYS.items())}
    tensors = {}
    for key, (down, up) in made.items():
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "lora.safetensors")
    convert(tmp_path / "lora.safetensors", str(sdxl), tmp_path / "out")
    erased: dict[str, Any] = Diffusion(str(sdxl), tmp_path / "out").state_dict()
    found = {name.replace("text_encoder.text_model.", "text_encoder."): tensor for name, tensor in erased.items()}
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, state[name])}
    assert changed == {f"{name}.weight" for name in KEYS.values()}
    for key, name in KEYS.items():
        down, up = made[key]
        before = state[f"{name}.weight"]
        wanted = before + (up.flatten(1) @ down.flatten(1)).reshape(before.shape) / RANK
        torch.testing.assert_close(found[f"{name}.weight"], wanted, rtol=0, atol=1e-6)


def test_an_adapter_of_stable_diffusion_1_is_refused(sdxl: Path, tmp_path: Path) -> None:
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{key}.lora_down.weight": torch.ones(4, 768), f"{key}.lora_up.weight": torch.ones(320, 4)},
        tmp_path / "lora.safetensors",
    )
    with pytest.raises(ValueError, match=r"768 wide \(as Stable Diffusion 1\), the base's 48: pass the base"):
        convert(tmp_path / "lora.safetensors", str(sdxl), tmp_path / "out")


def test_a_folder_of_the_second_text_encoder(model: Diffusion, sdxl: Path, tmp_path: Path) -> None:
    """It is known by its projection."""
    model.text_encoder_2.text_projection.weight += 1
    model.text_encoder_2.save_pretrained(tmp_path / "text")
    convert(tmp_path / "text", str(sdxl), tmp_path / "out")
    erased = Diffusion(str(sdxl), tmp_path / "out")
    assert erased.erasure is not None
    assert list(erased.erasure.tensors) == ["text_encoder_2.text_projection.weight"]
