"""What the libraries would make up where a file or an entry is missing, and what of that is allowed.

Both diffusers and transformers fill what a folder lacks with defaults, and say little of it: a tokenizer without a
vocabulary knows two words, a scheduler without betas has somebody's. Entries that old releases leave out because they
are what the library's default documents may be missing (Stable Diffusion 1.4 states neither ``prediction_type`` nor the
autoencoder's ``scaling_factor``), and so may all of a text encoder's, of which transformers writes those that differ
from its defaults; weights then say whether it fits. All else has to be there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from lit_memories.storage.configs import check_config, check_size, read_config

CONFIGS = {"scheduler": "scheduler_config.json"}
"""Names of the parts' configurations, where they are not ``config.json``."""
VOCABULARIES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"spiece.model"})
"""Files of which a tokenizer has one set or another."""
TOKENIZING = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)
"""Files that tokenizers are made of, besides their configuration."""
STATED: dict[str, tuple[str, ...]] = {
    "unet": (
        "sample_size", "in_channels", "center_input_sample", "flip_sin_to_cos", "freq_shift", "act_fn",
        "norm_num_groups", "norm_eps", "attention_head_dim", "cross_attention_dim",
    ),
    "transformer": (
        "patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
        "pooled_projection_dim",
    ),
    "vae": ("act_fn", "block_out_channels", "latent_channels"),
    "scheduler": ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"),
}  # fmt: skip
"""Entries that change results without changing the shape of any weight, and that every release states."""
STATED_FLOW = ("num_train_timesteps", "shift")
"""Those of a flow's scheduler."""
PADDING = 64
"""Rows that an encoder's table of words may have beyond the tokenizer's: sizes are rounded up to multiples of at most
this."""


def check_files(folder: Path, name: str, kind: type, stated: Sequence[str]) -> None:
    """Refuse a part whose files leave open what it computes, or ask for what no model has.

    Args:
        folder: of the part.
        name: of the part in its pipeline.
        kind: its class.
        stated: entries that its configuration has to state in this pipeline besides, and not as null.

    Raises:
        FileNotFoundError: naming the file or the entry that is missing.
        ValueError: if its configuration is damaged, or holds values that are of another type or out of range.
    """
    if name.startswith("tokenizer"):
        check_vocabulary(folder)
        if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
            raise FileNotFoundError(
                f"the {name} in {folder} has no vocabulary, so that all prompts would read alike: copy tokenizer.json, "
                "or vocab.json and merges.txt, or spiece.model, from the model it was made of"
            )
        return
    file = folder / CONFIGS.get(name, "config.json")
    if not file.is_file():
        raise FileNotFoundError(f"the {name} in {folder} has no {file.name}: copy it from the model it was made of")
    config = read_config(file)
    flow = issubclass(kind, FlowMatchEulerDiscreteScheduler)
    wanted = STATED_FLOW if flow else (*STATED.get(name, ()), *stated)
    if name == "scheduler" and config.get("trained_betas") is not None:
        wanted = ()  # they are the schedule
    missing = [entry for entry in wanted if entry not in config or (config[entry] is None and entry in stated)]
    if missing:
        raise FileNotFoundError(
            f"{file} does not state {', '.join(missing)}, which would be made up: copy it from the model it was made of"
        )
    check_config(config, file, kind)
    if name == "scheduler" and not flow:  # whatever its class, DDIM's is made of the same entries
        check_config(config, file, DDIMScheduler)


def check_vocabulary(folder: Path) -> None:
    """Refuse files of a tokenizer that no tokenizer has, before one is made of them.

    Raises:
        ValueError: naming the file.
    """
    for name in TOKENIZING:
        if (folder / name).is_file():
            check_size(folder / name)
    if (file := folder / "tokenizer_config.json").is_file():
        window = read_config(file).get("model_max_length")
        if not (window is None or type(window) in (int, float)) or (window is not None and window < 1):
            raise ValueError(
                f"model_max_length in {file} is no number of tokens: copy it from the model it was made of"
            )


def check_tokenizer(tokenizer: Any, config: Any, where: Path | str) -> None:
    """Refuse a tokenizer that is not its encoder's; one that names no window takes the encoder's.

    Args:
        tokenizer: a transformers tokenizer; its ``model_max_length`` is set if it is missing.
        config: of the text encoder.
        where: what errors call the tokenizer.

    Raises:
        ValueError: if vocabulary, special tokens or window are not the encoder's.
    """
    words, rows = len(tokenizer), config.vocab_size
    window = getattr(config, "max_position_embeddings", None)  # T5, whose positions are relative, has none
    if not 0 <= rows - words < PADDING:
        raise ValueError(
            f"{where} is not its text encoder's: it has {words} words and the encoder {rows}; copy the tokenizer's "
            "files from the model it was made of"
        )
    word, last = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if last >= rows:
        raise ValueError(
            f"{where} has the word {word!r} with the number {last}, for which its text encoder, of {rows} rows, has no "
            "embedding: copy the tokenizer's files from the model it was made of"
        )
    marks = ("eos", "pad") if window is None else ("bos", "eos", "pad")
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in marks}
    if bad := [name for name, number in special.items() if number is None or not 0 <= number < rows]:
        raise ValueError(f"{where} has no {bad[0]} token that its text encoder knows: {special[bad[0]]}")
    if special.get("bos") == special["eos"]:
        raise ValueError(f"{where} begins and ends prompts with one token, {special['bos']}: its files are incomplete")
    if window is None:
        return
    if tokenizer.model_max_length > 10**9:  # transformers' word for "not said"
        tokenizer.model_max_length = window
    if tokenizer.model_max_length > window:
        raise ValueError(
            f"{where} has a window of {tokenizer.model_max_length} tokens, its text encoder one of {window}"
        )
