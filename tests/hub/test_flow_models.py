"""Layouts of Stable Diffusion 3 and FLUX from the hub: variants, shards, what may be missing, and what may not."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_hub import FakeHub
from safetensors.torch import load_file, save_file

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.storage.pipelines import outline_pipeline

ROOT = Path(__file__).parents[2]
NAMES = ["sd3", "flux"]


@pytest.fixture(scope="module", autouse=True)
def _paths() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("tests/flow", "benchmarks"):
            patch.syspath_prepend(str(ROOT / folder))
        yield
    sys.modules.pop("flow_shapes", None)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from flow_pipelines import flux_pipeline, sd3_pipeline

    root = tmp_path_factory.mktemp("flows")
    concept = Concept(**yaml.safe_load((ROOT / "recipes/sd14/concepts/van_gogh.yaml").read_text()))
    for name, make in (("sd3", sd3_pipeline), ("flux", flux_pipeline)):
        make(concept, root / f"{name}-words").save_pretrained(root / name)
    return {name: root / name for name in NAMES}


@pytest.fixture
def models(originals: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The folders, to be changed."""
    return {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in originals.items()}


def change(file: Path, **entries: Any) -> None:
    config = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def refusal(folder: Path | str, error: type[Exception], match: str, **options: Any) -> None:
    with pytest.raises(error, match=match) as caught:
        Diffusion.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)


# --- variants and shards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_variants_are_what_is_fetched(name: str, variant: str, hub: FakeHub, models: dict[str, Path]) -> None:
    whole = Diffusion.from_pretrained(models[name]).state_dict()
    dtype = torch.float16 if variant == "fp16" else torch.bfloat16
    for file in list(models[name].rglob("*.safetensors")):
        tensors = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
        save_file(tensors, file.with_name(f"{file.stem}.{variant}.safetensors"), {"format": "pt"})
    hub.add("me/model", models[name])
    half = Diffusion.from_pretrained("me/model", variant=variant, torch_dtype="float32")
    fetched = {Path(request.path.split("?")[0]).name for request in hub.asked("/transformer/", "HEAD")}
    assert fetched == {"config.json", f"diffusion_pytorch_model.{variant}.safetensors"}
    assert half.network.dtype == torch.float32
    for key, tensor in half.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, whole[key].to(dtype).float()), key


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_transformer_and_t5_are_put_together(name: str, hub: FakeHub, models: dict[str, Path]) -> None:
    """As FLUX.1-dev has both; loose files in the repository's root are left where they are."""
    model, encoder = Diffusion.from_pretrained(models[name]), "text_encoder_3" if name == "sd3" else "text_encoder_2"
    for part, module in (("transformer", model.network), (encoder, model.conditioning.encoders[encoder])):
        for file in (models[name] / part).glob("*.safetensors"):
            file.unlink()
        module.save_pretrained(models[name] / part, max_shard_size="40KB")
        assert len(list((models[name] / part).glob("*-of-*.safetensors"))) > 1
    (models[name] / f"{name}.safetensors").write_bytes(b"whole")
    hub.add("me/model", models[name])
    assert Diffusion.from_pretrained("me/model").fingerprint == model.fingerprint
    assert not hub.asked(f"/{name}.safetensors")
    next((models[name] / "transformer").glob("*-of-*.safetensors")).unlink()
    refusal(models[name], FileNotFoundError, "transformer has no weights of variant none")


@pytest.mark.parametrize("name", NAMES)
def test_a_gated_model_says_so(name: str, hub: FakeHub, models: dict[str, Path]) -> None:
    hub.add("me/model", models[name])
    hub.gate("me/model", "hf_granted_token_of_somebody")
    refusal("me/model", PermissionError, r"gated \(401\)")


# --- what may be missing, and what may not ---------------------------------------------------------------------------


def test_t5_can_be_left_out_of_stable_diffusion_3_and_it_is_said(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.rmtree(models["sd3"] / "text_encoder_3")
    refusal(models["sd3"], FileNotFoundError, "no text_encoder_3: copy it .*, or leave it out with null")
    change(models["sd3"] / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    model = Diffusion.from_pretrained(models["sd3"])
    assert list(model.conditioning.encoders) == ["text_encoder", "text_encoder_2"]
    from flow_shapes import write

    released = write("sd35-medium", tmp_path / "released")
    change(released / "model_index.json", text_encoder_3=..., tokenizer_3=...)
    with pytest.warns(UserWarning, match="has no text_encoder_3 .T5.: its two CLIP encoders read prompts alone"):
        outline_pipeline(str(released), None, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "part"),
    [("sd3", "text_encoder"), ("sd3", "text_encoder_2"), ("flux", "text_encoder"), ("flux", "text_encoder_2")],
)
def test_other_encoders_cannot(name: str, part: str, models: dict[str, Path]) -> None:
    said = f"has no {part}: copy it from the model it was made of$"
    change(models[name] / "model_index.json", **{part: [None, None]})
    refusal(models[name], FileNotFoundError, said)
    change(models[name] / "model_index.json", **{part: ["transformers", "CLIPTextModel"]})
    shutil.rmtree(models[name] / part)
    refusal(models[name], FileNotFoundError, said)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [None, ...])
def test_a_vae_without_shift_is_refused(name: str, shift: Any, models: dict[str, Path]) -> None:
    change(models[name] / "vae/config.json", shift_factor=shift)
    refusal(models[name], FileNotFoundError, "vae/config.json does not state shift_factor, which would be made up")


@pytest.mark.parametrize(
    ("entries", "error", "said"),
    [
        ({"shift": ...}, FileNotFoundError, "scheduler_config.json does not state shift"),
        ({"shift": None}, ValueError, "shift in .* cannot be None"),
        ({"shift": "three"}, ValueError, "shift in .* cannot be 'three'"),
        ({"shift": 0.0, "use_dynamic_shifting": False}, ValueError, "has an unknown shift: 0"),
        (
            {"shift": 3.0, "use_dynamic_shifting": True, "time_shift_type": "cubic"},
            ValueError,
            "time_shift_type. must either be",
        ),
        ({"shift_terminal": 1.5, "use_dynamic_shifting": False}, ValueError, "has an unknown shift: .* ending at 1.5"),
        ({"use_karras_sigmas": True}, ValueError, "has use_karras_sigmas, which is not supported: set it to false"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_with_an_unknown_shift_is_refused(
    name: str, entries: dict[str, Any], error: type[Exception], said: str, models: dict[str, Path]
) -> None:
    change(models[name] / "scheduler/scheduler_config.json", **entries)
    refusal(models[name], error, said)


def test_sizes_that_patches_do_not_divide_are_refused(models: dict[str, Path]) -> None:
    refusal(models["sd3"], ValueError, "image_size must be multiples of 8 pixels, got 36 x 36", image_size=36)
    refusal(models["flux"], ValueError, "image_size must be multiples of 8 pixels, got 32 x 12", image_size=(32, 12))
    change(models["sd3"] / "transformer/config.json", sample_size=15)
    refusal(models["sd3"], ValueError, r"native size \(sample_size\) must be multiples of 8 pixels, got 60 x 60")
