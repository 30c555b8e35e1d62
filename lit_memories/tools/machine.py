"""What this machine has: devices, memory, disk, the hub, and packages that only some recipes need."""

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

import lit_memories
from lit_memories.recipes import EXTRAS
from lit_memories.storage.hub import reach

PACKAGES = {"NudeNetJudge": "nudenet", **EXTRAS}
"""Classes that need a package which comes with an extra of the same name."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Device:
    """Something that networks are computed on.

    Args:
        kind: as ``--trainer.accelerator`` has it.
        name: of the hardware.
        memory: bytes in all.
        free: bytes that are free now.
        precisions: that ``--trainer.precision`` may say.
    """

    kind: str
    name: str
    memory: int
    free: int
    precisions: tuple[str, ...]


def devices() -> list[Device]:
    """The accelerators, and the processor last."""
    found = []
    for number in range(torch.cuda.device_count()):
        free, memory = torch.cuda.mem_get_info(number)
        half = ("bf16-mixed",) if torch.cuda.is_bf16_supported(including_emulation=False) else ()
        name = torch.cuda.get_device_name(number)
        found.append(Device("cuda", name, memory, free, ("32-true", *half, "16-mixed")))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = min(_available(total), _allowed(CGROUP))
    if torch.backends.mps.is_available():  # it shares the host's memory
        found.append(Device("mps", "Apple", total, free, ("32-true", "16-mixed")))
    return [*found, Device("cpu", f"{platform.machine()}, {cores} cores", total, free, ("32-true", "bf16-mixed"))]


def machine() -> dict[str, Any]:
    """All of it as plain values; sizes are bytes."""
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    return {
        "lit-memories": lit_memories.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "devices": [asdict(device) for device in devices()],
        "disk": {str(place): _room(place) for place in (Path.cwd(), cache)},
        "hub": reach(),
        "extras": {package: find_spec(package) is not None for package in PACKAGES.values()},
    }


def _available(total: int) -> int:
    """Bytes that the system could give to a program, as Linux tells; elsewhere all there are."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return total
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes.get("MemAvailable", total)


def _allowed(group: Path) -> int:
    """Bytes that a container may still take; no bound if it has none."""
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        held = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1 << 62
    return max(int(most) - held, 0) if most.isdigit() else 1 << 62


def _room(place: Path) -> int:
    """Free bytes on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
