"""All that an accelerator can tell, in one command of minutes. Writes docs/results/gpu.{md,json}.

    python benchmarks/gpu.py                 # on a machine with CUDA, from the root of the repository; no hub
    python benchmarks/gpu.py --tiny true     # the same code on a CPU and narrow networks, as the tests run it

Networks have the real shapes and random weights; the shipped model is the only trained one. What is not measured is in
the page too, with the reason: every measure is written as soon as it is there, and the next begins only if there is
time. Where several GPUs are, one is measured, and the audit is run on two.
"""

import gc
import json
import platform
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_measures import PRECISIONS, agreement, audit, images, many_devices, matrix_rates, network, quickstart
from gpu_models import SHAPES, TINY, Shape, build_unet, predicted_bytes
from gpu_page import page
from jsonargparse import auto_cli

from lit_memories.probes import Denoising, Probe, Seed

NOT_REACHED = "not reached: the run ended before"


@dataclass
class Notebook:
    """What was measured so far; on disk at any time.

    Args:
        out: where tables and numbers go, without suffix.
        deadline: on `time.monotonic`, after which nothing begins.
    """

    out: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    def plan(self, names: list[str]) -> None:
        """Put down what there is to measure."""
        self.found["measures"] = {name: {"why_not": NOT_REACHED} for name in names}
        self.save()

    def measure(self, name: str, function: Callable[[], dict[str, Any]], seconds: float) -> None:
        """Measure, if there are so many seconds left; whatever goes wrong is put down in the number's place."""
        left = self.deadline - time.monotonic()
        if left < seconds:
            self.put(name, {"why_not": f"no time left: it takes about {seconds:.0f} s, and there were {left:.0f}"})
            return
        began = time.monotonic()
        try:
            result = function()
        except (KeyboardInterrupt, SystemExit):
            self.put(name, {"why_not": "interrupted"})
            raise
        except Exception as error:  # a driver can fail in any way, and the other numbers are wanted all the same
            result = {"why_not": f"{type(error).__name__}: {(str(error).strip() or 'no word').splitlines()[0]}"}
        self.put(name, result | {"took_seconds": round(time.monotonic() - began, 1)})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def put(self, name: str, result: dict[str, Any]) -> None:
        """A result, or why there is none."""
        self.found["measures"][name] = result
        said = result.get("why_not") or f"{result['took_seconds']} s"
        print(f"{name}: {said}", flush=True)
        self.save()

    def save(self) -> None:
        """Write numbers and page, whole or not at all."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".json", json.dumps(self.found, indent=1) + "\n"), (".md", page(self.found))):
            target = self.out.with_suffix(suffix)
            part = target.with_name(f"{target.name}.part")
            part.write_text(text, encoding="utf-8")
            part.replace(target)


def main(
    out: Path = Path("docs/results/gpu"),
    minutes: float = 7.5,
    tiny: bool = False,
) -> None:
    """Measure everything that there is time for.

    Args:
        out: where tables and numbers go, without suffix.
        minutes: after which nothing new begins.
        tiny: narrow networks on a CPU, to try the code.

    Raises:
        SystemExit: if there is no device that can be used, or it is too small for a single row.
    """
    device = torch.device("cpu") if tiny else usable_device()
    if not tiny:
        check_room(SHAPES["sd14"], torch.cuda.mem_get_info(device)[0])
    notebook = Notebook(out, time.monotonic() + 60 * minutes)
    notebook.found = {"device": describe(device), "minutes": minutes, "tiny": tiny}
    measures = Bench(device, tiny, Path(tempfile.mkdtemp(prefix="gpu-"))).measures()
    notebook.plan([name for name, _, _ in measures])
    with ended_by_signals():
        for name, function, seconds in measures:
            notebook.measure(name, function, seconds)


Measure = tuple[str, Callable[[], dict[str, Any]], float]
"""What it is called, what makes it, and about how many seconds that takes."""


@dataclass
class Bench:
    """The device, and what is measured on it.

    Args:
        device: to be measured.
        tiny: narrow networks, few rows and steps.
        folder: for runs.
    """

    device: torch.device
    tiny: bool
    folder: Path
    rates: dict[str, float] = field(default_factory=dict)
    _networks: dict[str, Any] = field(default_factory=dict)

    def measures(self) -> list[Measure]:
        """All there is to measure; what matters most comes first."""
        rows, many = (2, 2) if self.tiny else (8, 32)
        return [
            ("matrix products", self.matrix_products, 5),
            *self.blocks("sd14", 5),
            ("agreement", self.agreement, 30),
            *((f"sd14, images, {name}", self.images("sd14", name, rows), 30) for name in ("bf16-mixed", "fp32")),
            ("sd14, audit, denoising, bf16-mixed", self.audit("bf16-mixed", Denoising()), 20),
            ("sd14, audit, seed, bf16-mixed", self.audit("bf16-mixed", Seed()), 40),
            *self.blocks("sdxl", 10),
            ("sdxl, images, bf16-mixed", self.images("sdxl", "bf16-mixed", rows), 60),
            ("sd14, channels-last, bf16-mixed", self.block("sd14", "bf16-mixed", many, "channels_last"), 10),
            ("sd14, compile, bf16-mixed", self.block("sd14", "bf16-mixed", many, "compile"), 90),
            ("sd14, audit, seed, 32-true", self.audit("32-true", Seed()), 60),
            ("quickstart", self.quickstart, 120),
            ("two devices", self.two_devices, 60),
        ]

    def unet(self, key: str, option: str = "") -> Any:
        """A network; one at a time is kept."""
        name = f"{key} {option}"
        if name not in self._networks:
            self._networks.clear()
            gc.collect()
            self._networks[name] = build_unet(self.shape(key), self.device)
            if option == "channels_last":
                self._networks[name].to(memory_format=torch.channels_last)
            if option == "compile":
                backend = "eager" if self.tiny else "inductor"
                self._networks[name].compile_repeated_blocks(backend=backend, dynamic=False, fullgraph=True)
        return self._networks[name]

    def shape(self, key: str) -> Shape:
        """A model's networks."""
        return (TINY if self.tiny else SHAPES)[key]

    def matrix_products(self) -> dict[str, Any]:
        """The device's rates."""
        self.rates = matrix_rates(self.device, *((64, 0.001) if self.tiny else (8192, 0.3)))
        return dict(self.rates)

    def blocks(self, key: str, seconds: float) -> list[Measure]:
        """A network in each precision and some sizes of a block."""
        precisions = ("fp32", "bf16-mixed") if self.tiny else tuple(PRECISIONS)
        return [
            (f"{key}, {precision}, {rows} rows", self.block(key, precision, rows), seconds)
            for precision in precisions
            for rows in ((1, 2) if self.tiny else (1, 8, 32))
            if (key, precision, rows) != ("sdxl", "fp32", 32)  # which takes five seconds a call
        ]

    def block(self, key: str, precision: str, rows: int, option: str = "") -> Callable[[], dict[str, Any]]:
        """One of these."""
        return lambda: network(
            self.unet(key, option), self.shape(key), precision, rows, self.rates, 0.001 if self.tiny else 0.3, option
        )

    def images(self, key: str, precision: str, rows: int) -> Callable[[], dict[str, Any]]:
        """Seconds an image."""
        steps, official = (3, 2) if self.tiny else (50, 10)
        return lambda: images(self.unet(key), self.shape(key), precision, rows, steps, official)

    def audit(self, precision: str, probe: Probe) -> Callable[[], dict[str, Any]]:
        """A whole audit by one probe."""

        def run() -> dict[str, Any]:
            self._networks.clear()
            rows, count, steps = (2, 2, 3) if self.tiny else (8, 16, 20) if precision == "bf16-mixed" else (8, 8, 10)
            return audit(self.shape("sd14"), self.device, rows, count, steps, precision, probe)

        return run

    def agreement(self) -> dict[str, Any]:
        """With a CPU."""
        count, steps = (1, 3) if self.tiny else (8, 20)
        precisions = ("32-true",) if self.tiny else ("32-true", "bf16-mixed", "16-mixed")
        return agreement(self.device, self.folder / "agreement", count, steps, precisions)

    def quickstart(self) -> dict[str, Any]:
        """The quickstart, as it stands.

        Raises:
            RuntimeError: in a trial, of which it is no part, as it takes minutes on a CPU.
        """
        if self.tiny:
            raise RuntimeError("no part of a trial, as it takes minutes on a CPU")
        return quickstart(self.folder / "quickstart")

    def two_devices(self) -> dict[str, Any]:
        """The audit on two devices of a kind.

        Raises:
            RuntimeError: if there are not two.
        """
        if self.tiny:
            return many_devices(self.folder / "devices", 1, 2, "cpu")
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        if len(names) < 2:
            raise RuntimeError("there is one device only")
        if names[0] != names[1]:
            raise RuntimeError(f"the first two devices are of different kinds: {names[0]} and {names[1]}")
        return many_devices(self.folder / "devices", 16, 2, "gpu")


def usable_device() -> torch.device:
    """The first CUDA device, after a product on it.

    Raises:
        SystemExit: if there is none or it does not compute; one line with what torch says.
    """
    with warnings.catch_warnings(record=True) as caught:  # a driver that is too old is a warning to torch
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if not there:
        said = [str(w.message).splitlines()[0] for w in caught if "CUDA" in str(w.message)]
        reason = said[0] if said else f"torch {torch.__version__} finds none"
        sys.exit(f"gpu.py: no CUDA device that can be used ({reason}): --tiny true runs the same code on a CPU")
    device = torch.device("cuda", 0)
    try:
        product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
        reason = "" if float(product.sum()) == 512.0 else "a product of ones came out wrong"
    except RuntimeError as error:
        reason = (str(error).strip() or "no word").splitlines()[0]
    if reason:
        sys.exit(f"gpu.py: {torch.cuda.get_device_name(device)} is there and does not compute: {reason}")
    return device


def check_room(shape: Shape, free: int) -> None:
    """Refuse a device on which not even one row of the smallest model fits, before anything is made.

    Raises:
        SystemExit: if so; one line.
    """
    needed = predicted_bytes(shape, 1)
    if needed > free:
        sys.exit(
            f"gpu.py: {shape.title} needs about {needed / 2**30:.1f} GiB for a single row, and {free / 2**30:.1f} GiB "
            "of the device are free: end what else runs on it, or take a larger one"
        )


def describe(device: torch.device) -> dict[str, Any]:
    """The device and the libraries, in words."""
    if device.type == "cpu":
        return {"name": f"CPU, {platform.machine()}", "count": 1, "memory_gib": None, "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_gib": properties.total_memory / 2**30,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the context SIGTERM ends the run as Ctrl-C does: what was measured is kept, and what was not says why."""

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("gpu.py: interrupted; what was measured until then is kept, and the page says what was not")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    auto_cli(main)
