"""The artefact of an eraser: only the tensors it changed, and where they come from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_memories.ops.adapters import DOWN, UP, Adapter, merged
from lit_memories.ops.schedule import NoiseSchedule

WEIGHTS_FILE, PROVENANCE_FILE, CARD_FILE = "erasure.safetensors", "erasure.json", "README.md"
PACKAGES = ("lit-memories", "torch", "lightning", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True)
class Provenance:
    """Where an erasure comes from.

    Args:
        method: class name of the eraser.
        concept: the concept, as plain values.
        base: hub id or folder of the base model.
        base_revision: its revision, if it came from the hub.
        base_fingerprint: hash of its U-Net and text encoder; `Erasure.apply` insists on it.
        settings: the eraser's hyper-parameters.
        steps: training steps done.
        seed: the run's seed.
        versions: of the packages involved.
        gate: for an adapter, the prompts near which it acts; None if it always does, or there is none.
        prediction_type: what the base model's network predicts; None if not known.
    """

    method: str
    concept: dict[str, Any]
    base: str
    base_revision: str | None
    base_fingerprint: str
    settings: dict[str, Any]
    steps: int
    seed: int | None
    versions: dict[str, str]
    gate: list[str] | None = None
    prediction_type: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Erasable(Protocol):
    """What an erasure needs of the model it is applied to."""

    base: str
    fingerprint: str
    unet: Any
    schedule: NoiseSchedule

    def state_dict(self) -> dict[str, Any]:
        """All tensors by name, sharing memory with the model."""

    def add_adapter(self, adapter: Adapter, gate_prompts: Sequence[str]) -> None:
        """Put an adapter on the U-Net."""


@dataclass(frozen=True)
class Erasure:
    """What an eraser changed, with provenance.

    Tensors are named as in the model, ``unet.…`` or ``text_encoder.…``, and replace those there; or they are low-rank
    factors, ``unet.LAYER.lora_down`` and ``unet.LAYER.lora_up``, that are added to layers of the U-Net.
    """

    tensors: Mapping[str, Tensor]
    provenance: Provenance

    @property
    def is_adapter(self) -> bool:
        """Whether the tensors are low-rank factors."""
        return any(name.endswith((f".{DOWN}", f".{UP}")) for name in self.tensors)

    def save(self, folder: Path) -> None:
        """Write ``erasure.safetensors``, ``erasure.json`` and a model card to `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / WEIGHTS_FILE)
        (folder / PROVENANCE_FILE).write_text(json.dumps(self.provenance.to_dict(), indent=2, sort_keys=True) + "\n")
        (folder / CARD_FILE).write_text(self.card())

    @classmethod
    def load(cls, folder: Path) -> "Erasure":
        """Read an erasure folder.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the weights are a pickle or damaged, or the provenance is.
        """
        folder = Path(folder)
        if folder.suffix in {".pt", ".pth", ".ckpt", ".bin", ".pkl"}:
            raise ValueError(
                f"{folder} may be a pickle, which can run code when it is opened: pass an erasure folder with "
                f"{WEIGHTS_FILE}; lit-memories convert makes one of official files without unpickling code"
            )
        weights, provenance = folder / WEIGHTS_FILE, folder / PROVENANCE_FILE
        for file in (weights, provenance):
            if not file.is_file():
                raise FileNotFoundError(
                    f"{folder} is not an erasure: it has no {file.name}; make one with lit-memories fit"
                )
        try:
            return cls(load_file(weights), Provenance(**json.loads(provenance.read_text())))
        except (SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{folder} is damaged or no erasure: {error}") from None

    def apply(self, diffusion: Erasable, gated: bool = True) -> dict[str, Tensor]:
        """Put the erasure into the model.

        Args:
            diffusion: the model it was made for.
            gated: keep an adapter's gate, if it has one; without, it is worked into the weights at full strength.

        Returns:
            The tensors it replaced, by name; none for a gated adapter.

        Raises:
            ValueError: if the base differs, a tensor does not fit or is not finite, or nothing changes; the model is
                untouched then.
        """
        self._check_base(diffusion)
        for name, tensor in self.tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"erasure holds NaN or infinity in {name}: training diverged, or the file is damaged")
        if self.is_adapter and gated and self.provenance.gate is not None:
            if not any(tensor.any() for name, tensor in self.tensors.items() if name.endswith(UP)):
                raise ValueError("the erasure changes nothing: its adapter is zero")
            factors = {name.removeprefix("unet."): tensor.clone() for name, tensor in self.tensors.items()}
            adapter = Adapter(diffusion.unet, factors).requires_grad_(False)
            diffusion.add_adapter(adapter, self.provenance.gate)
            return {}
        state = diffusion.state_dict()
        tensors = _merge(self.tensors, state) if self.is_adapter else self.tensors
        for name, tensor in tensors.items():
            if name not in state or state[name].shape != tensor.shape:
                there = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"erasure does not fit: {name} is {tuple(tensor.shape)}, the model has {there} there")
        if all(torch.equal(state[name].cpu(), tensor.to(state[name].dtype).cpu()) for name, tensor in tensors.items()):
            raise ValueError("the erasure changes nothing: every tensor in it equals the base model's")
        replaced = {name: state[name].clone() for name in tensors}
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
        return replaced

    def _check_base(self, diffusion: Erasable) -> None:
        """Refuse another base than the one it was made for."""
        wanted, got = self.provenance.base_fingerprint, diffusion.fingerprint
        if wanted != got:
            raise ValueError(
                f"the erasure was made for {self.provenance.base} ({wanted}), this is {diffusion.base} ({got}): "
                "pass the base model it was made for"
            )
        predicts, expected = diffusion.schedule.prediction_type, self.provenance.prediction_type
        if expected is not None and predicts != expected:
            raise ValueError(
                f"the erasure was made for a model that predicts {expected}, the scheduler of {diffusion.base} says "
                f"{predicts}: pass the base model it was made for, with its own scheduler"
            )

    def card(self) -> str:
        """A model card: front matter of the Hugging Face hub, then what, from what, and how to use it."""
        p = self.provenance
        count = sum(tensor.numel() for tensor in self.tensors.values())
        settings = "\n".join(f"| `{name}` | {value} |" for name, value in sorted(p.settings.items()))
        return f"""---
library_name: lit-memories
base_model: {p.base}
tags: [concept-erasure, text-to-image]
---

# {p.method}: {p.concept["name"]} erased from {p.base}

Only what the erasure changed: {len(self.tensors)} tensors, {count:,} parameters. They fit the base model with
fingerprint `{p.base_fingerprint}` and no other.

```python
from lit_memories import Diffusion
diffusion = Diffusion.from_pretrained("{p.base}", erasure="path/to/this/folder")
```

Whether the model forgot, or only refuses the prompt, is not said here: audit it with `lit-memories predict`.

| setting | value |
|---|---|
| steps | {p.steps} |
| seed | {p.seed} |
{settings}
"""


def _merge(factors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the layers that an adapter acts on, with it worked in."""
    tensors = {}
    for layer in sorted({name.rsplit(".", 1)[0] for name in factors}):
        weight, down, up = (
            source.get(name)
            for source, name in ((state, f"{layer}.weight"), (factors, f"{layer}.{DOWN}"), (factors, f"{layer}.{UP}"))
        )
        if weight is None or down is None or up is None:
            raise ValueError(f"erasure does not fit: adapter factors or weights of {layer} are missing")
        if (up.shape[0], *down.shape[1:]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            raise ValueError(f"erasure does not fit: adapter of {layer} is for another size than {tuple(weight.shape)}")
        tensors[f"{layer}.weight"] = merged(weight, down.to(weight), up.to(weight))
    return tensors
