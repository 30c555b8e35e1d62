"""How long a report takes, stage by stage, and how long reading and merging of large runs.

Writes docs/results/report.{md,json}.

    python benchmarks/report.py

Runs are made up, with a seed: records like those of the default probes, with most of their numbers. Seconds are those
of the processor, of one thread, so that what else runs on the machine changes little.
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
from lit_memories.probes import PROBES
from lit_memories.records import RECORDS_FILE, Place, Record, SetName
from lit_memories.report import report
from lit_memories.runs import RunInfo, read_records
from lit_memories.seeds import seed_files
from lit_memories.statistics.pairing import PAIRED

ROLES = {"vanilla": ("vanilla", 0.0), "erased": ("erased", 40.0), "control": ("control", 320.0)}
ASKED = ("denoising", "samples", "seed", "typicality", "known")
INVERTER = {"guidance_scale": 1.0, "inverter": {"class_path": "lit_memories.inverters.fixed_point.FixedPoint"}}
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
        sizes: images of the concept, and as many others, in each of three runs.
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
    rng = np.random.default_rng([size, len(name)])
    lines = []
    for which in PAIRED:
        base = np.random.default_rng([7, len(which)]).normal(1400, 25, size)
        moved = base + (shift if which == "concept" else 2.0) + rng.normal(0, 10, size)
        for i in range(size):
            nll = float(moved[i])
            numbers: dict[str, Any] = {
                "denoising": {
                    "surprise": nll, "surprise_empty": nll + 60, "gap": 60.0, "profile": [1.0, 2.0 + nll / 1e4, 3.0],
                },
                "seed": {
                    "nll": nll, "psnr": 29.0 + i % 3, "psnr_ceiling": 29.5, "psnr_round_trip": 61.0, "residual": 1e-4,
                    "evaluations": 60, "converged": True, "shows_concept": float(which == "concept"), "correct": {},
                },
                "typicality": {"p_value": float(rng.uniform())},
            }  # fmt: skip
            prompt = f"a {OBJECTS[i % 8]} on a {OBJECTS[i // 8 % 8]} background"
            lines.append(_record(f"{which}{i}", which, i, prompt, numbers, name))
    for i in range(24):
        sample = {"samples": {"shows_concept": float(i % 2), "correct": {"object": bool(i % 3)}}}
        lines.append(_record(f"p{i}", "prompted", i, "a castle", sample, name))
        lines.append(_record(f"r{i}", "retained", i, "a flag", sample, name))
        known = {"nll": 1450.0, "residual": 1e-4, "evaluations": 60, "converged": True, "seed_error": 0.01}
        numbers = {"known": known | {"nll_bias": 0.5}}
        lines.append(_record(f"{name}-k{i}", "known", i, "a castle", numbers, name))
    place = folder / name
    place.mkdir(parents=True)
    own = {"seed": INVERTER, "typicality": INVERTER, "known": INVERTER, "samples": {"guidance_scale": 3.0}}
    own["denoising"] = {"log_snr": [-4.0, 0.0, 4.0]}
    RunInfo(
        name, role, "castle", {"audit": "ConceptAudit"}, "x", {"base": "b", "fingerprint": name}, 1024,
        {side: {"source": "made up", "rows": size, "unreadable": []} for side in ("concept", "reference")},
        {"torch": "2"}, complete=True, probes={probe: PROBES[probe].asked(own[probe]).to_dict() for probe in ASKED},
    ).save(place)  # fmt: skip
    (place / RECORDS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def _record(key: str, which: SetName, index: int, prompt: str, numbers: dict[str, Any], model: str) -> str:
    return Record(key, which, index, prompt, numbers, model=model).to_json()


def _report(folder: Path, size: int) -> dict[str, Any]:
    runs = [make(folder, name, size) for name in ROLES]
    seconds, _ = _timed(lambda: report(runs, folder / "report"))
    return {"images": size, "seconds": seconds}


def _reading(folder: Path, count: int) -> dict[str, Any]:
    place = make(folder, "vanilla", count // 2)
    seconds, found = _timed(lambda: read_records(place))
    return {"records": len(found), "seconds": seconds}


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
    reports = "\n".join(f"| {row['images']} + {row['images']} | {row['seconds']:.1f} |" for row in found["reports"])
    reading, merging, embeddings = found["reading"], found["merging"], found["embeddings"]
    return f"""# What reports and large runs cost

`python benchmarks/report.py`: seconds of the processor, one thread, on {found["cpus"]} cores. Runs are made up, with a
seed; their records are like those of the default probes, and hold most of their numbers.

**A report of three runs**: reading, statistics with 10 000 resamples, figures, page.

| images of the concept + others, a run | seconds |
|---|---|
{reports}

**Reading** {reading["records"]:,} records: {reading["seconds"]:.1f} seconds.

**A run of {merging["records"]:,} seeds** of 4 x 16 x 16 numbers: written in {merging["written"]:.0f} seconds, merged in
{merging["merged"]:.0f} into {merging["files"]} files, the largest of {merging["largest"] / 2**20:.0f} MiB; its records
read in {merging["read"]:.1f}.

**Embeddings** of {embeddings["prompts"]:,} different prompts: {embeddings["kept"]} are kept at once, \
{embeddings["bytes"] / 2**20:.0f} MiB at Stable Diffusion's size.
"""


if __name__ == "__main__":
    auto_cli(main)
