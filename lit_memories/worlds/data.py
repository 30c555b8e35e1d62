"""A world as training data for its autoencoder, its classifier and its text-to-image models."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from diffusers import AutoencoderKL
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_memories.data.cache import cached
from lit_memories.storage.shipped import model_folder
from lit_memories.worlds.base import World, labels_of, passes, shows


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack rows: ``images`` (n, 3, size, size) in [0, 1], ``captions``, and a label tensor (n,) a factor."""
    labels = [name for name in rows[0] if name not in ("image", "caption")]
    return {
        "images": torch.stack([row["image"] for row in rows]).float() / 255,
        "captions": [row["caption"] for row in rows],
        **{name: torch.stack([row[name] for row in rows]) for name in labels},
    }


@dataclass(frozen=True)
class Exposure:
    """How many different pictures of a concept a model is shown: the first of the training rows.

    Args:
        concept: factor values that a picture of it has, e.g. ``{"object": "umbrella"}``.
        pictures: how many, 1 or more.
    """

    concept: dict[str, str]
    pictures: int


class WorldData(LightningDataModule):
    """Images, captions and factor labels of a world.

    Args:
        world: whose.
        train_size: rows of the training split, before `withhold` and `exposures` take their share away; None for all.
        validation_size: rows of the validation split, before `withhold`; None for all.
        batch_size: rows a step.
        withhold: concepts never to show, each a mapping of factor to value.
        exposures: concepts of which to show some pictures and no others.
        split: whose rows to train on.
        limit: train on the first rows only that are left, so that models are shown equally many; None for all.

    Raises:
        ValueError: if fewer rows are left than `limit`, these hold fewer pictures than an exposure asks for, or a
            concept is none of this world.
    """

    def __init__(
        self,
        world: World,
        train_size: int | None = None,
        validation_size: int | None = 512,
        batch_size: int = 32,
        withhold: list[dict[str, str]] | None = None,
        exposures: list[Exposure] | None = None,
        split: str = "train",
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.world = world
        self.train_size, self.validation_size, self.batch_size = train_size, validation_size, batch_size
        self.withhold, self.exposures, self.split, self.limit = withhold or [], exposures or [], split, limit

    def build(self, split: str, size: int | None) -> datasets.Dataset:
        """All rows of a split, as images, captions and labels."""
        return self.world.rows(split, size).select_columns(["image", "caption", *self.world.grammar.factors])

    def kept(self, rows: datasets.Dataset, exposures: Sequence[Exposure] = (), limit: int | None = None) -> list[int]:
        """Positions of the first rows that show nothing withheld, and no more of a concept than an exposure allows."""
        for concept in (*self.withhold, *(one.concept for one in exposures)):
            self.world.check(concept)
        kept: list[int] = []
        left = [exposure.pictures for exposure in exposures]
        for position, labels in enumerate(labels_of(rows, self.world.grammar.factors)):
            if len(kept) == limit:
                break
            shown = [number for number, one in enumerate(exposures) if shows(labels, one.concept)]
            if not passes(labels, {}, self.withhold) or any(not left[n] for n in shown):
                continue
            for number in shown:
                left[number] -= 1
            kept.append(position)
        if limit is not None and len(kept) < limit:
            raise ValueError(
                f"{len(rows)} rows of the split {self.split!r} leave {len(kept)} to show, not {limit}: raise train_size"
            )
        for exposure, missing in zip(exposures, left, strict=True):
            if missing > 0:
                raise ValueError(
                    f"{len(rows)} rows of the split {self.split!r} hold {exposure.pictures - missing} pictures of "
                    f"{' and '.join(exposure.concept.values())}, not {exposure.pictures}: raise train_size"
                )
        return kept

    def prepare_data(self) -> None:
        """Prepare the pictures once; `datasets` caches them."""
        self.build(self.split, self.train_size)
        self.build("validation", self.validation_size)

    def setup(self, stage: str) -> None:
        """Open the splits."""
        train, validation = self.build(self.split, self.train_size), self.build("validation", self.validation_size)
        self.train = train.select(self.kept(train, self.exposures, self.limit)).with_format("torch")
        self.validation = validation.select(self.kept(validation)).with_format("torch")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training rows."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, drop_last=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation rows in order."""
        return DataLoader(self.validation, batch_size=self.batch_size, collate_fn=collate)


class LatentRows(Dataset[dict[str, Any]]):
    """Latents (posterior mean and standard deviation) beside their captions."""

    def __init__(self, mean: Tensor, std: Tensor, captions: list[str]) -> None:
        self.mean, self.std, self.captions = mean, std, captions

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"mean": self.mean[index], "std": self.std[index], "captions": self.captions[index]}


class LatentWorldData(WorldData):
    """A world encoded once by a frozen autoencoder; latents are scaled as the network sees them.

    Args:
        autoencoder: folder of the trained autoencoder.
        cache: folder for the encoded splits, named by what they were made from.
        **rows: see `WorldData`.
    """

    def __init__(self, autoencoder: Path, cache: Path = Path("runs/cache/latents"), **rows: Any) -> None:
        super().__init__(**rows)
        self.autoencoder, self.cache = model_folder(autoencoder), Path(cache)

    def prepare_data(self) -> None:
        """Encode the splits if no cache of them exists."""
        self.encode(self.split, self.train_size, self.exposures, self.limit)
        self.encode("validation", self.validation_size)

    def setup(self, stage: str) -> None:
        """Open the encoded splits."""
        self.train = self.encode(self.split, self.train_size, self.exposures, self.limit)
        self.validation = self.encode("validation", self.validation_size)

    @torch.no_grad()
    def encode(
        self, split: str, size: int | None, exposures: Sequence[Exposure] = (), limit: int | None = None
    ) -> LatentRows:
        """The latents of a split less what is not to be shown, from the cache or made now."""
        rows = self.build(split, size)
        weights = (self.autoencoder / "diffusion_pytorch_model.safetensors").read_bytes()
        key = hashlib.sha256(weights + rows._fingerprint.encode()).hexdigest()[:16]  # of a row's content and place
        file = self.cache / f"{key}.safetensors"
        names = ("mean", "std")

        def make() -> dict[str, Tensor]:
            vae = AutoencoderKL.from_pretrained(self.autoencoder, use_safetensors=True).eval()
            loader = DataLoader(rows.with_format("torch"), batch_size=64, collate_fn=collate)
            posteriors = [vae.encode(batch["images"] * 2 - 1).latent_dist for batch in loader]
            return {
                name: vae.config.scaling_factor * torch.cat([getattr(p, name) for p in posteriors]) for name in names
            }

        latents, kept = cached(file, names, make), self.kept(rows, exposures, limit)
        captions = rows["caption"]
        return LatentRows(latents["mean"][kept], latents["std"][kept], [captions[position] for position in kept])

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training latents."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation latents in order."""
        return DataLoader(self.validation, batch_size=self.batch_size)
