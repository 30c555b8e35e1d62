"""Stable Diffusion at its real shapes with random weights, made on the device; and what a call of it should take."""

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from lit_memories.diffusion import Diffusion
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.storage.schedules import noise_schedule
from lit_memories.worlds.pictograms import GRAMMAR
from lit_memories.worlds.tokenizer import build_tokenizer

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A model's networks, as their configurations have them.

    Args:
        title: in tables.
        unet: of `UNet2DConditionModel`.
        tokens: rows of text of a prompt.
        pooled: width of the pooled embedding; 0 if there is none.
        text: width, layers and heads of the text encoder, for models that are audited whole.
        vae: channels of the autoencoder, for the same.
    """

    title: str
    unet: dict[str, Any]
    tokens: int = 77
    pooled: int = 0
    text: tuple[int, int, int] | None = None
    vae: tuple[int, ...] | None = None


SHAPES = {
    "sd14": Shape(
        "Stable Diffusion 1.4",
        {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        text=(768, 12, 12),
        vae=(128, 256, 512, 512),
    ),
    "sdxl": Shape(
        "Stable Diffusion XL",
        {
            "sample_size": 128,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        pooled=1280,
    ),
}
TINY = {
    "sd14": Shape(
        "a narrow Stable Diffusion 1.4",
        {"sample_size": 8, "block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 32}
        | {"attention_head_dim": 2, "layers_per_block": 1},
        tokens=16,
        text=(32, 2, 2),
        vae=(8, 8, 8, 8),
    ),
    "sdxl": Shape(
        "a narrow Stable Diffusion XL",
        SHAPES["sdxl"].unet
        | {"sample_size": 8, "block_out_channels": (8, 8, 16), "norm_num_groups": 4, "cross_attention_dim": 32}
        | {"attention_head_dim": [1, 1, 2], "transformer_layers_per_block": [1, 1, 1], "layers_per_block": 1}
        | {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
        tokens=16,
        pooled=16,
    ),
}
"""The same, small enough for a test."""


def build_unet(shape: Shape, device: str | torch.device) -> UNet2DConditionModel:
    """A U-Net with random weights, made where it is to be; it predicts little, so that inversions converge."""
    with torch.device(device):
        unet = UNet2DConditionModel(**shape.unet).requires_grad_(False).eval()
    unet.conv_out.weight.mul_(0.05)
    return unet


def schedule() -> NoiseSchedule:
    """Stable Diffusion's noise levels."""
    return noise_schedule(dict(DDIMScheduler(**SCHEDULER).config))


def inputs(shape: Shape, rows: int, device: str | torch.device) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Latents, rows of text and what else the U-Net is told, for so many rows."""
    size, width = shape.unet["sample_size"], shape.unet["cross_attention_dim"]
    with torch.device(device):
        latents, text = torch.randn(rows, 4, size, size), torch.randn(rows, shape.tokens, width)
        added = {"text_embeds": torch.randn(rows, shape.pooled), "time_ids": torch.zeros(rows, 6)}
    return latents, text, {"added_cond_kwargs": added} if shape.pooled else {}


def build_diffusion(shape: Shape, device: torch.device) -> Diffusion:
    """A whole model, to be audited."""
    if shape.text is None or shape.vae is None:
        raise ValueError(f"{shape.title} has no text encoder or autoencoder here")
    tokenizer = build_tokenizer(GRAMMAR.words, shape.tokens)
    width, layers, heads = shape.text
    blocks = len(shape.vae)
    markers = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=shape.tokens,
        projection_dim=width,
        **markers,
    )
    with torch.device(device):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=shape.vae,
            layers_per_block=2,
            norm_num_groups=min(32, shape.vae[0]),
            sample_size=shape.unet["sample_size"] * 2 ** (blocks - 1),
        )
        text_encoder = CLIPTextModel(text)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=build_unet(shape, device),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Diffusion.from_pipeline(pipeline, shape.title)


def call(unet: nn.Module, shape: Shape, rows: int, device: str | torch.device) -> Callable[[], Tensor]:
    """An evaluation of a block of rows."""
    latents, text, added = inputs(shape, rows, device)
    timesteps = torch.full((rows,), 500, device=device)
    return lambda: unet(latents, timesteps, text, **added).sample


@functools.cache
def operations(shape: Shape) -> float:
    """Floating-point operations of an evaluation of one row, two a multiplication with its sum."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(build_unet(shape, "meta"), shape, 1, "meta")()
    return float(counter.get_total_flops())


def larger_operations() -> dict[str, float]:
    """The same of Stable Diffusion 3.5 medium and FLUX.1-dev at 1024 pixels, counted before they are built.

    Prompts have 333 rows in the former, two CLIP encoders and T5, and 512 in the latter.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as medium, torch.no_grad():
        network = SD3Transformer2DModel(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )
        network(torch.empty(1, 16, 128, 128), torch.empty(1, 333, 4096), torch.empty(1, 2048), torch.zeros(1))
    with torch.device("meta"), FlopCounterMode(display=False) as flux, torch.no_grad():
        network = FluxTransformer2DModel(guidance_embeds=True)
        words = torch.empty(1, 512, 4096), torch.empty(1, 768), torch.zeros(1)
        network(torch.empty(1, 4096, 64), *words, torch.zeros(4096, 3), torch.zeros(512, 3), torch.zeros(1))
    return {"sd35-medium": float(medium.get_total_flops()), "flux-dev": float(flux.get_total_flops())}


@functools.cache
def predicted_bytes(shape: Shape, rows: int, mixed: bool = False) -> int:
    """The most memory that an evaluation should hold: weights, and what lives at once on the way.

    Found by letting the network run without numbers. In mixed precision autocast keeps a copy of weights in half as
    many bits; that activations then are smaller too is left out, so that this is an upper bound.
    """
    unet = build_unet(shape, "meta")
    weights = sum(parameter.nbytes for parameter in unet.parameters())
    with _fused_attention(), torch.no_grad(), _Held(unet) as held:
        call(unet, shape, rows, "meta")()
    return int(weights * (1.5 if mixed else 1) + held.most)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as a GPU has it, which never holds all probabilities at once."""
    with patch.object(nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query)):
        yield


class _Held(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there were; without a network's weights and views of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return found

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
