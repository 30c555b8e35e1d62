"""What tells whether two networks compute the same: a hash of all their tensors."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

HALVES = ((torch.float16,), (torch.bfloat16,), (torch.float16, torch.bfloat16))
"""How a file of float32 weights may come to be in half precision: stored or loaded so, or stored so and loaded so."""


def fingerprint(*modules: nn.Module, to: Sequence[torch.dtype] = ()) -> str:
    """Hash of all tensors of some modules: with the same one, they compute the same.

    Args:
        modules: to hash.
        to: types that weights are rounded to before, one after the other.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            if tensor.is_meta:  # it has no numbers
                digest.update(str(tuple(tensor.shape)).encode())
                continue
            tensor = tensor.detach().cpu().contiguous()
            for dtype in to if tensor.is_floating_point() else ():
                tensor = tensor.to(dtype)
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def rounded_fingerprints(*modules: nn.Module) -> dict[str, str]:
    """Hashes of some modules as files of half precision have them, by the types they are rounded to."""
    named = {", ".join(str(t).removeprefix("torch.") for t in types): types for types in HALVES}
    return {name: fingerprint(*modules, to=types) for name, types in named.items()}
