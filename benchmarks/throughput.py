"""Where does an audit's time go, and what do the options of speed do? Writes docs/results/throughput.{md,json}.

    python benchmarks/throughput.py

The profile is of the recipe as it stands, at --batch_size. Options and block sizes are measured on single calls of the
U-Net, in turns. All numbers are shares or ratios within this one run, of one thread's work.
"""

import functools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jsonargparse import auto_cli
from lightning import Trainer
from torch import Generator, Tensor
from torch.profiler import ProfilerActivity, profile

from lit_memories.audit import concept
from lit_memories.audit import predictor as audit_predictor
from lit_memories.audit.base import Audit
from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main as cli
from lit_memories.data.audit import AuditData
from lit_memories.data.samples import AuditRows
from lit_memories.diffusion import Diffusion
from lit_memories.judges.base import Judge
from lit_memories.probes import seed, typicality
from lit_memories.speed import Speed

RECIPE = Path("recipes/pictograms/audit/umbrella.yaml")
PROBES = "--model.probes=[{class_path: Samples}, {class_path: Seed}, {class_path: Typicality}, {class_path: Known}]"
"""What inverts, draws and looks: the denoising bound beside them is network evaluations and nothing else."""
NETWORK = "network evaluations (U-Net)"
PARTS: dict[str, list[tuple[Any, str]]] = {
    NETWORK: [(UNet2DConditionModel, "forward")],
    "decoding (VAE)": [(AutoencoderKL, "decode")],
    "the inverter's own algebra, and all else of a batch": [(concept.ConceptAudit, "predict_step")],
    "encoding (VAE)": [(AutoencoderKL, "encode")],
    "judge": [(Judge, "forward")],
    "statistics: PSNR, NLL, typicality": [
        (seed, "sound_psnr"),
        (seed, "gaussian_nll"),
        (typicality, "_tests"),
    ],
    "prompts (text encoder)": [(Diffusion, "encode_prompts")],
    "writing records, seeds, pictures": [(RecordWriter, "write"), (Audit, "on_predict_epoch_end")],
    "loading images": [(AuditRows, "__getitem__")],
    "reading and hashing the sets, before the first batch": [(AuditData, "setup")],
    "Lightning": [(Trainer, "predict")],
}
"""What is timed; time within one part that is another's counts for the other."""
ROUNDS = 9
"""Calls of each variant; the first is not counted."""
BLOCKS = (1, 2, 4, 8, 16, 32)


@dataclass
class Clock:
    """Seconds of this thread's work and of the wall clock, a part, without what is within parts inside it."""

    work: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rows: list[tuple[int, int]] = field(default_factory=list)
    _inner: list[list[float]] = field(default_factory=list)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time put down under a part."""

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            began = time.thread_time(), time.perf_counter()
            self._inner.append([0.0, 0.0])
            try:
                return function(*args, **options)
            finally:
                spent = time.thread_time() - began[0], time.perf_counter() - began[1]
                inner = self._inner.pop()
                self.work[part] += spent[0] - inner[0]
                self.wall[part] += spent[1] - inner[1]
                self.calls[part] += 1
                if self._inner:
                    self._inner[-1] = [a + b for a, b in zip(self._inner[-1], spent, strict=True)]

        return run

    def counted(self, in_blocks: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`in_blocks`, with the rows asked for and the rows computed put down."""

        @functools.wraps(in_blocks)
        def run(function: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
            self.rows.append((len(tensors[0]), -(-len(tensors[0]) // size) * size))
            return in_blocks(function, size, *tensors)

        return run

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time all parts within the context."""
        with ExitStack() as stack:
            for part, places in PARTS.items():
                for owner, name in places:
                    stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            stack.enter_context(patch.object(audit_predictor, "in_blocks", self.counted(audit_predictor.in_blocks)))
            yield


def measure_profile(options: list[str]) -> dict[str, Any]:
    """Shares of time of a recipe's parts, from options of ``lit-memories predict``; and of network rows that served."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, clock.running():
        cli(
            [
                *("predict", *options, "--trainer.callbacks=[]", "--trainer.enable_progress_bar=false"),
                f"--trainer.default_root_dir={folder}/run",
            ]
        )
    work, wall = sum(clock.work.values()), sum(clock.wall.values())
    asked, computed = (sum(column) for column in zip(*clock.rows, strict=True))
    parts = [
        {"part": part, "work": clock.work[part] / work, "wall": clock.wall[part] / wall, "calls": clock.calls[part]}
        for part in PARTS
    ]
    return {"parts": parts, "useful_rows": asked / computed, "rows": computed, "seconds": work}


def main(
    model: Path = Path("checkpoints/pictograms"),
    out: Path = Path("docs/results/throughput"),
    batch_size: int = 16,
) -> None:
    """Measure everything.

    Args:
        model: pipeline folder, for the options.
        out: where tables and numbers go, without suffix.
        batch_size: of the audit that is profiled.
    """
    torch.set_num_threads(1)
    found = {
        "machine": f"{os.cpu_count()} CPU cores, one thread a process",
        "batch_size": batch_size,
        "profile": measure_profile([f"--config={RECIPE}", f"--data.batch_size={batch_size}", PROBES]),
        "options": measure_options(model),
        "blocks": measure_blocks(model),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    out.with_suffix(".md").write_text(_page(found))


@torch.inference_mode()
def measure_options(model: Path) -> list[dict[str, Any]]:
    """Time of a U-Net call of 8 rows under each option over that without, and the largest difference of the noise."""
    compiled = Speed(compile="inductor")
    variants = {
        "none (float32, fused attention)": Diffusion(str(model)),
        "attention not fused, for comparison": Diffusion(str(model)),
        "channels_last": Diffusion(str(model), speed=Speed(channels_last=True)),
        "compile: inductor": Diffusion(str(model), speed=compiled),
        "both": Diffusion(str(model), speed=Speed(compile="inductor", channels_last=True)),
        "--trainer.precision bf16-mixed": Diffusion(str(model)),
        "torch_dtype: bfloat16": Diffusion(str(model), torch_dtype="bfloat16"),
    }
    plain, unfused = list(variants)[:2]
    variants[unfused].unet.set_attn_processor(AttnProcessor())
    latents, embeds = _inputs(variants[plain], 8)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    noise: dict[str, Tensor] = {}
    for _ in range(ROUNDS):
        for name, diffusion in variants.items():
            began = time.thread_time()
            with torch.autocast("cpu", torch.bfloat16, enabled="mixed" in name):
                noise[name] = diffusion.predict_noise(latents, 500, embeds)
            seconds[name].append(time.thread_time() - began)
    typical = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [
        {
            "option": name,
            "time": typical[name] / typical[plain],
            "first": seconds[name][0] / typical[plain],
            "difference": float((noise[name] - noise[plain]).abs().max()),
        }
        for name in variants
    ]


@torch.inference_mode()
def measure_blocks(model: Path) -> list[dict[str, Any]]:
    """Time a row and memory of a U-Net call by its number of rows, beside those of decoding one image."""
    diffusion = Diffusion(str(model))
    inputs = {size: _inputs(diffusion, size) for size in BLOCKS}
    seconds: dict[int, list[float]] = {size: [] for size in BLOCKS}
    for _ in range(ROUNDS):
        for size, (latents, embeds) in inputs.items():
            began = time.thread_time()
            diffusion.predict_noise(latents, 500, embeds)
            seconds[size].append((time.thread_time() - began) / size)
    typical = {size: statistics.median(values[1:]) for size, values in seconds.items()}
    decoding = _peak(lambda: diffusion.decode_latents(inputs[1][0]))
    return [
        {
            "block_size": size,
            "time_a_row": typical[size] / typical[8],
            "megabytes": _peak(lambda pair=pair: diffusion.predict_noise(pair[0], 500, pair[1])),
            "decoding_megabytes": decoding,
        }
        for size, pair in inputs.items()
    ]


def _inputs(diffusion: Diffusion, rows: int) -> tuple[Tensor, Tensor]:
    latents = diffusion.draw_seeds([Generator().manual_seed(row) for row in range(rows)])
    return latents, diffusion.encode_prompts(["a red umbrella"]).expand(rows, -1, -1).contiguous()


def _peak(call: Callable[[], Any]) -> float:
    """The most memory, in megabytes, that a call holds at once besides what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    recorded: Any = profiler.profiler  # None only before the context
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6


def _page(found: dict[str, Any]) -> str:
    audit, options, blocks = found["profile"], found["options"], found["blocks"]
    batch = f" --batch_size {found['batch_size']}" if found["batch_size"] != 16 else ""
    lines = [
        "# Throughput\n",
        f"`python benchmarks/throughput.py{batch}` on {found['machine']}. Shares and ratios are of one run.\n",
        f"**Where the time goes**: `{RECIPE}` at batch size {found['batch_size']}, from the Trainer's start to its "
        "end. Work is processor time; the wall clock also counts waiting, for the disk or for another process.\n",
        "| part | calls | work | wall clock |",
        "|---|---|---|---|",
    ]
    parts = sorted(audit["parts"], key=lambda row: -row["work"])
    lines += [f"| {row['part']} | {row['calls']} | {row['work']:.1%} | {row['wall']:.1%} |" for row in parts]
    lines += [
        f"\n{audit['useful_rows']:.1%} of the {audit['rows']} rows that were computed belong to a sample; the others "
        "fill up blocks.\n",
        "**Options**, each on a U-Net call of 8 rows: time over that without; the first call, which compiles, in "
        "calls; largest difference of the noise, whose elements are of size 1.\n",
        "| option | time | first call | difference |",
        "|---|---|---|---|",
        *(f"| {row['option']} | {row['time']:.2f} | {row['first']:.0f} | {row['difference']:.0e} |" for row in options),
        "\n**Block size**: time a row of a U-Net call over that at 8 rows; memory it holds at most, besides weights. "
        f"Decoding an image takes {blocks[0]['decoding_megabytes']:.1f} MB.\n",
        "| rows | time a row | MB |",
        "|---|---|---|",
        *(f"| {row['block_size']} | {row['time_a_row']:.2f} | {row['megabytes']:.1f} |" for row in blocks),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main)
