"""How long a report takes, stage by stage, and how long reading and merging of large runs.

Writes docs/results/report.{md,json}.

    python benchmarks/report.py

Runs are made up, with a seed: their records have all the fields that the default probes write, and their length.
Seconds are those of the processor, of one thread, so that what else runs on the machine changes less.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

from lit_memories.audit.embedding import KEPT, Embeddings
from lit_memories.audit.folder import merge
from lit_memories.audit.writer import RecordWriter
from lit_memories.metrics.functional import TESTS
from lit_memories.probes import PROBES
from lit_memories.records import RECORDS_FILE, Place, Record, SetName, read_records
from lit_memories.report.main import write_report
from lit_memories.runs import RunInfo
from lit_memories.seeds import seed_files
from lit_memories.settings import short_hash
from lit_memories.statistics.exposure import SHIPPED, read_scale
from lit_memories.statistics.pairing import PAIRED

ROLES = {"vanilla": ("vanilla", 0.0), "erased": ("erased", 40.0), "control": ("control", 320.0)}
ASKED = ("denoising", "samples", "seed", "typicality", "known")
INVERTER = {"guidance_scale": 1.0, "inverter": {"class_path": "lit_memories.inverters.fixed_point.FixedPoint"}}
LOG_SNR = [float(level) for level in range(-4, 5)]
FACTORS = ("object", "color", "background", "style")
STAGES = ("reading", "statistics", "figures", "page")
OBJECTS = ("umbrella", "anchor", "clover", "castle", "flag", "gear", "note", "crown")


def main(
    sizes: tuple[int, ...] = (100, 1000, 5000),
    records: int = 100_000,
    seeds: int = 350_000,
    prompts: int = 1200,
    out: Path = Path("docs/results/report"),
) -> None:
    """Make runs up, report them, read them.

    Args:
        sizes: images of the concept, and as many others, and samples under the prompts of each, in each of three runs.
        records: of a run that is read.
        seeds: of a run that is merged and read; each has 4 x 16 x 16 numbers.
        prompts: different ones whose embeddings are asked for.
        out: where the tables go, without suffix.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"cpus": os.cpu_count()}
        found["reports"] = [_report(Path(folder) / f"reports-{size}", size) for size in sizes]
        found["reading"] = _reading(Path(folder) / "reading", records)
        found["merging"] = _merging(Path(folder) / "merging", seeds)
    found["embeddings"] = _embeddings(prompts)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(_page(found), encoding="utf-8")
    print(_page(found))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return round(time.process_time() - start, 2), result


def make(folder: Path, name: str, size: int) -> Path:
    """A run folder of a model that was never asked."""
    role, shift = ROLES[name]
    own = {"seed": INVERTER, "typicality": INVERTER, "known": INVERTER, "samples": {"guidance_scale": 3.0}}
    own["denoising"] = {"log_snr": LOG_SNR}
    info = RunInfo(
        name, role, "castle", {"audit": "ConceptAudit"}, "x", {"base": "b", "fingerprint": short_hash(name)[:16]}, 1024,
        {side: {"source": "made up", "rows": size, "unreadable": []} for side in ("concept", "reference")},
        {"torch": "2"}, complete=True, probes={probe: PROBES[probe].asked(own[probe]).to_dict() for probe in ASKED},
    )  # fmt: skip
    rng = np.random.default_rng([size, len(name)])
    lines = []
    for which in PAIRED:
        base = np.random.default_rng([7, len(which)]).normal(1400, 25, size)
        moved = base + (shift if which == "concept" else 2.0) + rng.normal(0, 10, size)
        for i in range(size):
            prompt = f"a red {OBJECTS[i % 8]} on a {OBJECTS[i // 8 % 8]} background, solid style"
            lines.append(_record(which, i, prompt, _image(float(moved[i]), which == "concept", i, rng), info))
    for i in range(size):
        for which in ("prompted", "retained"):
            met = float(rng.uniform() > (0.3 if role == "erased" else 0.1))
            seen = {"shows_concept": met, "correct": dict.fromkeys(FACTORS, bool(met)), "met": met}
            lines.append(_record(which, i, "a castle", {"samples": seen}, info))
    for i in range(24):
        known = {**_inversion(1450.0 + i, i), "seed_error": 0.01, "nll_bias": float(rng.normal())}
        lines.append(_record("known", i, f"{name}: a castle", {"known": known}, info))
    info.save(folder / name)
    (folder / name / RECORDS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def _image(nll: float, shows: bool, row: int, rng: np.random.Generator) -> dict[str, Any]:
    """What the probes that look at images find."""
    profile = (rng.uniform(0.1, 400, len(LOG_SNR)) + nll / 1e4).tolist()
    surprise = {"surprise": nll, "profile": profile, "surprise_empty": nll + 60 + float(rng.normal()), "gap": 60.0}
    seen = {"shows_concept": float(shows), "correct": dict.fromkeys(FACTORS, True)}
    tests = {name: rng.uniform(size=2).tolist() for name in TESTS}
    return {"denoising": surprise, "seed": {**_inversion(nll, row), **seen}, "typicality": tests}


def _inversion(nll: float, row: int) -> dict[str, Any]:
    quality = {"residual": 2.6178028201684356e-4, "evaluations": 60 + row % 5, "converged": True}
    return {
        "nll": nll,
        "psnr": nll / 40,
        "psnr_ceiling": nll / 40 + 0.1,
        "psnr_round_trip": 61.0 + nll / 1e4,
        **quality,
    }


def _record(which: SetName, index: int, prompt: str, numbers: dict[str, Any], info: RunInfo) -> str:
    key = short_hash(f"{which} {index} {prompt}")
    asked = {probe: info.mark(probe) for probe in numbers}
    return Record(key, which, index, prompt, numbers, model=info.fingerprint, asked=asked).to_json()


def _report(folder: Path, size: int) -> dict[str, Any]:
    """Seconds by stage; the statistics are all between reading and figures."""
    runs = [make(folder, name, size) for name in ROLES]
    begun: list[tuple[str, float]] = []
    write_report(
        runs,
        folder / "report",
        10_000,
        0,
        read_scale(SHIPPED),
        lambda stage: begun.append((stage, time.process_time())),
    )
    ends = [*(start for _, start in begun[1:]), time.process_time()]
    seconds = dict.fromkeys(STAGES, 0.0)
    for (stage, start), end in zip(begun, ends, strict=True):
        seconds[next((name for name in STAGES if stage.startswith(name)), "statistics")] += end - start
    return {"images": size, **{stage: round(taken, 2) for stage, taken in seconds.items()}}


def _reading(folder: Path, count: int) -> dict[str, Any]:
    lines = (make(folder, "vanilla", count // 2) / RECORDS_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    place = folder / "images"
    place.mkdir()
    (place / RECORDS_FILE).write_text("".join(lines[:count]), encoding="utf-8")  # those of images come first
    seconds, found = _timed(lambda: read_records(place))
    size = round((place / RECORDS_FILE).stat().st_size / len(found))
    return {"records": len(found), "seconds": seconds, "bytes": size}


def _merging(folder: Path, count: int) -> dict[str, Any]:
    writer, places, generator = RecordWriter(folder), {}, torch.Generator().manual_seed(0)
    block = 10_000
    start = time.process_time()
    for first in range(0, count, block):
        keys = [f"{number:020d}" for number in range(first, min(first + block, count))]
        places |= {key: Place("concept", first + i) for i, key in enumerate(keys)}
        batch = [Record(key, "concept", first + i, "p", {"seed": {"nll": 1.0}}) for i, key in enumerate(keys)]
        writer.write(batch, {key: torch.randn(4, 16, 16, generator=generator) for key in keys}, {})
    written = round(time.process_time() - start, 1)
    merged, _ = _timed(lambda: merge(folder, places, "model"))
    read, found = _timed(lambda: read_records(folder))
    files = seed_files(folder)
    return {
        "records": len(found), "written": written, "merged": merged, "read": read, "files": len(files),
        "largest": max(file.stat().st_size for file in files),
    }  # fmt: skip


def _embeddings(count: int) -> dict[str, Any]:
    embeddings = Embeddings(lambda prompts: torch.zeros(len(prompts), 77, 768))
    for number in range(count):
        embeddings([f"prompt {number}"])
    return {"prompts": count, "kept": len(embeddings), "at_most": KEPT, "bytes": len(embeddings) * 77 * 768 * 4}


def _page(found: dict[str, Any]) -> str:
    reports = "\n".join(
        f"| {row['images']} + {row['images']} | {' | '.join(f'{row[stage]:.1f}' for stage in STAGES)} "
        f"| {sum(row[stage] for stage in STAGES):.1f} |"
        for row in found["reports"]
    )
    reading, merging, embeddings = found["reading"], found["merging"], found["embeddings"]
    return f"""# What reports and large runs cost

`python benchmarks/report.py`: seconds of the processor, one thread, on {found["cpus"]} cores. Runs are made up, with a
seed; their records have all the fields that the default probes write.

**A report of three runs**, with 10 000 resamples, and as many samples under the prompts as images.

| images of the concept + others, a run | reading | statistics | figures | page | all |
|---|---|---|---|---|---|
{reports}

**Reading** {reading["records"]:,} records of images, {reading["bytes"] / 1000:.1f} KB each: {reading["seconds"]:.1f} \
seconds.

**A run of {merging["records"]:,} seeds** of 4 x 16 x 16 numbers: written in {merging["written"]:.0f} seconds, merged in
{merging["merged"]:.0f} into {merging["files"]} files, the largest of {merging["largest"] / 2**20:.0f} MiB; its records
read in {merging["read"]:.1f}.

**Embeddings** of {embeddings["prompts"]:,} different prompts: {embeddings["kept"]} are kept at once, \
{embeddings["bytes"] / 2**20:.0f} MiB at Stable Diffusion's size.
"""


if __name__ == "__main__":
    auto_cli(main)
