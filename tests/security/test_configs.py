"""Configurations of a kilobyte that ask for gigabytes, or say what cannot be: one line before weights are read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from lit_memories.diffusion import Diffusion
from lit_memories.storage import configs, pipelines, single_file
from lit_memories.storage.configs import JSON_LIMIT, check_config

FILES = {"unet": "unet/config.json", "vae": "vae/config.json", "scheduler": "scheduler/scheduler_config.json",
         "text_encoder": "text_encoder/config.json", "tokenizer": "tokenizer/tokenizer_config.json",
         "index": "model_index.json"}  # fmt: skip


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, for changes."""
    return shutil.copytree(tiny, tmp_path / "model")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight is read."""
    for place in (pipelines, single_file):
        for name in {"load_model", "read_weights"} & vars(place).keys():
            monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("weights were read"))


def refusal(base: Path, **options: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        Diffusion(str(base), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("unet", "sample_size", None), ("unet", "sample_size", "x"), ("unet", "sample_size", 0),
        ("unet", "sample_size", 10**6), ("unet", "sample_size", [16, 16, 16]), ("unet", "sample_size", [16, 10**6]),
        ("unet", "in_channels", "4"), ("unet", "in_channels", [4]), ("unet", "in_channels", 10**9),
        ("unet", "in_channels", True), ("unet", "norm_eps", "x"), ("unet", "down_block_types", [1, 2]),
        ("unet", "block_out_channels", [8, 0]), ("unet", "block_out_channels", [8, 10**12]),
        ("unet", "block_out_channels", {"a": 8}), ("unet", "act_fn", 3), ("unet", "cross_attention_dim", 2**63),
        ("unet", "block_out_channels", [8]), ("unet", "freq_shift", float("nan")),
        ("vae", "scaling_factor", "x"), ("vae", "scaling_factor", None), ("vae", "scaling_factor", 0),
        ("vae", "scaling_factor", float("inf")), ("vae", "scaling_factor", 1e300), ("vae", "up_block_types", "x"),
        ("vae", "latent_channels", 2.5), ("vae", "layers_per_block", 10**8),
        ("scheduler", "num_train_timesteps", 3 * 10**8), ("scheduler", "num_train_timesteps", "x"),
        ("scheduler", "num_train_timesteps", 0), ("scheduler", "beta_start", None), ("scheduler", "beta_end", "x"),
        ("scheduler", "steps_offset", 10**10), ("scheduler", "prediction_type", 3),
        ("scheduler", "trained_betas", "x"), ("scheduler", "clip_sample_range", "x"),
        ("scheduler", "set_alpha_to_one", "x"),
        ("text_encoder", "vocab_size", 2 * 10**7), ("text_encoder", "max_position_embeddings", 2 * 10**8),
        ("tokenizer", "model_max_length", "x"), ("tokenizer", "model_max_length", -1),
        ("tokenizer", "model_max_length", [77]), ("tokenizer", "model_max_length", float("nan")),
        ("index", "requires_safety_checker", "x"), ("index", "requires_safety_checker", {"a": 1}),
    ],
)  # fmt: skip
def test_entries_that_cannot_be_are_named_with_their_file(
    part: str, name: str, value: Any, single: bool, model: Path, tmp_path: Path
) -> None:
    edit(model / FILES[part], **{name: value})
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(b"never read")
    message = refusal(checkpoint, config=str(model)) if single else refusal(model)
    assert str(model / FILES[part]) in message
    assert name in message


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("unet", "layers_per_block", 1_000_000), ("unet", "block_out_channels", [8, 1 << 19]),
        ("unet", "cross_attention_dim", 1 << 20), ("unet", "transformer_layers_per_block", 100_000),
        ("unet", "num_class_embeds", 1 << 20),
        ("vae", "layers_per_block", 1_000_000), ("vae", "block_out_channels", [8, 8, 1 << 19]),
        ("text_encoder", "max_position_embeddings", 1 << 20),
        ("text_encoder", "num_hidden_layers", 1_000_000), ("text_encoder", "intermediate_size", 1 << 20),
    ],
)  # fmt: skip
def test_a_model_is_no_larger_than_its_weights(
    part: str, name: str, value: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up while it is made, before its weights are read."""
    edit(model / FILES[part], **{name: value})
    for kind in (UNet2DConditionModel, AutoencoderKL, CLIPTextModel):
        if kind is pipelines.PIPELINES["StableDiffusionPipeline"].models[part]:
            monkeypatch.setattr(kind, "load_state_dict", lambda *_, **__: pytest.fail("weights were read"))
    message = refusal(model)
    assert f"do not fill the model that {model / FILES[part]} describes, which is larger than the file" in message


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"down_block_types": ["NoBlock2D", "DownBlock2D"]}), ("unet", {"act_fn": "x"}),
        ("unet", {"norm_num_groups": 0}), ("unet", {"attention_head_dim": [4]}), ("unet", {"addition_embed_type": "x"}),
        ("vae", {"norm_num_groups": 7}), ("vae", {"act_fn": "x"}), ("text_encoder", {"hidden_size": "x"}),
        ("text_encoder", {"hidden_act": "x"}), ("text_encoder", {"num_attention_heads": 0}),
        ("text_encoder", {"num_hidden_layers": None}),
    ],
)  # fmt: skip
def test_what_the_libraries_refuse_is_one_line_with_the_file(part: str, changes: dict[str, Any], model: Path) -> None:
    edit(model / FILES[part], **changes)
    message = refusal(model)
    assert str(model / part) in message
    assert "config" in message


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize(
    "file", [*FILES.values(), "tokenizer/tokenizer.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
)
def test_a_file_that_is_too_long_is_not_read(file: str, model: Path) -> None:
    with (model / file).open("ab") as stream:
        stream.truncate(JSON_LIMIT + 1)
    assert f"{model / file} has {JSON_LIMIT + 1} bytes" in refusal(model)


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("file", FILES.values())
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' * 5000, b"[]", b"", b"\xff\xfe", b"9" * 5000, b"null"])
def test_a_file_that_is_no_configuration_is_named(file: str, content: bytes, model: Path) -> None:
    (model / file).write_bytes(content)
    assert f"{model / file} is damaged" in refusal(model)


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("kind", ["PNDMScheduler", "EulerDiscreteScheduler"])
def test_a_schedulers_entries_are_those_that_ddim_is_made_of(kind: str, model: Path) -> None:
    """Of whatever class it is."""
    edit(model / "model_index.json", scheduler=["diffusers", kind])
    edit(model / FILES["scheduler"], _class_name=kind, clip_sample_range="x")
    assert f"clip_sample_range in {model / FILES['scheduler']} cannot be 'x'" in refusal(model)


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("scheduler", {"beta_schedule": "x"}), ("scheduler", {"beta_end": 1.5}), ("scheduler", {"beta_start": 0}),
        ("scheduler", {"prediction_type": "x"}), ("scheduler", {"timestep_spacing": "x"}),
        ("text_encoder", {"vocab_size": 1 << 20}), ("tokenizer", {"model_max_length": 77}),
        ("tokenizer", {"model_max_length": 2 * 10**8}),
    ],
)  # fmt: skip
def test_schedules_and_tokenizers_come_before_weights(part: str, changes: dict[str, Any], model: Path) -> None:
    edit(model / FILES[part], **changes)
    assert part.removeprefix("text_") in refusal(model)


@pytest.mark.usefixtures("_no_weights")
def test_parts_of_no_class_are_refused(model: Path) -> None:
    edit(model / "model_index.json", tokenizer=["transformers", ["CLIPTokenizer"]])
    assert "has no tokenizer" in refusal(model)


RELEASED: list[tuple[type, dict[str, Any]]] = [
    (UNet2DConditionModel, {
        "act_fn": "silu", "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False, "cross_attention_dim": 1024, "cross_attention_norm": False,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "downsample_padding": 1,
        "dual_cross_attention": False, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4,
        "layers_per_block": 2, "mid_block_only_cross_attention": None, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
        "norm_num_groups": 32, "num_class_embeds": None, "only_cross_attention": False, "out_channels": 4,
        "sample_size": 96, "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "upcast_attention": None,
        "use_linear_projection": True, "transformer_layers_per_block": [1, 2, 10, 10], "_name_or_path": "x/y",
    }),
    (AutoencoderKL, {
        "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
        "out_channels": 3, "sample_size": 1024, "scaling_factor": 0.13025, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latents_mean": None,
    }),
    (pipelines.diffusers.PNDMScheduler, {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "trained_betas": None, "prediction_type": "v_prediction",
    }),
    (pipelines.diffusers.EulerDiscreteScheduler, {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "interpolation_type": "linear",
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": [0.1, 0.2],
        "use_karras_sigmas": False,
    }),
]  # fmt: skip
"""What configurations of Stable Diffusion 1, 2 and XL state, old ones and new ones."""


@pytest.mark.parametrize(("kind", "config"), RELEASED)
def test_what_is_released_is_accepted(kind: type, config: dict[str, Any], tmp_path: Path) -> None:
    check_config(config, tmp_path / "config.json", kind)


def test_a_vocabulary_with_a_word_that_has_no_embedding_is_refused(model: Path) -> None:
    """As a placeholder token of textual inversion, of which the embedding was left behind; by number, not by count."""
    file = model / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    rows = json.loads((model / FILES["text_encoder"]).read_text())["vocab_size"]
    word = next(word for word, number in content["model"]["vocab"].items() if number == rows // 2)
    content["model"]["vocab"][word] = rows + 3
    file.write_text(json.dumps(content))
    message = refusal(model)
    assert (
        f"has the word {word!r} with the number {rows + 3}, for which its text encoder, of {rows} rows, has no"
        in message
    )


def test_numbers_are_found_in_any_depth() -> None:
    assert sorted(configs.numbers_of({"a": [1, {"b": 2.5}], "c": True, "d": "3"})) == [1, 2.5]
