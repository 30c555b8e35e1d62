"""Models by hub id or folder: what is fetched, what is read of it, and what is refused, in one line each."""

import builtins
import errno
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import FakeHub
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from lit_memories.diffusion import Diffusion

pytestmark = pytest.mark.timeout(120)

OTHER, GRANTED = "hf_otherXXXXXXXXXXXX", "hf_grantedXXXXXXXXXX"
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SD21 = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""scheduler_config.json of Stable Diffusion 2.1."""
SD14 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.2.2",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""That of Stable Diffusion 1.4, which is older than the settings it lacks."""


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, for changes."""
    return shutil.copytree(tiny, tmp_path / "model")


def refusal(base: object, error: type[Exception], match: str, **options: Any) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(error, match=match) as caught:
        Diffusion.from_pretrained(str(base), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(file)), file, {"format": "pt"})


def pickled(folder: Path, variant: str = "") -> None:
    """Weights in safetensors become those in pickles."""
    for part, stem in PARTS.items():
        stem = "pytorch_model" if part == "text_encoder" else stem
        for file in (folder / part).glob("*.safetensors"):
            torch.save(load_file(file), folder / part / f"{stem}{variant}.bin")
            file.unlink()


# --- from the hub ----------------------------------------------------------------------------------------------------


def test_a_model_of_the_hub_is_the_one_in_the_folder(hub: FakeHub, model: Path, diffusion: Diffusion) -> None:
    (model / "huge.ckpt").write_bytes(b"not wanted")
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not wanted")
    commit = hub.add("me/model", model)
    found = Diffusion.from_pretrained("me/model")
    assert found.fingerprint == diffusion.fingerprint
    assert (found.base, found.revision) == ("me/model", commit)
    assert not hub.asked("huge.ckpt")
    assert not hub.asked(".bin")


@pytest.mark.parametrize("way", ["branch", "commit", "in the name"])
def test_a_revision_is_what_is_loaded(way: str, hub: FakeHub, tiny: Path, tiny_control: Path) -> None:
    first = hub.add("me/model", tiny, revision="v1")
    second = hub.add("me/model", tiny_control)
    pin = {"branch": "v1", "commit": first, "in the name": None}[way]
    old = Diffusion.from_pretrained("me/model@v1" if pin is None else "me/model", revision=pin)
    assert old.revision == first
    assert not hub.asked(second)
    new = Diffusion.from_pretrained("me/model")
    assert new.revision == second
    assert new.fingerprint != old.fingerprint


def test_a_warm_cache_is_asked_first(hub: FakeHub, tiny: Path) -> None:
    commit = hub.add("me/model", tiny)
    Diffusion.from_pretrained("me/model")
    before = len(hub.requests)
    Diffusion.from_pretrained("me/model", revision=commit)
    assert hub.requests[before:] == [], "a commit does not change"
    Diffusion.from_pretrained("me/model")
    assert [request.path for request in hub.requests[before:]] == ["/api/models/me/model"], "is it still the newest?"


@pytest.mark.parametrize("down", ["stopped", "503", "offline"])
def test_a_warm_cache_answers_for_the_hub(
    down: str, hub: FakeHub, tiny: Path, diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("me/model", tiny, revision="v1")
    Diffusion.from_pretrained("me/model", revision="v1")
    take_down(down, hub, monkeypatch)
    again = Diffusion.from_pretrained("me/model", revision="v1")
    assert (again.fingerprint, again.revision) == (diffusion.fingerprint, commit)


@pytest.mark.parametrize(
    ("down", "reason"), [("stopped", "cannot be reached"), ("503", "answers 503"), ("offline", "HF_HUB_OFFLINE")]
)
@pytest.mark.parametrize("revision", [None, "c0ffee" + 34 * "0"])
def test_a_cold_cache_says_so_at_once(
    down: str, reason: str, revision: str | None, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    take_down(down, hub, monkeypatch)
    said = refusal("me/model", FileNotFoundError, "neither a folder nor in the cache", revision=revision)
    assert reason in said
    assert "hf download me/model" in said
    assert len(hub.requests) <= 1, "nothing is tried again"


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_memories.storage.hub.TIMEOUT", 0.05)
    hub.delay = 1.0
    refusal("me/model", FileNotFoundError, "cannot be reached")


def take_down(how: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "stopped":
        hub.stop()
    elif how == "503":
        hub.outage = 503
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_half_a_model_in_the_cache_is_no_model(
    hub: FakeHub, tiny: Path, monkeypatch: pytest.MonkeyPatch, diffusion: Diffusion
) -> None:
    """A download that broke off leaves configurations behind, and perhaps some weights."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    commit = hub.add("me/model", tiny)
    hub.truncate("me/model", "vae/diffusion_pytorch_model.safetensors")
    said = refusal("me/model", OSError, r"download of vae/.*\.safetensors from me/model broke off")
    assert "run the command again" in said
    assert hub.asked("unet/config.json", "GET")
    hub.outage = 503
    refusal("me/model", FileNotFoundError, "answers 503", revision=commit)
    hub.outage = None
    hub.repos["model", "me/model"].truncated.clear()
    assert Diffusion.from_pretrained("me/model", revision=commit).fingerprint == diffusion.fingerprint


def test_what_is_not_there_is_named(hub: FakeHub, tiny: Path, tmp_path: Path) -> None:
    hub.add("me/model", tiny)
    refusal("me/nothing", FileNotFoundError, r"'me/nothing' is neither a folder nor a model on the hub .*hf auth login")
    refusal("me/model", FileNotFoundError, "me/model on the hub has no revision 'v9'", revision="v9")
    refusal("me//model", FileNotFoundError, "there is no such file or folder")
    refusal("me..model", FileNotFoundError, "neither a folder nor a name on the hub")
    refusal("me/model@v1", ValueError, "names a revision already", revision="v1")
    refusal(tiny, ValueError, "where nothing has a revision", revision="v1")
    refusal("runs/a/b", FileNotFoundError, "there is no such file or folder")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "config.json").write_text("{}")
    hub.add("me/files", tmp_path / "files")
    refusal("me/files", FileNotFoundError, r"me/files on the hub, commit .*: it has no model_index\.json")


def test_a_gated_model_says_how_to_get_it(hub: FakeHub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/model", tiny)
    hub.gate("me/model", GRANTED)
    said = refusal("me/model", PermissionError, r"gated \(401\)")
    assert f"{hub.url}/me/model" in said
    assert "hf auth login" in said
    monkeypatch.setenv("HF_TOKEN", OTHER)
    assert OTHER not in refusal("me/model", PermissionError, r"gated \(403\)")
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    Diffusion.from_pretrained("me/model")
    assert {request.token for request in hub.requests if request.cdn} == {None}, "tokens stay on the hub"
    monkeypatch.delenv("HF_TOKEN")
    Diffusion.from_pretrained("me/model")


# --- variants, shards and pickles ------------------------------------------------------------------------------------


@pytest.fixture
def variants(model: Path) -> Path:
    """With weights in half precision beside the others."""
    for part, stem in PARTS.items():
        tensors = load_file(model / part / f"{stem}.safetensors")
        half = {name: tensor.half() for name, tensor in tensors.items()}
        save_file(half, model / part / f"{stem}.fp16.safetensors", {"format": "pt"})
    return model


def test_a_variant_is_what_is_fetched(hub: FakeHub, variants: Path, diffusion: Diffusion) -> None:
    hub.add("me/model", variants)
    half = Diffusion.from_pretrained("me/model", variant="fp16")
    assert {Path(r.path.split("?")[0]).name for r in hub.asked("/unet/", "HEAD")} == {
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    }
    assert half.unet.dtype == torch.float32
    state = half.state_dict()
    for name, tensor in diffusion.state_dict().items():
        assert torch.equal(state[name], tensor.half().float()), name
    assert half.fingerprint != Diffusion.from_pretrained("me/model").fingerprint == diffusion.fingerprint


def test_a_variant_that_is_not_there_is_answered_with_those_that_are(hub: FakeHub, variants: Path) -> None:
    hub.add("me/model", variants)
    for base in ("me/model", variants):
        said = refusal(base, FileNotFoundError, "unet has no weights of variant bf16", variant="bf16")
        assert "there are fp16, none" in said
        assert str(base) in said
    for part, stem in PARTS.items():
        (variants / part / f"{stem}.safetensors").unlink()
    refusal(variants, FileNotFoundError, "unet has no weights of variant none: there are fp16; pass variant")


def test_shards_are_put_together(model: Path, diffusion: Diffusion) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    diffusion.unet.save_pretrained(model / "unet", max_shard_size="20KB")
    shards = sorted((model / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert Diffusion.from_pretrained(model).fingerprint == diffusion.fingerprint
    shards[0].unlink()
    refusal(model, FileNotFoundError, "unet has no weights of variant none: there are no weights at all")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_pickles_are_read_as_tensors(variant: str | None, hub: FakeHub, model: Path, diffusion: Diffusion) -> None:
    pickled(model, f".{variant}" if variant else "")
    hub.add("me/model", model)
    assert Diffusion.from_pretrained("me/model", variant=variant).fingerprint == diffusion.fingerprint


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["torch", "plain"])
def test_a_payload_is_never_run(part: str, kind: str, hub: FakeHub, model: Path, tmp_path: Path) -> None:
    pickled(model)
    (file,) = (model / part).glob("*.bin")
    content = {**torch.load(file), "payload": Payload(tmp_path / "executed")}
    if kind == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content, protocol=2))
    hub.add("me/model", model)
    said = refusal("me/model", ValueError, "refused, for it is damaged, or a pickle that needs code to be run")
    assert f"{part}/{file.name}" in said
    assert not (tmp_path / "executed").exists()


def test_an_archive_that_would_fill_memory_is_refused(model: Path) -> None:
    pickled(model)
    file = model / "unet" / "diffusion_pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    refusal(model, ValueError, r"unet/diffusion_pytorch_model\.bin is refused.*compressed")


def test_weights_that_break_off_are_refused(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert str(file) in refusal(model, ValueError, "damaged or no weights")


# --- text encoders of old and new transformers -----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_layouts_of_text_encoders(prefix: str, positions: bool, kind: str, model: Path, diffusion: Diffusion) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        bare = {prefix + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        ids = {f"{prefix}embeddings.position_ids": torch.arange(16)[None]} if positions else {}
        return bare | ids

    rewrite(model / "text_encoder" / "model.safetensors", change)
    if kind == "bin":
        pickled(model)
    assert Diffusion.from_pretrained(model).fingerprint == diffusion.fingerprint


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_would_be_left_at_random_are_an_error(part: str, model: Path) -> None:
    missing = {}

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        missing["name"] = sorted(tensors)[-1]
        return {name: tensor for name, tensor in tensors.items() if name != missing["name"]}

    rewrite(model / part / f"{PARTS[part]}.safetensors", change)
    assert missing["name"].removeprefix("text_model.") in refusal(model, ValueError, "does not fill the model")


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_the_model_has_no_place_for_are_an_error(part: str, model: Path) -> None:
    """Else a configuration of fewer layers would make another model of the same files, without a word."""
    rewrite(model / part / f"{PARTS[part]}.safetensors", lambda tensors: tensors | {"another.weight": torch.zeros(1)})
    text = refusal(model, ValueError, "has no place")
    assert "holds another.weight" in text
    assert str(model / part / "config.json") in text


def test_a_text_encoder_is_not_cut_off_by_its_configuration(model: Path) -> None:
    config = json.loads((file := model / "text_encoder" / "config.json").read_text())
    file.write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))
    refusal(model, ValueError, "for which the model of .*config.json has no place")


def test_a_vae_that_shifts_its_latents_is_an_error(model: Path) -> None:
    config = json.loads((file := model / "vae" / "config.json").read_text())
    file.write_text(json.dumps(config | {"latents_mean": [0.1] * 4}))
    refusal(model, ValueError, "shifts its latents by channel .latents_mean., which is not supported")


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_another_size_are_an_error(part: str, model: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(name for name in sorted(tensors) if tensors[name].ndim > 1)
        return tensors | {name: torch.zeros(3, 3)}

    rewrite(model / part / f"{PARTS[part]}.safetensors", change)
    refusal(model, ValueError, f"{part}/{PARTS[part]}")


# --- configuration ---------------------------------------------------------------------------------------------------


def test_velocity_is_read_from_the_scheduler(hub: FakeHub, model: Path, diffusion: Diffusion) -> None:
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD21))
    hub.add("me/sd21", model)
    velocity = Diffusion.from_pretrained("me/sd21")
    assert velocity.schedule.prediction_type == "v_prediction"
    latents = torch.randn(1, *diffusion.latent_shape, generator=Generator().manual_seed(0))
    alpha = velocity.schedule.alpha(500)
    with torch.no_grad():
        embeds = diffusion.encode_prompts(["umbrella"])
        network = diffusion.unet(latents, 500, embeds).sample
        expected = alpha**0.5 * network + (1 - alpha) ** 0.5 * latents
        torch.testing.assert_close(velocity.predict_noise(latents, 500, embeds), expected)


def test_settings_that_an_old_scheduler_lacks_are_the_formats(model: Path) -> None:
    """Not those of the class it was released with, whose defaults differ from those the format had."""
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD14))
    schedule = Diffusion.from_pretrained(model).schedule
    assert (schedule.prediction_type, schedule.timestep_spacing, schedule.steps_offset) == ("epsilon", "leading", 1)
    assert schedule.final_alpha_cumprod == float(schedule.alphas_cumprod[0])
    euler = SD14 | {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(euler))
    schedule = Diffusion.from_pretrained(model).schedule
    assert (schedule.prediction_type, schedule.timestep_spacing) == ("v_prediction", "leading")


def index(model: Path, **changes: Any) -> None:
    file = model / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_is_named(part: str, hub: FakeHub, model: Path) -> None:
    shutil.rmtree(model / part)
    hub.add("me/model", model)
    refusal("me/model", FileNotFoundError, f"has no {part}: copy it")
    index(model, **{part: [None, None]})
    refusal(model, FileNotFoundError, f"has no {part}: copy it")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "StableCascadePriorPipeline"}, "StableDiffusion3Pipeline and FluxPipeline"),
        ({"_class_name": ["pipeline", "Mine"]}, "not supported"),
        ({"_class_name": None}, "not supported"),
        ({"unet": ["my_unet", "UNet2DConditionModel"]}, "my_unet's UNet2DConditionModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "not a AutoencoderKL"),
        ({"scheduler": ["my_scheduler", "DDIMScheduler"]}, "my_scheduler's DDIMScheduler"),
        ({"scheduler": ["diffusers", "DiffusionPipeline"]}, "diffusers's DiffusionPipeline"),
        ({"tokenizer": ["transformers", "T5Tokenizer"]}, "transformers's T5Tokenizer"),
    ],
)
def test_other_models_and_code_of_others_are_refused(
    changes: dict[str, Any], said: str, hub: FakeHub, model: Path, tmp_path: Path
) -> None:
    for folder, name in (("", "pipeline"), ("unet", "my_unet"), ("scheduler", "my_scheduler")):
        (model / folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    index(model, **changes)
    hub.add("me/model", model)
    for base in ("me/model", model):
        assert said in refusal(base, ValueError, "not supported")
    assert not (tmp_path / "executed").exists()
    assert not hub.asked(".py")


def test_a_damaged_index_is_named(model: Path) -> None:
    (model / "model_index.json").write_text("[1]")
    refusal(model, ValueError, r"model_index\.json is damaged")


# --- a cache that can only be read -----------------------------------------------------------------------------------


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From the call on nothing can be written in the hub's cache, as on a file system that is mounted so."""
    cache = str(tmp_path / "hf" / "hub")

    def refuse(path: object, *_: Any) -> None:
        if str(path).startswith(cache):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guard(owner: Any, name: str, reads: Callable[..., bool]) -> None:
        original = getattr(owner, name)

        def guarded(path: Any, *more: Any, **options: Any) -> Any:
            if not reads(path, *more, **options):
                refuse(path)
            return original(path, *more, **options)

        monkeypatch.setattr(owner, name, guarded)

    def start() -> None:
        guard(os, "mkdir", lambda path, *_, **__: Path(path).exists())
        guard(os, "open", lambda path, flags, *_, **__: not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        guard(io, "open", lambda path, mode="r", *_, **__: set(mode) <= set("rbt"))
        guard(builtins, "open", lambda path, mode="r", *_, **__: set(mode) <= set("rbt"))

    return start


@pytest.mark.parametrize("revision", [None, "v1"])
@pytest.mark.parametrize("down", [False, True])
def test_a_cache_that_can_only_be_read_is_enough_if_it_is_complete(
    revision: str | None, down: bool, hub: FakeHub, tiny: Path, diffusion: Diffusion, read_only: Callable[[], None]
) -> None:
    commit = hub.add("me/model", tiny, revision=revision or "main")
    Diffusion.from_pretrained("me/model", revision=revision)
    pointer = hub.cache / "hub" / "models--me--model" / "refs" / (revision or "main")
    assert pointer.read_text() == commit
    read_only()
    with pytest.raises(OSError, match="Read-only"):
        pointer.write_text("x")
    hub.outage = 503 if down else None
    assert Diffusion.from_pretrained("me/model", revision=revision).fingerprint == diffusion.fingerprint


def test_a_new_name_of_a_commit_that_is_there_need_not_be_noted(
    hub: FakeHub, tiny: Path, diffusion: Diffusion, read_only: Callable[[], None]
) -> None:
    """The hub says that the branch is at a commit that the cache holds, under another name."""
    hub.add("me/model", tiny)
    Diffusion.from_pretrained("me/model")
    hub.repos["model", "me/model"].refs["new"] = hub.repos["model", "me/model"].refs["main"]
    read_only()
    assert Diffusion.from_pretrained("me/model", revision="new").fingerprint == diffusion.fingerprint


def test_half_a_model_in_a_cache_that_can_only_be_read_is_named(
    hub: FakeHub, tiny: Path, read_only: Callable[[], None]
) -> None:
    hub.add("me/model", tiny)
    Diffusion.from_pretrained("me/model")
    (file,) = (hub.cache / "hub").glob("*/snapshots/*/vae/*.safetensors")
    file.resolve().unlink()
    file.unlink()
    read_only()
    said = refusal("me/model", OSError, r"the download of vae/.*\.safetensors from me/model broke off")
    assert "Read-only file system" in said
    hub.outage = 503
    refusal("me/model", FileNotFoundError, "neither a folder nor in the cache, and the hub answers 503")
