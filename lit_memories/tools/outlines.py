"""What an audit holds in memory, told from configurations: models with shapes and no numbers, and calls of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_memories.audit.base import Audit
from lit_memories.audit.embedding import KEPT
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion, Weights
from lit_memories.guards.base import Guard
from lit_memories.judges.base import Judge, Verdict
from lit_memories.ops.footprint import footprint
from lit_memories.ops.transforms import Transform
from lit_memories.speed import Speed
from lit_memories.storage.pipelines import outline_pipeline


class Outline(Diffusion):
    """A model of its configuration files alone, whose weights have shapes and no numbers; takes what the model takes.

    An erasure is left out: it takes the place of weights that are counted already, or is small beside them.
    """

    def __init__(
        self,
        base: str,
        erasure: str | None = None,
        revision: str | None = None,
        weights: Weights = "pretrained",
        torch_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        gated: bool = True,
        gate_power: Literal[1, 2] = 2,
        variant: str | None = None,
        config: str | None = None,
        transform: Transform | None = None,
        guard: Guard | None = None,
        speed: Speed | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        pipeline, commit = outline_pipeline(base, revision, getattr(torch, torch_dtype), config)
        self._adopt(pipeline, str(base), commit, image_size)
        self.weights, self.transform = weights, transform
        if guard is not None:
            guard.check(self, self.base)
            self.guard = guard
        if speed is not None:
            self.speed = speed
            replace(speed, compile=None).apply(self.network, self.vae)


class Unseen(Judge):
    """Stands for a judge that looks at nothing."""

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """Refuse: a plan draws no picture.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a plan draws no picture")

    def identity(self, concept: Concept) -> str:
        """Nothing that numbers depend on."""
        return "unseen"


@dataclass(frozen=True)
class Held:
    """A part of a model.

    Args:
        name: of the part.
        count: numbers that its files hold: parameters, and tables such as positions.
        size: bytes that it takes in memory, in the recipe's types.
        offloaded: whether it stays in the host's memory, away from the accelerator.
    """

    name: str
    count: int
    size: int
    offloaded: bool = False


@dataclass(frozen=True)
class Call:
    """What a call of a part takes besides weights.

    Args:
        name: what is computed.
        rows: at a time.
        size: bytes at most.
        asked: whether the recipe does so, on the accelerator; else it stands there to be compared with.
    """

    name: str
    rows: int
    size: int
    asked: bool = True


def parts(model: Diffusion, owner: str = "") -> list[Held]:
    """The parts of a model.

    Args:
        model: whose.
        owner: of the model, before the parts' names.
    """
    found = []
    for name, part in model.named_children():
        tensors = {id(tensor): tensor for tensor in (*part.parameters(), *part.buffers())}.values()
        stored = {id(tensor): tensor.numel() for tensor in part.state_dict(keep_vars=True).values()}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        offloaded = model.speed.offload_text and name in model.conditioning.encoders
        found.append(Held(owner + name, sum(stored.values()), size, offloaded))
    return found


def others(audit: Audit) -> Iterator[tuple[str, Diffusion]]:
    """Models that probes bring with them, and whose they are."""
    for name, probe in audit.probes.items():
        for value in vars(probe).values():
            if isinstance(value, Diffusion):
                yield f"{name}'s ", value


def kept(audit: Audit) -> int:
    """Bytes of the embeddings that an audit keeps at most, in float32 beside the network."""
    with torch.no_grad():
        embeds = audit.diffusion.encode_prompts([""])
    return KEPT * embeds.numel() * torch.float32.itemsize


def calls(audit: Audit, guidances: Sequence[float]) -> list[Call]:
    """What an audit computes at a time, and what that takes.

    Under mixed precision it is less: weights stay in the recipe's type, and so do all tensors here.

    Args:
        audit: of an outline.
        guidances: of all predictions.
    """
    model, block = audit.diffusion, audit.block_size
    guidance = max(guidances, key=model.evaluations)
    with torch.no_grad():
        embeds = model.encode_prompts([""]).float()
        found = [Call("prompt", 1, footprint(partial(model.encode_prompts, [""])), not model.speed.offload_text)]
        rows = block * model.evaluations(guidance)
        found.append(Call("network", rows, footprint(partial(_predict, model, embeds, block, guidance))))
        found += _pictures(model, block)
    if "gradients" in {need for probe in audit.probes.values() for need in probe.needs}:
        found.insert(2, Call("network, with gradients", block, footprint(partial(_climb, model, embeds, block))))
    return found


def _predict(model: Diffusion, embeds: Tensor, rows: int, guidance: float) -> Tensor:
    latents, own = _meta(rows, *model.latent_shape), embeds.expand(rows, -1, -1)
    beside = own.repeat(len(model.beside), 1, 1) if model.evaluations(guidance) > 1 else None
    return model.predict(latents, 0.0, own, guidance, beside)


def _climb(model: Diffusion, embeds: Tensor, rows: int) -> Any:
    latents = _meta(rows, *model.latent_shape).requires_grad_()
    return torch.autograd.grad(model.predict(latents, 0.0, embeds.expand(rows, -1, -1)).sum(), latents)


def _pictures(model: Diffusion, block: int) -> list[Call]:
    """Calls of the autoencoder: those of an audit, a picture at a time, and other ways to compare them with."""
    vae, tiled, sliced = model.vae, model.vae.use_tiling, model.vae.use_slicing

    def decoded(rows: int) -> Callable[[], Tensor]:
        return partial(model.decode_latents, _meta(rows, *model.latent_shape))

    encode = partial(model.encode_images, _meta(1, 3, *model.image_size))
    found = [Call("pictures encoded", 1, footprint(encode))]
    vae.use_slicing = False
    for name, rows, tiles in (("decoded", 1, False), ("decoded", block, False), ("decoded in tiles", 1, True)):
        vae.use_tiling = tiles
        found.append(Call(f"pictures {name}", rows, footprint(decoded(rows)), asked=rows == 1 and tiles == tiled))
    vae.use_tiling, vae.use_slicing = tiled, sliced
    return found


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
