"""What the libraries would make up where a file or an entry is missing is refused, or a decision that is stated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, SD3Transformer2DModel, UNet2DConditionModel
from fake_hub import FakeHub
from transformers import CLIPTokenizer

from lit_memories.diffusion import Diffusion
from lit_memories.storage.complete import STATED, check_files, check_tokenizer
from lit_memories.storage.schedules import noise_schedule

KINDS = {
    "unet": UNet2DConditionModel,
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
    "scheduler": DDIMScheduler,
}


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, for changes."""
    return shutil.copytree(tiny, tmp_path / "model")


def refusal(base: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        Diffusion.from_pretrained(str(base))
    assert "\n" not in str(caught.value)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def test_a_tokenizer_without_a_vocabulary_is_refused(model: Path, hub: FakeHub) -> None:
    """It would load with two words, every prompt be the unknown one, and all pictures be alike."""
    (model / "tokenizer" / "tokenizer.json").unlink()
    assert len(CLIPTokenizer.from_pretrained(model / "tokenizer")) < 10, "the control: the library says nothing"
    refusal(model, FileNotFoundError, "the tokenizer in .* has no vocabulary, so that all prompts would read alike")
    hub.add("me/model", model)
    refusal("me/model", FileNotFoundError, "has no vocabulary")
    (model / "tokenizer" / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    refusal(model, FileNotFoundError, "has no vocabulary")
    (model / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    refusal(model, ValueError, r"is not its text encoder's: it has 2 words and the encoder \d+")


def test_a_tokenizer_of_another_model_is_refused(model: Path) -> None:
    config = json.loads((model / "text_encoder" / "config.json").read_text())
    edit(
        model / "tokenizer" / "tokenizer.json",
        lambda content: content["model"].update(vocab=dict(list(content["model"]["vocab"].items())[:-90])),
    )
    words = config["vocab_size"] - 90
    refusal(model, ValueError, rf"(it has {words} words|no tokenizer can be made|has no \w+ token)")


def test_a_missing_window_is_the_encoders(model: Path) -> None:
    edit(model / "tokenizer" / "tokenizer_config.json", lambda content: content.pop("model_max_length"))
    assert CLIPTokenizer.from_pretrained(model / "tokenizer").model_max_length > 10**9, "the control"
    diffusion = Diffusion.from_pretrained(model)
    assert diffusion.tokenizer.model_max_length == diffusion.text_encoder.config.max_position_embeddings == 16
    assert diffusion.encode_prompts(["a red umbrella " * 30]).shape[1] == 16


def test_a_window_beyond_the_encoders_is_refused(model: Path) -> None:
    edit(model / "tokenizer" / "tokenizer_config.json", lambda content: content.update(model_max_length=77))
    refusal(model, ValueError, "has a window of 77 tokens, its text encoder one of 16")


class Words:
    """As much of a tokenizer as is looked at."""

    model_max_length = 77
    bos_token_id, eos_token_id, pad_token_id = 0, 1, 1

    def __init__(self, words: int, **special: int | None) -> None:
        self.words = words
        vars(self).update(special)

    def __len__(self) -> int:
        return self.words

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self.words)}


class Encoder:
    vocab_size, max_position_embeddings = 49408, 77


@pytest.mark.parametrize("words", [49408, 49345])
def test_a_table_of_words_may_be_rounded_up(words: int) -> None:
    check_tokenizer(Words(words), Encoder, "x")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (Words(49409), "it has 49409 words and the encoder 49408"),
        (Words(49344), "it has 49344 words"),
        (Words(49408, eos_token_id=49408), "has no eos token that its text encoder knows: 49408"),
        (Words(49408, pad_token_id=None), "has no pad token"),
        (Words(49408, eos_token_id=0), "begins and ends prompts with one token, 0"),
    ],
)
def test_words_and_special_tokens_must_be_the_encoders(tokenizer: Words, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tokenizer(tokenizer, Encoder, "x")


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("scheduler", "scheduler_config.json"),
        ("unet", "config.json"),
        ("vae", "config.json"),
        ("text_encoder", "config.json"),
    ],
)
def test_a_part_without_its_configuration_is_refused(part: str, file: str, model: Path) -> None:
    (model / part / file).unlink()
    refusal(model, FileNotFoundError, f"the {part} in .* has no {file}: copy it")


@pytest.mark.parametrize(("part", "entry"), [(part, entry) for part, entries in STATED.items() for entry in entries])
def test_entries_that_change_results_must_be_stated(part: str, entry: str, model: Path) -> None:
    file = model / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if part == "transformer":
        file.parent.mkdir()
        SD3Transformer2DModel(num_layers=1, num_attention_heads=1, caption_projection_dim=64).save_config(file.parent)
    edit(file, lambda content: content.pop(entry))
    with pytest.raises(FileNotFoundError, match=f"does not state {entry}, which would be made up"):
        check_files(model / part, part, KINDS[part], ())


def test_what_old_releases_leave_out_may_be_missing(model: Path) -> None:
    """Stable Diffusion 1.4 states neither; of its successors the autoencoder's scale has to be stated."""
    edit(
        model / "scheduler" / "scheduler_config.json",
        lambda c: [c.pop(k) for k in ("prediction_type", "timestep_spacing")],
    )
    edit(model / "vae" / "config.json", lambda content: content.pop("scaling_factor"))
    diffusion = Diffusion.from_pretrained(model)
    assert (diffusion.schedule.prediction_type, diffusion.schedule.timestep_spacing) == ("epsilon", "leading")
    assert diffusion.vae.config.scaling_factor == 0.18215
    with pytest.raises(FileNotFoundError, match="does not state scaling_factor"):
        check_files(model / "vae", "vae", AutoencoderKL, ("scaling_factor",))


def test_a_damaged_configuration_is_refused(model: Path) -> None:
    (model / "vae" / "config.json").write_text("[]")
    refusal(model, ValueError, "is damaged: it holds no configuration")


BETAS = torch.linspace(0.001, 0.02, 1000).tolist()


@pytest.mark.parametrize(
    "betas",
    [[*BETAS[:-1], 1.0], [*BETAS[:-1], float("nan")], [-0.1, *BETAS[1:]], [0.0, *BETAS[1:]], [1.5], [1 - 1e-9] * 99],
)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_betas_that_leave_no_signal_are_refused(betas: list[float], spacing: str) -> None:
    """By whatever road: a DDIM step divides by the signal's share."""
    config = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "trained_betas": betas}
    config |= {"timestep_spacing": spacing, "num_train_timesteps": len(betas)}
    with pytest.raises(ValueError, match="must lie between 0 and 1 and leave some signal"):
        noise_schedule(config)
    sound = noise_schedule(config | {"trained_betas": BETAS, "num_train_timesteps": 1000})
    assert all(step.alpha > 0 for step in sound.ddim_steps(10))
