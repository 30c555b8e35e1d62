"""What the authors of Stable Diffusion 3 and FLUX, and programs after them, call the layers of their transformers.

Some of their layers are several of diffusers' in one, one's rows after the other's; some have their two halves, scale
and shift, the other way round.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_FLUX = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_FLUX_DOUBLE: dict[str, tuple[str, ...]] = {
    "img_attn.qkv": _QKV,
    "qkv.1": _QKV,  # XLabs', whose numbers are picture and text
    "img_attn.proj": ("attn.to_out.0",),
    "proj.1": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.qkv": _TEXT_QKV,
    "qkv.2": _TEXT_QKV,
    "txt_attn.proj": ("attn.to_add_out",),
    "proj.2": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
}
_FLUX_SINGLE: dict[str, tuple[str, ...]] = {
    "linear1": (*_QKV, "proj_mlp"),
    "qkv": _QKV,
    "linear2": ("proj_out",),
    "proj": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_SD3 = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_SD3_JOINT: dict[str, tuple[str, ...]] = {
    "x_block.attn.qkv": _QKV,
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn.ln_q": ("attn.norm_q",),
    "x_block.attn.ln_k": ("attn.norm_k",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.attn2.ln_q": ("attn2.norm_q",),
    "x_block.attn2.ln_k": ("attn2.norm_k",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": _TEXT_QKV,
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.attn.ln_q": ("attn.norm_added_q",),
    "context_block.attn.ln_k": ("attn.norm_added_k",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}


@dataclass(frozen=True)
class Place:
    """Where a layer of a file has its place in a model.

    Args:
        layers: of the model, in the order of their rows in the file's one layer.
        swapped: whether the file's layer has its two halves the other way round.
    """

    layers: tuple[str, ...]
    swapped: bool = False

    def divide(self, tensor: Tensor, rows: Mapping[str, int]) -> dict[str, Tensor]:
        """What of a tensor, along its first axis, is which layer's.

        Args:
            tensor: of the file's layer (n, ...).
            rows: outputs of each of the model's layers.

        Raises:
            ValueError: if it has not as many rows as the layers have together.

        Example:
            >>> Place(("to_q", "to_k")).divide(torch.tensor([1.0, 2.0, 3.0]), {"to_q": 1, "to_k": 2})
            {'to_q': tensor([1.]), 'to_k': tensor([2., 3.])}
        """
        sizes = [rows[layer] for layer in self.layers]
        if len(sizes) == 1 and not self.swapped:
            return {self.layers[0]: tensor}
        if tensor.ndim < 1 or len(tensor) != sum(sizes):
            there = " + ".join(map(str, sizes))
            raise ValueError(f"is {tuple(tensor.shape)}, and the base has {there} rows there")
        if self.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        return dict(zip(self.layers, tensor.split(sizes), strict=True))


@dataclass(frozen=True)
class Layout:
    """A transformer in its authors' layout.

    Args:
        places: of their layers.
        state: the transformer's own tensors.
    """

    places: Mapping[str, Place]
    state: Mapping[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module) -> "Layout":
        """That of `SD3Transformer2DModel` or `FluxTransformer2DModel`."""
        return cls(places(network), network.state_dict())

    def own(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """A tensor of the authors' by the transformer's own names; nothing if there is none such.

        Args:
            name: of theirs, with nothing before it.
            tensor: of theirs.

        Raises:
            ValueError: if it does not have the rows of the layers that it holds.
        """
        layer, _, kind = name.rpartition(".")
        kind = "weight" if kind == "scale" else kind  # of FLUX's norms
        place = self.places.get(layer)
        if name == "pos_embed" and (own := "pos_embed.pos_embed") in self.state:
            return {own: tensor}
        if place is None or f"{place.layers[0]}.{kind}" not in self.state:
            return {}
        rows = {ours: len(self.state[f"{ours}.{kind}"]) for ours in place.layers}
        try:
            return {f"{ours}.{kind}": share for ours, share in place.divide(tensor, rows).items()}
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None


def places(network: nn.Module) -> dict[str, Place]:
    """A transformer's layers by their authors' names of them.

    Args:
        network: `SD3Transformer2DModel` or `FluxTransformer2DModel`.
    """
    known = {name for name, _ in network.named_modules()}
    flux = isinstance(network, FluxTransformer2DModel)
    found = {theirs: Place((ours,), ours == "norm_out.linear") for theirs, ours in (_FLUX if flux else _SD3).items()}
    for theirs, layers in _blocks(network, flux):
        # the last block of Stable Diffusion 3 only reads the text, whose norm is there as the one before the output
        last = layers[0].endswith("norm1_context.linear")
        last = last and layers[0].replace("norm1_context.linear", "attn.to_add_out") not in known
        found[theirs] = Place(layers, last)
    return {theirs: place for theirs, place in found.items() if known.issuperset(place.layers)}


def _blocks(network: nn.Module, flux: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Layers in blocks, by their authors' names, whether or not a block has them."""
    double = ("double_blocks", "transformer_blocks", _FLUX_DOUBLE)
    single = ("single_blocks", "single_transformer_blocks", _FLUX_SINGLE)
    for theirs, ours, table in (double, single) if flux else (("joint_blocks", "transformer_blocks", _SD3_JOINT),):
        for number, _ in enumerate(network.get_submodule(ours).children()):
            for name, layers in table.items():
                yield f"{theirs}.{number}.{name}", tuple(f"{ours}.{number}.{layer}" for layer in layers)
