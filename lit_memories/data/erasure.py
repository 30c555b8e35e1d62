"""What erasers train on: prompts, and latents of images to forget and to retain."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, cast

import torch
from lightning import LightningDataModule, Trainer
from rich.progress import track
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from lit_memories.concept import Concept
from lit_memories.data.cache import cached
from lit_memories.data.readable import readable
from lit_memories.data.sources import Source
from lit_memories.diffusion import Diffusion
from lit_memories.identity import autoencoder_of, configuration_of, schedule_of
from lit_memories.images import to_tensor
from lit_memories.ops.rollout import rollout


class Latents:
    """Images as an eraser sees them: latents (n, c, h, w) and captions, held once and handed out by rows."""

    def __init__(self, latents: Tensor, captions: Sequence[str]) -> None:
        self.latents, self.captions = latents, list(captions)

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, start: int, count: int, seed: int) -> tuple[Tensor, list[str]]:
        """Rows `start` to `start + count` of an endless stream of passes, each shuffled by `seed` and its number."""
        epochs = range(start // len(self), (start + count - 1) // len(self) + 1)
        orders = [torch.randperm(len(self), generator=Generator().manual_seed(seed * 1_000_003 + e)) for e in epochs]
        first = start - epochs.start * len(self)
        chosen = torch.cat(orders)[first : first + count].tolist()
        return self.latents[chosen], [self.captions[i] for i in chosen]


class Batch(TypedDict, total=False):
    """A step's material: all of it; what the step takes is a function of its number.

    Keys:
        prompts: the concept's.
        retain: prompts to retain.
        forget_set: images of the concept, or of its anchor.
        retain_set: images of other things.
    """

    prompts: list[str]
    retain: list[str]
    forget_set: Latents
    retain_set: Latents


def repeated(batch: Batch, length: int) -> DataLoader[Any]:
    """A loader that gives the same batch again and again."""
    return DataLoader(cast("Dataset[Batch]", [batch] * length), batch_size=None)


class _Eraser(Protocol):
    """What the data needs of the eraser it feeds."""

    diffusion: Diffusion
    concept: Concept
    steps: int
    forget_images: Literal["concept", "anchor"] | None
    retain_images: bool
    device: torch.device


class ErasureData(LightningDataModule):
    """Images for the erasers that need them: of the concept (or its anchor), and of other things.

    They are encoded once, or drawn by the model itself from the concept's prompts, and kept in `cache` under a hash of
    everything they depend on. Drawn images stay the latents they are: no round trip through the autoencoder.

    Args:
        forget: images of the concept, or of the anchor for methods that need these; None draws them.
        retain: images of other things; None draws them from the concept's ``retain`` prompts.
        count: how many images to draw for a set.
        num_inference_steps: DDIM steps to draw with.
        guidance_scale: guidance to draw with.
        batch_size: images drawn or encoded at once.
        cache: folder for latents.
        seed: of drawn images.

    Raises:
        ValueError: if `count` or `batch_size` is below 1.
    """

    def __init__(
        self,
        forget: Source | None = None,
        retain: Source | None = None,
        count: int = 200,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        batch_size: int = 8,
        cache: Path = Path("runs/cache"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if count < 1 or batch_size < 1:
            raise ValueError(f"count ({count}) and batch_size ({batch_size}) must be at least 1")
        self.sources = {"forget": forget, "retain": retain}
        self.count, self.batch_size, self.cache, self.seed = count, batch_size, cache, seed
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self._made: Batch | None = None

    @property
    def _eraser(self) -> _Eraser:
        return cast("_Eraser", cast("Trainer", self.trainer).lightning_module)

    def prepare_data(self) -> None:
        """Encode or draw what the method needs, on one process, before the others read it from the cache."""
        if cast("Trainer", self.trainer).state.fn == "fit":
            self._made = self._sets()

    def setup(self, stage: str) -> None:
        """Read the sets.

        Raises:
            ValueError: if a set is empty, or there is no prompt to draw it from.
        """
        self.batch: Batch = {"prompts": self._eraser.concept.prompts, "retain": self._eraser.concept.retain}
        if stage == "fit":
            # What this process made itself is not read again; it serves one fit only, as the next may have other needs.
            made, self._made = self._made, None
            self.batch |= self._sets() if made is None else made
            _warn_of(self._eraser.concept, self.batch.get("retain_set"))

    def train_dataloader(self) -> DataLoader[Any]:
        """The sets, once a step."""
        return repeated(self.batch, self._eraser.steps)

    def val_dataloader(self) -> DataLoader[Any]:
        """One batch of the probe."""
        return repeated({}, 1)

    def _sets(self) -> Batch:
        eraser, concept = self._eraser, self._eraser.concept
        sets: Batch = {}
        if eraser.forget_images is not None:
            prompts = concept.prompts if eraser.forget_images == "concept" else concept.anchors
            sets["forget_set"] = self._set("forget", prompts)
        if eraser.retain_images:
            sets["retain_set"] = self._set("retain", concept.retain)
        return sets

    def _set(self, name: Literal["forget", "retain"], prompts: Sequence[str]) -> Latents:
        source, diffusion = self.sources[name], self._eraser.diffusion
        if source is None and not prompts:
            raise ValueError(f"no images for the {name} set: give a data set as `data.{name}`, or the concept prompts")
        with _on(diffusion, cast("Trainer", self.trainer).strategy.root_device):
            if source is None:
                return self._drawn(diffusion, prompts)
            return self._encoded(diffusion, source, name)

    def _drawn(self, diffusion: Diffusion, prompts: Sequence[str]) -> Latents:
        chosen = [prompts[i % len(prompts)] for i in range(self.count)]
        model = [diffusion.fingerprint, diffusion.weights, str(diffusion.network.dtype), configuration_of(diffusion)]
        sampler = [schedule_of(diffusion.schedule), self.num_inference_steps, self.guidance_scale, self.seed]
        settings = [*model, *sampler, chosen, diffusion.latent_shape]
        steps = diffusion.schedule.ddim_steps(self.num_inference_steps)

        def draw(numbers: range) -> Tensor:
            seeds = diffusion.draw_seeds([Generator().manual_seed(self.seed * 1_000_003 + i) for i in numbers])
            embeds = diffusion.encode_prompts([chosen[i] for i in numbers])
            return rollout(diffusion.predict_fn(embeds, self.guidance_scale), seeds, steps)

        return Latents(self._kept(json.dumps(settings).encode(), self.count, "drawing images", draw), chosen)

    def _encoded(self, diffusion: Diffusion, source: Source, name: str) -> Latents:
        rows, pictures, captions = source.load(), [], []
        digest = hashlib.sha256(json.dumps([autoencoder_of(diffusion), diffusion.image_size]).encode())
        for _, caption, picture in readable(rows, name, diffusion.image_size):
            digest.update(picture.tobytes())
            pictures.append(picture)
            captions.append(caption)
        if not pictures:
            raise ValueError(f"the {name} set is empty: no image of {source.describe()} can be read")

        def encode(numbers: range) -> Tensor:
            images = torch.stack([to_tensor(pictures[i]) for i in numbers])
            return diffusion.encode_images(images.to(diffusion.device)).float()

        return Latents(self._kept(digest.digest(), len(pictures), "encoding images", encode), captions)

    def _kept(self, content: bytes, count: int, doing: str, some: Callable[[range], Tensor]) -> Tensor:
        """Latents (count, c, h, w) that depend on `content` alone, from the cache or made in batches by `some`."""

        def make() -> dict[str, Tensor]:
            starts = track(range(0, count, self.batch_size), doing, transient=True)
            return {"latents": torch.cat([some(range(i, min(i + self.batch_size, count))).cpu() for i in starts])}

        name = f"{hashlib.sha256(content).hexdigest()[:20]}.safetensors"
        return cached(Path(self.cache) / name, ["latents"], make)["latents"]


@contextmanager
def _on(diffusion: Diffusion, device: torch.device) -> Iterator[None]:
    """The Trainer moves a model to its device only after the data is made: do it for the while, without gradients."""
    before = diffusion.device
    diffusion.to(device)
    try:
        with torch.no_grad():
            yield
    finally:
        diffusion.to(before)


def _warn_of(concept: Concept, retained: Latents | None) -> None:
    """Say which rows to retain name the concept."""
    captions = concept.retain if retained is None else retained.captions
    rows = [row for row, caption in enumerate(captions) if concept.named_in(caption)]
    if rows:
        shown = ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")
        warnings.warn(
            f"the retain set names {concept.phrase!r}, which is to be forgotten, in {len(rows)} of {len(captions)} "
            f"rows: {shown}",
            stacklevel=2,
        )
