"""Checkpoints of Stable Diffusion 3 and FLUX in one file, in their authors' layouts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from test_single_file import vae_name
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion

ROOT = Path(__file__).parents[2]
T5, CLIP_L, CLIP_G = (f"text_encoders.{name}.transformer." for name in ("t5xxl", "clip_l", "clip_g"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("flows")
    concept = Concept(**yaml.safe_load((ROOT / "recipes/sd14/concepts/van_gogh.yaml").read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tests/flow"))
        from flow_pipelines import flux_pipeline, sd3_pipeline

        for name, make in (("sd3", sd3_pipeline), ("flux", flux_pipeline)):
            make(concept, root / f"{name}-words").save_pretrained(root / name)
        yield {name: root / name for name in ("sd3", "flux")}


def swapped(tensor: Tensor) -> Tensor:
    """Scale and shift, which the layouts have in different order."""
    return torch.cat(tensor.chunk(2)[::-1])


def sd3_names(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A transformer's tensors as Stability's file has them."""
    found = {"pos_embed": state["pos_embed.pos_embed"]}
    plain = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "context_embedder": "context_embedder",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
    }
    for i in range(layers):
        there, here = f"joint_blocks.{i}", f"transformer_blocks.{i}"
        last = i == layers - 1
        plain |= {
            f"{there}.x_block.attn.proj": f"{here}.attn.to_out.0",
            f"{there}.x_block.mlp.fc1": f"{here}.ff.net.0.proj",
            f"{there}.x_block.mlp.fc2": f"{here}.ff.net.2",
            f"{there}.x_block.adaLN_modulation.1": f"{here}.norm1.linear",
        }
        if not last:
            plain |= {
                f"{there}.context_block.attn.proj": f"{here}.attn.to_add_out",
                f"{there}.context_block.mlp.fc1": f"{here}.ff_context.net.0.proj",
                f"{there}.context_block.mlp.fc2": f"{here}.ff_context.net.2",
                f"{there}.context_block.adaLN_modulation.1": f"{here}.norm1_context.linear",
            }
        joined = {
            "x_block.attn": ("attn.to_{}", "attn.norm_{}"),
            "context_block.attn": ("attn.add_{}_proj", "attn.norm_added_{}"),
        }
        if f"{here}.attn2.to_q.weight" in state:
            joined["x_block.attn2"] = "attn2.to_{}", "attn2.norm_{}"
            plain[f"{there}.x_block.attn2.proj"] = f"{here}.attn2.to_out.0"
        for name, (layer, norm) in joined.items():
            for kind in ("weight", "bias"):
                found[f"{there}.{name}.qkv.{kind}"] = torch.cat(
                    [state[f"{here}.{layer.format(x)}.{kind}"] for x in "qkv"]
                )
            for x in "qk":
                found[f"{there}.{name}.ln_{x}.weight"] = state[f"{here}.{norm.format(x)}.weight"]
        for kind in ("weight", "bias"):
            if last:
                name = f"{there}.context_block.adaLN_modulation.1.{kind}"
                found[name] = swapped(state[f"{here}.norm1_context.linear.{kind}"])
    for kind in ("weight", "bias"):
        found[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(state[f"norm_out.linear.{kind}"])
        found |= {f"{there}.{kind}": state[f"{here}.{kind}"] for there, here in plain.items()}
    return {f"model.diffusion_model.{name}": tensor.clone() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def parts(models: dict[str, Path]) -> dict[str, Tensor]:
    """What a file of Stable Diffusion 3's network and text encoders holds."""
    model = Diffusion.from_pretrained(models["sd3"])
    found = sd3_names(model.network.state_dict(), 2)
    for prefix, encoder in zip((CLIP_L, CLIP_G, T5), model.conditioning.encoders.values(), strict=True):
        names = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        names.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
        found |= {f"{prefix}{name}": tensor for name, tensor in names.items()}
    return found


def test_translated_parts_are_the_models_own(models: dict[str, Path], parts: dict[str, Tensor]) -> None:
    from lit_memories.storage.single_file import translate

    model = Diffusion.from_pretrained(models["sd3"])
    for name, module in [("transformer", model.network), *model.conditioning.encoders.items()]:
        found, state = translate(name, parts, module), module.state_dict()
        assert found.keys() == state.keys(), name
        assert all(torch.equal(found[key], state[key]) for key in state), name


def test_a_file_of_flux_is_the_whole_model(models: dict[str, Path], tmp_path: Path) -> None:
    """As ComfyUI saves one, the autoencoder as ``vae.``."""
    model = Diffusion.from_pretrained(models["flux"])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tests/flow"))
        from test_flow_lora import flux_layout
    held = {f"model.diffusion_model.{k}": x for k, x in flux_layout(model.network.state_dict()).items()}
    for prefix, encoder in zip((CLIP_L, T5), model.conditioning.encoders.values(), strict=True):
        held |= {f"{prefix}{k}": x for k, x in encoder.state_dict().items() if not k.endswith("embed_tokens.weight")}
    names = dict(vae_name(name, tensor) for name, tensor in model.vae.state_dict().items())
    held |= {k.replace("first_stage_model.", "vae."): x for k, x in names.items()}
    save_file({k: x.clone().contiguous() for k, x in held.items()}, tmp_path / "model.safetensors")
    one = Diffusion(str(tmp_path / "model.safetensors"), config=str(models["flux"]))
    state = one.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    more = held | {"model.diffusion_model.double_blocks.9.img_mod.lin.bias": torch.zeros(3)}
    less = {name: tensor for name, tensor in held.items() if "guidance_in.in_layer.bias" not in name}
    for bad, said in (
        (more, "double_blocks.9.img_mod.lin.bias, which the .* has not"),
        (less, "linear_1.bias is missing"),
    ):
        save_file({k: x.clone().contiguous() for k, x in bad.items()}, tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match=said):
            Diffusion(str(tmp_path / "bad.safetensors"), config=str(models["flux"]))


def test_one_file_is_the_whole_model(models: dict[str, Path], parts: dict[str, Tensor], tmp_path: Path) -> None:
    model = Diffusion.from_pretrained(models["sd3"])
    vae = dict(vae_name(name, tensor) for name, tensor in model.vae.state_dict().items())
    save_file({**parts, **{k: x.contiguous() for k, x in vae.items()}}, tmp_path / "model.safetensors")
    one = Diffusion(str(tmp_path / "model.safetensors"), config=str(models["sd3"]))
    state = one.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("sd3", "model.diffusion_model.joint_blocks.0.x", "holds no vae, as files of a network alone do"),
        ("flux", "double_blocks.0.img_attn.qkv.weight", "holds no vae, as files of a network alone do"),
        ("sd3", "unet.x", "does not fit the transformer configured"),
    ],
)
def test_files_of_something_else_are_refused(
    name: str, key: str, said: str, models: dict[str, Path], tmp_path: Path
) -> None:
    save_file({key: torch.zeros(1 << 20)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=said) as caught:
        Diffusion(str(tmp_path / "model.safetensors"), config=str(models[name]))
    assert "\n" not in str(caught.value)


def test_a_file_of_the_network_alone_says_what_to_do(
    models: dict[str, Path], parts: dict[str, Tensor], tmp_path: Path
) -> None:
    alone = {name: tensor for name, tensor in parts.items() if name.startswith("model.")}
    save_file(alone, tmp_path / "network.safetensors")
    with pytest.raises(
        ValueError, match="holds no vae, as files of a network alone do: give the pipeline in diffusers"
    ):
        Diffusion(str(tmp_path / "network.safetensors"), config=str(models["sd3"]))
