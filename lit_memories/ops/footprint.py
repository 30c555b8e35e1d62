"""How much memory a computation holds at most, told from shapes: it is gone through on torch's device meta."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def footprint(compute: Callable[[], object]) -> int:
    """Bytes that tensors made by a computation take at most at a time, its result among them.

    What was there before, such as weights, is not counted, nor is what a device's libraries take besides: cuDNN's
    workspace, and what an allocator cannot give away in pieces. Attention counts as the fused one, which never holds
    the products of all queries and keys.

    Args:
        compute: works on tensors of the device meta, with gradients if they are on.
    """
    with _Fused(), _Ledger() as ledger:
        result = compute()
    del result
    return ledger.most


class _Ledger(TorchDispatchMode):
    """Counts the storages that operations make, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._add(storage, 0)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._add(storage, storage.nbytes())
        return result

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.most = max(self.most, self.held)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))


class _Fused(TorchFunctionMode):
    """Gives attention the shapes and the gradients' memory of the fused one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        return _Attention.apply(*(named[name] for name in ("query", "key", "value")))


class _Attention(torch.autograd.Function):
    """Shapes of fused attention: it keeps queries, keys, values and its result."""

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What attention gives (..., queries, width of values)."""
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of queries, keys and values."""
        return tuple(torch.empty_like(cast("Tensor", kept)) for kept in ctx.saved_tensors[:3])
