"""Models of the libraries with all of their weights, from files that anybody may have made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_memories.storage.hub import plain
from lit_memories.storage.shards import check_shards, complete_sets
from lit_memories.storage.sizes import OversizeError, bounded, within_reason
from lit_memories.storage.tensors import check_header
from lit_memories.storage.weights import check_stored

KINDS = ("safetensors", "bin")
"""How weights may be stored, best first; in the second way they are pickles, of which only tensors are ever made."""
BUFFERS = (".position_ids",)
"""Ends of names that older releases of transformers stored, and no release needs."""


def choose_weights(
    name: str, files: Sequence[str], variant: str | None = None, kinds: Sequence[str] = KINDS
) -> list[str]:
    """One complete set of weights among the files in a model's folder.

    Args:
        name: of the model, for the message.
        files: in its folder.
        variant: of the weights.
        kinds: that may be taken, best first.

    Raises:
        FileNotFoundError: if there is none.
    """
    whole = complete_sets(files)
    for kind in kinds:
        if (variant, kind) in whole:
            return whole[variant, kind]
    others = sorted({other or "none" for other, kind in whole if kind in kinds})
    there = (
        f"there are {', '.join(others)}; pass variant"
        if others
        else f"there are no weights at all in {' or '.join(kinds)}"
    )
    raise FileNotFoundError(f"{name} has no weights of variant {variant or 'none'}: {there}")


def load_model(
    loader: Any,
    folder: Path,
    variant: str | None = None,
    kinds: Sequence[str] = KINDS,
    exact: bool = False,
    **options: Any,
) -> Any:
    """A model with all its weights from files, in memory that those account for.

    Args:
        loader: the class of diffusers or transformers to load with.
        folder: that holds its configuration and weights.
        variant: of the weights.
        kinds: of files that may be taken, best first.
        exact: whether to refuse weights that the model has no place for, too: a configuration of fewer layers than the
            files hold makes another model of them, without a word.
        **options: for the loader.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they are damaged, need code to be run, or do not fill the model.
    """
    names = choose_weights(str(folder), [file.name for file in folder.iterdir() if file.is_file()], variant, kinds)
    files, pickled = [folder / name for name in names], names[0].endswith(".bin")
    if (adapter := folder / "adapter_config.json").exists():
        raise ValueError(f"{adapter} would change the model where peft is installed: remove it, or merge the adapter")
    check_shards(folder, variant, names)
    try:
        for file in files:
            (check_stored if pickled else check_header)(file)
        with bounded(folder / "config.json", files):
            model, info = loader.from_pretrained(
                folder, variant=variant, use_safetensors=not pickled, output_loading_info=True, **options
            )
    except OversizeError:
        raise
    except Exception as error:  # files that anybody may have made can fail in any way
        refused = "refused, for it is damaged, or a pickle that needs code to be run" if pickled else "damaged"
        todo = f"{refused} or no weights, or no model is made of config.json beside it"
        raise ValueError(f"{files[0]} is {todo}: {plain(error)}") from None
    wrong = sorted(info["missing_keys"]) or [str(key) for key in info["mismatched_keys"]]
    if wrong:  # the libraries would draw them at random, with a warning
        raise ValueError(f"{files[0]} does not fill the model: {wrong[0]} is missing or of another size")
    unused = sorted(name for name in info["unexpected_keys"] if not name.endswith(BUFFERS))
    if exact and unused:
        config = folder / "config.json"
        raise ValueError(
            f"{files[0]} holds {unused[0]}, for which the model of {config} has no place: one of both is wrong"
        )
    if (dtype := options.get("dtype")) is not None and hasattr(loader, "load_config"):
        for parameter in model.parameters():  # diffusers leaves those of an SD3Transformer2DModel as they are stored
            parameter.data = parameter.data.to(dtype)
    return model


def outlined(loader: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model as its configuration has it, with shapes and no numbers, in the types that `load_model` would give.

    Args:
        loader: the class of diffusers or transformers.
        folder: that holds its configuration.
        dtype: of the weights.

    Raises:
        OversizeError: if it is larger than any model.
        ValueError: if none can be made of the configuration.
    """
    with torch.device("meta"), within_reason(folder / "config.json"):
        model = empty_model(loader, folder)
    wide = set(getattr(model, "_keep_in_fp32_modules", None) or []) if dtype == torch.float16 else set()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if wide & set(name.split(".")) else dtype)
    return model.eval()


def empty_model(loader: Any, folder: Path) -> Any:
    """A model as its configuration has it, before it has its weights.

    Args:
        loader: the class of diffusers or transformers.
        folder: that holds its configuration.

    Raises:
        OversizeError: as the context has it in which it is made.
        ValueError: if none can be made of the configuration.
    """
    try:
        if hasattr(loader, "load_config"):
            return loader.from_config(loader.load_config(folder))
        return loader(loader.config_class.from_pretrained(folder))
    except OversizeError:
        raise
    except Exception as error:  # configurations that anybody may have written can fail in any way
        raise ValueError(f"no model can be made of {folder / 'config.json'}: {plain(error)}") from None


def check_finite(module: nn.Module, where: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            raise ValueError(
                f"weights of the {where} are not finite: {name} holds NaN or infinity; the file is damaged"
            )
