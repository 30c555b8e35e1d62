"""The artefact of an eraser: only the tensors it changed, and where they come from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_memories.ops.adapters import Adapter, merged_weights
from lit_memories.ops.attachment import Attachment
from lit_memories.ops.attachments import check_mergeable, kind_of
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.storage.cards import CARD_FILE, kept, marked
from lit_memories.storage.files import whole_folder, write
from lit_memories.storage.hub import fetch, push, redact
from lit_memories.storage.plain import parse
from lit_memories.storage.signed import sign, unsign
from lit_memories.storage.tensors import read_tensors, write_tensors
from lit_memories.terminal import printable

WEIGHTS_FILE, PROVENANCE_FILE = "erasure.safetensors", "erasure.json"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights."""
AGAIN = "make or fetch it again"
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
        base_fingerprint: hash of its U-Net and text encoder; `Erasure.apply` insists on it, or on one of the next.
        settings: the eraser's hyper-parameters.
        steps: training steps done.
        seed: the run's seed.
        versions: of the packages involved.
        gate: for an adapter, the prompts near which it acts; None if it always does, or there is none.
        prediction_type: what the base model's network predicts; None if not known.
        base_rounded: that hash of the base rounded to half precision, by the types it is rounded to; None in erasures
            of earlier releases.
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
    base_rounded: dict[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def read(cls, file: Path) -> "Provenance":
        """Read what `Erasure.save` wrote; files of earlier releases have no checksum.

        Raises:
            ValueError: if it is damaged.
        """
        text, intact = unsign(file.read_text(encoding="utf-8"))
        if not intact:
            raise ValueError("it is not what was written (if you changed it yourself, remove its last entry, crc32)")
        return parse(cls, text)


class Erasable(Protocol):
    """What an erasure needs of the model it is applied to."""

    base: str
    schedule: NoiseSchedule

    def state_dict(self) -> dict[str, Any]:
        """All tensors by name, sharing memory with the model."""

    @property
    def component(self) -> str:
        """Name of the network among the parts."""

    @property
    def network(self) -> Any:
        """The network that predicts."""

    def known_as(self) -> Iterable[str]:
        """The fingerprints that its base goes by."""

    def add_adapter(self, adapter: Attachment, gate_prompts: Sequence[str]) -> None:
        """Put an adapter, or what else stands beside it, on the network."""


@dataclass(frozen=True)
class Erasure:
    """What an eraser changed, with provenance.

    Tensors are named as in the model, ``unet.…`` or ``text_encoder.…``, and replace those there; or they are low-rank
    factors, ``unet.LAYER.lora_down`` and ``unet.LAYER.lora_up``, that are added to layers of the U-Net; or bottlenecks
    behind its cross-attention, ``unet.LAYER.eraser.…``, which act beside it and cannot be worked into weights.
    """

    tensors: Mapping[str, Tensor]
    provenance: Provenance

    def __repr__(self) -> str:
        """One line, without the tensors."""
        p, count = self.provenance, len(self.tensors)
        return f"Erasure({p.method} of {p.concept.get('name')!r} from {p.base!r}, {count} tensors)"

    @property
    def is_adapter(self) -> bool:
        """Whether the tensors stand beside the network's weights instead of replacing them."""
        return kind_of(self.tensors) is not None

    @property
    def mergeable(self) -> bool:
        """Whether weights can hold it all."""
        return kind_of(self.tensors) in (None, Adapter)

    def save(self, folder: Path) -> None:
        """Write ``erasure.safetensors``, ``erasure.json`` and a model card to `folder`; no token is in any of them.

        A card that somebody else wrote stays in the place of the new one.
        """
        theirs = kept(Path(folder) / CARD_FILE)
        with whole_folder(Path(folder)) as part:
            write_tensors(part / WEIGHTS_FILE, self.tensors)
            provenance = redact(json.dumps(self.provenance.to_dict(), indent=2, sort_keys=True))
            write(part / PROVENANCE_FILE, sign(provenance) + "\n")
            if not theirs:
                write(part / CARD_FILE, self.card())

    @classmethod
    def load(cls, folder: str | Path, revision: str | None = None) -> "Erasure":
        """Read an erasure.

        Args:
            folder: where it is, or its hub id: ``user/name``, or ``user/name@revision``.
            revision: git revision of a hub id.

        Raises:
            FileNotFoundError: if a file is missing, or the hub does not give it.
            ValueError: if the weights are a pickle or damaged, or the provenance is.
        """
        if Path(folder).suffix in {".pt", ".pth", ".ckpt", ".bin", ".pkl"}:
            raise ValueError(
                f"{folder} may be a pickle, which can run code when it is opened: pass an erasure folder with "
                f"{WEIGHTS_FILE}; lit-memories convert makes one of official files without unpickling code"
            )
        folder = fetch(str(folder), _wanted, revision).folder
        if folder.is_file():
            raise ValueError(f"{folder} is a file: pass the folder of an erasure, with {WEIGHTS_FILE} in it")
        try:
            origin = Provenance.read(folder / PROVENANCE_FILE)
            labels = (origin.method, origin.base, origin.concept.get("name"))
            if not all(isinstance(label, str) and label.isprintable() for label in labels):
                raise ValueError(f"method, base and name of the concept must be one line of text each, got {labels}")
        except ValueError as error:
            raise ValueError(
                f"{folder} is damaged or no erasure: {PROVENANCE_FILE}: {printable(str(error))}; {AGAIN}"
            ) from None
        try:
            return cls(read_tensors(folder / WEIGHTS_FILE), origin)
        except ValueError as error:
            raise ValueError(f"{folder} is damaged or no erasure: {printable(str(error))}; {AGAIN}") from None

    @classmethod
    def from_hub(cls, repo_id: str, revision: str | None = None) -> "Erasure":
        """Read an erasure from the hub, or from the cache if it was read before; see `load`."""
        return cls.load(repo_id, revision)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        license_id: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Send the erasure, with its card, to a repository on the hub, which is made if there is none.

        A card that somebody else wrote there stays.

        Args:
            repo_id: ``user/name``.
            private: whether a new repository is for its owner only.
            token: with write access; if None, the one that ``hf auth login`` stored. It is written nowhere.
            license_id: the hub's name of a license, such as ``"creativeml-openrail-m"``.
            commit_message: of the commit.

        Returns:
            The commit.

        Raises:
            PermissionError: if there is no token, or it may not write there.
            OSError: if the hub cannot be reached.
        """
        message = commit_message or f"{self.provenance.method}: {self.provenance.concept['name']}"
        with TemporaryDirectory() as made:
            self.save(Path(made))
            write(Path(made) / CARD_FILE, self.card(repo_id, license_id))
            return push(Path(made), repo_id, (WEIGHTS_FILE, PROVENANCE_FILE, CARD_FILE), private, token, message)

    def apply(self, diffusion: Erasable, gated: bool = True) -> dict[str, Tensor]:
        """Put the erasure into the model.

        Args:
            diffusion: the model it was made for.
            gated: keep an adapter's gate, if it has one; without, it is worked into the weights at full strength, and
                what weights cannot hold is refused.

        Returns:
            The tensors it replaced, by name; none for what acts beside the network.

        Raises:
            ValueError: if the base differs, a tensor does not fit or is not finite, or nothing changes; the model is
                untouched then.
        """
        self._check_base(diffusion)
        for name, tensor in self.tensors.items():
            if tensor.dtype not in FLOATS:
                raise ValueError(f"erasure holds no weight in {name} but {str(tensor.dtype).removeprefix('torch.')}")
            if not tensor.isfinite().all():
                raise ValueError(f"erasure holds NaN or infinity in {name}: training diverged, or the file is damaged")
        if self._attached(diffusion, gated):
            return {}
        state = diffusion.state_dict()
        tensors = merged_weights(self.tensors, state) if self.is_adapter else self.tensors
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

    def _attached(self, diffusion: Erasable, gated: bool) -> bool:
        """Put what acts beside the network there, and say whether there was anything to put."""
        kind, gate = kind_of(self.tensors), self.provenance.gate
        if kind is None or (self.mergeable and (gate is None or not gated)):
            return False
        if not gated:
            check_mergeable(self.tensors, self.provenance.method)
        if not any(tensor.any() for name, tensor in self.tensors.items() if name.endswith(kind.last)):
            raise ValueError("the erasure changes nothing: what it adds is zero")
        prefix = f"{diffusion.component}."
        factors = {name.removeprefix(prefix): tensor.clone() for name, tensor in self.tensors.items()}
        diffusion.add_adapter(kind(diffusion.network, factors).requires_grad_(False), gate or [])
        return True

    def _check_base(self, diffusion: Erasable) -> None:
        """Refuse another base than the one it was made for."""
        wanted = self.provenance.base_fingerprint
        known = {wanted, *(self.provenance.base_rounded or {}).values()}
        got = []
        for name in diffusion.known_as():  # one at a time, as each costs more than the one before
            got.append(name)
            if name in known:
                break
        else:
            raise ValueError(
                f"the erasure was made for {self.provenance.base} ({wanted}), this is {diffusion.base} ({got[0]}): "
                "pass the base model it was made for"
            )
        predicts, expected = diffusion.schedule.prediction_type, self.provenance.prediction_type
        if expected is not None and predicts != expected:
            raise ValueError(
                f"the erasure was made for a model that predicts {expected}, the scheduler of {diffusion.base} says "
                f"{predicts}: pass the base model it was made for, with its own scheduler"
            )

    def card(self, repo_id: str = "path/to/this/folder", license_id: str | None = None) -> str:
        """A model card: front matter of the Hugging Face hub, then what, from what, and how to use it.

        Args:
            repo_id: where it can be loaded from.
            license_id: the hub's name of a license.
        """
        p = self.provenance
        count = sum(tensor.numel() for tensor in self.tensors.values())
        run = {"steps": p.steps or None, "seed": p.seed}  # closed forms and converted weights have no steps
        rows = [f"| {name} | {value} |" for name, value in run.items() if value is not None]
        settings = "\n".join([*rows, *(f"| `{name}` | {value} |" for name, value in sorted(p.settings.items()))])
        matter = {"library_name": "lit-memories", "pipeline_tag": "text-to-image", "license": license_id}
        if p.base_revision is not None:  # else the base is a folder of its owner's, which the hub would take for an id
            matter |= {"base_model": p.base, "base_model_relation": "adapter" if self.is_adapter else "finetune"}
        lines = "\n".join(f"{name}: {json.dumps(value)}" for name, value in matter.items() if value is not None)
        revision = "" if p.base_revision is None else f', revision="{p.base_revision}"'
        text = f"""---
{lines}
tags: [concept-erasure, text-to-image, lit-memories]
---

# {p.method}: {p.concept["name"]} erased from {p.base}

Only what the erasure changed: {len(self.tensors)} tensors, {count:,} parameters. They fit the base model with
fingerprint `{p.base_fingerprint}` and no other.

```python
from lit_memories import Diffusion
diffusion = Diffusion.from_pretrained({json.dumps(p.base)}{revision}, erasure={json.dumps(repo_id)})
```

Whether the model forgot, or only refuses the prompt, is not said here: audit it with `lit-memories predict`.

| setting | value |
|---|---|
{settings}
"""
        return marked(redact(text))


def _wanted(files: Sequence[str]) -> list[str]:
    """Of a folder's files the erasure's."""
    for name in (WEIGHTS_FILE, PROVENANCE_FILE):
        if name not in files:
            raise FileNotFoundError(f"it is not an erasure: it has no {name}; make one with lit-memories fit")
    return [WEIGHTS_FILE, PROVENANCE_FILE]
