"""Weights of others for Stable Diffusion 3 and FLUX: adapters in each way that people save them, and whole weights.

The authors' layouts are written down here once more, from the model's names to theirs, and held to diffusers' own
converters: an adapter is right if the model is, in its authors' layout, W + alpha / rank U D.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure
from lit_memories.storage.weights import WeightFile
from lit_memories.tools.authors import diffusers_named
from lit_memories.tools.convert import convert

State = dict[str, Tensor]
RANK, ALPHA = 3, 1.5
JOINED = ["to_q", "to_k", "to_v"]
TEXT_JOINED = ["add_q_proj", "add_k_proj", "add_v_proj"]


def swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def flux_layout(state: Mapping[str, Tensor]) -> State:
    """A FLUX in the layout of Black Forest Labs."""
    found: State = {}
    roots = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear"}
    embedders = {"timestep": "time_in", "text": "vector_in", "guidance": "guidance_in"}
    for name, theirs in embedders.items():
        for number, place in ((1, "in"), (2, "out")):
            roots[f"time_text_embed.{name}_embedder.linear_{number}"] = f"{theirs}.{place}_layer"
    ends = {
        "norm1.linear": "img_mod.lin",
        "norm1_context.linear": "txt_mod.lin",
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    }
    singles = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
    singles |= {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", name)
        if name == "norm_out.linear":
            found[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(tensor)
        elif not match:
            found[f"{roots[name]}.{kind}"] = tensor
        else:
            table, stack = (singles, "single_blocks") if match[1] else (ends, "double_blocks")
            if match[3] in table:
                kind = "scale" if "norm." in table[match[3]] else kind
                found[f"{stack}.{match[2]}.{table[match[3]]}.{kind}"] = tensor
                continue
            prefix = key[: match.start(3)]
            parts = [f"attn.{part}" for part in (TEXT_JOINED if ".add_" in name else JOINED)]
            parts += ["proj_mlp"] * bool(match[1])
            place = "linear1" if match[1] else f"{'txt' if '.add_' in name else 'img'}_attn.qkv"
            found[f"{stack}.{match[2]}.{place}.{kind}"] = torch.cat([state[f"{prefix}{x}.{kind}"] for x in parts])
    return found


def sd3_layout(state: Mapping[str, Tensor]) -> State:
    """A Stable Diffusion 3 in the layout of Stability AI."""
    found: State = {}
    roots = {"pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder"}
    roots["proj_out"] = "final_layer.linear"
    for name, theirs in (("timestep", "t"), ("text", "y")):
        for number in (1, 2):
            roots[f"time_text_embed.{name}_embedder.linear_{number}"] = f"{theirs}_embedder.mlp.{2 * number - 2}"
    ends = {
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "attn.to_out.0": "x_block.attn.proj",
        "attn2.to_out.0": "x_block.attn2.proj",
        "attn.to_add_out": "context_block.attn.proj",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }
    for x in "qk":
        ends |= {f"attn.norm_{x}": f"x_block.attn.ln_{x}", f"attn2.norm_{x}": f"x_block.attn2.ln_{x}"}
        ends[f"attn.norm_added_{x}"] = f"context_block.attn.ln_{x}"
    last = max(int(key.split(".")[1]) for key in state if key.startswith("transformer_blocks."))
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        if key == "pos_embed.pos_embed":
            found["pos_embed"] = tensor
        elif name == "norm_out.linear":
            found[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(tensor)
        elif not match:
            found[f"{roots[name]}.{kind}"] = tensor
        elif match[2] in ends:
            turned = match[2] == "norm1_context.linear" and int(match[1]) == last
            found[f"joint_blocks.{match[1]}.{ends[match[2]]}.{kind}"] = swapped(tensor) if turned else tensor
        else:
            attention = match[2].split(".")[0]
            text = ".add_" in name
            parts = [f"{key[: match.start(2)]}{attention}.{x}.{kind}" for x in (TEXT_JOINED if text else JOINED)]
            block = "context_block" if text else "x_block"
            found[f"joint_blocks.{match[1]}.{block}.{attention}.qkv.{kind}"] = torch.cat([state[x] for x in parts])
    return found


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], State]] = {"sd3": sd3_layout, "flux-dev": flux_layout}
NAMES = pytest.mark.parametrize("name", LAYOUTS)


@pytest.fixture(scope="module")
def originals(flows: dict[str, Path]) -> dict[str, Diffusion]:
    """Models that nothing may change."""
    return {name: Diffusion(str(flows[name])) for name in LAYOUTS}


@pytest.fixture(autouse=True)
def _read_once(
    flows: dict[str, Path], originals: dict[str, Diffusion], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    by_folder = {str(flows[name]): model for name, model in originals.items()}
    monkeypatch.setattr("lit_memories.tools.convert.Diffusion", lambda base, revision=None: by_folder[base])
    yield
    for model in by_folder.values():
        assert model.weights_fingerprint() == model.fingerprint


def erased(tensors: Mapping[str, Tensor], base: Path, tmp_path: Path, **options: Any) -> tuple[Diffusion, Erasure]:
    """A model with the erasure that a file is made into."""
    metadata = options.pop("metadata", None)
    save_file({key: x.contiguous().clone() for key, x in tensors.items()}, tmp_path / "a.safetensors", metadata)
    convert(tmp_path / "a.safetensors", str(base), tmp_path / "out", **options)
    return Diffusion(str(base), tmp_path / "out"), Erasure.load(tmp_path / "out")


def factors(weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """D and U for layers, by their names."""
    found = {}
    for number, (name, weight) in enumerate(weights.items()):
        generator = Generator().manual_seed(number)
        down = 0.3 * torch.randn(RANK, *weight.shape[1:], generator=generator)
        found[name] = down, 0.3 * torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=generator)
    return found


def layers_of(layout: State) -> State:
    return {key.removesuffix(".weight"): x for key, x in layout.items() if key.endswith(".weight") and x.ndim > 1}


def holds(found: State, before: State, made: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
    """Asserts that layers are W + scale U D, in float64, and that all else is as it was."""
    assert found.keys() == before.keys()
    for key, tensor in before.items():
        layer = key.removesuffix(".weight")
        if layer not in made or key == layer:
            assert torch.equal(found[key], tensor), key
            continue
        down, up = (factor.double().flatten(1) for factor in made[layer])
        wanted = tensor.double() + scale * (up @ down).reshape(tensor.shape)
        torch.testing.assert_close(found[key].double(), wanted, rtol=0, atol=2e-6, msg=lambda s, key=key: key + s)


# --- the layouts that are written down here are diffusers' -----------------------------------------------------------


def numbered(state: Mapping[str, Tensor]) -> State:
    """Each row another number; of columns one is enough."""
    return {key: torch.arange(len(x)).float()[:, None] + 1e6 * number for number, (key, x) in enumerate(state.items())}


def tall() -> nn.Module:
    """FLUX as high as it is, for diffusers takes its height for granted."""
    with torch.device("meta"):
        return FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)


@NAMES
def test_layouts_are_those_that_diffusers_converts(name: str, originals: dict[str, Diffusion]) -> None:
    network = tall() if name == "flux-dev" else originals["sd3"].network
    converter: Any = (
        convert_flux_transformer_checkpoint_to_diffusers
        if name == "flux-dev"
        else convert_sd3_transformer_checkpoint_to_diffusers
    )
    state = numbered(network.state_dict())
    layout = LAYOUTS[name](state)
    theirs = converter(dict(layout))
    ours = diffusers_named(WeightFile(Path("x"), layout), network, {})
    ours = {key.removeprefix("transformer."): tensor for key, tensor in ours.items()}
    assert ours.keys() == theirs.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(theirs[key], tensor), key
        assert torch.equal(ours[key], tensor), key


# --- adapters --------------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("form", ["kohya", "ComfyUI"])
def test_adapters_in_the_authors_names(
    form: str, name: str, flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path
) -> None:
    """Of all layers at once, those that are joined among them."""
    before = LAYOUTS[name](originals[name].network.state_dict())
    made = factors(layers_of(before))
    assert sum("qkv" in layer or "linear1" in layer for layer in made) >= 3
    tensors: State = {}
    for layer, (down, up) in made.items():
        if form == "kohya":
            label = f"lora_unet_{layer.replace('.', '_')}"
            tensors |= {f"{label}.lora_down.weight": down, f"{label}.lora_up.weight": up}
            tensors[f"{label}.alpha"] = torch.tensor(ALPHA)
        else:
            label = f"diffusion_model.{layer}"
            tensors |= {f"{label}.lora_A.weight": down, f"{label}.lora_B.weight": up}
    model, erasure = erased(tensors, flows[name], tmp_path)
    holds(LAYOUTS[name](model.network.state_dict()), before, made, ALPHA / RANK if form == "kohya" else 1.0)
    assert erasure.is_adapter
    assert erasure.provenance.settings["alpha"] == (
        "recorded in the file" if form == "kohya" else "assumed to be the rank"
    )


@NAMES
@pytest.mark.parametrize("form", ["peft", "with alphas", "old", "OneTrainer", "header"])
def test_adapters_in_diffusers_names(
    form: str, name: str, flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path
) -> None:
    before = dict(originals[name].network.state_dict())
    made = factors({k: x for k, x in layers_of(before).items() if "blocks.0." in k})
    tensors, metadata = {}, None
    for layer, (down, up) in made.items():
        keys = {
            "old": (f"transformer.{layer}.lora.down.weight", f"transformer.{layer}.lora.up.weight"),
            "OneTrainer": tuple(f"lora_transformer_{layer.replace('.', '_')}.lora_{x}.weight" for x in ("down", "up")),
        }.get(form, (f"transformer.{layer}.lora_A.weight", f"transformer.{layer}.lora_B.weight"))
        tensors |= dict(zip(keys, (down, up), strict=True))
        if form in ("with alphas", "OneTrainer"):
            tensors[f"{keys[0].rsplit('.lora_', 1)[0]}.alpha"] = torch.tensor(ALPHA)
    if form == "header":
        config = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.peft_type": "LORA"}
        metadata = {"lora_adapter_metadata": json.dumps(config)}
    model, _ = erased(tensors, flows[name], tmp_path, metadata=metadata)
    holds(model.network.state_dict(), before, made, 1.0 if form in ("peft", "old") else ALPHA / RANK)


def test_adapters_of_xlabs(flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path) -> None:
    before = flux_layout(originals["flux-dev"].network.state_dict())
    places = {
        "double_blocks.0.img_attn.qkv": "double_blocks.0.processor.qkv_lora1",
        "double_blocks.0.txt_attn.qkv": "double_blocks.0.processor.qkv_lora2",
        "double_blocks.0.img_attn.proj": "double_blocks.0.processor.proj_lora1",
        "double_blocks.0.txt_attn.proj": "double_blocks.0.processor.proj_lora2",
        "single_blocks.0.linear2": "single_blocks.0.processor.proj_lora",
    }
    made = factors({layer: before[f"{layer}.weight"] for layer in places})
    tensors = {
        f"{places[layer]}.{x}.weight": factor
        for layer, pair in made.items()
        for x, factor in zip(("down", "up"), pair, strict=True)
    }
    model, _ = erased(tensors, flows["flux-dev"], tmp_path)
    holds(flux_layout(model.network.state_dict()), before, made, 1.0)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sd3", {"te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}),
        ("flux-dev", {"te1": "text_encoder", "te3": "text_encoder_2"}),
    ],
)
def test_text_encoders_by_kohyas_numbers(
    name: str, numbers: dict[str, str], flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path
) -> None:
    encoders, tensors, made = originals[name].conditioning.encoders, {}, {}
    for number, part in numbers.items():
        layer = "encoder.block.0.layer.0.SelfAttention.q" if number == "te3" else "encoder.layers.0.mlp.fc1"
        key = next(k for k in encoders[part].state_dict() if k.endswith(f"{layer}.weight"))
        made[f"{part}.{key.removesuffix('.weight')}"] = pair = factors({key: encoders[part].state_dict()[key]})[key]
        label = f"lora_{number}_{'' if number == 'te3' else 'text_model_'}{layer.replace('.', '_')}"
        tensors |= {f"{label}.lora_down.weight": pair[0], f"{label}.lora_up.weight": pair[1]}
    model, _ = erased(tensors, flows[name], tmp_path)
    holds(dict(model.state_dict()), dict(originals[name].state_dict()), made, 1.0)


def test_lengths_of_joined_layers(flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path) -> None:
    """DoRA's by outputs come apart with the outputs; by inputs they are of all of them together."""
    before = flux_layout(originals["flux-dev"].network.state_dict())
    layer = "single_blocks.0.linear1"
    down, up = factors({layer: before[f"{layer}.weight"]})[layer]
    lengths = 0.5 + torch.rand(len(up), 1, generator=Generator().manual_seed(0))
    label = "lora_unet_single_blocks_0_linear1"
    tensors = {f"{label}.lora_down.weight": down, f"{label}.lora_up.weight": up, f"{label}.dora_scale": lengths}
    model, _ = erased(tensors, flows["flux-dev"], tmp_path)
    moved = before[f"{layer}.weight"] + up @ down
    wanted = lengths * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(flux_layout(model.network.state_dict())[f"{layer}.weight"], wanted)
    tensors[f"{label}.dora_scale"] = torch.ones(1, down.shape[1])
    assert "lengths of the inputs of layers that the base has apart" in refusal(tensors, flows["flux-dev"], tmp_path)


def test_a_gate_reaches_transformers(flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path) -> None:
    layer = "transformer_blocks.0.attn.to_q"
    down, up = factors(layers_of(dict(originals["sd3"].network.state_dict())))[layer]
    tensors = {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
    model, _ = erased(tensors, flows["sd3"], tmp_path, gate=["Van Gogh"])
    assert (model.adapter is not None, model.gate_prompts) == (True, ["Van Gogh"])


# --- as diffusers itself loads and fuses them ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"), [("flux-dev", "kohya"), ("flux-dev", "XLabs"), ("flux-dev", "peft"), ("sd3", "peft")]
)
def test_weights_are_those_that_diffusers_fuses(
    name: str, form: str, flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path
) -> None:
    """But `linear1`, of which diffusers takes the real FLUX's height for granted."""
    pytest.importorskip("peft", reason="it is no requirement of this package")
    from diffusers import DiffusionPipeline

    state = dict(originals[name].network.state_dict())
    if form == "peft":
        weights = {f"transformer.{k}": x for k, x in layers_of(state).items() if "blocks.0." in k}
        ends = ("lora_A.weight", "lora_B.weight")
    elif form == "XLabs":
        layout = flux_layout(state)
        weights = {
            f"double_blocks.0.processor.{kind}_lora{number}": layout[f"double_blocks.0.{stream}_attn.{kind}.weight"]
            for kind in ("qkv", "proj")
            for number, stream in ((1, "img"), (2, "txt"))
        }
        ends = ("down.weight", "up.weight")
    else:
        layout = layers_of(flux_layout(state))
        weights = {
            f"lora_unet_{k.replace('.', '_')}": x for k, x in layout.items() if "blocks." in k and "linear1" not in k
        }
        ends = ("lora_down.weight", "lora_up.weight")
    tensors = {f"{k}.{end}": x for k, pair in factors(weights).items() for end, x in zip(ends, pair, strict=True)}
    tensors |= {f"{k}.alpha": torch.tensor(ALPHA) for k in weights if form == "kohya"}
    model, _ = erased(tensors, flows[name], tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(flows[name])
    pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for key, wanted in pipeline.transformer.state_dict().items():
        torch.testing.assert_close(
            model.network.state_dict()[key], wanted, rtol=0, atol=2e-6, msg=lambda s, key=key: key + s
        )


# --- whole weights ---------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("form", ["diffusers", "authors", "part"])
def test_whole_weights(
    form: str, name: str, flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path
) -> None:
    state = {key: tensor.clone() for key, tensor in originals[name].network.state_dict().items()}
    changed = {"transformer_blocks.0.attn.add_k_proj.weight", "norm_out.linear.bias"}
    for key in changed:
        state[key] += torch.arange(len(state[key])).reshape(-1, *[1] * (state[key].ndim - 1))
    tensors = {f"transformer.{key}": x for key, x in state.items() if form == "diffusers" or key in changed}
    if form == "authors":
        tensors = {f"model.diffusion_model.{key}": x for key, x in LAYOUTS[name](state).items()}
        tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(1)
    model, erasure = erased(tensors, flows[name], tmp_path)
    assert set(erasure.tensors) == {f"transformer.{key}" for key in changed}
    assert erasure.provenance.settings["format"] == ("partial" if form == "part" else "transformer")
    for key, tensor in state.items():
        assert torch.equal(model.network.state_dict()[key], tensor), key


@pytest.mark.parametrize(("name", "part"), [("sd3", "text_encoder_2"), ("sd3", "text_encoder_3")])
def test_text_encoders_are_known_by_what_they_have(
    name: str, part: str, flows: dict[str, Path], originals: dict[str, Diffusion], tmp_path: Path
) -> None:
    encoder = Diffusion(str(flows[name])).conditioning.encoders[part]
    chosen = next(
        parameter for key, parameter in encoder.named_parameters() if key.endswith((".q.weight", "fc1.weight"))
    )
    chosen.data += 1
    encoder.save_pretrained(tmp_path / "text")
    convert(tmp_path / "text", str(flows[name]), tmp_path / "out")
    (key,) = Erasure.load(tmp_path / "out").tensors
    assert key.startswith(f"{part}.")


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(tensors: Mapping[str, Tensor], base: Path, tmp_path: Path) -> str:
    """The one line that a file is refused with; nothing is written."""
    save_file(dict(tensors), tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"bad\.safetensors") as error:
        convert(tmp_path / "bad.safetensors", str(base), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


Q = "transformer.transformer_blocks.0.attn.to_q"
PAIR = {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (32, 4)}
JOINT = "lora_unet_joint_blocks_0_x_block_attn_qkv"


@pytest.mark.parametrize(
    ("name", "keys", "wanted"),
    [
        (
            "sd3",
            {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 32)},
            "it is for FLUX, and the base is",
        ),
        ("sd3", {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 32)}, "it is for FLUX, and"),
        ("flux-dev", {f"{JOINT}.lora_down.weight": (4, 32)}, "it is for Stable Diffusion 3, and the base is FLUX"),
        (
            "flux-dev",
            {"transformer.transformer_blocks.0.attn2.to_q.lora_A.weight": (4, 32)},
            "for Stable Diffusion 3, ",
        ),
        ("sd3", {f"{Q}.lora_A.weight": (4, 3072)}, "its transformer is 3072 wide (as FLUX.1), the base's 32: pass the"),
        ("sd3", {f"{JOINT}.lora_down.weight": (4, 2432)}, "2432 wide (as Stable Diffusion 3.5 large), the base's 32"),
        ("sd3", {"transformer.transformer_blocks.2.attn.to_q.lora_A.weight": (4, 32)}, "the base has 2 blocks of its"),
        ("sd3", {"transformer.transformer_blocks.1.attn2.to_q.lora_A.weight": (4, 32)}, "the base has nothing for"),
        ("flux-dev", {"lora_unet_single_blocks_1_linear2.lora_down.weight": (4, 32)}, "the base has 1 blocks of its"),
        ("sd3", {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 8)}, "for a U-Net, and the base"),
        ("flux-dev", {"unet.mid_block.attentions.0.proj_in.lora_A.weight": (4, 8)}, "it is for a U-Net, and the base"),
        ("sd3", {f"{Q}.lora_A.weight": (4, 32)}, f"has only one of the two factors of {Q}"),
        ("sd3", {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (32, 3)}, "have ranks 4 and 3, and not one"),
        ("sd3", {f"{Q}.lora_A.weight": (4, 31), f"{Q}.lora_B.weight": (32, 4)}, "are (4, 31) and (32, 4), the base"),
        ("sd3", {f"{JOINT}.lora_down.weight": (4, 32), f"{JOINT}.lora_up.weight": (95, 4)}, "has 32 + 32 + 32 rows"),
        ("sd3", PAIR | {f"{Q}.dora_scale": (7, 1)}, "lengths of DoRA (7, 1) are neither (32, 1) nor (1, 32)"),
        ("sd3", {f"{Q}.lokr_w1": (4, 4)}, "is no plain LoRA but LoKr"),
        ("flux-dev", {f"{Q}.hada_w1_a": (32, 4)}, "of LoHa is missing"),
        (
            "flux-dev",
            {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.bias": (32,)},
            "no plain LoRA but a LoRA with biases",
        ),
        (
            "flux-dev",
            {"text_encoder_3.encoder.block.9.layer.0.SelfAttention.q.lora_A.weight": (4, 48)},
            "a text_encoder_3, and",
        ),
        ("flux-dev", {"lora_te3_encoder_block_9_layer_0_SelfAttention_q.lora_down.weight": (4, 48)}, "nothing for"),
        (
            "sd3",
            {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (96, 32)},
            "it is for FLUX, and the base",
        ),
        (
            "sd3",
            {"joint_blocks.0.x_block.attn.qkv.weight": (95, 32)},
            "is (95, 32), and the base has 32 + 32 + 32 rows",
        ),
        ("sd3", {"model.diffusion_model.input_blocks.0.0.weight": (4, 4)}, "it is for a U-Net, and the base"),
    ],
)
def test_a_refusal_names_its_reason(
    name: str, keys: dict[str, tuple[int, ...]], wanted: str, flows: dict[str, Path], tmp_path: Path
) -> None:
    assert wanted in refusal({key: torch.ones(shape) for key, shape in keys.items()}, flows[name], tmp_path)
