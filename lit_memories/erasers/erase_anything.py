"""EraseAnything (Gao et al. 2025, arXiv:2412.20413)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.adapters import Adapter, initial_factors
from lit_memories.ops.joint_attention import joint_attentions, recorded_joint_attention
from lit_memories.ops.targets import match


class EraseAnything(RolloutEraser):
    r"""Erases and keeps in turn, by low-rank factors where a transformer reads the text (bi-level, of flows only).

    At even steps the velocity v is pulled to ESD's target, and the picture's attention A to the concept's words J is
    damped:

    .. math:: \lVert v_\theta(x_t, c) - (v_0(x_t, \emptyset) - \eta [v_0(x_t, c) - v_0(x_t, \emptyset)]) \rVert^2
        + \lambda_a \sum_{p,\, j \in J} \lVert A_{\cdot pj} \rVert_2

    with norms over heads. At odd steps other things are kept: by flow matching on their images, and by the reverse of
    InfoNCE on where in the picture the words are attended to, a unit vector f over places:

    .. math:: \lambda_r \lVert v_\theta(x^r_t, c^r) - (\epsilon - x^r) \rVert^2 + \lambda_c \log
        \frac{e^{f \cdot f^s / \tau}}{e^{f \cdot f^s / \tau} + \sum_k e^{f \cdot f^k / \tau}}

    so that f leaves what the original gives a synonym (s), towards what it gives other prompts' words (k).

    Corrected, where the released code asks the model in training for its own target, tells the network a random level
    of finished pictures, keeps the concept's own images, looks for every prompt's words where the concept's are in its
    own, and contrasts with other words that nothing is drawn to. It has the words from a language model; here they
    stand in the recipe. It looks at the last block's attention, of all rows; here it is that of the picture's, a mean
    over blocks. On several devices pass ``--trainer.strategy ddp_find_unused_parameters_true``: the last block's text
    goes nowhere.

    Args:
        diffusion: the model; its weights are not changed.
        concept: what to erase; images of its ``retain`` prompts are kept, and their words are the other words.
        rank: of the factors.
        synonyms: other words for the concept's phrase; the phrase itself if there are none.
        attention_weight: :math:`\lambda_a`.
        retain_weight: :math:`\lambda_r`.
        contrast_weight: :math:`\lambda_c`.
        others: how many other prompts k a step.
        temperature: :math:`\tau`.
        guidance_input: told to a guidance-distilled network (FLUX-dev) in all of these.
        weight_decay: of AdamW.
        **options: see `RolloutEraser` and `Eraser`.

    Raises:
        ValueError: if the network is no such transformer, no prompt holds the phrase, there is nothing to retain, or an
            option is out of range.
    """

    retain_images = True

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rank: int = 8,
        synonyms: Sequence[str] = (),
        attention_weight: float = 1e-3,
        retain_weight: float = 0.1,
        contrast_weight: float = 0.1,
        others: int = 3,
        temperature: float = 0.07,
        guidance_input: float = 3.0,
        weight_decay: float = 1e-5,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=None, **options)
        if rank < 1 or others < 1 or temperature <= 0:
            raise ValueError(
                f"rank ({rank}) and others ({others}) must be at least 1, temperature ({temperature}) above 0"
            )
        if min(attention_weight, retain_weight, contrast_weight, weight_decay) < 0:
            raise ValueError(
                f"attention_weight ({attention_weight}), retain_weight ({retain_weight}), contrast_weight "
                f"({contrast_weight}) and weight_decay ({weight_decay}) cannot be negative"
            )
        self.layers = {
            name for name in joint_attentions(diffusion.network) if f"{name}.add_k_proj" in _parts(diffusion)
        }
        if not self.layers:
            raise ValueError(
                f"EraseAnything is for transformers whose text and picture attend together, and {diffusion.base} has a "
                "U-Net: of the methods that need images AC, SalUn and EraseDiff are for both"
            )
        self.named = [prompt for prompt in concept.prompts if diffusion.places(prompt, concept.phrase)]
        self.unlike = [prompt for prompt in concept.retain if diffusion.places(prompt, prompt)]
        if not self.named or not self.unlike:
            raise ValueError(
                f"EraseAnything needs prompts that hold the phrase {concept.phrase!r}, and others to retain: concept "
                f"{concept.name!r} has {len(self.named)} and {len(self.unlike)}"
            )
        self.rank, self.synonyms, self.weight_decay = rank, list(synonyms), weight_decay
        self.attention_weight, self.retain_weight = attention_weight, retain_weight
        self.contrast_weight = contrast_weight
        self.others, self.temperature, self.guidance_input = others, temperature, guidance_input
        read = {f"{name}.{part}" for name in self.layers for part in ("add_q_proj", "add_k_proj")}
        layers = {name: module for name, module in _parts(diffusion).items() if name in read}
        self.adapter = Adapter(diffusion.network, initial_factors(layers, rank, Generator().manual_seed(self.seed)))
        self.adopt({f"{diffusion.component}.{name}": factor for name, factor in self.adapter.factors().items()})

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model without the factors, and without gradients."""
        with self.adapter.off(), torch.no_grad():
            yield

    def configure_optimizers(self) -> Any:
        """AdamW on the factors."""
        return torch.optim.AdamW(self.selected.values(), lr=self.lr, weight_decay=self.weight_decay)

    def predict(self, latents: Tensor, timesteps: float | Tensor, prompts: Sequence[str]) -> Tensor:
        """The velocity (n, c, h, w) that the model, as it is now, predicts for prompts."""
        guidance = self.guidance_input if self.diffusion.denoiser.takes_guidance else 1.0
        return self.diffusion.predict(latents, timesteps, self.diffusion.encode_prompts(prompts), guidance)

    def erase_loss(self, batch: Batch) -> Tensor:
        """The upper level's loss, then the lower one's, and so on."""
        generator = self.generator()
        prompts = draw(self.named, self.batch_size, generator)
        with self.teacher():
            latents, timestep = self.stopped(prompts, generator)
        if self.global_step % 2 == 0:
            return self.upper_loss(latents, timestep, prompts)
        return self.lower_loss(latents, timestep, prompts, batch)

    def upper_loss(self, latents: Tensor, timestep: float, prompts: list[str]) -> Tensor:
        """Erase: ESD's target, and less attention to the concept's words."""
        with self.teacher():
            target = self.negated(latents, timestep, prompts)
        predicted, layers = self.looking(latents, timestep, prompts)
        marks = self.marks(prompts, [self.concept.phrase] * len(prompts))
        norms = [torch.linalg.vector_norm(layer, dim=1) * marks[:, None] for layer in layers]
        attention = torch.stack([norm.sum((1, 2)) for norm in norms]).mean()
        erase = match(predicted, target)
        self.log_dict({"train/erase": erase, "train/attention": self.attention_weight * attention}, batch_size=1)
        return erase + self.attention_weight * attention

    def lower_loss(self, latents: Tensor, timestep: float, prompts: list[str], batch: Batch) -> Tensor:
        """Keep: flow matching on other images, and attention that is unlike a synonym's."""
        retained, captions = self.rows(batch["retain_set"], self.batch_size)
        keep = self.diffusion_loss(retained, captions, self.generator("retain"))
        generator = self.generator("words")
        phrases = [self.concept.phrase] * len(prompts)
        words = draw(self.synonyms or [self.concept.phrase], len(prompts), generator)
        renamed = [word.join(self.concept.around(prompt)) for word, prompt in zip(words, prompts, strict=True)]
        with self.teacher():
            near = self.attended(latents, timestep, renamed, words)
            unlike = [draw(self.unlike, len(prompts), generator) for _ in range(self.others)]
            far = torch.stack([self.attended(latents, timestep, other, other) for other in unlike])
        contrast = reverse_contrast(self.attended(latents, timestep, prompts, phrases), near, far, self.temperature)
        self.log_dict({"train/retain": keep, "train/contrast": contrast}, batch_size=1)
        return self.retain_weight * keep + self.contrast_weight * contrast

    def looking(self, latents: Tensor, timestep: float, prompts: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """What is predicted, and each block's attention (n, heads, places, tokens)."""
        with recorded_joint_attention(self.diffusion.network, self.layers) as layers:
            predicted = self.predict(latents, timestep, prompts)
        return predicted, layers

    def attended(self, latents: Tensor, timestep: float, prompts: Sequence[str], words: Sequence[str]) -> Tensor:
        """Where in the picture words of each prompt are attended to: unit vectors (n, places)."""
        _, layers = self.looking(latents, timestep, prompts)
        found = torch.stack([layer.mean(1) for layer in layers]).mean(0)
        return functional.normalize((found * self.marks(prompts, words)[:, None]).sum(2), dim=1)

    def marks(self, prompts: Sequence[str], words: Sequence[str]) -> Tensor:
        """1 at the rows of each prompt's words, else 0 (n, tokens)."""
        return torch.cat([self.diffusion.marks([x], phrase) for x, phrase in zip(prompts, words, strict=True)])


def reverse_contrast(found: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """Mean log share of what is to be left among all it could be like: InfoNCE, with its sign turned round.

    Args:
        found: unit vectors (n, d).
        near: what they are to leave (n, d).
        far: what they may go to (k, n, d).
        temperature: that similarities are divided by, above 0.
    """
    logits = torch.stack([found * near, *(found * other for other in far)]).sum(2) / temperature
    return -functional.cross_entropy(logits.T, torch.zeros(len(found), dtype=torch.int64, device=found.device))


def _parts(diffusion: Diffusion) -> dict[str, nn.Module]:
    return dict(diffusion.network.named_modules())
