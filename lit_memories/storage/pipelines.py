"""Where models come from: pipelines in a folder, a single file or on the hub, and what their configuration says."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    FluxPipeline,
    FluxTransformer2DModel,
    SchedulerMixin,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from lit_memories.storage.complete import check_files, check_tokenizer
from lit_memories.storage.configs import read_config
from lit_memories.storage.hub import fetch, plain
from lit_memories.storage.loading import choose_weights, load_model, outlined
from lit_memories.storage.schedules import noise_schedule
from lit_memories.storage.single_file import load_single_file

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline | StableDiffusion3Pipeline | FluxPipeline


@dataclass(frozen=True)
class Layout:
    """What a kind of pipeline is made of.

    Args:
        kind: class of the pipeline.
        models: parts with weights, and what they have to be.
        tokenizers: the tokenizers, and whose they are.
        optional: models that may be left out, their tokenizers with them.
        options: for the pipeline's constructor.
        stated: entries that a part's configuration has to state, as their defaults are another pipeline's.
    """

    kind: type[Any]
    models: Mapping[str, type[Any]]
    tokenizers: Mapping[str, str]
    optional: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts."""
        return (*self.models, *self.tokenizers, "scheduler")


UNET = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
ONE = {"tokenizer": "text_encoder"}
TWO = {**ONE, "tokenizer_2": "text_encoder_2"}
PIPELINES: dict[str, Layout] = {
    "StableDiffusionPipeline": Layout(
        StableDiffusionPipeline,
        {**UNET, "text_encoder": CLIPTextModel},
        ONE,
        options={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": Layout(
        StableDiffusionXLPipeline,
        {**UNET, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection},
        TWO,
        options={"add_watermarker": False},
        stated={"vae": ("scaling_factor",)},
    ),
    "StableDiffusion3Pipeline": Layout(
        StableDiffusion3Pipeline,
        {
            "transformer": SD3Transformer2DModel,
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModelWithProjection,
            "text_encoder_2": CLIPTextModelWithProjection,
            "text_encoder_3": T5EncoderModel,
        },
        {**TWO, "tokenizer_3": "text_encoder_3"},
        optional=("text_encoder_3",),
        stated={"vae": ("scaling_factor", "shift_factor")},
    ),
    "FluxPipeline": Layout(
        FluxPipeline,
        {
            "transformer": FluxTransformer2DModel,
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": T5EncoderModel,
        },
        TWO,
        stated={"vae": ("scaling_factor", "shift_factor")},
    ),
}
"""Pipelines that can be loaded, by the `_class_name` in model_index.json."""
T5_WIDTH = 4096
"""Of the embeddings of T5-XXL, with which Stable Diffusion 3 was taught."""
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")


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
    return _assembled(folder, base, models), commit


def outline_pipeline(
    base: str, revision: str | None, dtype: torch.dtype, config: str | None = None
) -> tuple[Pipeline, str | None]:
    """A pipeline whose models have shapes and no numbers (torch's device meta), of its configuration files alone.

    Args:
        base: as for `load_pipeline`.
        revision: as for `load_pipeline`.
        dtype: that the weights would have in memory.
        config: as for `load_pipeline`.

    Raises:
        FileNotFoundError: as `load_pipeline`.
        ValueError: as `load_pipeline`, or if a configuration asks for more than any model has.
        PermissionError: as `load_pipeline`.
    """
    folder, commit = fetch(base if config is None else config, _configs, revision)
    return _assembled(folder, base, partial(_outline_models, dtype)), commit


def _assembled(folder: Path, base: str, models: Callable[[dict[str, tuple[type[Any], Path]]], dict[str, Any]]) -> Any:
    """The pipeline in a folder, its models made by a function of their classes and folders."""
    index = _read_index(folder, base)
    layout = PIPELINES[index["_class_name"]]
    expected = inspect.signature(layout.kind).parameters
    settings = {name: value for name, value in index.items() if name in expected and not isinstance(value, list)}
    absent = {name: None for name in layout.optional if index.get(name) in (None, [None, None])}
    absent |= {name: None for name, encoder in layout.tokenizers.items() if encoder in absent}
    settings = {name: value for name, value in settings.items() if name not in layout.parts}
    if odd := [name for name, value in settings.items() if not isinstance(value, bool | None)]:
        raise ValueError(f"{odd[0]} in {folder / 'model_index.json'} is neither true nor false")
    for name in (wanted := [name for name in layout.parts if name not in absent]):
        kind = _check_part(folder, name, index, layout)
        check_files(folder / name, name, kind, layout.stated.get(name, ()))
    if "text_encoder_3" in absent and _taught_with_t5(folder):
        warnings.warn(
            f"{base} has no text_encoder_3 (T5): its two CLIP encoders read prompts alone, cut to their window",
            stacklevel=2,
        )
    parts = {"scheduler": _read(getattr(diffusers, index["scheduler"][1]), folder / "scheduler")}
    noise_schedule(parts["scheduler"].config)
    for name, encoder in layout.tokenizers.items():
        if name in wanted:
            model = layout.models[encoder]
            parts[name] = _read(_tokenizer(model), folder / name)
            encoder_config = _read(model.config_class, folder / encoder)
            check_tokenizer(parts[name], encoder_config, f"the {name} in {folder}")
    parts |= models({name: (layout.models[name], folder / name) for name in wanted if name in layout.models})
    return layout.kind(**{**absent, **parts, **settings, **layout.options})


def _taught_with_t5(folder: Path) -> bool:
    """Whether the network of a pipeline in the layout of Stable Diffusion 3 was taught with embeddings of T5-XXL."""
    return bool(read_config(folder / "transformer" / "config.json")["joint_attention_dim"] == T5_WIDTH)


def randomise(network: Any) -> None:
    """Draw a network's weights anew from its configuration, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(network).from_config(network.config)
    network.load_state_dict(fresh.state_dict())


def _tokenizer(encoder: type[Any]) -> type[Any]:
    """The class of an encoder's tokenizer."""
    return T5TokenizerFast if encoder is T5EncoderModel else CLIPTokenizer


def _configs(files: Sequence[str]) -> list[str]:
    """The files of a pipeline that are no weights."""
    if "model_index.json" not in files:
        raise FileNotFoundError("it has no model_index.json, so that it is no diffusers pipeline")
    parts = {part for layout in PIPELINES.values() for part in layout.parts}
    found = [file for file in files if file.split("/")[0] in parts and file.endswith((".json", ".txt", ".model"))]
    return ["model_index.json", *found]


def _wanted(files: Sequence[str], variant: str | None) -> list[str]:
    """The files of a pipeline that are needed, with one set of weights for each part that has any."""
    wanted = _configs(files)
    for part in {part: None for layout in PIPELINES.values() for part in layout.models}:
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


def _check_part(folder: Path, name: str, index: dict[str, Any], layout: Layout) -> type[Any]:
    """The class of a part; one that is missing, or of a class that is not the library's own, is refused."""
    entry = index.get(name)
    if not (isinstance(entry, list) and [type(value) for value in entry] == [str, str] and (folder / name).is_dir()):
        left_out = {
            *layout.optional,
            *(key for key, encoder in layout.tokenizers.items() if encoder in layout.optional),
        }
        instead = ", or leave it out with null for it in model_index.json" if name in left_out else ""
        raise FileNotFoundError(
            f"the pipeline in {folder} has no {name}: copy it from the model it was made of{instead}"
        )
    library, kind = entry
    if name == "scheduler":
        found = getattr(diffusers, kind, None)
        fits = library == "diffusers" and isinstance(found, type) and issubclass(found, SchedulerMixin)
    elif name in layout.tokenizers:
        found = _tokenizer(layout.models[layout.tokenizers[name]])
        fits = library == "transformers" and kind.removesuffix("Fast") == found.__name__.removesuffix("Fast")
    else:
        found = layout.models[name]
        fits = library in {"diffusers", "transformers"} and kind == found.__name__
    if not fits:
        wanted = layout.models[name].__name__ if name in layout.models else f"{name} of the libraries"
        raise ValueError(f"the {name} of the pipeline in {folder} is {library}'s {kind}, not a {wanted}: not supported")
    return cast("type[Any]", found)


def _load_models(variant: str | None, dtype: torch.dtype, parts: dict[str, tuple[type[Any], Path]]) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": dtype, "low_cpu_mem_usage": False, "exact": True}
    return {name: load_model(loader, folder, variant, **options) for name, (loader, folder) in parts.items()}


def _outline_models(dtype: torch.dtype, parts: dict[str, tuple[type[Any], Path]]) -> dict[str, Any]:
    return {name: outlined(loader, folder, dtype) for name, (loader, folder) in parts.items()}


def _read(loader: type[Any], folder: Path) -> Any:
    """What is read from configuration alone."""
    try:
        return loader.from_pretrained(folder)
    except Exception as error:  # files that anybody may have made can fail in any way
        raise ValueError(f"no {folder.name} can be made of the configuration in {folder}: {plain(error)}") from None
