"""Low-rank adapters in each way that people save them: all are the same adapter, and add what they should."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from compvis_names import compvis_name
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure
from lit_memories.tools.convert import convert

pytestmark = pytest.mark.usefixtures("read_once")
RANK, ALPHA = 3, 1.5
Factors = dict[tuple[str, str], tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def factors(original: Diffusion) -> Factors:
    """Factors for some layers of every kind: attention, convolutions of 1 and 3 pixels, embeddings of time, text."""
    parts = {"unet": original.unet, "text_encoder": original.text_encoder}
    found: Factors = {}
    for part, network in parts.items():
        for name, layer in network.named_modules():
            kind = isinstance(layer, nn.Linear | nn.Conv2d) and not name.startswith(("down_blocks.2", "up_blocks.2"))
            if kind:
                weight, generator = layer.weight, Generator().manual_seed(len(found))
                down = 0.3 * torch.randn(RANK, *weight.shape[1:], generator=generator)
                up = 0.3 * torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=generator)
                found[part, name.removeprefix("text_model.")] = (down, up)
    assert {down.shape[2:] for down, _ in found.values()} == {(), (1, 1), (3, 3)}
    return found


def saved(factors: Factors, name: Callable[[str, str], tuple[str, str]], alpha: str | None = None) -> dict[str, Tensor]:
    """Tensors under the keys of both factors that `name` gives, with an alpha for each layer if that has a key."""
    tensors = {}
    for (part, layer), (down, up) in factors.items():
        for key, factor in zip(name(part, layer), (down, up), strict=True):
            tensors[key] = factor.clone()
        if alpha is not None:
            tensors[alpha.format(name(part, layer)[0].rsplit(".lora_", 1)[0])] = torch.tensor(ALPHA)
    return tensors


def kohya(layer_name: Callable[[str], str], text: str = "lora_te") -> Callable[[str, str], tuple[str, str]]:
    def name(part: str, layer: str) -> tuple[str, str]:
        label = f"lora_unet_{layer_name(layer)}" if part == "unet" else f"{text}_text_model_{layer}"
        label = label.replace(".", "_")
        return f"{label}.lora_down.weight", f"{label}.lora_up.weight"

    return name


def of_compvis(layer: str) -> str:
    return compvis_name(f"{layer}.weight").removesuffix(".weight")


def peft(prefix: str = "", infix: str = "") -> Callable[[str, str], tuple[str, str]]:
    def name(part: str, layer: str) -> tuple[str, str]:
        layer = layer if part == "unet" else f"text_model.{layer}"
        stem = f"{prefix}{part}.{layer}"
        return f"{stem}.lora_A{infix}.weight", f"{stem}.lora_B{infix}.weight"

    return name


def diffusers_old(part: str, layer: str) -> tuple[str, str]:
    """Attention's processors, linear layers of text encoders, and all else."""
    if part == "unet" and ".attn" in layer:
        block, _, leaf = layer.rpartition(".to_")
        stem = f"unet.{block}.processor.to_{leaf.removesuffix('.0')}_lora"
    elif part == "unet":
        stem = f"unet.{layer}.lora"
    else:
        stem = f"text_encoder.text_model.{layer}.lora_linear_layer"
    return f"{stem}.down.weight", f"{stem}.up.weight"


def diffusers_older(part: str, layer: str) -> tuple[str, str]:
    """Text encoders too in the names of attention's processors, and the U-Net without its name."""
    if part == "unet":
        return tuple(key.removeprefix("unet.") for key in diffusers_old(part, layer))  # type: ignore[return-value]
    stem = f"text_encoder.text_model.{layer}".replace("_proj", "_lora").replace("self_attn.", "self_attn.to_")
    stem = stem if "self_attn" in layer else f"text_encoder.text_model.{layer}.lora_linear_layer"
    return f"{stem}.down.weight", f"{stem}.up.weight"


FORMATS: dict[str, tuple[Callable[[str, str], tuple[str, str]], str | None]] = {
    "kohya": (kohya(str), "{}.alpha"),
    "kohya, CompVis' names": (kohya(of_compvis), "{}.alpha"),
    "kohya, first of two encoders": (kohya(str, "lora_te1"), "{}.alpha"),
    "diffusers": (peft(), None),
    "diffusers with alphas": (peft(), "{}.alpha"),
    "diffusers, processors": (diffusers_old, None),
    "diffusers, older processors": (diffusers_older, None),
    "peft, of an adapter with a name": (peft(infix=".default"), None),
    "compiled": (lambda part, layer: peft()(part, layer.replace("blocks.", "blocks._orig_mod.", 1)), None),
    "wrapped": (lambda part, layer: peft("module.")(part, layer), None),
}


def moved(base: str, out: Path, original: Diffusion) -> dict[str, Tensor]:
    """What an erasure adds to each tensor that it changes."""
    before, after = original.state_dict(), Diffusion(base, out).state_dict()
    return {name: after[name] - before[name] for name in after if not torch.equal(after[name], before[name])}


def adds(base: str, out: Path, original: Diffusion, factors: Factors, scale: Callable[[str], float] | float) -> None:
    """Asserts that an erasure adds scale * up @ down to each layer's weight, and changes nothing else."""
    found = {name.replace("text_model.", ""): value for name, value in moved(base, out, original).items()}
    assert found.keys() == {f"{part}.{layer}.weight" for part, layer in factors}
    for (part, layer), (down, up) in factors.items():
        delta = found[f"{part}.{layer}.weight"]
        strength = scale(layer) if callable(scale) else scale
        wanted = strength * (up.flatten(1) @ down.flatten(1)).reshape(delta.shape)
        torch.testing.assert_close(delta, wanted, rtol=0, atol=1e-6, msg=lambda text, layer=layer: f"{layer}: {text}")


@pytest.mark.parametrize("form", FORMATS)
def test_every_way_to_save_an_adapter(
    form: str, factors: Factors, base: str, original: Diffusion, tmp_path: Path
) -> None:
    name, alpha = FORMATS[form]
    save_file(saved(factors, name, alpha), tmp_path / "lora.safetensors")
    convert(tmp_path / "lora.safetensors", base, tmp_path / "out")
    adds(base, tmp_path / "out", original, factors, ALPHA / RANK if alpha else 1.0)
    settings = Erasure.load(tmp_path / "out").provenance.settings
    assert settings["alpha"] == ("recorded in the file" if alpha else "assumed to be the rank")


# --- how strong ------------------------------------------------------------------------------------------------------

CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "alpha_pattern": {}, "use_rslora": False}


@pytest.fixture
def linear(factors: Factors) -> Factors:
    """Some layers of the U-Net."""
    return {key: value for key, value in factors.items() if key[0] == "unet" and ".attn2.to_" in key[1]}


def peft_folder(tmp_path: Path, linear: Factors, **config: Any) -> Path:
    """An adapter as `PeftModel.save_pretrained` leaves it: it is of one part of a model and does not say which."""

    def name(part: str, layer: str) -> tuple[str, str]:
        return f"base_model.model.{layer}.lora_A.weight", f"base_model.model.{layer}.lora_B.weight"

    save_file(saved(linear, name), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | config), encoding="utf-8")
    return tmp_path


def test_an_adapter_of_peft_has_its_alpha_beside_it(
    linear: Factors, base: str, original: Diffusion, tmp_path: Path
) -> None:
    end = "attentions.0.transformer_blocks.0.attn2.to_q"
    assert 1 < sum(layer.endswith(end) for _, layer in linear) < len(linear)
    convert(peft_folder(tmp_path, linear, alpha_pattern={end: 6}), base, tmp_path / "out")
    adds(base, tmp_path / "out", original, linear, lambda layer: (6 if layer.endswith(end) else ALPHA) / RANK)


def test_an_adapter_of_peft_may_be_rank_stabilised(
    linear: Factors, base: str, original: Diffusion, tmp_path: Path
) -> None:
    convert(peft_folder(tmp_path, linear, use_rslora=True), base, tmp_path / "out")
    adds(base, tmp_path / "out", original, linear, ALPHA / math.sqrt(RANK))


def test_an_adapter_of_peft_without_configuration_needs_an_alpha(
    linear: Factors, base: str, original: Diffusion, tmp_path: Path
) -> None:
    (peft_folder(tmp_path, linear) / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"does not say how strong it is: put its adapter_config\.json beside it"):
        convert(tmp_path / "adapter_model.safetensors", base, tmp_path / "out")
    convert(tmp_path / "adapter_model.safetensors", base, tmp_path / "out", alpha=2.0)
    adds(base, tmp_path / "out", original, linear, 2.0 / RANK)


def test_an_adapter_of_a_text_encoder_by_peft(factors: Factors, base: str, original: Diffusion, tmp_path: Path) -> None:
    """Its names do not say of what it is, but are a text encoder's."""
    text = {key: value for key, value in factors.items() if key[0] == "text_encoder"}
    tensors = saved(
        text, lambda part, layer: tuple(f"base_model.model.text_model.{layer}.lora_{x}.weight" for x in "AB")
    )  # type: ignore[arg-type,return-value]
    save_file(tensors, tmp_path / "lora.safetensors")
    convert(tmp_path / "lora.safetensors", base, tmp_path / "out", alpha=RANK)
    adds(base, tmp_path / "out", original, text, 1.0)


@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_diffusers_keeps_the_configuration_in_the_header(
    prefix: str, linear: Factors, base: str, original: Diffusion, tmp_path: Path
) -> None:
    """With a prefix if a pipeline saved it, without if a U-Net did."""
    chosen = next(layer for _, layer in linear)
    config = {f"{prefix}{name}": value for name, value in (CONFIG | {"alpha_pattern": {chosen: 9}}).items()}
    save_file(saved(linear, peft()), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    convert(tmp_path / "a.safetensors", base, tmp_path / "out")
    adds(base, tmp_path / "out", original, linear, lambda layer: (9 if layer == chosen else ALPHA) / RANK)
    assert Erasure.load(tmp_path / "out").provenance.settings["alpha"] == "recorded in the configuration"


@pytest.mark.parametrize("name", ["ss_network_alpha", "network_alpha"])
def test_an_alpha_in_the_header(name: str, linear: Factors, base: str, original: Diffusion, tmp_path: Path) -> None:
    save_file(saved(linear, kohya(str)), tmp_path / "a.safetensors", {name: str(ALPHA)})
    convert(tmp_path / "a.safetensors", base, tmp_path / "out")
    adds(base, tmp_path / "out", original, linear, ALPHA / RANK)


def test_a_convolution_in_three_steps(factors: Factors, base: str, original: Diffusion, tmp_path: Path) -> None:
    """LoCon with a lora_mid: single pixels to a few channels, 3x3 among them, single pixels to the rest."""
    layer = "down_blocks.0.resnets.0.conv1"
    generator = Generator().manual_seed(0)
    down, mid, up = (
        torch.randn(shape, generator=generator) for shape in ((RANK, 8, 1, 1), (RANK, RANK, 3, 3), (8, RANK, 1, 1))
    )
    label = f"lora_unet_{layer.replace('.', '_')}"
    tensors = {f"{label}.lora_{part}.weight": value for part, value in (("down", down), ("mid", mid), ("up", up))}
    save_file(tensors, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", base, tmp_path / "out")
    (delta,) = moved(base, tmp_path / "out", original).values()
    image = torch.randn(1, 8, 5, 5, generator=generator)
    steps = nn.functional.conv2d(nn.functional.conv2d(nn.functional.conv2d(image, down), mid, padding=1), up)
    torch.testing.assert_close(nn.functional.conv2d(image, delta, padding=1), steps, rtol=1e-4, atol=1e-4)


# --- those that change whole weights ---------------------------------------------------------------------------------


def becomes(base: str, out: Path, original: Diffusion, wanted: Mapping[tuple[str, str], Tensor]) -> None:
    """Asserts that an erasure makes weights what they should be, and changes nothing else."""
    state = Diffusion(base, out).state_dict()
    found = {name.replace("text_model.", "") for name in moved(base, out, original)}
    assert found == {f"{part}.{layer}.weight" for part, layer in wanted}
    for (part, layer), weight in wanted.items():
        name = next(name for name in state if name.replace("text_model.", "") == f"{part}.{layer}.weight")
        torch.testing.assert_close(state[name], weight, rtol=1e-5, atol=1e-6)


def weight_of(original: Diffusion, part: str, layer: str) -> Tensor:
    network = getattr(original, part)
    return getattr(network, "text_model", network).get_submodule(layer).weight


@pytest.mark.parametrize("form", ["peft", "kohya, by outputs", "kohya, by inputs"])
def test_dora(form: str, factors: Factors, base: str, original: Diffusion, tmp_path: Path) -> None:
    """Each weight is its sum with the factors, brought to given lengths; layers without lengths are sums."""
    name, alpha = (peft(), None) if form == "peft" else (kohya(str), "{}.alpha")
    tensors, wanted = saved(factors, name, alpha), {}
    for number, ((part, layer), (down, up)) in enumerate(factors.items()):
        weight = weight_of(original, part, layer)
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * (ALPHA / RANK if alpha else 1)
        wanted[part, layer] = whole = weight + change
        if number % 5 == 0:
            continue
        axis = 1 if form.endswith("inputs") else 0
        others = [dim for dim in range(weight.ndim) if dim != axis]
        lengths = 0.5 + torch.rand(weight.shape[axis], generator=Generator().manual_seed(number))
        shape = [len(lengths) if dim == axis else 1 for dim in range(weight.ndim)]
        wanted[part, layer] = lengths.reshape(shape) * whole / torch.linalg.vector_norm(whole, dim=others, keepdim=True)
        stem = name(part, layer)[0].rsplit(".lora_", 1)[0]
        if form == "peft":
            tensors[f"{stem}.lora_magnitude_vector"] = lengths.reshape(shape).transpose(0, 1)
        else:
            tensors[f"{stem}.dora_scale"] = lengths.reshape(shape)
    save_file(tensors, tmp_path / "dora.safetensors")
    convert(tmp_path / "dora.safetensors", base, tmp_path / "out")
    becomes(base, tmp_path / "out", original, wanted)
    provenance = Erasure.load(tmp_path / "out").provenance
    assert (provenance.settings["format"], provenance.gate) == ("dora", None)
    with pytest.raises(ValueError, match=r"is DoRA, which changes weights that no gate reaches: --gate '\[\]'"):
        convert(tmp_path / "dora.safetensors", base, tmp_path / "gated", gate=["umbrella"])


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_loha(form: str, factors: Factors, base: str, original: Diffusion, tmp_path: Path) -> None:
    """Each weight gets the product of two products, entry by entry."""
    tensors, wanted = {}, {}
    for number, (part, layer) in enumerate(factors):
        weight, generator = weight_of(original, part, layer), Generator().manual_seed(number)
        shapes = ((len(weight), RANK), (RANK, weight[0].numel())) * 2
        one, two, three, four = (torch.randn(shape, generator=generator) for shape in shapes)
        wanted[part, layer] = weight + (ALPHA / RANK * (one @ two) * (three @ four)).reshape(weight.shape)
        stem = kohya(str)(part, layer)[0].removesuffix(".lora_down.weight")
        if form == "peft":
            stem = f"base_model.model.{layer if part == 'unet' else f'text_model.{layer}'}"
        else:
            tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        keys = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        tensors |= {f"{stem}.{key}": factor for key, factor in zip(keys, (one, two, three, four), strict=True)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    if form == "peft":
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA", "r": RANK, "alpha": ALPHA}))
    convert(tmp_path, base, tmp_path / "out")
    becomes(base, tmp_path / "out", original, wanted)
    assert Erasure.load(tmp_path / "out").provenance.settings["format"] == "loha"


@pytest.mark.parametrize("kind", ["DoRA", "LoHa"])
def test_weights_are_those_of_peft(kind: str, base: str, original: Diffusion, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="it is no requirement of this package")
    layers = ["to_q", "to_k", "conv1", "conv_shortcut", "proj_in", "time_emb_proj"]
    shared = {"r": RANK, "target_modules": layers, "init_weights" if kind == "LoHa" else "init_lora_weights": False}
    lora = {"lora_alpha": 5, "use_dora": True}
    config = peft.LoHaConfig(alpha=5, **shared) if kind == "LoHa" else peft.LoraConfig(**lora, **shared)
    torch.manual_seed(0)
    model = peft.get_peft_model(Diffusion(base).unet, config)
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data *= 0.5 + torch.rand_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    convert(tmp_path / "adapter", base, tmp_path / "out")
    state = Diffusion(base, tmp_path / "out").unet.state_dict()
    wanted = model.merge_and_unload().state_dict()
    assert len(moved(base, tmp_path / "out", original)) > 20
    for name, weight in wanted.items():
        torch.testing.assert_close(state[name], weight, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: name + text)


def test_lengths_of_nothing_are_refused(base: str, original: Diffusion, tmp_path: Path) -> None:
    """A weight that is zero has none."""
    weight = original.state_dict()[f"{K}.weight"]
    tensors = {f"{K}.lora_A.weight": weight, f"{K}.lora_B.weight": -torch.eye(len(weight))}
    said = refusal(tensors | {f"{K}.dora_scale": torch.ones(len(weight), 1)}, base, tmp_path)
    assert "holds NaN or infinity in unet." in said


def test_factors_that_share_memory(linear: Factors, base: str, original: Diffusion, tmp_path: Path) -> None:
    """In a pickle, tied layers' factors are one tensor, which safetensors would not write twice."""
    (first, (down, up)), second = next(iter(linear.items())), list(linear)[4]
    tied = {first: (down, up), second: (down, up)}
    tensors = saved(tied, peft())
    names = [key for key in tensors if "lora_A" in key]
    tensors[names[1]] = tensors[names[0]]
    torch.save(tensors, tmp_path / "lora.pt")
    convert(tmp_path / "lora.pt", base, tmp_path / "out")
    adds(base, tmp_path / "out", original, tied, 1.0)


# --- what is refused, with its true reason ---------------------------------------------------------------------------


def refusal(tensors: Mapping[str, Tensor], base: str, tmp_path: Path, **options: Any) -> str:
    """The one line that an adapter is refused with; nothing is written."""
    torch.save(dict(tensors), tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=r"lora\.pt") as error:
        convert(tmp_path / "lora.pt", base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


K = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
XL = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({f"{XL}.lora_down.weight": (4, 2048), f"{XL}.lora_up.weight": (640, 4)}, "2048 wide (as Stable Diffusion XL)"),
        ({f"{K}.lora_A.weight": (4, 1024), f"{K}.lora_B.weight": (8, 4)}, "1024 wide (as Stable Diffusion 2)"),
        ({"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (4, 9)}, "is for a transformer, as Flux"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 9)}, "is for a transformer, as Flux"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (4, 9)}, "a text_encoder_2, and the base has"),
        ({"text_encoder_3.encoder.block.0.lora_A.weight": (4, 9)}, "a text_encoder_3, and the base has text_encoder "),
        ({f"{K}.lora_A.weight": (4, 32)}, "only one of the two factors of unet."),
        (
            {f"{K}.alpha": (), f"{K[:-1]}v.lora_A.weight": (4, 32), f"{K[:-1]}v.lora_B.weight": (8, 4)},
            "an alpha and no",
        ),
        ({f"{K}.lora_A.weight": (4, 32), f"{K}.lora_B.weight": (8, 3)}, "have ranks 4 and 3"),
        ({f"{K}.lora_A.weight": (4, 31), f"{K}.lora_B.weight": (8, 4)}, "are (4, 31) and (8, 4), the base asks for"),
        ({f"{K}.hada_t1": (4, 4, 3, 3)}, "no plain LoRA but LoHa in Tucker's form"),
        ({f"{K}.hada_w1_a": (8, 4)}, "does not fit: of unet.down_blocks.0"),
        ({f"{K}.hada_w{i}_{x}": (8, 4) for i in (1, 2) for x in "ab"}, "factors of LoHa are [(8, 4), (8, 4), (8, 4), "),
        ({f"{K}.lokr_w1": (8, 4)}, "no plain LoRA but LoKr"),
        ({f"{K}.lora_magnitude_vector": (8,)}, "has lengths and no factors of unet."),
        ({f"{K}.lora_A.weight": (4, 32), f"{K}.hada_w1_a": (8, 4)}, "has factors of a LoRA and of LoHa for unet."),
        (
            {f"{K}.lora_A.weight": (4, 32), f"{K}.lora_B.weight": (8, 4), f"{K}.dora_scale": (7, 1)},
            "lengths of DoRA (7, 1) are neither (8, 1) nor (1, 32)",
        ),
        ({f"{K}.lora_A.weight": (4, 32), f"{K}.lora_B.bias": (8,)}, "no plain LoRA but a LoRA with biases"),
        ({f"{K}.lora_A.weight": (4, 32), f"{K}.lora_mid.weight": (4, 5), f"{K}.lora_B.weight": (8, 4)}, "lora_mid"),
        (
            {f"{K}.lora_A.weight": (4, 32), f"{K}.lora_B.weight": (8, 4), "unet.nowhere.weight": (1,)},
            "nothing for unet",
        ),
    ],
)
def test_a_refusal_names_its_reason(keys: dict[str, tuple[int, ...]], wanted: str, base: str, tmp_path: Path) -> None:
    assert wanted in refusal({key: torch.ones(shape) for key, shape in keys.items()}, base, tmp_path)


@pytest.mark.parametrize(("alpha", "largest"), [(1.0, 1e300), (3e38, 10.0)])
def test_what_float32_cannot_hold_is_refused(alpha: float, largest: float, base: str, tmp_path: Path) -> None:
    """A double may be finite where a float is not, and a factor where alpha times it is not."""
    up = torch.full((8, 1), largest, dtype=torch.float64)
    pair = {f"{K}.lora_A.weight": torch.ones(1, 32), f"{K}.lora_B.weight": up, f"{K}.alpha": torch.tensor(alpha)}
    assert "holds NaN or infinity in unet." in refusal(pair, base, tmp_path)


def test_no_gate_reaches_a_text_encoder(factors: Factors, base: str, tmp_path: Path) -> None:
    tensors = saved(factors, peft())
    assert "which no gate reaches" in refusal(tensors, base, tmp_path, gate=["umbrella"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "says that the adapter is DoRA, and no lora_magnitude_vector is in its file"),
        ({"peft_type": "LOHA"}, "says that the adapter is LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "says pissa_niter_4: the adapter is added to weights that it changed"),
        ({"lora_alpha": "much"}, "is damaged: lora_alpha or alpha_pattern is no number"),
        ({"lora_alpha": 10**400}, "is damaged: "),
        ({"alpha_pattern": [1]}, "is damaged: lora_alpha or alpha_pattern is no number"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "has a regular expression as alpha_pattern"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(
    config: dict[str, Any], message: str, linear: Factors, base: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"adapter_config\.json") as error:
        convert(peft_folder(tmp_path, linear, **config), base, tmp_path / "out")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"lora_alpha": NaN}'])
def test_a_damaged_configuration_is_named(text: str, linear: Factors, base: str, tmp_path: Path) -> None:
    (peft_folder(tmp_path, linear) / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"adapter_config\.json is damaged"):
        convert(tmp_path, base, tmp_path / "out")
