"""Checkpoints in one file, in CompVis' layout: the same model as the pipeline they were made of, or an error."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compvis_names import compvis_name
from diffusers import AutoencoderKL, UNet2DConditionModel
from fake_hub import FakeHub
from safetensors.torch import save_file
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.tools.convert import convert
from lit_memories.worlds.fresh import unet_pipeline
from lit_memories.worlds.pictograms import GRAMMAR

pytestmark = pytest.mark.timeout(120)

OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


@pytest.fixture(scope="module")
def folder(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random pipeline with Stable Diffusion's blocks, attention in the autoencoder included."""
    torch.manual_seed(3)
    pipeline = unet_pipeline(GRAMMAR, tiny_autoencoder, (8, 16), 32)
    blocks = ("CrossAttn",) * 3 + ("",)
    pipeline.register_modules(
        unet=UNet2DConditionModel(
            sample_size=16,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in blocks),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(blocks)),
            block_out_channels=(8, 16, 24, 24),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            layers_per_block=2,
            norm_num_groups=4,
            sample_size=64,
        ),
    )
    made = tmp_path_factory.mktemp("single") / "pipeline"
    pipeline.save_pretrained(made)
    return made


def vae_name(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """What CompVis calls a tensor of diffusers' autoencoder, and the shape it has there."""
    name = name.replace("conv_norm_out", "norm_out").replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{2 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{2 - int(m[1])}.upsample", name)
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.([\w.]+)\.(weight|bias)", name):
        part = {"group_norm": "norm", "to_out.0": "proj_out"}.get(match[2], match[2].removeprefix("to_"))
        name = f"{match[1]}.mid.attn_1.{part}.{match[3]}"
        if tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
    return f"first_stage_model.{name}", tensor


def open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors as OpenCLIP has them, which is how Stable Diffusion 2 does."""
    found = {OPEN_CLIP_ENDS[name]: tensor for name, tensor in text.items() if name in OPEN_CLIP_ENDS}
    for name, tensor in text.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            place = f"transformer.resblocks.{match[1]}"
            if match[2] in OPEN_CLIP:
                found[f"{place}.{OPEN_CLIP[match[2]]}.{match[3]}"] = tensor
            elif match[2] == "self_attn.q_proj":
                all_three = [text[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                found[f"{place}.attn.in_proj_{match[3]}"] = torch.cat(all_three)
    found["text_projection"] = torch.zeros(32, 32)
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in found.items()}


@pytest.fixture(scope="module")
def original(folder: Path) -> Diffusion:
    """The pipeline as it is loaded from its folder."""
    return Diffusion(str(folder))


def checkpoint(original: Diffusion, second: bool = False) -> dict[str, Tensor]:
    """All of it under CompVis' names."""
    unet, vae, text = (part.state_dict() for part in (original.unet, original.vae, original.text_encoder))
    bare = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    first = {f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in bare.items()}
    tensors = {
        **{f"model.diffusion_model.{compvis_name(name)}": tensor for name, tensor in unet.items()},
        **dict(vae_name(name, tensor) for name, tensor in vae.items()),
        **(open_clip(bare) if second else first),
        "betas": torch.ones(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(16)[None],
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_one_file_is_the_whole_model(
    suffix: str, folder: Path, original: Diffusion, hub: FakeHub, tmp_path: Path
) -> None:
    file = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": checkpoint(original), "global_step": 3}, file)
    else:
        save_file(checkpoint(original, second=True), file)
    hub.add("me/model", folder)
    model = Diffusion(str(file), config="me/model")
    assert not hub.asked("diffusion_pytorch_model"), "of the configuration's model no weights are needed"
    state = model.state_dict()
    assert set(state) == set(original.state_dict())
    for name, tensor in original.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert model.base == str(file)


def drop(*names: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: [tensors.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("model.diffusion_model.out.2.bias"), r"the unet .*: conv_out\.bias is missing"),
        (drop("first_stage_model.decoder.norm_out.bias"), r"the vae .*: decoder\.conv_norm_out\.bias is missing"),
        (drop("cond_stage_model.transformer.text_model.final_layer_norm.bias"), r"the text_encoder .*is missing"),
        (
            lambda tensors: tensors.update({"first_stage_model.quant_conv.bias": torch.ones(3)}),
            r"the vae .*quant_conv\.bias",
        ),
        (drop("model.diffusion_model.output_blocks.2.1.conv.bias"), r"the unet .*output_blocks\.2\.1\.conv\.bias"),
        (lambda tensors: tensors.clear(), "do not fill the model that .*unet describes"),
    ],
)
def test_a_file_that_does_not_fill_the_model_is_an_error(
    change: Callable[[dict[str, Tensor]], Any], said: str, folder: Path, original: Diffusion, tmp_path: Path
) -> None:
    tensors = checkpoint(original)
    change(tensors)
    torch.save(tensors, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=said) as error:
        Diffusion(str(tmp_path / "model.ckpt"), config=str(folder))
    assert "\n" not in str(error.value)


def test_what_goes_with_a_file_and_what_not(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    for options in ({}, {"config": str(folder), "variant": "fp16"}, {"config": str(folder), "revision": "main"}):
        with pytest.raises(ValueError, match="single file: say with config"):
            Diffusion(str(tmp_path / "model.ckpt"), **options)
    with pytest.raises(ValueError, match="leave out config"):
        Diffusion(str(folder), config=str(folder))
    with pytest.raises(FileNotFoundError, match="it has no model_index"):
        Diffusion(str(tmp_path / "model.ckpt"), config=str(tmp_path))


@pytest.mark.parametrize("second", [False, True], ids=["CLIP", "OpenCLIP"])
def test_what_was_changed_in_a_file_becomes_an_erasure(
    second: bool, folder: Path, original: Diffusion, tmp_path: Path
) -> None:
    """A text encoder is not passed over, whoever's it is."""
    tensors = checkpoint(original, second)
    names = ("unet.conv_out.bias", "text_encoder.encoder.layers.0.self_attn.k_proj.bias")
    tensors["model.diffusion_model.out.2.bias"] = tensors["model.diffusion_model.out.2.bias"] + 1
    if second:
        key, width = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", 32
        tensors[key] = tensors[key].clone()
        tensors[key][width : 2 * width] += 1
    else:
        key = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.k_proj.bias"
        tensors[key] = tensors[key] + 1
    save_file(tensors, tmp_path / "erased.safetensors")
    convert(tmp_path / "erased.safetensors", str(folder), tmp_path / "out")
    erased = Diffusion(str(folder), tmp_path / "out")
    assert erased.erasure is not None
    assert {name.replace("text_model.", "") for name in erased.erasure.tensors} == set(names)
    for name, tensor in erased.erasure.tensors.items():
        assert torch.equal(tensor, original.state_dict()[name] + 1)
