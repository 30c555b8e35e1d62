"""What an audit leaves behind: one `Record` a sample, and one ``run.json`` for what is constant.

A run folder holds

- ``run.json``: settings, model, data, versions (`RunInfo`),
- ``records.jsonl``: one line a sample, sorted by set and index,
- ``seeds.safetensors``: the seed of every inverted sample, by key,
- ``images/SET-INDEX-KIND.png``: pictures of the first few samples of each set,
- ``parts/`` while the audit runs: what each process has finished so far,
- ``stale/``: records and seeds of samples that the audit no longer has, out of every count.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lit_memories.storage.files import check_inside, parse, whole

SetName = Literal["concept", "reference", "known", "prompted", "retained", "unprompted", "own", "repeat", "memory"]
SETS: tuple[SetName, ...] = ("concept", "reference", "known", "prompted", "retained", "unprompted")
MEMORY_SETS: tuple[SetName, ...] = ("own", "repeat", "memory")
"""The sets of a concept-level and of an image-level audit."""
ADDED = "conditioned", "unprompted"
"""Parts of the data that a run may ask for later."""
Role = Literal["vanilla", "erased", "control", "random"]

RUN_FILE, RECORDS_FILE, SEEDS_FILE, PARTS, IMAGES = "run.json", "records.jsonl", "seeds.safetensors", "parts", "images"
STALE = "stale"
OWN = (RUN_FILE, RECORDS_FILE, SEEDS_FILE, PARTS, IMAGES, STALE)
"""All that an audit writes to its folder."""
SCHEMA_VERSION = 1


@dataclass
class Record:
    """What the audit found about one sample; numbers that do not apply to its set, or are not finite, are None.

    Not frozen, as `Trainer.predict` returns what steps return, and Lightning refuses to carry frozen dataclasses.

    Args:
        key: hash of the sample's content and of the audit's settings; the same for every model.
        set: ``concept`` (E), ``reference`` (R), ``known`` (K), or samples under E's prompts (``prompted``), under R's
            (``retained``) and without a prompt (``unprompted``); of an image-level audit, a query's seed (``own``), the
            same from another start (``repeat``), and those by way of support images (``memory``).
        index: row in its set; of an image-level audit, the query's.
        prompt: the conditioning.
        nll: negative log-likelihood of the seed under the prior, in nats.
        psnr: regenerated image against the original, in dB (at most 100).
        psnr_ceiling: VAE round trip against the original, in dB: no inversion can do better.
        psnr_round_trip: regenerated image against the VAE round trip, in dB: the inverter's own error.
        residual: relative residual of the inversion's fixed point, worst step.
        evaluations: network evaluations the inversion took.
        converged: whether every step met the inverter's tolerance; None if the residual was not measured.
        seed_error: relative error of the inverted seed, for known seeds.
        nll_bias: NLL of the inverted seed less that of the known one, in nats.
        shows_concept: whether the judge sees the concept in the regenerated or sampled image (0 or 1).
        probability: what it gives the concept there, if it is a judge that says.
        correct: which factors of the prompt the judge sees in it.
        flag: why the sample must not be counted, or None.
        conditioning: under what an image was inverted, if not under its own prompt at the audit's guidance.
        typicality: value and p-value of each test of the seed against the prior, and of all together (``combined``).
        log_likelihood: log p(latents | prompt) by the probability flow, in nats.
        bits_per_dim: minus the same in bits an element.
        likelihood_gap: how far its integration's two rules are from one another, summed over the levels; above 0.1 the
            levels are too far apart for this image, and `log_likelihood` may be wrong by any amount.
        reach: angle in degrees from the seed towards noise at which half of the walks no longer show the concept.
        support: row of the support image, for memories; their `psnr_round_trip` is to what the decoder inversion found.
        psnr_support: decoding of the support's latent against the support image, in dB.
        psnr_decoder: decoding of the latent that was inverted against the query, in dB.
        decoder_passes: through the decoder that the way to that latent took.
        latent_cosine_distance: 1 less the cosine of that latent and of the query's own.
        distance: Euclidean distance of the seed and the query's own.
        cosine_distance: 1 less their cosine.
    """

    key: str
    set: SetName
    index: int
    prompt: str
    nll: float | None = None
    psnr: float | None = None
    psnr_ceiling: float | None = None
    psnr_round_trip: float | None = None
    residual: float | None = None
    evaluations: int | None = None
    converged: bool | None = None
    seed_error: float | None = None
    nll_bias: float | None = None
    shows_concept: float | None = None
    correct: dict[str, bool] | None = None
    flag: str | None = None
    conditioning: str | None = None
    typicality: dict[str, list[float | None]] | None = None
    log_likelihood: float | None = None
    bits_per_dim: float | None = None
    reach: float | None = None
    probability: float | None = None
    support: int | None = None
    psnr_support: float | None = None
    psnr_decoder: float | None = None
    decoder_passes: int | None = None
    latent_cosine_distance: float | None = None
    distance: float | None = None
    cosine_distance: float | None = None
    likelihood_gap: float | None = None

    def to_json(self) -> str:
        """One line of JSON, keys in order, None left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read one line.

        Raises:
            ValueError: if the line is no record.
        """
        try:
            record = parse(cls, line)
            for name in ("index", "support", "evaluations", "decoder_passes"):
                if (getattr(record, name) or 0) < 0:
                    raise ValueError(f"{name} is negative")
            labels = (record.key, record.flag, record.conditioning, *(record.correct or ()), *(record.typicality or ()))
            if not all(label is None or label.isprintable() for label in labels):
                raise ValueError("a label holds control characters")
            if any(len(test) != 2 for test in (record.typicality or {}).values()):
                raise ValueError("a test of typicality is not a value and a p-value")
        except ValueError as error:
            raise ValueError(f"not a record: {line[:80]!r} ({error})") from None
        return record


def finite(value: float) -> float | None:
    """The value, or None if it is NaN or infinite (JSON has neither)."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class RunInfo:
    """What all records of a run share.

    Args:
        name: how tables call the run.
        role: what the model is in a comparison: ``vanilla`` is the base as released, ``control`` never saw the concept.
        concept: name of the concept.
        settings: everything a record depends on besides sample and model; runs pair only if these are equal.
        settings_hash: hash of `settings`.
        model: base, revision, fingerprint, provenance of the erasure if any.
        dimension: number of elements of a seed; gives the exact null law of the NLL.
        data: for each set, its source, the rows used and the unreadable ones left out.
        versions: of the packages involved.
        precision: the trainer's.
        metrics: the torchmetrics collection's values at the end of the run.
        complete: whether every sample has its record.

    Raises:
        ValueError: if name or concept would not print as one line, or the dimension is not positive.
    """

    name: str
    role: Role
    concept: str
    settings: dict[str, Any]
    settings_hash: str
    model: dict[str, Any]
    dimension: int
    data: dict[str, Any]
    versions: dict[str, str]
    precision: str = "32-true"
    metrics: dict[str, float] = field(default_factory=dict)
    complete: bool = False
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for label in (self.name, self.concept):
            if not label.isprintable():  # they are shown in terminals, tables and titles
                raise ValueError(f"{label!r} holds line breaks or control characters: choose another name")
        if self.dimension < 1:
            raise ValueError(f"dimension must be positive, got {self.dimension}")

    def comparable(self) -> dict[str, Any]:
        """What runs must share for their records to stand in one folder; images and conditionings may be added."""
        sources = {name: entry["source"] for name, entry in self.data.items() if name not in ADDED}
        return {name: getattr(self, name) for name in ("role", "concept", "settings", "model")} | {"data": sources}

    def save(self, folder: Path) -> None:
        """Write ``run.json``, replacing an older one at once or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / RUN_FILE) as part:
            part.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "RunInfo":
        """Read ``run.json`` of a run folder.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged or of another schema, or a link leads out of the folder.
        """
        file = Path(folder) / RUN_FILE
        check_inside(Path(folder), OWN)
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} is not an audit run: it has no {RUN_FILE}; make one with lit-memories predict"
            )
        try:
            info = parse(cls, file.read_text(encoding="utf-8"))
            if info.schema != SCHEMA_VERSION:
                raise ValueError(f"schema {info.schema}, this version reads {SCHEMA_VERSION}")
            return info
        except ValueError as error:
            raise ValueError(f"{file} is damaged or of another version: {error}") from None


@dataclass(frozen=True)
class Run:
    """A run folder read into memory."""

    folder: Path
    info: RunInfo
    records: tuple[Record, ...]

    def of(self, name: SetName, conditioning: str | None = None) -> list[Record]:
        """The records of one set, under one conditioning, that may be counted (none flagged)."""
        wanted = (name, conditioning, None)
        return [record for record in self.records if (record.set, record.conditioning, record.flag) == wanted]

    @property
    def conditionings(self) -> list[str]:
        """Under what images were inverted besides their own prompts."""
        return sorted({record.conditioning for record in self.records if record.conditioning is not None})

    def image(self, name: SetName, index: int, kind: str) -> Path:
        """Where the picture of a sample is, if it was kept; `kind` is original, round_trip, regenerated or sample."""
        return image_path(self.folder, name, index, kind)


@dataclass(frozen=True)
class Place:
    """Where a sample stands in a run.

    Args:
        set: it belongs to.
        index: its row there.
        support: of an image-level audit, the support's row in its set.
        pictured: whether it leaves pictures, if it is among the first of its set.
    """

    set: SetName
    index: int
    support: int | None = None
    pictured: bool = False

    def holds(self, record: Record) -> bool:
        """Whether a record of the sample says the same."""
        return (record.set, record.index, record.support) == (self.set, self.index, self.support)


def image_path(folder: Path, name: SetName, index: int, kind: str) -> Path:
    """Where a run keeps the picture of a sample."""
    return folder / IMAGES / f"{name}-{index:04d}-{kind}.png"


def read_lines(file: Path) -> list[Record]:
    """Records of a JSONL file; a last line cut short by a killed process is left out.

    A file of others may hold anything: every value has its field's type, is finite and not absurd for it.

    Raises:
        ValueError: if any other line is damaged; names file and line.
    """
    lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    *whole, tail = lines
    records = []
    for number, line in enumerate(whole, 1):
        try:
            records.append(Record.from_json(line))
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from None
    if tail:
        with contextlib.suppress(ValueError):
            records.append(Record.from_json(tail))
    return records


def order(records: Iterable[Record]) -> list[Record]:
    """Records in the order of ``records.jsonl``; of two with one key the first stays."""
    unique: dict[str, Record] = {}
    for record in records:
        unique.setdefault(record.key, record)
    return sorted(unique.values(), key=_place)


def _place(record: Record) -> tuple[int, int, int, str]:
    return (SETS + MEMORY_SETS).index(record.set), record.index, record.support or 0, record.key


def read_records(folder: Path) -> list[Record]:
    """All records of a run folder: the merged ones and those still in parts.

    Raises:
        ValueError: if a file is damaged, or a link leads out of the folder.
    """
    check_inside(Path(folder), OWN)
    files = [Path(folder) / RECORDS_FILE, *sorted((Path(folder) / PARTS).glob("records-*.jsonl"))]
    return order(record for file in files if file.is_file() for record in read_lines(file))


def read_stale(folder: Path) -> list[Record]:
    """Records of a run folder that were set aside, because the audit no longer had their samples.

    Raises:
        ValueError: if the file is damaged, or a link leads out of the folder.
    """
    check_inside(Path(folder), OWN)
    file = Path(folder) / STALE / RECORDS_FILE
    return read_lines(file) if file.is_file() else []


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: if it is none.
        ValueError: if a file in it is damaged, or a link leads out of it.
    """
    return Run(Path(folder), RunInfo.load(folder), tuple(read_records(folder)))


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, one line ``name: this | that`` a value."""
    lines = []
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {left!r} | {right!r}")
    return lines
