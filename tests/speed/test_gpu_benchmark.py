"""The command that measures a GPU, tried on a CPU; and what it says of machines on which it cannot."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
SCRIPTS = ("gpu", "gpu_measures", "gpu_models", "gpu_page", "inversion")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    yield gpu
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def missing(out: Path) -> dict[str, str]:
    measures = json.loads(out.with_suffix(".json").read_text())["measures"]
    return {name: result["why_not"] for name, result in measures.items() if "why_not" in result}


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nfor debugging consider")


@pytest.mark.slow
def test_what_fails_is_in_the_page_with_the_reason(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few measures; what goes before and after is measured."""
    measures, few = gpu.Bench.measures, {"matrix products", "agreement", "sd14, channels-last, bf16-mixed"}
    monkeypatch.setattr(gpu.Bench, "measures", lambda self: [one for one in measures(self) if one[0] in few])
    monkeypatch.setattr(gpu, "agreement", fail)
    gpu.main(tmp_path / "gpu", tiny=True)
    reason = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert missing(tmp_path / "gpu") == {"agreement": reason}
    assert json.loads((tmp_path / "gpu.json").read_text())["measures"].keys() == few
    assert f"- agreement: {reason}." in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_whatever_fails_the_rest_is_measured(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("agreement", "audit", "many_devices"):
        monkeypatch.setattr(gpu, name, fail)
    gpu.main(tmp_path / "gpu", tiny=True)
    reason = "RuntimeError: CUDA error: an illegal memory access was encountered"
    failed = {
        "agreement",
        "two devices",
        *(f"sd14, audit, {x}" for x in ("denoising, bf16-mixed", "seed, bf16-mixed", "seed, 32-true")),
    }
    said = missing(tmp_path / "gpu")
    assert {name for name, why in said.items() if why == reason} == failed
    assert said.keys() == {*failed, "quickstart"}
    page = (tmp_path / "gpu.md").read_text()
    assert f"- agreement: {reason}." in page
    assert "a trial of the code" in page
    for title in ("The device's rate", "The network", "An image"):
        assert f"## {title}" in page
    assert "| a narrow Stable Diffusion XL | bf16-mixed |" in page
    assert "bf16-mixed, compile" in page


def test_nothing_begins_that_there_is_no_time_for(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.main(tmp_path / "gpu", minutes=0, tiny=True)
    said = missing(tmp_path / "gpu")
    assert len(said) == len(gpu.Bench(torch.device("cpu"), True, tmp_path).measures())
    assert all(why.startswith("no time left") for why in said.values())


@pytest.mark.slow
def test_interrupted_it_keeps_what_it_has(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "agreement", interrupt)
    with pytest.raises(SystemExit, match="interrupted; what was measured until then is kept") as error:
        gpu.main(tmp_path / "gpu", tiny=True)
    assert "\n" not in str(error.value)
    said = missing(tmp_path / "gpu")
    assert "sd14, fp32, 1 rows" not in said
    assert said["agreement"] == "interrupted"
    assert said["quickstart"] == gpu.NOT_REACHED
    assert "- agreement: interrupted." in (tmp_path / "gpu.md").read_text()


def test_a_machine_without_a_device_or_with_an_old_driver_is_told_in_one_line(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\nPlease update"

    def warn() -> bool:
        warnings.warn(old, stacklevel=1)
        return False

    for available, said in ((lambda: False, "finds none"), (warn, "driver on your system is too old")):
        monkeypatch.setattr(torch.cuda, "is_available", available)
        with pytest.raises(SystemExit, match=said) as error:
            gpu.usable_device()
        assert "\n" not in str(error.value)
        assert "--tiny" in str(error.value)


@pytest.mark.parametrize("broken", [True, False])
def test_a_device_that_does_not_compute_is_told_in_one_line(
    broken: bool, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    monkeypatch.setattr(torch, "ones", fail if broken else lambda *shape, **_: torch.zeros(shape))
    with pytest.raises(SystemExit, match="NVIDIA X is there and does not compute") as error:
        gpu.usable_device()
    assert ("illegal memory access" if broken else "came out wrong") in str(error.value)
    assert "\n" not in str(error.value)


def test_too_little_memory_is_said_before_anything_is_made(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "build_unet", fail)
    with pytest.raises(SystemExit, match=r"needs about 3\.3 GiB for a single row, and 2\.0 GiB") as error:
        gpu.check_room(gpu.SHAPES["sd14"], 2 * 2**30)
    assert "\n" not in str(error.value)
    gpu.check_room(gpu.SHAPES["sd14"], 4 * 2**30)


def test_devices_of_different_kinds_are_not_run_together(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = gpu.Bench(torch.device("cpu"), False, tmp_path)
    monkeypatch.setattr(gpu, "many_devices", lambda *_: {"same": True})
    for names, said in ((["A"], "one device only"), (["A", "B"], "different kinds: A and B")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda names=names: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number, names=names: names[number])
        with pytest.raises(RuntimeError, match=said):
            bench.two_devices()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A")
    assert bench.two_devices() == {"same": True}


def test_memory_that_lives_at_once_is_counted(gpu: ModuleType) -> None:
    from gpu_models import _Held

    network = nn.Sequential(nn.Linear(10, 100, bias=False), nn.Linear(100, 7, bias=False)).to("meta")
    with _Held(network) as held, torch.no_grad():
        network(torch.empty(5, 10, device="meta"))
    assert held.most == 4 * 5 * (10 + 100 + 7), "input, what is between, and output; no weights"
    assert held.now == 0


def test_operations_are_those_of_the_published_networks(gpu: ModuleType) -> None:
    """0.8 and 6.8 TFLOP an evaluation, two operations a multiplication and sum."""
    from gpu_models import SHAPES, operations

    assert operations(SHAPES["sd14"]) == pytest.approx(0.803e12, rel=0.01)
    assert operations(SHAPES["sdxl"]) == pytest.approx(6.76e12, rel=0.01)
    parameters = {
        key: sum(p.numel() for p in gpu.build_unet(shape, "meta").parameters()) for key, shape in SHAPES.items()
    }
    assert parameters == {"sd14": 859_520_964, "sdxl": 2_567_463_684}


@pytest.mark.slow
def test_the_whole_trial_measures_everything_but_the_quickstart(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.main(tmp_path / "gpu", tiny=True)
    assert missing(tmp_path / "gpu").keys() == {"quickstart"}
    found = json.loads((tmp_path / "gpu.json").read_text())["measures"]
    assert found["agreement"]["precisions"]["32-true"]["largest"] == 0
    assert found["two devices"]["same"]


def test_waits_are_counted_by_place(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_measures

    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    found = gpu_measures._waits(work, torch.device("cuda"))
    assert found["all"] == 3
    assert list(found["places"].values()) == [3]
    assert "test_gpu_benchmark.py" in next(iter(found["places"]))
    assert modes == ["warn", "default"]


def test_a_block_that_does_not_fit_is_refused_before_it_is_computed(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_measures

    class Network:
        device = torch.device("cuda")

        def parameters(self) -> list[Any]:
            return [torch.empty(10, device="meta")]

    monkeypatch.setattr(gpu_measures, "call", fail)
    for name, value in {"memory_reserved": 0, "memory_allocated": 0, "mem_get_info": (2**30, 2**31)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    with pytest.raises(MemoryError, match=r"a block of 8 needs about 4\.2 GiB and 1\.0 are free"):
        gpu_measures.network(Network(), gpu.SHAPES["sd14"], "fp32", 8, {}, 0.3)
