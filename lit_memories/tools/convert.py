"""Erased weights in the formats that methods' own code leaves behind, made into an `Erasure`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.folder import announce, check_folder
from lit_memories.erasure import PROVENANCE_FILE, Erasure, Provenance, versions
from lit_memories.storage.hub import WEIGHT_SUFFIXES, fetch
from lit_memories.storage.shards import INDEX, check_shards, complete_sets
from lit_memories.storage.single_file import OPEN_CLIP, translate
from lit_memories.storage.weights import WeightFile, read_weights
from lit_memories.tools.authors import diffusers_named
from lit_memories.tools.checks import check_sound, check_whole, is_network, misfit, some
from lit_memories.tools.lora import is_lora, read_lora
from lit_memories.tools.names import compvis_names, unwrapped
from lit_memories.tools.strengths import CONFIG_FILE

KNOWN = (
    "state dicts of a U-Net or a transformer with diffusers' names, whole or in part; ESD's dict of modules; AC's "
    "delta {'unet': …}; LoRA of kohya, diffusers or peft, SPM's among them; a CLIPTextModel's folder or state dict; "
    "CompVis checkpoints (model.diffusion_model.…), and AC's deltas of their attention; checkpoints of Stable "
    "Diffusion 3 and FLUX in their authors' names"
)
ENCODER_FILES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_FILES = (
    "adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin"
)  # fmt: skip
FOLDER_FILES = (ENCODER_FILES[0], *ADAPTER_FILES[:2], ENCODER_FILES[1], *ADAPTER_FILES[2:])
"""What a folder of a CLIPTextModel or an adapter may hold, by preference: what cannot run code comes first."""

COMPVIS_TEXT = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
"""Where CompVis' checkpoints have CLIP's text encoder, of Stable Diffusion 1 and of XL."""


def convert(
    source: str | Path,
    base: str,
    out: Path,
    concept: str | None = None,
    method: str | None = None,
    gate: list[str] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    file: str | None = None,
    alpha: float | None = None,
) -> None:
    """Make an erasure folder of erased weights in a method's own format; what is in the file says which it is.

    Args:
        source: file of weights, or folder or hub id (``user/name`` or ``user/name@revision``) of a CLIPTextModel or an
            adapter. Pickles are read as plain tensors or refused.
        base: hub id or folder of the model that was erased.
        out: folder to write the erasure to.
        concept: name of what was erased; of an adapter its gate's prompts if not given.
        method: name of the method; the format's if not given.
        gate: prompts near which an adapter acts, as a list, instead of those the file names; an empty list for
            an adapter that always acts. The file's own are joined by commas, which tears prompts with commas apart.
        revision: git revision of `base`, if that is a hub id.
        subfolder: folder in `source` that is the CLIPTextModel's or the adapter's.
        file: name of the file of weights in `source`.
        alpha: of an adapter that does not say it; its strength is alpha / rank.

    Raises:
        FileNotFoundError: if there is no such file or base.
        ValueError: if the file cannot be read without running code, has none of the known formats, does not fit the
            base, holds NaN or infinity, or changes nothing, or `out` holds another erasure; nothing is written then.
    """
    inside = "/".join(part for part in (subfolder, file) if part)
    folder, commit = fetch(str(source), lambda files: _wanted(str(source), files, inside))
    weights = _read(folder / inside)
    adapts = is_lora(weights)
    if not adapts and (gate is not None or alpha is not None):
        raise ValueError(f"{source} is no adapter, so that nothing can be gated or scaled: leave out gate and alpha")
    diffusion = Diffusion(base, revision=revision)
    settings: dict[str, object] = {
        "source": (str(source).partition("@")[0] if commit else folder.resolve().name) + (inside and f"/{inside}"),
        "source_revision": commit,
    }
    if adapts:
        lora = read_lora(weights, {diffusion.component: diffusion.network, **diffusion.conditioning.encoders}, alpha)
        form, tensors = (lora.whole or "adapter").lower(), lora.tensors
        gate, settings["alpha"] = _gate(weights) if gate is None else gate, lora.alpha
        if gate and lora.whole:
            raise ValueError(f"{weights.path} is {lora.whole}, which changes weights that no gate reaches: --gate '[]'")
        if gate and (beside := [name for name in tensors if not name.startswith(f"{diffusion.component}.")]):
            raise ValueError(
                f"{weights.path} adapts the text encoder ({beside[0]}), which no gate reaches: --gate '[]'"
            )
    else:
        form, tensors = _replaced(weights, _Names.of(diffusion), diffusion.conditioning.encoders)
    if not tensors:
        raise ValueError(f"{source} changes nothing: its tensors equal those of {base}, or its adapter is zero")
    provenance = Provenance(
        method=method or form,
        concept={"name": concept or ", ".join(gate or []) or "unknown"},
        base=diffusion.base,
        base_revision=diffusion.revision,
        base_fingerprint=diffusion.fingerprint,
        settings=settings | {"format": form},
        steps=0,
        seed=None,
        versions=versions(),
        gate=gate or None,
        base_rounded=diffusion.rounded_fingerprints(),
    )
    _check_out(out, erasure := Erasure(tensors, provenance))
    erasure.save(out)
    announce(out, provenance)


def _check_out(out: Path, erasure: Erasure) -> None:
    """Refuse a folder with another erasure, be it only other weights from a file of the same name."""
    check_folder(out, erasure.provenance, "choose another OUT")
    if not (out / PROVENANCE_FILE).is_file():
        return
    try:
        there = Erasure.load(out).tensors
    except (FileNotFoundError, ValueError):  # half of the same, or damaged
        return
    made = erasure.tensors
    if there.keys() != made.keys() or not all(torch.equal(tensor, made[name]) for name, tensor in there.items()):
        raise ValueError(f"{out} holds other weights, of a source of the same name: choose another OUT, or remove it")


def _wanted(source: str, files: Sequence[str], inside: str) -> list[str]:
    """Of a folder's files the one that is meant, or a text encoder's or an adapter's weights and configuration."""
    if "model_index.json" in files and not inside:
        raise ValueError(f"{source} is a whole pipeline, which needs no conversion: pass it as a model's base")
    prefix = f"{inside}/" if inside else ""
    wanted = [name for name in (inside, *(prefix + name for name in FOLDER_FILES)) if name in files]
    beside = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    if not wanted and (shards := _shards(beside)):
        return [prefix + name for name in (*shards, *filter(INDEX.fullmatch, beside))]
    if not wanted:
        there = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
        raise FileNotFoundError(
            f"{inside or 'it'} is no file of weights, nor a folder with {' or '.join(FOLDER_FILES)}; "
            f"files of weights are {', '.join(there[:8]) or 'not there'}: choose with subfolder or file"
        )
    parent = wanted[0].rpartition("/")[0]
    config = f"{parent}/{CONFIG_FILE}" if parent else CONFIG_FILE
    return [wanted[0], *([config] if config in files else [])]


def _shards(names: Sequence[str]) -> list[str]:
    """Of a folder's files those of a text encoder in several shards, by preference without pickles; all or none."""
    sets = complete_sets([name for name in names if name.startswith(("model-", "pytorch_model-"))])
    return sets.get((None, "safetensors")) or sets.get((None, "bin")) or []


def _read(source: Path) -> WeightFile:
    if not source.is_dir():
        return read_weights(source)
    single = next((name for name in FOLDER_FILES if (source / name).is_file()), None)
    if single is not None and single not in ENCODER_FILES:
        return read_weights(source / single)
    names = _shards([file.name for file in source.iterdir()]) if single is None else [single]
    check_shards(source, None, names)
    files = [read_weights(source / name) for name in names]
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    return replace(files[0], tensors=tensors, whole=True)


@dataclass(frozen=True)
class _Names:
    """What a base's tensors are called by others.

    Args:
        state: the base's tensors.
        model: the network.
        component: what the network is called in the base.
        network: the network's names in the base by diffusers'.
        compvis: a U-Net's names in the base by CompVis'.
        text: of each text encoder its names, by those without what wraps them in versions of transformers.
    """

    state: Mapping[str, Tensor]
    model: Any
    component: str
    network: Mapping[str, str]
    compvis: Mapping[str, str]
    text: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, diffusion: Diffusion) -> "_Names":
        """Those of a base."""
        component, network = diffusion.component, diffusion.network
        encoders = tuple(diffusion.conditioning.encoders)
        state = {k: v for k, v in diffusion.state_dict().items() if k.partition(".")[0] in {component, *encoders}}
        names = [name.removeprefix(f"{component}.") for name in state if name.startswith(f"{component}.")]
        theirs = compvis_names(names, network.config["layers_per_block"]) if component == "unet" else {}
        text = {
            part: {n.removeprefix(f"{part}.").removeprefix("text_model."): n for n in state if n.startswith(f"{part}.")}
            for part in encoders
        }
        compvis = {alias: f"unet.{name}" for name, alias in theirs.items()}
        return cls(state, network, component, {name: f"{component}.{name}" for name in names}, compvis, text)

    def find(self, key: str, part: str = "text_encoder") -> str | None:
        """The model's name of a tensor, or None if it has none such.

        Names of the network are cut off what is known to wrap them, for a VAE has its short names (``conv_in``) too; a
        text encoder's end as they should, for versions of transformers and methods' code wrap them in many ways.

        Args:
            key: its name in a file.
            part: the text encoder that it is of unless its name says so.
        """
        name = unwrapped(key)
        if (found := self.network.get(name) or self.compvis.get(name)) is not None:
            return found
        parts = ["embeddings" if word == "embedding" else word for word in name.split(".")]  # a name of AdvUnlearn's
        part = said[0] if (said := re.match(r"text_encoder(?:_[23])?", parts[0])) else part
        text = self.text.get(part, {})
        return next((text[end] for start in range(len(parts)) if (end := ".".join(parts[start:])) in text), None)

    def encoder(self, tensors: Mapping[str, Tensor]) -> str:
        """The text encoder that tensors are of unless their names say so: what only some have tells which."""
        for end in ("text_projection.weight", "shared.weight"):
            given = next((tensor for key, tensor in tensors.items() if key.endswith(end)), None)
            if given is not None and (having := [part for part, own in self.text.items() if end in own]):
                fits = [part for part in having if self.state[self.text[part][end]].shape == given.shape]
                return (fits or having)[0]
        return "text_encoder"


def _replaced(file: WeightFile, names: _Names, encoders: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The format of a file of whole tensors, and those that differ from the base's."""
    if names.component == "transformer":
        file = replace(file, tensors=diffusers_named(file, names.model, encoders))
    elif any("diffusion_model" in key.split(".") or unwrapped(key) in names.compvis for key in file.tensors):
        return "compvis", _changed(file, _compvis(file, names, encoders), names.state)
    named = _named(file, file.tensors, names)
    return _form(file, set(named), names), _changed(file, named, names.state)


def _named(file: WeightFile, tensors: Mapping[str, Tensor], names: _Names) -> dict[str, Tensor]:
    """Tensors under the model's names."""
    part = names.encoder(tensors)
    keys: dict[str, str] = {}
    strange = []
    for key, tensor in tensors.items():
        name = names.find(key, part)
        if name is None:
            if not key.endswith("position_ids"):  # a counter that old versions of transformers stored
                strange.append(key)
        elif name in keys and not torch.equal(tensors[keys[name]], tensor):
            raise ValueError(f"{file.path} holds two different tensors for {name}: {keys[name]} and {key}")
        else:
            keys[name] = key
    if not keys and not is_network(strange):
        raise ValueError(f"{file.path} has an unknown format: it holds {some(strange)}; known are {KNOWN}")
    if strange:
        raise ValueError(f"{file.path} does not fit: {misfit(strange, names.model, names.text)}")
    if file.whole:
        held = {names.state[name].data_ptr() for name in keys}  # T5's words are in its state twice, and once in files
        check_whole(file, keys, [n for n in names.text[part].values() if names.state[n].data_ptr() not in held])
    return {name: tensors[key] for name, key in keys.items()}


def _form(file: WeightFile, named: set[str], names: _Names) -> str:
    """The name of a format without a mark of its own: how it is nested, and how much of the model is there."""
    if file.groups:
        return "delta" if {names.component, "text_encoder"} & set(file.groups) else "modules"
    network = set(names.network.values())
    if not named & network:
        return "text-encoder"
    return names.component if named >= network else "partial"


def _compvis(file: WeightFile, names: _Names, encoders: Mapping[str, Any]) -> dict[str, Tensor]:
    """The U-Net and the text encoders of a CompVis checkpoint; VAE, averages and schedule are left.

    Of AC's deltas, which have layers of attention alone, these.
    """
    unet = {
        key: tensor
        for key, tensor in file.tensors.items()
        if "diffusion_model" in key.split(".") or unwrapped(key) in names.compvis
    }
    if all(".transformer_blocks." in key for key in unet):
        if "embed" in file.tensors:
            raise ValueError(f"{file.path} does not fit: embed are embeddings of new words, which the base has not")
        return _named(file, file.tensors, names)
    text = {key: tensor for key, tensor in file.tensors.items() if any(prefix in key for prefix in COMPVIS_TEXT)}
    found = _named(file, unet | text, names)
    check_whole(file, found, names.network.values())
    for part, prefix in OPEN_CLIP.items():
        if part in encoders and any(key.startswith(prefix) for key in file.tensors):
            found |= _open_clip(file, part, encoders[part], names)
    return found


def _open_clip(file: WeightFile, part: str, encoder: Any, names: _Names) -> dict[str, Tensor]:
    """A text encoder that is OpenCLIP's: Stable Diffusion 2's, and the second of XL."""
    try:
        translated = translate(part, file.tensors, encoder)
    except (KeyError, RuntimeError, ValueError) as error:  # it takes for granted what a Stable Diffusion has
        raise ValueError(f"{file.path} is for another base, or incomplete: {error} of {part}") from None
    found = {name: tensor for key, tensor in translated.items() if (name := f"{part}.{key}") in names.state}
    check_whole(file, found, names.text[part].values())
    return found


def _changed(file: WeightFile, named: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that differ from the base's; for those of a lower precision, from the base's in that precision."""
    for name, tensor in named.items():
        if tensor.shape != state[name].shape:
            there = tuple(state[name].shape)
            raise ValueError(f"{file.path} does not fit: {name} is {tuple(tensor.shape)}, the base has {there} there")
        check_sound(file, name, tensor)
    return {
        name: tensor.clone() for name, tensor in named.items() if not torch.equal(state[name].to(tensor.dtype), tensor)
    }


def _gate(file: WeightFile) -> list[str]:
    prompts = (file.metadata or {}).get("prompts", "").split(",")
    return [prompt.strip() for prompt in prompts if prompt.strip()]
