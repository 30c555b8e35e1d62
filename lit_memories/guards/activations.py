"""What a layer of a text encoder gives, read and steered, and the sparse autoencoder's folder that tells of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_memories.ops.fingerprint import fingerprint
from lit_memories.ops.sparse_autoencoder import SparseAutoencoder
from lit_memories.prompted import Prompted
from lit_memories.storage.files import whole_folder
from lit_memories.storage.tensors import read_notes, read_tensors, write_tensors
from lit_memories.terminal import printable

FILE = "autoencoder.safetensors"
"""A sparse autoencoder's, in its folder."""
MAKE = "make one with lit-memories fit --config recipes/pictograms/sparse_autoencoder.yaml"


def encoder_of(model: Prompted, name: str) -> Any:
    """A model's one text encoder.

    Args:
        model: whose.
        name: of the model.

    Raises:
        ValueError: if it has several.
    """
    encoders = model.conditioning.encoders
    if list(encoders) != ["text_encoder"]:
        raise ValueError(f"what steers a text encoder takes models with one (Stable Diffusion 1 and 2), and {name} has "
                         f"{len(encoders)}")  # fmt: skip
    return encoders["text_encoder"]


def layer_of(encoder: nn.Module, number: int) -> nn.Module:
    """A layer of a CLIP text encoder, from 0.

    Raises:
        ValueError: if it has none of that number.
    """
    lists = [module for path, module in encoder.named_modules() if path.endswith("encoder.layers")]
    layers = list(lists[0].children()) if lists else []
    if not 0 <= number < len(layers):
        raise ValueError(f"layer must be one of the text encoder's {len(layers)}, 0 to {len(layers) - 1}, got {number}")
    return layers[number]


@contextmanager
def read_layer(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, each call of a layer appends what it gives (n, rows, width)."""
    found: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, _args, output: found.append(_states(output)))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def steered_layer(layer: nn.Module, added: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, a layer gives more than it does: by what a function makes of its states (n, rows, width)."""

    def add(_layer: nn.Module, _args: object, output: Any) -> Any:
        states = _states(output)
        states = states + added(states).to(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hook = layer.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder of what one layer of one text encoder gives.

    Attributes:
        autoencoder: of the layer's states.
        layer: its number, from 0.
        encoder: fingerprint of the text encoder.
    """

    autoencoder: SparseAutoencoder
    layer: int
    encoder: str

    def save(self, folder: Path) -> None:
        """Write it to a folder, whole or not at all."""
        notes = {"k": str(self.autoencoder.k), "layer": str(self.layer), "encoder": self.encoder}
        with whole_folder(folder) as part:
            write_tensors(part / FILE, self.autoencoder.tensors(), notes)

    @classmethod
    def load(cls, folder: Path) -> "Dictionary":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it is damaged, or none.
        """
        file = folder / FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is no folder of a sparse autoencoder: it has no {FILE}; {MAKE}")
        try:
            notes = read_notes(file)
            autoencoder = SparseAutoencoder(read_tensors(file), int(notes["k"]))
            return cls(autoencoder.requires_grad_(False), int(notes["layer"]), notes["encoder"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged, or no sparse autoencoder: {printable(str(error))}; {MAKE}") from None

    def steers(self, model: Prompted, name: str) -> nn.Module:
        """The layer of a model that it is of.

        Args:
            model: whose text encoder is to be steered.
            name: of the model.

        Raises:
            ValueError: if the text encoder is another, or of another width.
        """
        encoder = encoder_of(model, name)
        width = encoder.config.hidden_size
        if width != self.autoencoder.width:
            raise ValueError(f"the sparse autoencoder is of states {self.autoencoder.width} wide, and those of {name} "
                             f"are {width}: {MAKE}")  # fmt: skip
        if (found := fingerprint(encoder)) != self.encoder:
            raise ValueError(f"the sparse autoencoder was made for another text encoder ({self.encoder}) than that of "
                             f"{name} ({found}): {MAKE}")  # fmt: skip
        return layer_of(encoder, self.layer)
