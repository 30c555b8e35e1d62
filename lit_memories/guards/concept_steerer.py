"""Concept Steerers (Kim & Ghadiyaram 2025, arXiv:2501.19066)."""

from collections.abc import Sequence
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
    r"""Turn the concept's features down in what a layer of the text encoder gives for a prompt.

    With the activations z of a sparse autoencoder's features (not only the k strongest) and its directions D, the
    layer's states h in a prompt's rows i behind the start marker become

    .. math:: h_i' = h_i + \lambda\, D\, (m \odot z(h_i)), \qquad
        m = \frac{\max(0,\; \bar z(c) - \max_g \bar z(g))}{\bar z(c)}

    where the means are over the rows of prompts c that name the concept, and of each prompt g for something else: m is
    the share of a feature that is the concept's own, and a prompt that has none of it stays as it is. A strength
    :math:`\lambda` of -1 takes these features out, one below turns them round. Predictions without guidance see it too,
    those under the empty prompt never. What attackers' learnt vectors bring is moved by as much as the tokens in them
    would be.

    Args:
        concepts: prompts c, or words.
        autoencoder: folder of the sparse autoencoder (`lit_memories.erasers.sparse_autoencoder`).
        strength: :math:`\lambda`.
        others: prompts g; the empty one if there are none.
        faithful: the paper's form as released, :math:`h_i' = h_i + \lambda D z(h_i(c))`, with all words c in one
            prompt: a third row is steered by that prompt's third, start marker and padding among them, and the empty
            prompt is steered the other way. `others` are not used.

    Raises:
        ValueError: if there is no concept or one is empty or among the others, or the strength is 0.
    """

    acts_on = "prompts"

    def __init__(
        self,
        concepts: Sequence[str],
        autoencoder: str,
        strength: float = -0.5,
        others: Sequence[str] = (),
        faithful: bool = False,
    ) -> None:
        if not concepts:
            raise ValueError("ConceptSteerer's concepts must not be empty: say in words what to keep out of pictures")
        if strength == 0:
            raise ValueError("strength must not be 0, which does nothing: below 0 takes the concept out")
        self.concepts, self.others = [named(x) for x in concepts], list(others)
        if shared := sorted({*self.concepts} & {*self.others}):
            raise ValueError(f"{shared[0]!r} is both the concept and something else: take it out of others")
        self.autoencoder, self.strength, self.faithful = str(autoencoder), strength, faithful
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
        if not self.weights(model).any():
            theirs = f"is not as strong in {', '.join(map(repr, self.others)) or 'the empty prompt'}"
            raise ValueError(
                f"no feature of the sparse autoencoder is the concept's own: what {self.concepts[0]!r} has "
                f"{'is nothing' if self.faithful else theirs}: train it on prompts that name the concept and others"
            )

    def weights(self, model: Prompted) -> Tensor:
        """How much of each feature is the concept's own, m (features,); if faithful z(c) itself (rows, features)."""
        if self.faithful:
            return self.activations(model, [", ".join(self.concepts)])[0]
        mine = self.activations(model, self.concepts)[:, 1:].mean((0, 1))
        theirs = self.activations(model, self.others or [""])[:, 1:].mean(1).amax(0)
        return torch.where(mine > 0, (mine - theirs).clamp(min=0) / mine.clamp(min=1e-12), 0)

    @torch.no_grad()
    def activations(self, model: Prompted, prompts: Sequence[str]) -> Tensor:
        """Of all features in prompts (n, rows, features)."""
        with read_layer(self.dictionary.steers(model, "the model")) as found:
            for prompt in prompts:
                model.conditioning.encode_tokens(tokenize(model.tokenizer, [prompt]))
        return self.dictionary.autoencoder.activations(torch.cat(found).float().cpu())

    @torch.no_grad()
    def _moved(self, model: Prompted, embeds: Tensor, ids: Tensor, strength: float) -> Tensor:
        """Embeddings (n, rows, width) with what the steered encoder makes of their tokens more than the plain one."""
        layer, weights = self.dictionary.steers(model, "the model"), self.weights(model)
        autoencoder = self.dictionary.autoencoder

        def added(states: Tensor) -> Tensor:
            if self.faithful:
                return strength * autoencoder.direction(weights)[None]
            own = weights * autoencoder.activations(states.float().cpu())
            own[:, 0] = 0
            return strength * autoencoder.direction(own)

        rows = []
        for own, row in zip(embeds, ids, strict=True):  # one at a time, so that none depends on those beside it
            plain = model.conditioning.encode_tokens(row[None])
            with steered_layer(layer, added):
                steered = model.conditioning.encode_tokens(row[None])
            rows.append(own + (steered - plain)[0].to(own))
        return torch.stack(rows)

    def tell(self, model: Prompted, embeds: Tensor, ids: Tensor) -> Tensor:
        """Embeddings of the steered encoder (n, rows, width)."""
        return self._moved(model, embeds, ids, self.strength)

    def untold(self, model: Prompted, embeds: Tensor) -> Tensor:
        """Those of the empty prompt as they are, or steered the other way if faithful."""
        if not self.faithful:
            return embeds
        return self._moved(model, embeds, tokenize(model.tokenizer, self.beside), -self.strength)

    def settings(self) -> dict[str, Any]:
        """Name and options, and which sparse autoencoder it is."""
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        known = {} if self._dictionary is None else {"features": fingerprint(self._dictionary.autoencoder)}
        return {"name": type(self).__name__, **shown, **known}
