"""Concept Steerers (Kim & Ghadiyaram 2025, arXiv:2501.19066)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.guards.activations import Dictionary, read_layer, steered_layer
from lit_memories.guards.base import Guard, named
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.prompt_rows import tokenize
from lit_memories.prompted import Prompted


class ConceptSteerer(Guard):
    r"""Add a multiple of the concept's features to what a layer of the text encoder gives for every prompt.

    With the activations z of a sparse autoencoder's features (not only the k strongest) and its directions D,

    .. math:: h_i' = h_i + \lambda\, D\, \overline{z(h_j(c)) - z(h_j(g))}

    where h are the layer's states in rows i of the prompt, c are the concept's words and g what is to be there instead;
    the mean is over rows j behind the start marker, and the start marker itself is left alone. A strength
    :math:`\lambda` below 0 takes the concept out, of every prompt alike. Predictions without guidance see it too; those
    under the empty prompt never. What attackers' learnt vectors bring is moved by as much as the tokens in them would
    be.

    Args:
        concept: c, in words.
        autoencoder: folder of the sparse autoencoder (`lit_memories.erasers.sparse_autoencoder`).
        strength: :math:`\lambda`.
        instead: g, in words; empty for nothing.
        faithful: as released: features are those of c alone, row by row, so that a prompt's third row is steered by
            the third of c, start marker and padding among them, and the empty prompt is steered the other way.

    Raises:
        ValueError: if the concept is empty or is what is to be there instead, or the strength is 0.
    """

    acts_on = "prompts"

    def __init__(
        self, concept: str, autoencoder: str, strength: float = -0.5, instead: str = "", faithful: bool = False
    ) -> None:
        if strength == 0:
            raise ValueError("strength must not be 0, which does nothing: below 0 takes the concept out")
        if named(concept).strip() == instead.strip():
            raise ValueError(f"instead ({instead!r}) is the concept itself: say what is to be there in its place")
        self.concept, self.autoencoder, self.strength, self.instead = concept, autoencoder, strength, instead
        self.faithful = faithful
        self._dictionary: Dictionary | None = None

    @property
    def dictionary(self) -> Dictionary:
        """The sparse autoencoder, read when it is needed first."""
        if self._dictionary is None:
            self._dictionary = Dictionary.load(Path(self.autoencoder))
        return self._dictionary

    def check(self, model: Prompted, name: str) -> None:
        """Refuse a model that the sparse autoencoder is not of, or a concept that has no feature in it.

        Raises:
            FileNotFoundError: if there is no sparse autoencoder.
            ValueError: saying so.
        """
        super().check(model, name)
        self.dictionary.steers(model, name)
        if not self.added(model).any():
            raise ValueError(
                f"the concept {self.concept!r} has no feature in the sparse autoencoder that "
                f"{self.instead or 'the empty prompt'!r} has not as strongly: train it on prompts that name it"
            )

    def added(self, model: Prompted) -> Tensor:
        """What every prompt's states are moved by (rows, width), the empty prompt's by its opposite if faithful."""
        autoencoder = self.dictionary.autoencoder
        concept, instead = self._activations(model, [self.concept, self.instead])
        if self.faithful:
            return self.strength * autoencoder.direction(concept)
        moved = autoencoder.direction((concept - instead)[1:].mean(0))
        return self.strength * torch.cat([torch.zeros_like(moved)[None], moved.expand(len(concept) - 1, -1)])

    @torch.no_grad()
    def _activations(self, model: Prompted, prompts: list[str]) -> Tensor:
        """Of all features in prompts, on the CPU: (n, rows, features)."""
        with read_layer(self.dictionary.steers(model, "the model")) as found:
            for prompt in prompts:
                model.conditioning.encode_tokens(tokenize(model.tokenizer, [prompt]))
        return self.dictionary.autoencoder.activations(torch.cat(found).float().cpu())

    @torch.no_grad()
    def _moved(self, model: Prompted, embeds: Tensor, ids: Tensor, sign: int) -> Tensor:
        """Embeddings (n, rows, width) with what the steered encoder makes of their tokens more than the plain one."""
        layer, added = self.dictionary.steers(model, "the model"), sign * self.added(model)
        rows = []
        for own, row in zip(embeds, ids, strict=True):  # one at a time, so that none depends on those beside it
            plain = model.conditioning.encode_tokens(row[None])
            with steered_layer(layer, added):
                steered = model.conditioning.encode_tokens(row[None])
            rows.append(own + (steered - plain)[0].to(own))
        return torch.stack(rows)

    def tell(self, model: Prompted, embeds: Tensor, ids: Tensor) -> Tensor:
        """Embeddings of the steered encoder (n, rows, width)."""
        return self._moved(model, embeds, ids, 1)

    def untold(self, model: Prompted, embeds: Tensor) -> Tensor:
        """Those of the empty prompt as they are, or steered the other way if faithful."""
        if not self.faithful:
            return embeds
        return self._moved(model, embeds, tokenize(model.tokenizer, self.beside), -1)

    def settings(self) -> dict[str, Any]:
        """Name and options, and which sparse autoencoder it is."""
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        known = {} if self._dictionary is None else {"features": fingerprint(self._dictionary.autoencoder)}
        return {"name": type(self).__name__, **shown, **known}
