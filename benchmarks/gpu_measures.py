"""What `benchmarks/gpu.py` measures: each function one thing, of one device, as plain numbers."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_models import Shape, build_diffusion, call, inputs, operations, predicted_bytes, schedule
from inversion import AsReleased
from lightning import Trainer
from torch import Tensor

from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.kernels import exact_kernels
from lit_memories.concept import Concept
from lit_memories.data.audit import AuditData
from lit_memories.data.sources import ImageSource, save_images
from lit_memories.inverters.base import Inverter
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.rollout import RowPredictFn
from lit_memories.probes import Probe
from lit_memories.recipes import run
from lit_memories.runs import read_run
from lit_memories.worlds import pictograms

GIB = 2**30
AUDIT = Path("recipes/pictograms/audit/umbrella.yaml")


@dataclass(frozen=True)
class Precision:
    """What a network computes in.

    Args:
        autocast: type of torch's autocast, or None.
        tf32: whether float32 may be rounded to TensorFloat-32 in products.
        rate: type of the matrix product that it is compared with.
    """

    autocast: torch.dtype | None
    tf32: bool
    rate: str


PRECISIONS = {
    "fp32": Precision(None, False, "fp32"),
    "tf32": Precision(None, True, "tf32"),
    "bf16-mixed": Precision(torch.bfloat16, False, "bf16"),
    "fp16-mixed": Precision(torch.float16, False, "fp16"),
}


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within the context networks compute in a precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
    try:
        autocast = torch.autocast(device.type, precision.autocast, enabled=precision.autocast is not None)
        with exact_kernels(), autocast, torch.inference_mode():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], Any], device: torch.device, least: float, rounds: int = 3) -> float:
    """Seconds a call, the median of some rounds that last `least` seconds each, after one call to warm up."""
    function()
    wait(device)
    began = time.perf_counter()
    function()
    wait(device)
    calls = max(1, int(least / max(time.perf_counter() - began, 1e-6)))
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            function()
        wait(device)
        found.append((time.perf_counter() - began) / calls)
    return statistics.median(found)


def matrix_rates(device: torch.device, size: int, least: float) -> dict[str, float]:
    """Operations a second of a large dense matrix product, by the type it is computed in."""
    types = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    rates = {}
    for name, dtype in types.items():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        with computing(Precision(None, name == "tf32", name), device):
            rates[name] = 2 * size**3 / seconds_of(lambda a=a, b=b: a @ b, device, least)  # type: ignore[misc]
    return rates


def network(
    unet: Any,
    shape: Shape,
    precision: str,
    rows: int,
    rates: dict[str, float],
    least: float,
    option: str = "",
) -> dict[str, Any]:
    """Evaluations a second of a U-Net in blocks of some rows, how that compares with the device's rate, and memory.

    Raises:
        MemoryError: if that is not there; before anything is computed.
    """
    device = unet.device
    if device.type == "cuda":
        needed, free = predicted_bytes(shape, rows, PRECISIONS[precision].autocast is not None), _free(device, unet)
        if needed > free:
            raise MemoryError(f"a block of {rows} needs about {needed / GIB:.1f} GiB and {free / GIB:.1f} are free")
        torch.cuda.reset_peak_memory_stats(device)
    evaluate = call(unet, shape, rows, device)
    with computing(PRECISIONS[precision], device):
        began = time.perf_counter()
        evaluate()
        wait(device)
        first = time.perf_counter() - began
        taken = seconds_of(evaluate, device, least)
    rate = operations(shape) * rows / taken
    return {
        "model": shape.title,
        "precision": precision,
        "option": option,
        "rows": rows,
        "evaluations_a_second": rows / taken,
        "first_call_seconds": first,
        "operations_a_second": rate,
        "of_matrix_rate": rate / rates[PRECISIONS[precision].rate],
        "peak_gib": torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None,
        "predicted_gib": predicted_bytes(shape, rows, PRECISIONS[precision].autocast is not None) / GIB,
    }


def _free(device: torch.device, unet: Any) -> int:
    """Bytes that a network and its evaluation may take, its weights being there already."""
    weights = sum(parameter.nbytes for parameter in unet.parameters())
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused + weights)


def images(unet: Any, shape: Shape, precision: str, rows: int, steps: int, official_steps: int) -> dict[str, Any]:
    """Seconds an image to sample and to invert, beside the official inversion: an image at a time, in float32."""
    device = unet.device
    latents, text, added = inputs(shape, rows, device)
    sampled = schedule().ddim_steps(steps)

    def noise(block: int) -> RowPredictFn:
        cut = {"added_cond_kwargs": {k: v[:block] for k, v in added["added_cond_kwargs"].items()}} if added else {}

        def predict(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
            timesteps = torch.full((block,), timestep, device=device)
            return in_blocks(lambda y, c: unet(y, timesteps, c, **cut).sample.float(), block, x, text[rows])

        return predict

    def timed(inverter: Inverter, block: int, count: int, levels: Any) -> tuple[float, float, float]:
        wait(device)
        began = time.perf_counter()
        found = inverter(noise(block), latents[:count], levels)
        wait(device)
        taken = (time.perf_counter() - began) / count
        return taken, float(found.evaluations.double().mean()), float(found.converged.double().mean())

    with computing(PRECISIONS[precision], device):
        noise(rows)(latents, 500, torch.arange(rows, device=device))
        wait(device)
        began = time.perf_counter()
        FixedPoint().sample(noise(rows), latents, sampled)
        wait(device)
        sampling = (time.perf_counter() - began) / rows
        inverting, evaluations, converged = timed(
            FixedPoint(tolerance=3e-4 if precision == "fp32" else 2e-3), rows, rows, sampled
        )
    few = schedule().ddim_steps(steps)[-official_steps:]
    with computing(PRECISIONS["fp32"], device):
        noise(1)(latents[:1], 500, torch.zeros(1, dtype=torch.long, device=device))
        official, official_evaluations, _ = timed(AsReleased(), 1, 1, few)
    return {
        "model": shape.title,
        "precision": precision,
        "rows": rows,
        "steps": steps,
        "sample_seconds": sampling,
        "invert_seconds": inverting,
        "evaluations": evaluations,
        "converged": converged,
        "official_steps": len(few),
        "official_seconds_a_step": official / len(few),
        "official_evaluations_a_step": official_evaluations / len(few),
    }


def audit(
    shape: Shape, device: torch.device, rows: int, count: int, steps: int, precision: str, probe: Probe
) -> dict[str, Any]:
    """An audit by one probe, from the Trainer's start to its end: the network's share of the time, and waits a call."""
    diffusion = build_diffusion(shape, device)
    concept = Concept("umbrella", "object", ["umbrella"], ["a star"], factors={"object": "umbrella"})
    events: list[tuple[Any, Any]] = []
    calls = 0

    def mark() -> Any:
        if device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def before(*_: Any) -> None:
        events.append((mark(), None))

    def after(*_: Any) -> None:
        nonlocal calls
        calls += 1
        events[-1] = (events[-1][0], mark())

    with tempfile.TemporaryDirectory() as folder:
        place, umbrella = Path(folder), {"object": "umbrella"}
        save_images(pictograms.build("audits", 400, keep=umbrella, limit=count), place / "concept")
        save_images(pictograms.build("audits", 100, withhold=[umbrella], limit=count), place / "reference")
        sources = [ImageSource(str(place / name)) for name in ("concept", "reference")]

        def predict(name: str, steps: int) -> float:
            inverter = FixedPoint(tolerance=2e-3)
            module = ConceptAudit(diffusion, inverter, concept, [probe], num_inference_steps=steps, block_size=rows)
            trainer = Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=1,
                precision=precision,  # type: ignore[arg-type]
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                default_root_dir=place / name,
            )
            wait(device)
            began = time.perf_counter()
            trainer.predict(
                module, AuditData(*sources, known=0, prompted=0, batch_size=count), return_predictions=False
            )
            wait(device)
            return time.perf_counter() - began

        predict("warm", 2)
        hooks = [diffusion.unet.register_forward_pre_hook(before), diffusion.unet.register_forward_hook(after)]
        taken = predict("timed", steps)
        spent = [end - start if isinstance(start, float) else start.elapsed_time(end) / 1000 for start, end in events]
        for hook in hooks:
            hook.remove()
        diffusion.unet.register_forward_hook(after)
        calls = 0
        waits = _waits(lambda: predict("counted", 3), device)
        cost = read_run(place / "timed").cost[probe.name]
    return {
        "model": shape.title,
        "precision": precision,
        "rows": rows,
        "images": 2 * count,
        "steps": steps,
        "seconds": taken,
        "network_share": sum(spent) / taken,
        "probe": probe.name,
        "evaluations_an_image": cost["evaluations"] / cost["samples"],
        "waits_a_call": None if waits is None else waits["all"] / calls,
        "waits": None if waits is None else waits["places"],
    }


def _waits(function: Callable[[], Any], device: torch.device) -> dict[str, Any] | None:
    """How often the host waited for the device, and where most; None where torch does not tell."""
    if device.type != "cuda":
        function()
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchronizing" in str(w.message)]
    places: dict[str, int] = {}
    for warning in found:
        place = f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}"
        places[place] = places.get(place, 0) + 1
    most = dict(sorted(places.items(), key=lambda item: -item[1])[:12])
    return {"all": len(found), "places": most}


def agreement(
    device: torch.device, folder: Path, count: int, steps: int, precisions: tuple[str, ...]
) -> dict[str, Any]:
    """Differences of NLL in nats, image by image, between the device and a CPU on the shipped model."""

    def audited(name: str, accelerator: str, precision: str) -> dict[str, float]:
        limits = [f"--data.{kind}_images.init_args.limit={count}" for kind in ("concept", "reference")]
        tolerance = ["--model.inverter.init_args.tolerance=2e-3"] if precision == "bf16-mixed" else []
        run(
            [
                *("predict", f"--config={AUDIT}", *limits, "--data.known=0", "--data.prompted=0", *tolerance),
                f"--model.num_inference_steps={steps}",
                *(f"--trainer.accelerator={accelerator}", "--trainer.devices=1", f"--trainer.precision={precision}"),
                *("--trainer.callbacks=[]", "--trainer.enable_progress_bar=false"),
                f"--trainer.default_root_dir={folder / name}",
            ]
        )
        return {
            f"{r.set} {r.index}": nll
            for r in read_run(folder / name).records
            if (nll := r.number("seed.nll")) is not None
        }

    expected = audited("cpu", "cpu", "32-true")
    there = "gpu" if device.type == "cuda" else "cpu"
    found = {}
    for precision in precisions:
        nll = audited(f"there-{precision}", there, precision)
        differences = [abs(nll[name] - value) for name, value in expected.items()]
        found[precision] = {"largest": max(differences), "mean": statistics.mean(differences)}
    return {"images": len(expected), "steps": steps, "precisions": found}


def quickstart(folder: Path) -> dict[str, Any]:
    """The quickstart in a process of its own, on whatever Lightning finds: seconds, and what it says."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lit_memories", "quickstart", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1])
    results = json.loads((folder / "results.json").read_text())
    said = {entry["name"]: [entry["verdict"]["category"], entry["forgetting"]["value"]] for entry in results["runs"]}
    return {"seconds": time.perf_counter() - began, "said": said}


def many_devices(folder: Path, count: int, processes: int, accelerator: str) -> dict[str, Any]:
    """An audit on several devices: whether its records are those of one, to the byte, and how much sooner."""
    limits = [f"--data.{kind}_images.init_args.limit={count}" for kind in ("concept", "reference")]
    seconds, records = {}, {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # of which the last bits depend on a CPU
    for devices in (1, processes):
        place = folder / str(devices)
        command = [
            *(sys.executable, "-m", "lit_memories", "predict", f"--config={AUDIT}", *limits, "--model.name=run"),
            *("--data.known=0", "--data.prompted=0"),
            *(f"--trainer.accelerator={accelerator}", f"--trainer.devices={devices}", "--trainer.strategy=ddp"),
            *("--trainer.callbacks=[]", f"--trainer.default_root_dir={place}"),
        ]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip() or "no word").splitlines()[-1])
        seconds[devices], records[devices] = time.perf_counter() - began, (place / "records.jsonl").read_bytes()
    return {"devices": processes, "same": records[1] == records[processes], "seconds": seconds}
