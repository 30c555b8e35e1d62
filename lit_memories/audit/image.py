"""The image-level audit: how many seeds does one image have in this model, and how far are they apart?"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from lit_memories import autoencoder
from lit_memories.audit.answers import values_of
from lit_memories.audit.base import Audit
from lit_memories.audit.group import SampleGroup
from lit_memories.concept import Concept
from lit_memories.data.cache import cached
from lit_memories.data.memories import Query
from lit_memories.diffusion import Diffusion
from lit_memories.identity import autoencoder_of
from lit_memories.images import to_pil
from lit_memories.inverters.base import Inverter
from lit_memories.inverters.decoder import Decoded, DecoderInversion
from lit_memories.probes.base import Column
from lit_memories.probes.memories import Memories
from lit_memories.records import Record, SetName, finite, image_path

REENCODING_SEED = 42
"""The official code's, of the posterior's sample."""


class ImageAudit(Audit):
    """The Sequential Inversion Block: a query image's seeds by way of support images, and two seeds to compare with.

    For each support: decoder inversion of it from its encoder mean, then of the query from there, then diffusion
    inversion of that latent under the query's prompt. ``own`` starts the query's decoder inversion at its encoder mean,
    ``repeat`` at a sample of the encoder's posterior: how far these two seeds are apart is what the procedure itself
    adds. Decoder inversions involve the autoencoder only, which no erasure touches: models share them through `cache`.

    Args:
        diffusion: the model under audit.
        inverter: how seeds are found.
        concept: what the model should have forgotten.
        decoder: how latents that decode to an image are found; `DecoderInversion` as it comes if None.
        reencode: decode what the decoder inversion found to 8 bit and invert a sample of that picture's posterior, as
            the official code does with ReNoise. That throws the latent away.
        cache: folder for decoder inversions.
        **options: see `Audit`; `keep_images` counts queries.
    """

    OUTSIDE = Audit.OUTSIDE | {"cache", "decoder", "reencode"}

    def __init__(
        self,
        diffusion: Diffusion,
        inverter: Inverter,
        concept: Concept,
        decoder: DecoderInversion | None = None,
        reencode: bool = False,
        cache: Path = Path("runs/cache"),
        **options: Any,
    ) -> None:
        self.memories = Memories(decoder or DecoderInversion(), reencode)
        super().__init__(diffusion, inverter, concept, (self.memories,), **options)
        self.decoder, self.reencode, self.cache = self.memories.decoder, reencode, Path(cache)

    def on_predict_start(self) -> None:
        """Open the run folder for writing, and say what decoder inversions depend on besides the images."""
        super().on_predict_start()
        self._autoencoder = json.dumps([autoencoder_of(self.diffusion), self.decoder.settings()], sort_keys=True)

    def audit(self, batch: Query) -> list[Record]:
        """Audit a query and put it on disk."""
        name, group = self.memories.name, QueryGroup(self, batch, *self._find(batch))
        with self.costs.count(name, group):
            answers = self.memories(group)
            values = values_of(answers, len(group.samples))
        records = [
            Record(
                self.key(content),
                set_name,
                batch.sample.index,
                batch.sample.prompt,
                {name: answer},
                support=None if support is None else support.index,
                model=self.info.fingerprint,
                asked={name: self.info.mark(name)},
            )
            for answer, (content, (set_name, support)) in zip(values, batch.named().items(), strict=True)
        ]
        self.costs.keep()
        seeds = {} if answers.seeds is None else dict(zip((r.key for r in records), answers.seeds.cpu(), strict=True))
        self.writer.write(records, seeds, self._pictures(batch, group, answers.pictures))
        return records

    def _find(self, query: Query) -> tuple[Tensor, list[Decoded], list[Decoded]]:
        """The pictures of query and supports; what was found for each record; the supports' own latents."""
        samples = [query.sample, *query.supports]
        originals = torch.stack([sample.image for sample in samples if sample.image is not None]).to(self.device)
        image, *supports = originals.split(1)
        found = [self._inverted(image, "mean", partial(self._encode, image))[0]]
        (generator,) = self.generators([query.sample], "/repeat")
        again = f"sample/{self.seed}/{query.sample.content}"
        found.append(self._inverted(image, again, partial(self._encode, image, generator))[0])
        supported = []
        for support in supports:
            first, name = self._inverted(support, "mean", partial(self._encode, support))
            supported.append(first)
            found.append(self._inverted(image, name, first.latents.clone)[0])
        return originals, found, supported

    def _inverted(self, image: Tensor, start: str, latents: Callable[[], Tensor]) -> tuple[Decoded, str]:
        """Decoder inversion of an image (1, 3, h, w) from latents, named by all it depends on; kept under that name."""
        pixels = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest()
        name = hashlib.sha256(f"{self._autoencoder}/{start}/{pixels}".encode()).hexdigest()[:20]
        file = self.cache / f"decoder-{name}.safetensors"
        names = [part.name for part in fields(Decoded)]
        kept = cached(file, names, lambda: vars(self.decoder(self.diffusion.decode_unscaled, image, latents())))
        return Decoded(**{part: tensor.to(self.device) for part, tensor in kept.items()}), name

    def _encode(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        return autoencoder.unscaled(self.diffusion.vae, self.diffusion.encode_images(image, generator).float())

    def reencoded(self, images: Tensor) -> Tensor:
        """Latents of pictures that were rounded to 8 bit, drawn from the posterior as officially."""
        pictures = images.mul(255).round().div(255).split(1)
        samples = [self.diffusion.encode_images(x, Generator().manual_seed(REENCODING_SEED)) for x in pictures]
        return torch.cat(samples).float()

    def _pictures(self, query: Query, group: "QueryGroup", pictures: Mapping[str, Tensor]) -> dict[Path, Image.Image]:
        index = query.sample.index
        if index >= self.keep_images:
            return {}
        kept: dict[tuple[SetName, str], Tensor] = {("own", "original"): group.originals[0]}
        pictures = {"decoded": group.stage_two, **pictures}
        for row, (set_name, support) in enumerate(query.named().values()):
            ending = "" if support is None else f"-{support.index:04d}"
            kept |= {(set_name, f"{kind}{ending}"): images[row] for kind, images in pictures.items()}
        for support, image in zip(query.supports, group.originals[1:], strict=True):
            kept["memory", f"support-{support.index:04d}"] = image
        return {
            image_path(self.folder, set_name, index, kind): to_pil(image.nan_to_num())
            for (set_name, kind), image in kept.items()
        }


class QueryGroup(SampleGroup):
    """A query's latents, a sample each (a `probes.memories.MemoryGroup`).

    Args:
        audit: whose model and inverter are asked.
        query: with its pictures.
        originals: of the query and its supports (1 + supports, 3, h, w).
        found: the decoder inversion of each latent.
        supported: that of each support's own latent.
    """

    def __init__(
        self, audit: ImageAudit, query: Query, originals: Tensor, found: list[Decoded], supported: list[Decoded]
    ) -> None:
        super().__init__(audit, [query.sample] * len(found))
        self.originals, self.found, self.supported = originals, found, supported
        latents = autoencoder.scaled(audit.diffusion.vae, torch.cat([x.latents for x in found]))
        decoded = self.decode(latents)
        self.latents = audit.reencoded(decoded) if audit.reencode else latents
        self.decoded = self.decode(self.latents) if audit.reencode else decoded
        self.stage_two = decoded
        self.images = originals[:1].expand(len(found), -1, -1, -1)
        self.round_trips = self.decode(audit.encode(originals[:1]))

    @property
    def stages(self) -> dict[str, Column]:
        """What the decoder inversions left; the first two latents went by no support."""
        supports = [None, None, *(finite(float(x.psnr)) for x in self.supported)]
        return {
            "psnr_decoder": torch.cat([x.psnr for x in self.found]),
            "psnr_support": supports,
            "decoder_passes": [
                int(x.passes) + (int(self.supported[row - 2].passes) if row >= 2 else 0)
                for row, x in enumerate(self.found)
            ],
        }
