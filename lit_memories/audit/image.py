"""The image-level audit: how many seeds does one image have in this model, and how far are they apart?"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from lit_memories.audit.base import Audit
from lit_memories.audit.quality import quality, sound_psnr
from lit_memories.concept import Concept
from lit_memories.data.cache import cached
from lit_memories.data.memories import Query
from lit_memories.diffusion import Diffusion
from lit_memories.identity import autoencoder_of
from lit_memories.images import to_pil
from lit_memories.inverters.base import Inverter
from lit_memories.inverters.decoder import Decoded, DecoderInversion
from lit_memories.metrics.functional import gaussian_nll
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

    OUTSIDE = Audit.OUTSIDE | {"cache"}

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
        super().__init__(diffusion, inverter, concept, **options)
        self.decoder, self.reencode, self.cache = decoder or DecoderInversion(), reencode, Path(cache)

    def on_predict_start(self) -> None:
        """Open the run folder for writing, and say what decoder inversions depend on besides the images."""
        super().on_predict_start()
        self._autoencoder = json.dumps([autoencoder_of(self.diffusion), self.decoder.settings()], sort_keys=True)

    def audit(self, batch: Query) -> list[Record]:
        """Audit a query and put it on disk."""
        originals, found, supported = self._find(batch)
        latents = torch.cat([x.latents for x in found]) * self.diffusion.vae.config.scaling_factor
        decoded = self.decode(latents)
        if self.reencode:
            latents = self._reencoded(decoded)
        prompts = [batch.sample.prompt] * len(latents)
        inversion, restored = self.invert(prompts, latents, self.guidance_scale)
        regenerated = self.decode(restored)
        target = originals[:1].expand_as(regenerated)
        numbers = {
            "nll": gaussian_nll(inversion.seeds),
            "psnr": sound_psnr(regenerated, target),
            "psnr_ceiling": sound_psnr(self.decode(self.encode(originals[:1])), originals[:1]).expand(len(latents)),
            "psnr_round_trip": sound_psnr(regenerated, self.decode(latents) if self.reencode else decoded),
            "psnr_decoder": torch.cat([x.psnr for x in found]),
        }
        verdicts = self.judged([batch.sample] * len(latents), regenerated)
        # From here on numbers are read one at a time.
        numbers, latents = {label: column.cpu() for label, column in numbers.items()}, latents.cpu()
        inversion = inversion.cpu()
        records, seeds = [], {}
        for row, (name, (set_name, support)) in enumerate(batch.named().items()):
            values: dict[str, Any] = {label: finite(float(column[row])) for label, column in numbers.items()}
            if set_name != "own":
                values |= _distances(inversion.seeds[row], inversion.seeds[0])
                values["latent_cosine_distance"] = _distances(latents[row], latents[0])["cosine_distance"]
            if support is not None:
                values["psnr_support"] = finite(float(supported[row - 2].psnr))
                values["support"] = support.index
            values |= quality(self.inverter, inversion, row, None not in values.values())
            values["decoder_passes"] = self._passes(row, found, supported)
            record = Record(
                self.key(name), set_name, batch.sample.index, batch.sample.prompt, **values, **verdicts[row]
            )
            records.append(record)
            seeds[record.key] = inversion.seeds[row]
        self.writer.write(records, seeds, self._pictures(batch, originals, decoded, regenerated))
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
        return self.diffusion.encode_images(image, generator).float() / self.diffusion.vae.config.scaling_factor

    def _reencoded(self, images: Tensor) -> Tensor:
        pictures = images.mul(255).round().div(255).split(1)
        samples = [self.diffusion.encode_images(x, Generator().manual_seed(REENCODING_SEED)) for x in pictures]
        return torch.cat(samples).float()

    @staticmethod
    def _passes(row: int, found: Sequence[Decoded], supported: Sequence[Decoded]) -> int:
        """Passes through the decoder of both stages; the first two rows have but one."""
        return int(found[row].passes) + (int(supported[row - 2].passes) if row >= 2 else 0)

    def _pictures(
        self, query: Query, originals: Tensor, decoded: Tensor, regenerated: Tensor
    ) -> dict[Path, Image.Image]:
        index = query.sample.index
        if index >= self.keep_images:
            return {}
        kept: dict[tuple[SetName, str], Tensor] = {("own", "original"): originals[0]}
        for row, (set_name, support) in enumerate(query.named().values()):
            ending = "" if support is None else f"-{support.index:04d}"
            kept[set_name, f"decoded{ending}"] = decoded[row]
            kept[set_name, f"regenerated{ending}"] = regenerated[row]
        for support, image in zip(query.supports, originals[1:], strict=True):
            kept["memory", f"support-{support.index:04d}"] = image
        return {
            image_path(self.folder, set_name, index, kind): to_pil(image.nan_to_num())
            for (set_name, kind), image in kept.items()
        }


def _distances(seed: Tensor, own: Tensor) -> dict[str, float | None]:
    """Euclidean distance of two seeds, and 1 less their cosine; a pair at a time rounds alike in any company."""
    a, b = seed.double().flatten(), own.double().flatten()
    cosine = (a @ b) / (a.norm() * b.norm())
    return {"distance": finite(float((a - b).norm())), "cosine_distance": finite(float(1 - cosine))}
