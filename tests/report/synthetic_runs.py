"""Run folders without any model: seeds' NLL drawn with known shifts, pictures painted."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.probes import PROBES
from lit_memories.records import RECORDS_FILE, image_path
from lit_memories.runs import RunInfo
from lit_memories.statistics.pairing import Pairing
from lit_memories.statistics.quantities import RunStatistics, SetStatistics
from lit_memories.storage.signed import unsign

DIMENSION = 1024
MEAN, SD = 1453.0, 22.6
SETTINGS: dict[str, Any] = {"audit": "ConceptAudit", "steps": 20}
INVERTER: dict[str, Any] = {
    "guidance_scale": 1.0,
    "inverter": {"class_path": "lit_memories.inverters.fixed_point.FixedPoint", "init_args": {"iterations": 6}},
}
LEVELS = (-4.0, -1.0, 2.0, 5.0)


@dataclass
class Model:
    """What a synthetic run should look like; shifts are against vanilla, in nats.

    Without `surprise`, that of concept images less vanilla's, the probe ``denoising`` was not asked.
    """

    name: str
    role: str = "erased"
    concept_shift: float = 0.0
    reference_shift: float = 0.0
    noise: float = 0.0
    prompted: float = 1.0
    met: float = 1.0
    surprise: float | None = None
    surprise_empty: float = 0.0
    psnr: float = 29.0
    bias: float = 0.5
    converged: float = 1.0
    colour: tuple[int, int, int] = (200, 60, 60)
    settings: dict[str, Any] = field(default_factory=lambda: SETTINGS)
    info: dict[str, Any] = field(default_factory=dict)


def write(root: Path, model: Model, count: int = 24, pictures: int = 0, prompt: str = "a red star") -> Path:
    """Write a run folder of a synthetic model and return it."""
    folder = root / model.name.replace("/", "-")
    records = [*_inverted(model, "concept", count, prompt), *_inverted(model, "reference", count, "a blue circle")]
    records += [*_known(model, 6), *_sampled(model, count)]
    if model.surprise is not None:
        records += [*_surprised(model, "concept", count), *_surprised(model, "reference", count)]
    folder.mkdir(parents=True)
    info: dict[str, Any] = {
        "name": model.name, "role": model.role, "concept": "star", "settings": model.settings,
        "settings_hash": "abc", "model": {"base": "shapes", "fingerprint": f"f-{model.name}"}, "dimension": DIMENSION,
        "probes": asked(model.surprise is not None),
        "data": {name: {"source": "synthetic", "rows": count, "unreadable": []} for name in ("concept", "reference")},
        "versions": {"torch": "2"}, "complete": True,
    }  # fmt: skip
    RunInfo(**(info | model.info)).save(folder)
    save_lines(folder, records)
    for index in range(pictures):
        _paint(folder, model, index)
    return folder


def asked(surprised: bool = False, **settings: dict[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of the probes; settings of one replace its own."""
    own: dict[str, dict[str, Any]] = dict.fromkeys(("seed", "typicality", "known", "reach"), INVERTER)
    own |= {"samples": {"guidance_scale": 7.5}, "likelihood": {"probes": 1}}
    own |= {"denoising": {"log_snr": list(LEVELS)}} if surprised else {}
    return {name: PROBES[name].asked(values).to_dict() for name, values in (own | settings).items()}


ATTACK = ("success", "evaluations", "looks", "probability", "p_value")


def attack(folder: Path, name: str, tried: list[tuple[Any, ...]], **settings: Any) -> Path:
    """Have a run be put to an attack, this package's or not: of each concept image whether it succeeded, its cost, the
    pictures that were judged and, if they are given, the best probability and the found seed's p-value."""
    info = RunInfo.load(folder)
    numbers = [{"name": number, "title": number, "compare": "none"} for number in ATTACK]
    probe = {"question": "", "settings": {"guidance_scale": 3.0} | settings, "sets": ["concept"], "conditioned": False}
    replace(info, probes=info.probes | {name: probe | {"numbers": numbers}}).save(folder)
    answers = [{"probes": {name: dict(zip(ATTACK, one, strict=False))}} for one in tried]
    own = {"set": "concept", "prompt": ""}
    with (folder / RECORDS_FILE).open("a") as file:
        for index, answer in enumerate(answers):
            file.write(json.dumps(own | answer | {"key": f"concept{index}", "index": index}) + "\n")
    return folder


def altered(run: RunStatistics, **changes: Any) -> RunStatistics:
    """A run of which some of the numbers that verdicts read are others."""
    numbers, pairing = dict(changes.pop("numbers", run.numbers)), dict(run.pairing)

    def change(path: str, name: str, **values: Estimate | None) -> None:
        found = numbers[path]
        kept = found.sets.get(name) or SetStatistics(24, Estimate(0, 0, 0), None)
        numbers[path] = replace(found, sets=found.sets | {name: replace(kept, **values)})

    for name in ("forgetting", "fraction", "damage", "placebos", "resolution"):
        if name in changes:
            numbers[run.headline] = replace(numbers[run.headline], **{name: changes.pop(name)})
    if "concept_shift" in changes:
        change(run.headline, "concept", change=changes.pop("concept_shift"))
    if "psnr" in changes:
        change("seed.psnr", "concept", value=changes.pop("psnr"))
    if "retained_change" in changes:
        change("samples.met", "retained", change=changes.pop("retained_change"))
    if "prompted" in changes:
        if (rate := changes.pop("prompted")) is None:
            del numbers["samples.shows_concept"]
        else:
            change("samples.shows_concept", "prompted", value=rate)
    if "count" in changes:
        pairing["concept"] = Pairing(changes.pop("count"), 0)
    return replace(run, numbers=numbers, pairing=pairing, **changes)


def load_records(folder: Path) -> list[dict[str, Any]]:
    """As dicts, without checksums, which would no longer fit when they are changed."""
    return [json.loads(unsign(line)[0]) for line in (folder / RECORDS_FILE).read_text().splitlines()]


def save_lines(folder: Path, records: list[dict[str, Any]]) -> None:
    (folder / RECORDS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))


def line(key: str, name: str, index: int, prompt: str, **numbers: Any) -> dict[str, Any]:
    """A record with its numbers side by side, as the first schema had it; readers sort them by probe."""
    return {"key": key, "set": name, "index": index, "prompt": prompt, **numbers}


def change_records(folder: Path, change: Any) -> None:
    """Pass every record, a dict, through `change`; None drops it."""
    save_lines(folder, [changed for record in load_records(folder) if (changed := change(record)) is not None])


def world(root: Path, **options: Any) -> list[Path]:
    """Vanilla, an eraser that hides, one that erases, the control, random weights: the calibration experiment."""
    models = [
        Model("random", "random", -400, -380, 6, prompted=0, met=0, colour=(120, 120, 120), converged=1),
        Model("never-knew", "control", 91, -3, 12, prompted=0, colour=(60, 60, 200)),
        Model("ESD", "erased", 28, 17, 18, prompted=0.05, met=0.6, colour=(200, 140, 60)),
        Model("relabel", "erased", 103, 2.5, 18, prompted=0, colour=(60, 160, 90)),
        Model("vanilla", "vanilla"),
    ]
    return [write(root, model, **options) for model in models]


def _inverted(model: Model, name: str, count: int, prompt: str) -> list[dict[str, Any]]:
    base = np.random.default_rng(len(name)).normal(MEAN - 70, SD, count)
    shift = model.concept_shift if name == "concept" else model.reference_shift
    noise = np.random.default_rng([len(name), *model.name.encode()]).normal(0, 1, count)
    noise = model.noise * (noise - noise.mean())  # the planted shift is met exactly
    return [
        line(
            f"{name}{i}",
            name,
            i,
            prompt,
            nll=base[i] + shift + noise[i],
            psnr=model.psnr + i % 3,
            psnr_ceiling=29.5,
            psnr_round_trip=61.0,
            residual=1e-4,
            evaluations=120,
            converged=i < model.converged * count,
            shows_concept=float(name == "concept"),
        )
        for i in range(count)
    ]


def _surprised(model: Model, name: str, count: int) -> list[dict[str, Any]]:
    """The probe's answers, as lines of their own: readers put a sample's lines together."""
    rng = np.random.default_rng([7, len(name), *model.name.encode()])
    base = np.random.default_rng(7).normal(1500, 200, count)
    shift, empty = (model.surprise or 0.0, model.surprise_empty) if name == "concept" else (model.reference_shift,) * 2
    noise = rng.normal(0, 1, count)
    noise = model.noise * (noise - noise.mean())
    return [
        {"key": f"{name}{i}", "set": name, "index": i, "prompt": "", "probes": {"denoising": {
            "surprise": base[i] + shift + noise[i], "surprise_empty": base[i] + 60 + empty + noise[i],
            "gap": 60 + empty - shift, "profile": [1.0, 2.0 + shift / 6, 3.0, 4.0],
        }}}
        for i in range(count)
    ]  # fmt: skip


def _known(model: Model, count: int) -> list[dict[str, Any]]:
    return [
        line(
            f"{model.name}-known{i}",
            "known",
            i,
            "a star",
            nll=MEAN,
            residual=2e-4,
            evaluations=120,
            converged=True,
            seed_error=0.01,
            nll_bias=model.bias + 0.1 * (-1) ** i,
        )
        for i in range(count)
    ]


def _sampled(model: Model, count: int) -> list[dict[str, Any]]:
    shown = [float(i < round(model.prompted * count)) for i in range(count)]
    met = [i < round(model.met * count) for i in range(count)]
    return [line(f"p{i}", "prompted", i, "a red star", shows_concept=shown[i]) for i in range(count)] + [
        line(f"r{i}", "retained", i, "a blue circle", shows_concept=0.0, correct={"colour": met[i], "object": True})
        for i in range(count)
    ]


def _paint(folder: Path, model: Model, index: int) -> None:
    y, x = np.mgrid[:64, :64]
    rng = np.random.default_rng(index)
    disc = ((x - rng.integers(20, 44)) ** 2 + (y - rng.integers(20, 44)) ** 2 < 14**2)[..., None]
    ground = np.array(rng.integers(120, 255, 3), dtype=float)
    for name, kinds in {
        "concept": ("original", "round_trip", "regenerated"), "prompted": ("sample",), "retained": ("sample",)
    }.items():  # fmt: skip
        for kind in kinds:
            colour = model.colour if kind in ("regenerated", "sample") else (200, 60, 60)
            picture = np.where(disc, np.array(colour, dtype=float), ground)
            file = image_path(folder, name, index, kind)
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file)
