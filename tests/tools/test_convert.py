"""Converters: a file in a method's own layout becomes an erasure that computes what the file's model computes."""

import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from compvis_names import compvis_name
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure
from lit_memories.ops.adapters import attention_layers
from lit_memories.tools.convert import convert
from lit_memories.tools.names import compvis_names

PROMPTS = ["umbrella", "a red castle on a blue background"]


pytestmark = pytest.mark.usefixtures("read_once")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "erasure"


def noise(seed: int, like: Tensor, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(like.shape, generator=Generator().manual_seed(seed))


def changed(base: str, choose: Callable[[str], bool]) -> tuple[Diffusion, set[str]]:
    """The base with some tensors of U-Net and text encoder moved, and their names."""
    model = Diffusion(base)
    state = model.state_dict()
    names = {name for name in state if not name.startswith("vae.") and choose(name)}
    for seed, name in enumerate(sorted(names)):
        state[name] += noise(seed, state[name])
    assert names
    return model, names


def of(model: nn.Module, component: str, names: set[str] | None = None) -> dict[str, Tensor]:
    """A component's tensors under its own names, all or some."""
    return {
        name.removeprefix(f"{component}."): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(f"{component}.") and (names is None or name in names)
    }


@torch.no_grad()
def predict(model: Diffusion) -> Tensor:
    latents = model.draw_seeds([Generator().manual_seed(seed) for seed in range(len(PROMPTS))])
    return model.predict_noise(latents, 481, model.encode_prompts(PROMPTS))


def is_model(base: str, original: Diffusion, out: Path, model: Diffusion, names: set[str], form: str) -> Erasure:
    """Asserts that the erasure holds what was changed and nothing else, and computes the same to the bit."""
    erased = Diffusion(base, out)
    assert erased.erasure is not None
    assert set(erased.erasure.tensors) == names
    prediction = predict(erased)
    assert torch.equal(prediction, predict(model))
    assert not torch.equal(prediction, predict(original))
    provenance = erased.erasure.provenance
    assert provenance.settings["format"] == provenance.method == form
    assert (provenance.base, provenance.base_fingerprint) == (base, original.fingerprint)
    assert provenance.gate is None
    return erased.erasure


def is_attn2_kv(name: str) -> bool:
    return ".attn2.to_k." in name or ".attn2.to_v." in name


# --- state dicts with diffusers' names -------------------------------------------------------------------------------


def test_it_says_where_the_erasure_is_and_what_audits_it(
    base: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, names = changed(base, lambda name: name == "unet.conv_out.weight")
    save_file(of(model, "unet", names), tmp_path / "esd.safetensors")
    convert(tmp_path / "esd.safetensors", base, out, "umbrella")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"the erasure is in {out}; to audit it: lit-memories predict --config RECIPE ")
    assert f"--model.diffusion.base {base} --model.diffusion.erasure {out}" in line


def test_a_full_unet(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, lambda name: ".attn1." in name)
    torch.save(of(model, "unet"), tmp_path / "full.pt")
    convert(tmp_path / "full.pt", base, out)
    erasure = is_model(base, original, out, model, names, "unet")
    assert erasure.provenance.settings["source"] == "full.pt"
    assert erasure.provenance.concept == {"name": "unknown"}


def test_a_partial_unet_of_esd_or_uce(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, is_attn2_kv)
    assert len(names) == 32, "as in Stable Diffusion"
    save_file(of(model, "unet", names), tmp_path / "uce.safetensors")
    convert(tmp_path / "uce.safetensors", base, out, concept="umbrella", method="UCE")
    provenance = Erasure.load(out).provenance
    assert (provenance.method, provenance.concept) == ("UCE", {"name": "umbrella"})
    convert(tmp_path / "uce.safetensors", base, tmp_path / "plain")
    is_model(base, original, tmp_path / "plain", model, names, "partial")


def test_the_suffix_says_nothing(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, is_attn2_kv)
    save_file(of(model, "unet", names), tmp_path / "esd.pt")
    convert(tmp_path / "esd.pt", base, out)
    is_model(base, original, out, model, names, "partial")
    torch.save(of(model, "unet", names), tmp_path / "esd.safetensors", _use_new_zipfile_serialization=False)
    convert(tmp_path / "esd.safetensors", base, tmp_path / "renamed")
    is_model(base, original, out, model, names, "partial")


@pytest.mark.parametrize("prefix", ["unet.", "module.unet."])
def test_prefixes_of_wrappers(prefix: str, base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, lambda name: name.startswith("unet.conv_"))
    torch.save({f"{prefix}{k}": v for k, v in of(model, "unet").items()}, tmp_path / "full.pt")
    convert(tmp_path / "full.pt", base, out)
    is_model(base, original, out, model, names, "unet")


def test_the_modules_of_esd(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """A dict of state dicts, with modules among them whose weights did not move."""
    model, names = changed(base, lambda name: ".attn2.to_q." in name or ".attn2.to_out.0." in name)
    modules = {
        f"unet.{name}": module.state_dict()
        for name, module in model.unet.named_modules()
        if isinstance(module, nn.Linear) and ".attn2." in name
    }
    assert len(modules) == 64
    torch.save(modules, tmp_path / "esd.pt")
    convert(tmp_path / "esd.pt", base, out)
    is_model(base, original, out, model, names, "modules")


def test_the_delta_of_ac(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, is_attn2_kv)
    parameters = {name: nn.Parameter(tensor).clone() for name, tensor in of(model, "unet", names).items()}
    torch.save({"unet": parameters}, tmp_path / "delta.bin")
    convert(tmp_path / "delta.bin", base, out)
    is_model(base, original, out, model, names, "delta")


def test_the_delta_of_ac_for_embeddings(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, lambda name: "token_embedding" in name)
    text = {f"text_model.{bare(name)}": tensor for name, tensor in of(model, "text_encoder").items()}
    torch.save({"unet": {}, "text_encoder": text}, tmp_path / "delta.bin")
    convert(tmp_path / "delta.bin", base, out)
    is_model(base, original, out, model, names, "delta")


def test_rounding_to_half_precision_is_no_erasure(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """ESD's code trains in bfloat16: every tensor differs from the base's in the last bits, only some were trained."""
    model, names = changed(base, is_attn2_kv)
    rounded = {name: tensor.bfloat16() for name, tensor in of(model, "unet").items()}
    save_file(rounded, tmp_path / "esd.safetensors")
    convert(tmp_path / "esd.safetensors", base, out)
    assert {tensor.dtype for tensor in load_file(out / "erasure.safetensors").values()} == {torch.bfloat16}
    state = model.state_dict()
    for name in names:
        state[name].copy_(state[name].bfloat16())
    is_model(base, original, out, model, names, "unet")


# --- text encoders ---------------------------------------------------------------------------------------------------


def bare(name: str) -> str:
    """A text encoder's name without the prefix that some versions of transformers give it."""
    return name.removeprefix("text_model.")


def is_trained_text(name: str) -> bool:
    return name.startswith("text_encoder.") and (".layers." in name or "final_layer_norm" in name)


POSITIONS = {"embeddings.position_ids": torch.arange(8)[None]}


@pytest.mark.parametrize("prefix", ["", "text_model."], ids=["new names", "old names"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_text_encoder_folder(
    file: str, prefix: str, base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    model, names = changed(base, is_trained_text)
    tensors = {f"{prefix}{bare(k)}": v for k, v in (of(model, "text_encoder") | POSITIONS).items()}
    folder = tmp_path / "AdvUnlearn"
    model.text_encoder.config.save_pretrained(folder)
    (save_file if file.endswith(".safetensors") else torch.save)(tensors, folder / file)
    convert(folder, base, out)
    erasure = is_model(base, original, out, model, names, "text-encoder")
    assert erasure.provenance.settings["source"] == "AdvUnlearn"


def test_a_folder_as_transformers_saves_it(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, is_trained_text)
    model.text_encoder.save_pretrained(tmp_path / "text")
    convert(tmp_path / "text", base, out)
    is_model(base, original, out, model, names, "text-encoder")


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickles"])
def test_a_text_encoder_in_shards(pickled: bool, base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """As transformers saved large ones; what is not as the index says is refused."""
    model, names = changed(base, is_trained_text)
    tensors = of(model, "text_encoder")
    kind, save = ("pytorch_model", torch.save) if pickled else ("model", save_file)
    suffix = "bin" if pickled else "safetensors"
    shards = [f"{kind}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    places = {name: shards[number % 2] for number, name in enumerate(sorted(tensors))}
    folder = tmp_path / "text"
    folder.mkdir()
    for shard in shards:
        save({name: tensor for name, tensor in tensors.items() if places[name] == shard}, folder / shard)
    index = folder / f"{kind}.{suffix}.index.json"
    with pytest.raises(FileNotFoundError, match="weights in shards and no index"):
        convert(folder, base, out)
    index.write_text(json.dumps({"metadata": {}, "weight_map": places | {next(iter(places)): shards[1]}}))
    with pytest.raises(ValueError, match="copy the shards anew"):
        convert(folder, base, out)
    assert not out.exists()
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    convert(folder, base, out)
    is_model(base, original, out, model, names, "text-encoder")
    (folder / shards[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"nor a folder with .* files of weights are {shards[0]}"):
        convert(folder, base, out)


def test_the_wrapper_of_advunlearn(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """Its module holds the text encoder and, under names of its own, the parts of it once more."""
    model, names = changed(base, is_trained_text)
    wrapped = {}
    for name, tensor in (of(model, "text_encoder") | POSITIONS).items():
        wrapped[f"text_encoder.text_model.{bare(name)}"] = tensor
        wrapped[bare(name).replace("embeddings.", "embedding.", 1)] = tensor
    assert "embedding.token_embedding.weight" in wrapped
    torch.save(wrapped, tmp_path / "TextEncoder-text_encoder_full-epoch_999.pt")
    convert(tmp_path / "TextEncoder-text_encoder_full-epoch_999.pt", base, out)
    is_model(base, original, out, model, names, "text-encoder")


@pytest.mark.parametrize("prefix", ["module.", "text_encoder.", "module.text_encoder.text_model."])
def test_prefixes_of_text_encoders(prefix: str, base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, is_trained_text)
    torch.save({f"{prefix}{bare(k)}": v for k, v in of(model, "text_encoder").items()}, tmp_path / "text.pt")
    convert(tmp_path / "text.pt", base, out)
    is_model(base, original, out, model, names, "text-encoder")


def test_two_tensors_for_one_name_are_refused(base: str, tmp_path: Path, out: Path) -> None:
    model, _ = changed(base, is_trained_text)
    tensors = {f"text_model.{bare(k)}": v for k, v in of(model, "text_encoder").items()}
    tensors["final_layer_norm.bias"] = tensors["text_model.final_layer_norm.bias"] + 1
    refused(tensors, r"two different tensors for text_encoder\.\S*final_layer_norm\.bias", base, tmp_path, out)


# --- CompVis ---------------------------------------------------------------------------------------------------------


def compvis(model: Diffusion) -> dict[str, Tensor]:
    """A checkpoint in CompVis's layout, with all that stands in one beside the U-Net."""
    unet = {f"model.diffusion_model.{compvis_name(name)}": tensor for name, tensor in of(model, "unet").items()}
    assert len(unet) == 686
    text = {
        f"cond_stage_model.transformer.text_model.{bare(k)}": v
        for k, v in (of(model, "text_encoder") | POSITIONS).items()
    }
    average = {f"model_ema.{key.removeprefix('model.').replace('.', '')}": torch.zeros(1) for key in unet}
    rest = {"betas": torch.ones(1000), "first_stage_model.encoder.conv_in.weight": torch.full((8, 3, 3, 3), torch.nan)}
    return unet | text | average | rest


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_compvis_checkpoint(wrapped: bool, base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """Every tensor of the U-Net is another one, so that none can land in a wrong place."""
    model, names = changed(base, lambda name: name.startswith("unet."))
    assert len(names) == 686
    checkpoint: dict[str, Any] = compvis(model)
    if wrapped:
        optimiser = {"state": {0: {"exp_avg": torch.ones(2)}}}
        checkpoint = {"state_dict": checkpoint, "epoch": 1, "global_step": 9, "optimizer": optimiser}
    torch.save(checkpoint, tmp_path / "compvis.ckpt")
    convert(tmp_path / "compvis.ckpt", base, out)
    is_model(base, original, out, model, names, "compvis")


def test_the_delta_of_acs_compvis_code(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """Keys and values of cross-attention alone, under CompVis' names, as its get_deltas.py leaves them."""
    model, names = changed(base, is_attn2_kv)
    delta = {key: tensor for key, tensor in compvis(model).items() if re.search(r"attn2\.to_[kv]", key)}
    assert len(delta) == len(names)
    torch.save({"state_dict": delta}, tmp_path / "delta.ckpt")
    convert(tmp_path / "delta.ckpt", base, out)
    is_model(base, original, out, model, names, "compvis")


def test_attention_of_another_model_is_refused(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    key = "model.diffusion_model.input_blocks.30.1.transformer_blocks.0.attn2.to_k.weight"
    refused({key: torch.ones(2)}, r"does not fit: .*transformer_blocks\.0\.attn2\.to_k", base, tmp_path, out)


def test_a_compvis_checkpoint_with_another_text_encoder(
    base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    model, names = changed(base, lambda name: is_trained_text(name) or ".attn2." in name)
    save_file(compvis(model), tmp_path / "compvis.safetensors")
    convert(tmp_path / "compvis.safetensors", base, out)
    is_model(base, original, out, model, names, "compvis")


def drop(*names: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in names:
            del tensors[f"model.diffusion_model.{name}"]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("out.2.bias"), r"incomplete: it lacks unet\.conv_out\.bias$"),
        (drop("input_blocks.3.0.op.bias"), r"incomplete: it lacks unet\.down_blocks\.0\.downsamplers\.0\.conv\.bias$"),
        (drop("output_blocks.2.1.conv.bias"), r"incomplete: it lacks unet\.up_blocks\.0\.upsamplers\.0\.conv\.bias$"),
        (
            lambda tensors: tensors.update({"model.diffusion_model.label_emb.weight": torch.ones(2)}),
            r"the base has nothing for model\.diffusion_model\.label_emb\.weight$",
        ),
    ],
)
def test_a_compvis_checkpoint_of_another_kind_is_refused(
    change: Callable[[dict[str, Tensor]], None], message: str, base: str, tmp_path: Path, out: Path
) -> None:
    model, _ = changed(base, is_attn2_kv)
    tensors = compvis(model)
    change(tensors)
    refused(tensors, message, base, tmp_path, out)


# --- adapters --------------------------------------------------------------------------------------------------------

RANK, ALPHA = 2, 0.5


def adapter(model: Diffusion, alpha: float | None = ALPHA) -> dict[str, Tensor]:
    """An adapter in SPM's layout on all attention layers, and the model with it worked in by hand."""
    layers = attention_layers(model.unet)
    assert len(layers) == 192, "as in Stable Diffusion"
    tensors = {}
    for seed, (name, layer) in enumerate(layers.items()):
        weight, key = layer.weight, f"lora_unet_{name.replace('.', '_')}"
        down = noise(seed, torch.empty(RANK, *weight.shape[1:]), 0.5)
        up = noise(1000 + seed, torch.empty(weight.shape[0], RANK, *[1] * (weight.ndim - 2)), 0.5)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / RANK
        weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    assert {tensor.ndim for key, tensor in tensors.items() if "lora_down" in key} == {2, 4}, "Linear and Conv2d"
    return tensors


@pytest.fixture(scope="module")
def spm(base: str) -> tuple[dict[str, Tensor], Diffusion]:
    model = Diffusion(base)
    return adapter(model), model


def save_spm(tensors: Mapping[str, Tensor], file: Path, **metadata: str) -> Path:
    save_file({k: v.clone() for k, v in tensors.items()}, file, {"rank": str(RANK), "alpha": str(ALPHA), **metadata})
    return file


def equals_merged(base: str, out: Path, model: Diffusion, original: Diffusion, gated: bool = False) -> None:
    wanted = predict(model)
    torch.testing.assert_close(predict(Diffusion(base, out, gated=gated)), wanted, rtol=0, atol=1e-5)
    assert (wanted - predict(original)).abs().max() > 1e-2


def test_spm_is_an_adapter_with_a_gate(
    spm: tuple[dict[str, Tensor], Diffusion], base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    tensors, model = spm
    convert(save_spm(tensors, tmp_path / "spm.safetensors", prompts="umbrella"), base, out)
    erasure = Erasure.load(out)
    assert erasure.provenance.gate == ["umbrella"]
    assert erasure.provenance.concept == {"name": "umbrella"}
    assert (erasure.provenance.method, erasure.provenance.settings["format"]) == ("adapter", "adapter")
    assert len(erasure.tensors) == 2 * 192
    equals_merged(base, out, model, original)

    gated = Diffusion(base, out)
    embeds = gated.encode_prompts(PROMPTS)
    concept, other = embeds[:, -1, 0].tolist()
    assert concept == pytest.approx(1, abs=1e-6)
    assert other < 0.9
    got, merged, plain = predict(gated), predict(model), predict(original)
    torch.testing.assert_close(got[0], merged[0], rtol=0, atol=1e-5)
    assert (got[1] - plain[1]).norm() < (merged[1] - plain[1]).norm()


@pytest.mark.parametrize(
    ("prompts", "gate", "wanted"),
    [
        ("umbrella, red castle,", None, ["umbrella", "red castle"]),
        ("umbrella, red", ["umbrella, red"], ["umbrella, red"]),
        ("umbrella", [], None),
        ("", None, None),
        (None, None, None),
        (None, ["umbrella"], ["umbrella"]),
    ],
)
def test_where_the_gate_comes_from(
    prompts: str | None,
    gate: list[str] | None,
    wanted: list[str] | None,
    spm: tuple[dict[str, Tensor], Diffusion],
    base: str,
    tmp_path: Path,
    out: Path,
) -> None:
    metadata = {} if prompts is None else {"prompts": prompts}
    convert(save_spm(spm[0], tmp_path / "spm.safetensors", **metadata), base, out, gate=gate)
    assert Erasure.load(out).provenance.gate == wanted


@pytest.mark.parametrize("alpha", [ALPHA, None])
def test_a_lora_without_prompts_is_merged(
    alpha: float | None, base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    """Without alpha too, which then is the rank; and from a pickle, which has no metadata."""
    model = Diffusion(base)
    torch.save(adapter(model, alpha), tmp_path / "lora.pt")
    convert(tmp_path / "lora.pt", base, out)
    equals_merged(base, out, model, original, gated=True)


def test_an_alpha_may_be_a_plain_number(
    spm: tuple[dict[str, Tensor], Diffusion], base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    """Left out, it would count as the rank, and the adapter be twice as strong or more."""
    tensors, model = spm
    plain = {key: float(tensor) if key.endswith(".alpha") else tensor for key, tensor in tensors.items()}
    assert sum(isinstance(value, float) for value in plain.values()) > 0
    torch.save(plain, tmp_path / "lora.pt")
    convert(tmp_path / "lora.pt", base, out)
    equals_merged(base, out, model, original)


def test_factors_of_a_linear_may_be_written_as_of_a_convolution(
    spm: tuple[dict[str, Tensor], Diffusion], base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    tensors, model = spm
    swapped = {k: v[..., None, None] if v.ndim == 2 else v.flatten(1) if v.ndim == 4 else v for k, v in tensors.items()}
    assert any(swapped[key].ndim != tensor.ndim for key, tensor in tensors.items())
    convert(save_spm(swapped, tmp_path / "spm.safetensors", prompts="umbrella"), base, out)
    equals_merged(base, out, model, original)


def test_layers_that_an_adapter_leaves_alone_are_left_out(
    spm: tuple[dict[str, Tensor], Diffusion], base: str, tmp_path: Path, out: Path
) -> None:
    tensors = {
        key: torch.zeros_like(v) if "down_blocks" in key and "up.weight" in key else v for key, v in spm[0].items()
    }
    convert(save_spm(tensors, tmp_path / "spm.safetensors"), base, out)
    names = Erasure.load(out).tensors
    assert names
    assert not any("down_blocks" in name for name in names)


LAYER = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_unet_nowhere.lora_up.weight": torch.ones(2, 1)}, r"nothing for lora_unet_nowhere\.lora_up\.weight$"),
        ({"lora_te_text_model.lora_up.weight": torch.ones(2, 1)}, r"nothing for lora_te_text_model"),
        (
            {f"{LAYER}.dora_scale": torch.ones(2)},
            r"lengths of DoRA \(2,\) are neither \(24, 1, 1, 1\) nor \(1, 24, 1, 1",
        ),
        ({f"{LAYER}.lora_up.weight": torch.ones(24, 3)}, r"factors of unet\.mid_block\.att\S+ have ranks 2 and 3, and"),
        (
            {f"{LAYER}.lora_down.weight": torch.ones(RANK, 23)},
            r"does not fit: factors of unet\.mid_block\.att.*\(2, 23\)",
        ),
        ({f"{LAYER}.lora_down.weight": torch.ones(())}, r"does not fit: factors of unet\.mid_block"),
        ({f"{LAYER}.lora_down.weight": torch.full((RANK, 24), torch.nan)}, r"NaN or infinity in unet\.mid_block"),
        ({f"{LAYER}.alpha": torch.tensor(torch.inf)}, r"alpha of unet\.mid_block\.attentions\.0\.proj_in is no finite"),
        ({f"{LAYER}.lora_up.weight": None}, r"only one of the two factors of unet\.mid_block\.attentions\.0\.proj_in"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    change: dict[str, Tensor | None],
    message: str,
    spm: tuple[dict[str, Tensor], Diffusion],
    base: str,
    tmp_path: Path,
    out: Path,
) -> None:
    tensors = {key: tensor for key, tensor in {**spm[0], **change}.items() if tensor is not None}
    refused(tensors, message, base, tmp_path, out)


def test_an_adapter_of_zeros_is_refused(
    spm: tuple[dict[str, Tensor], Diffusion], base: str, tmp_path: Path, out: Path
) -> None:
    for part in ("up.weight", "down.weight", "alpha"):
        tensors = {key: torch.zeros_like(v) if key.endswith(part) else v for key, v in spm[0].items()}
        refused(tensors, "changes nothing", base, tmp_path, out)


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(content: object, message: str, base: str, tmp_path: Path, out: Path) -> None:
    """Asserts that a pickle with some content is an error of one line, and that nothing is written."""
    torch.save(content, tmp_path / "refused.pt")
    refused_file(tmp_path / "refused.pt", message, base, out)


def refused_file(file: Path, message: str, base: str, out: Path, **options: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        convert(file, base, out, **options)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert not out.exists()


def test_a_missing_file_is_named(base: str, tmp_path: Path, out: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt: there is no such file or folder"):
        convert(tmp_path / "nowhere.pt", base, out)
    with pytest.raises(
        FileNotFoundError, match=r"nor a folder with model\.safetensors or adapter_model\.safetensors or "
    ):
        convert(tmp_path, base, out)
    torch.save({"conv_in.bias": torch.ones(8)}, tmp_path / "esd.pt")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "esd.pt", str(tmp_path / "no base"), out)
    assert not out.exists()


def test_a_pipeline_needs_no_conversion(base: str, out: Path) -> None:
    refused_file(Path(base), "is a whole pipeline, which needs no conversion", base, out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"decoder.weight": torch.ones(2)}, r"unknown format: it holds decoder\.weight; known are .*CompVis"),
        ({f"a{i}": torch.ones(2) for i in range(5)}, "it holds a0, a1, a2 and 2 more; known are"),
        ({}, "unknown format: it holds no tensors"),
        ({"epoch": 3}, "unknown format: it holds no tensors"),
        ([torch.ones(2)], "holds a list, not tensors by name"),
        (torch.ones(2), "holds a Tensor, not tensors by name"),
        ({"unet": {"nowhere.weight": torch.ones(2), "conv_in.bias": torch.ones(8)}}, r"nothing for unet\.nowhere\.wei"),
        ({"vae.conv_in.bias": torch.ones(8), "conv_out.bias": torch.ones(4)}, r"nothing for vae\.conv_in\.bias$"),
        ({"conv_in.bias": torch.ones(9)}, r"does not fit: unet\.conv_in\.bias is \(9,\), the base has \(8,\) there"),
        ({"conv_in.bias": torch.full((8,), torch.nan)}, r"NaN or infinity in unet\.conv_in\.bias"),
        ({"conv_in.bias": torch.full((8,), torch.inf)}, r"NaN or infinity in unet\.conv_in\.bias"),
        ({"conv_in.bias": torch.ones(8, dtype=torch.int64)}, r"no weight for unet\.conv_in\.bias but int64"),
        ({"conv_in.bias": torch.ones(8).to_sparse()}, r"no weight for unet\.conv_in\.bias but float32, torch\.sparse"),
        ({"conv_in.bias": torch.ones(8, device="meta")}, r"no weight for unet\.conv_in\.bias but .* on meta"),
    ],
)
def test_what_does_not_fit_is_refused(content: object, message: str, base: str, tmp_path: Path, out: Path) -> None:
    refused(content, message, base, tmp_path, out)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"note": "ours"}, "note is a str, neither tensor nor number, and would be lost"),
        ({"more": [torch.ones(1)]}, "more is a list"),
        ({"flag": True}, "flag is a bool"),
        ({"nothing": None}, "nothing is a NoneType"),
        ({"a": {"b": {"c": {"d": torch.ones(1)}}}}, r"a\.b\.c is a dict"),
        ({"scale": 2.0}, "the base has nothing for scale"),
    ],
)
def test_nothing_of_a_file_is_lost(
    extra: dict[str, Any], message: str, base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    refused(of(original, "unet") | extra, message, base, tmp_path, out)


def test_tensors_beside_a_state_dict_are_not_lost(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    content = {"state_dict": of(original, "unet"), "text_encoder": {"x": torch.ones(1)}}
    refused(content, "holds tensors in 'text_encoder' beside its state_dict", base, tmp_path, out)


def test_how_training_stood_is_no_weight(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    model, names = changed(base, is_attn2_kv)
    stood = {"epoch": 3, "global_step": 100, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}, "args": "x"}
    for number, content in enumerate((of(model, "unet") | stood, {"state_dict": of(model, "unet")} | stood)):
        torch.save(content, tmp_path / f"{number}.pt")
        convert(tmp_path / f"{number}.pt", base, out / str(number))
        is_model(base, original, out / str(number), model, names, "unet")


def test_a_pickle_that_contains_itself_is_refused(base: str, tmp_path: Path, out: Path) -> None:
    content: dict[str, Any] = {}
    content["again"] = content
    refused(content, "unknown format", base, tmp_path, out)


def test_weights_of_the_base_are_no_erasure(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    refused(of(original, "unet"), "changes nothing", base, tmp_path, out)
    refused(of(original, "text_encoder"), "changes nothing", base, tmp_path, out)
    refused(compvis(original), "changes nothing", base, tmp_path, out)
    refused({k: v.half() for k, v in of(original, "unet").items()}, "changes nothing", base, tmp_path, out)


def test_part_of_a_text_encoder_is_no_folder_of_one(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """Of another depth, say: the base's other layers would stay in place."""
    tensors = {name: tensor + 1 for name, tensor in of(original, "text_encoder").items() if ".layers.1." not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"incomplete: it lacks text_encoder\.\S*layers\.1\.\S+, .* and \d+ more$"):
        convert(tmp_path, base, out)
    assert not out.exists()


def test_only_adapters_have_gates(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    torch.save({"conv_in.bias": torch.ones(8)}, tmp_path / "esd.pt")
    refused_file(tmp_path / "esd.pt", "is no adapter", base, out, gate=["umbrella"])


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04 no archive", b"\x80\x02}.", b"\x02" + b"\0" * 7 + b"{}"]
)
def test_damaged_files_are_refused(content: bytes, base: str, tmp_path: Path, out: Path) -> None:
    (tmp_path / "damaged.pt").write_bytes(content)
    refused_file(tmp_path / "damaged.pt", "refused|damaged|unknown format", base, out)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_refused(suffix: str, base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    file = tmp_path / f"cut.{suffix}"
    (torch.save if suffix == "pt" else save_file)(of(original, "unet"), file)
    file.write_bytes(file.read_bytes()[:-100])
    refused_file(file, "damaged", base, out)


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["erased.pt", "erased.safetensors", "folder/pytorch_model.bin"])
def test_code_in_a_pickle_is_never_run(way: str, name: str, base: str, tmp_path: Path, out: Path) -> None:
    """Whatever the file is called, and if the rest of it is in order."""
    file, marker = tmp_path / name, tmp_path / "executed"
    file.parent.mkdir(exist_ok=True)
    content = {"conv_in.bias": torch.ones(8), "config": Payload(marker)}
    if way == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(ValueError, match=r"refused: it is damaged.*needs code to be run") as error:
        convert(file.parent if name.startswith("folder") else file, base, out)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    assert not out.exists()
    with file.open("rb") as stream:  # the bait is good: unpickled without care it does create the folder
        (pickle.load if way == "pickle" else lambda f: torch.load(f, weights_only=False))(stream)
    assert marker.exists()


def test_the_message_names_what_a_pickle_asks_for(base: str, tmp_path: Path, out: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    refused_file(tmp_path / "module.pt", r"it asks for torch\.nn\.modules\.linear\.Linear", base, out)


# --- wrappers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda unet: {f"_orig_mod.{k}": v for k, v in unet.items()},
        lambda unet: {k.replace("attentions.", "_orig_mod.attentions.", 1): v for k, v in unet.items()},
        lambda unet: {f"model.module.unet._orig_mod.{k}": v for k, v in unet.items()},
        lambda unet: {"unet_state_dict": unet},
        lambda unet: {"model": {"state_dict": {f"module.{k}": v for k, v in unet.items()}, "epoch": 3}, "step": 9},
        lambda unet: {"checkpoint": {"ema": {"params": {"unet": unet}}}, "optimizer": {"state": {0: torch.ones(1)}}},
        lambda unet: {"epoch": 1, "params": {"weights": unet}},
    ],
)
def test_wrappers_of_any_depth(
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]], base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    model, names = changed(base, is_attn2_kv)
    torch.save(wrap(of(model, "unet")), tmp_path / "full.pt")
    convert(tmp_path / "full.pt", base, out, method="M")
    erased = Diffusion(base, out)
    assert erased.erasure is not None
    assert set(erased.erasure.tensors) == names
    assert torch.equal(predict(erased), predict(model))


def test_two_sets_of_weights_are_refused_by_their_names(
    base: str, original: Diffusion, tmp_path: Path, out: Path
) -> None:
    model, _ = changed(base, is_attn2_kv)
    content = {"model": of(original, "unet"), "ema": of(model, "unet")}
    refused(content, r"two different tensors for unet\.\S+: model\.\S+ and ema\.", base, tmp_path, out)


def test_tied_weights(base: str, original: Diffusion, tmp_path: Path, out: Path) -> None:
    """Two names of one tensor in a pickle."""
    model, _ = changed(base, lambda name: name.endswith("attn2.to_k.weight"))
    tensors = of(model, "unet")
    one, two = [name for name in tensors if "down_blocks.0" in name and name.endswith("attn2.to_k.weight")]
    tensors[two] = tensors[one]
    torch.save({one: tensors[one], two: tensors[two]}, tmp_path / "tied.pt")
    convert(tmp_path / "tied.pt", base, out)
    found = Erasure.load(out).tensors
    assert torch.equal(found[f"unet.{one}"], found[f"unet.{two}"])


def test_weights_of_other_models_are_no_unknown_format(base: str, tmp_path: Path, out: Path) -> None:
    """A part of SDXL's, of Flux', of a second text encoder's."""
    key = "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight"
    refused({key: torch.ones(2)}, rf"does not fit: the base has nothing for {key}$", base, tmp_path, out)
    key = "transformer.single_transformer_blocks.3.attn.to_k.weight"
    refused({key: torch.ones(2)}, r"is for a transformer, as Flux", base, tmp_path, out)
    text = {"conv_in.bias": torch.ones(8), "text_encoder_2.text_model.final_layer_norm.bias": torch.ones(2)}
    refused(text, r"for a model with a text_encoder_2, and the base has text_encoder alone", base, tmp_path, out)


def test_an_erasure_survives_conversions_that_fail(
    base: str, original: Diffusion, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is refused, another erasure, and a disk that is full before the last file is written."""
    model, names = changed(base, is_attn2_kv)
    torch.save(of(model, "unet", names), tmp_path / "good.pt")
    (tmp_path / "again").mkdir()
    convert(tmp_path / "good.pt", base, out, concept="umbrella")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    torch.save({"conv_in.bias": torch.ones(9)}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="does not fit"):
        convert(tmp_path / "bad.pt", base, out)
    with pytest.raises(ValueError, match=r"holds another erasure, partial of umbrella and .*: choose another OUT, or"):
        convert(tmp_path / "good.pt", base, out, concept="another")
    torch.save({name: 2 * tensor for name, tensor in of(model, "unet", names).items()}, tmp_path / "other.pt")
    (tmp_path / "other.pt").rename(tmp_path / "again" / "good.pt")
    with pytest.raises(ValueError, match=r"holds other weights, of a source of the same name: choose another OUT"):
        convert(tmp_path / "again" / "good.pt", base, out, concept="umbrella")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    convert(tmp_path / "good.pt", base, out, concept="umbrella")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Erasure, "card", full)
    with pytest.raises(OSError, match="No space left"):
        convert(tmp_path / "good.pt", base, out, concept="umbrella")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (out / "erasure.safetensors").write_bytes(b"damaged")
    monkeypatch.undo()
    convert(tmp_path / "good.pt", base, out, concept="umbrella")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_compvis_names_of_sdxl() -> None:
    """As kohya's files have them."""
    pairs = {
        "down_blocks.1.attentions.0.transformer_blocks.0.norm1": "input_blocks.4.1.transformer_blocks.0.norm1",
        "down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "mid_block.attentions.0.proj_out": "middle_block.1.proj_out",
        "mid_block.resnets.1.conv1": "middle_block.2.in_layers.2",
        "up_blocks.0.attentions.1.transformer_blocks.9.ff.net.2": "output_blocks.1.1.transformer_blocks.9.ff.net.2",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_v": "output_blocks.5.1.transformer_blocks.1.attn2.to_v",
        "up_blocks.2.resnets.0.conv_shortcut": "output_blocks.6.0.skip_connection",
        "up_blocks.2.resnets.2.time_emb_proj": "output_blocks.8.0.emb_layers.1",
        "add_embedding.linear_1": "label_emb.0.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
    }
    assert compvis_names(pairs, 2) == pairs


# --- the command line ------------------------------------------------------------------------------------------------


def test_on_the_command_line(spm: tuple[dict[str, Tensor], Diffusion], base: str, tmp_path: Path, out: Path) -> None:
    file = str(save_spm(spm[0], tmp_path / "spm.safetensors", prompts="umbrella, red"))
    base = f"{base}/."  # no test's: read from disk as everybody's
    main(["convert", file, base, str(out), "--method=SPM", "--concept=umbrella", '--gate=["umbrella, red"]'])
    provenance = Erasure.load(out).provenance
    assert (provenance.method, provenance.concept["name"]) == ("SPM", "umbrella")
    assert provenance.gate == ["umbrella, red"]
    assert str(tmp_path) not in str(provenance.settings)
    with pytest.raises(SystemExit, match=r"^lit-memories convert: .* holds another erasure.*: choose another OUT, or"):
        main(["convert", file, base, str(out), "--gate=[]"])
    main(["convert", file, base, str(out / "always"), "--gate=[]"])
    assert Erasure.load(out / "always").provenance.gate is None


def test_an_error_on_the_command_line_is_one_line(base: str, tmp_path: Path, out: Path) -> None:
    (tmp_path / "erased.pt").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(SystemExit, match=r"^lit-memories convert: .*erased\.pt is refused") as stop:
        main(["convert", str(tmp_path / "erased.pt"), base, str(out)])
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "executed").exists()
