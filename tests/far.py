"""A device that is not there: its tensors are kept on the CPU, but are told from the CPU's like a GPU's.

What a GPU would refuse is refused (operations between devices), and what would make the host wait for it is put down:
reading a number, sizes that depend on values, copies from one side to the other.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

PACKAGE = Path(__file__).parents[1] / "lit_memories"
SIZED_BY_VALUES = {"nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique2", "equal"}
"""Operations whose result the host has to wait for before it knows what to do next."""


class _Backend(_DummyBackendModule):
    """What torch asks of a device's module, besides what its own stand-in has."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("far", backend_module=_Backend())
FAR = torch.device("far:0")


@dataclass
class Waits:
    """How often the host had to wait for the device, by the place in the package that asked for it."""

    places: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str) -> None:
        frame = sys._getframe()
        while frame.f_back is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                self.places[f"{path.relative_to(PACKAGE)}: {frame.f_code.co_name}: {kind}"] += 1
                return
            frame = frame.f_back
        self.places[f"outside: {kind}"] += 1

    def of(self, *names: str) -> dict[str, int]:
        """Those of files or functions whose place holds one of the names."""
        return {place: count for place, count in self.places.items() if any(name in place for name in names)}


_waits = Waits()


class Far(Tensor):
    """A tensor of the device, around one of the CPU that holds its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=FAR
        )
        made.near = near
        return cast("Far", made)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.near!r})"

    @property
    def data(self) -> "Far":  # type: ignore[override]
        """The same numbers, which can be put in another's place."""
        return Far(self.near)

    @data.setter
    def data(self, value: "Far") -> None:
        self.near = value.near

    def tolist(self) -> Any:
        _waits.add("number read")
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    if name == "to":  # which arrives whole in inference mode; taken apart it is a copy, or nothing
        with _Mode():
            return func.decompose(*args, **kwargs)
    tensors = _tensors((*args, *kwargs.values()))
    wrapped = {id(x.near): x for x in tensors if isinstance(x, Far)}
    target = kwargs.get("device")
    to_far = bool(wrapped) if target is None else torch.device(target).type == FAR.type
    if name == "copy_":
        to_far = isinstance(args[0], Far)
    if name in {"copy_", "_to_copy"}:
        if to_far != isinstance(args[1 if name == "copy_" else 0], Far):
            _waits.add("copy")
    elif wrapped:
        _look(name, args, tensors)

    def near(x: Any) -> Any:
        if isinstance(x, Far):
            return x.near
        return torch.device("cpu") if isinstance(x, torch.device) else x

    args, kwargs = _mapped(near, args), {key: _mapped(near, value) for key, value in kwargs.items()}

    def far(x: Any) -> Any:
        if not to_far or not isinstance(x, Tensor):
            return x
        return wrapped[id(x)] if func._schema.is_mutable and id(x) in wrapped else Far(x)

    # A view made in inference mode of a tensor made outside cannot be wrapped; outside, autograd is not wanted twice.
    with torch.inference_mode(False), torch._C._AutoDispatchBelowAutograd():
        return _mapped(far, func(*args, **kwargs))


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """All tensors, those in lists too."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A function of a value, or of everything in a list."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, x) for x in value])
    return function(value)


def _look(name: str, args: tuple[Any, ...], tensors: Sequence[Tensor]) -> None:
    """Refuse an operation between devices, and put down one that the host has to wait for."""
    if any(not isinstance(x, Far) and x.ndim > 0 for x in tensors):
        raise RuntimeError(f"expected all tensors of {name} on one device, got {FAR} and cpu")
    if name in {"_local_scalar_dense", "item", "is_nonzero"}:
        _waits.add("number read")
    elif name in SIZED_BY_VALUES or (name in {"index", "index_put", "index_put_"} and _by_mask(args[1])):
        _waits.add("size read")


def _by_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in indices)


@contextmanager
def far_away() -> Iterator[Waits]:
    """Within the context the device exists; gives what the host waited for, of which there is nothing yet."""
    global _waits
    before, _waits = _waits, Waits()
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters become tensors of another class
    lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes what it makes on the CPU, then moves it
    try:
        with _Mode():
            yield _waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)
        torch._C._set_only_lift_cpu_tensors(lift)
        _waits = before


class _Accelerator(Accelerator):
    """The device, as Lightning wants to be told of it."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""

    def teardown(self) -> None:
        """Nothing to do."""

    @staticmethod
    def parse_devices(devices: Any) -> list[torch.device]:
        return [FAR]

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [FAR]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "far"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def far_strategy() -> SingleDeviceStrategy:
    """A trainer's, on the device."""
    return SingleDeviceStrategy(FAR, accelerator=_Accelerator())
