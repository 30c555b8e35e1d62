"""Where models come from: pipelines in a folder, a single file or on the hub, and what their configuration says."""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, get_args

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lit_memories.ops.schedule import NoiseSchedule, PredictionType, TimestepSpacing
from lit_memories.storage.complete import check_files, check_tokenizer
from lit_memories.storage.configs import read_config
from lit_memories.storage.hub import fetch, plain
from lit_memories.storage.loading import choose_weights, load_model
from lit_memories.storage.single_file import load_single_file

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline
PIPELINES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "StableDiffusionPipeline": (
        StableDiffusionPipeline,
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": (StableDiffusionXLPipeline, {"add_watermarker": False}),
}
"""Pipelines that can be loaded, by the `_class_name` in model_index.json, and with which options."""
MODELS: dict[str, type[Any]] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
"""Parts with weights, and what they have to be."""
TOKENIZERS = ("tokenizer", "tokenizer_2")
PARTS = (*MODELS, *TOKENIZERS, "scheduler")


def noise_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """DDIM's schedule with a scheduler's settings: whatever sampler a model was released with, audits use DDIM.

    Raises:
        ValueError: if the scheduler has no betas (EDM, flow matching), its betas are no noise that grows, it ends in
            noise alone, which DDIM cannot divide by, or it names a spacing or a prediction that DDIM has not.
    """
    if "beta_schedule" not in config or config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"noise levels of the scheduler {config.get('_class_name', '')} are not DDIM's: supported are schedules "
            "given by betas, without zero terminal signal"
        )
    ddim = DDIMScheduler.from_config(config)
    betas = ddim.betas.double()
    if not len(betas) or not bool(((betas > 0) & (betas < 1)).all()) or not float(ddim.alphas_cumprod[-1]) > 0:
        raise ValueError(
            f"the betas of the scheduler {config.get('_class_name', '')} must lie between 0 and 1 and leave some "
            "signal: DDIM cannot divide by none"
        )
    for name, kind in (("timestep_spacing", TimestepSpacing), ("prediction_type", PredictionType)):
        known = get_args(kind)
        if ddim.config[name] not in known:
            raise ValueError(
                f"{name} of the scheduler {config.get('_class_name', '')} is {ddim.config[name]!r}: supported are "
                f"{', '.join(known)}"
            )
    return NoiseSchedule(
        alphas_cumprod=ddim.alphas_cumprod.double(),
        final_alpha_cumprod=float(ddim.final_alpha_cumprod),
        timestep_spacing=ddim.config.timestep_spacing,
        steps_offset=ddim.config.steps_offset,
        prediction_type=ddim.config.prediction_type,
    )


def load_pipeline(
    base: str, revision: str | None, dtype: torch.dtype, variant: str | None = None, config: str | None = None
) -> tuple[Pipeline, str | None]:
    """A pipeline from a folder, the hub or a single file, and which commit of the hub it is.

    Weights are read from safetensors where there are any, else from pickles, of which only tensors are ever made.

    Args:
        base: folder or hub id of a pipeline in diffusers' layout, or a checkpoint in CompVis' layout.
        revision: git revision of a hub id.
        dtype: of the weights in memory.
        variant: which of several sets of weights to take, such as ``"fp16"``; None for the files without a variant.
        config: for a single file, folder or hub id of the pipeline whose configuration it has; its weights are not
            needed.

    Raises:
        FileNotFoundError: if `base` is no pipeline, a part of it is missing, or it cannot be had from the hub.
        ValueError: if it is of another class than `PIPELINES`, or its weights cannot be read without running code, do
            not fit their configuration, or do not fill all of it.
        PermissionError: if it is gated, and not for this user.
    """
    if Path(base).is_file():
        if config is None or variant is not None or revision is not None:
            raise ValueError(
                f"{base} is a single file: say with config whose configuration it has, such as the hub id or folder of "
                "the pipeline it was made of, and leave out revision and variant"
            )
        folder, commit = fetch(config, _configs)
        models = partial(load_single_file, Path(base), dtype)
    else:
        if config is not None:
            raise ValueError(f"{base} is no single file and has a configuration of its own: leave out config")
        folder, commit = fetch(base, partial(_wanted, variant=variant), revision)
        models = partial(_load_models, variant, dtype)
    index = _read_index(folder, base)
    loader, options = PIPELINES[index["_class_name"]]
    expected = inspect.signature(loader).parameters
    settings = {name: value for name, value in index.items() if name in expected and not isinstance(value, list)}
    if odd := [name for name, value in settings.items() if not isinstance(value, bool | None)]:
        raise ValueError(f"{odd[0]} in {folder / 'model_index.json'} is neither true nor false")
    wanted = [name for name in PARTS if name in expected]
    for name in wanted:
        kind = _check_part(folder, name, index)
        check_files(folder / name, name, kind, loader is StableDiffusionXLPipeline)
    parts = {"scheduler": _read(getattr(diffusers, index["scheduler"][1]), folder / "scheduler")}
    noise_schedule(parts["scheduler"].config)
    parts |= {name: _read(CLIPTokenizer, folder / name) for name in wanted if name in TOKENIZERS}
    for tokenizer, encoder in zip(TOKENIZERS, ("text_encoder", "text_encoder_2"), strict=True):
        if tokenizer in parts:
            encoder_config = _read(MODELS[encoder].config_class, folder / encoder)
            check_tokenizer(parts[tokenizer], encoder_config, f"the {tokenizer} in {folder}")
    parts |= models({name: (MODELS[name], folder / name) for name in wanted if name in MODELS})
    return loader(**parts, **settings | options), commit


def randomise(unet: Any) -> None:
    """Draw a U-Net's weights anew from its configuration, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(unet).from_config(unet.config)
    unet.load_state_dict(fresh.state_dict())


def _configs(files: Sequence[str]) -> list[str]:
    """The files of a pipeline that are no weights."""
    if "model_index.json" not in files:
        raise FileNotFoundError("it has no model_index.json, so that it is no diffusers pipeline")
    parts = [file for file in files if file.split("/")[0] in PARTS and file.endswith((".json", ".txt"))]
    return ["model_index.json", *parts]


def _wanted(files: Sequence[str], variant: str | None) -> list[str]:
    """The files of a pipeline that are needed, with one set of weights for each part that has any."""
    wanted = _configs(files)
    for part in MODELS:
        names = [file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")]
        if names:
            wanted += [f"{part}/{name}" for name in choose_weights(part, names, variant)]
    return wanted


def _read_index(folder: Path, base: str) -> dict[str, Any]:
    """What model_index.json says."""
    index = read_config(folder / "model_index.json")
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise ValueError(f"{base} is a {name}, which is not supported: known are {' and '.join(PIPELINES)}")
    return index


def _check_part(folder: Path, name: str, index: dict[str, Any]) -> type[Any]:
    """The class of a part; one that is missing, or of a class that is not the library's own, is refused."""
    entry = index.get(name)
    if not (isinstance(entry, list) and [type(value) for value in entry] == [str, str] and (folder / name).is_dir()):
        raise FileNotFoundError(f"the pipeline in {folder} has no {name}: copy it from the model it was made of")
    library, kind = entry
    found: Any = MODELS.get(name, CLIPTokenizer)
    if name == "scheduler":
        found = getattr(diffusers, kind, None)
        fits = library == "diffusers" and isinstance(found, type) and issubclass(found, SchedulerMixin)
    elif name in TOKENIZERS:
        fits = library == "transformers" and kind in {"CLIPTokenizer", "CLIPTokenizerFast"}
    else:
        fits = library in {"diffusers", "transformers"} and kind == MODELS[name].__name__
    if not fits:
        wanted = MODELS[name].__name__ if name in MODELS else f"{name} of the libraries"
        raise ValueError(f"the {name} of the pipeline in {folder} is {library}'s {kind}, not a {wanted}: not supported")
    return found


def _load_models(variant: str | None, dtype: torch.dtype, parts: dict[str, tuple[type[Any], Path]]) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": dtype, "low_cpu_mem_usage": False, "exact": True}
    return {name: load_model(loader, folder, variant, **options) for name, (loader, folder) in parts.items()}


def _read(loader: type[Any], folder: Path) -> Any:
    """What is read from configuration alone."""
    try:
        return loader.from_pretrained(folder)
    except Exception as error:  # files that anybody may have made can fail in any way
        raise ValueError(f"no {folder.name} can be made of the configuration in {folder}: {plain(error)}") from None
