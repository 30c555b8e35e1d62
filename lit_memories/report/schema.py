"""The types of ``results.json``; every field is described in ``docs/results-schema.md``."""

from typing import Any, TypedDict

RESULTS_SCHEMA = 3


class EstimateResult(TypedDict):
    """A number with its interval; ends that are not known are None."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    count: int


class ExposureResult(TypedDict):
    """How many pictures a model has seen that learnt and reads the same; in words too, as an end may be open."""

    pictures: EstimateResult
    words: str


class SetResult(TypedDict):
    """`SetStatistics`."""

    count: int
    value: EstimateResult
    change: EstimateResult | None


class NumberDescription(TypedDict):
    """`Number`."""

    name: str
    title: str
    compare: str
    unit: str
    direction: str
    zero: str
    one: str
    digits: int
    percent: bool


class ResolutionResult(TypedDict):
    """`Resolution`."""

    least: float
    goal: float
    images: int


class PaperResult(TypedDict):
    """`PaperStatistics`."""

    z_concept: EstimateResult
    z_reference: EstimateResult
    nll_sd_concept: EstimateResult
    nll_sd_reference: EstimateResult
    w1_concept: EstimateResult
    w1_reference: EstimateResult
    relative_distance: EstimateResult
    relative_distance_w2_squared: EstimateResult


class InverterResult(TypedDict):
    """`InverterStatistics`."""

    known: int
    nll_bias: EstimateResult | None
    worst_bias: float | None
    seed_error: EstimateResult | None
    inversions: int
    unmeasured: int
    converged: EstimateResult | None
    evaluations: EstimateResult | None
    worst_residual: float | None


class VerdictResult(TypedDict):
    """`Verdict`."""

    category: str
    headline: str
    sentences: list[str]
    limits: list[str]


class ConditionedResult(TypedDict):
    """`Conditioned`."""

    label: str
    images: int
    forgetting: EstimateResult
    fraction: EstimateResult | None
    p: float
    converged: EstimateResult | None


class PlaceboResult(TypedDict):
    """`Placebo`."""

    word: str
    images: int
    forgetting: EstimateResult
    p: float
    p_corrected: float


class PlacebosResult(TypedDict):
    """`Placebos`."""

    splits: int
    split_intervals: float
    words: list[PlaceboResult]
    distinguishable: int


class NumberResult(TypedDict):
    """`NumberStatistics`."""

    number: NumberDescription
    sets: dict[str, SetResult]
    forgetting: EstimateResult | None
    fraction: EstimateResult | None
    damage: EstimateResult | None
    conditionings: list[ConditionedResult]
    placebos: PlacebosResult | None
    resolution: ResolutionResult | None


class ProbeResult(TypedDict):
    """`Asked`, and what the probe cost."""

    question: str
    settings: dict[str, Any]
    sets: list[str]
    cost: dict[str, float]
    numbers: dict[str, NumberResult]


class TypicalResult(TypedDict):
    """`Typical`."""

    least: float
    success: EstimateResult
    over_never_knew: EstimateResult | None


class DoorResult(TypedDict):
    """`Door`."""

    attack: str
    threat: str | None
    success: EstimateResult
    over_never_knew: EstimateResult | None
    corrected: EstimateResult | None
    over_plain: EstimateResult | None
    over_draws: EstimateResult | None
    looks: int
    draws: int | None
    evaluations: float | None
    curve: dict[str, list[float]]
    typical: list[TypicalResult]
    lacks: list[str]


class SetDistanceResult(TypedDict):
    """`SetDistance`."""

    features: str
    dimension: int
    against: str
    pictures: int
    others: int
    kid: EstimateResult
    cmmd: EstimateResult | None
    fid: float
    fid_infinity: EstimateResult


class JudgeResult(TypedDict):
    """`JudgeErrors`."""

    missed: EstimateResult
    alarms: EstimateResult
    missed_in_vanilla: EstimateResult | None
    alarms_in_vanilla: EstimateResult | None


class PairingResult(TypedDict):
    """`Pairing`."""

    used: int
    left_out: int


class ProvenanceResult(TypedDict):
    """Where a run comes from, as its ``run.json`` says."""

    folder: str
    settings_hash: str
    model: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    precision: str
    complete: bool
    records: int
    records_expected: int | None


class RunResult(TypedDict):
    """`RunStatistics` with verdict and provenance."""

    name: str
    role: str
    verdict: VerdictResult
    headline: str
    forgetting: EstimateResult
    fraction: EstimateResult | None
    damage: EstimateResult
    prompted: EstimateResult | None
    unprompted: EstimateResult | None
    retained: EstimateResult | None
    retained_by_factor: dict[str, EstimateResult]
    retained_change: EstimateResult | None
    probes: dict[str, ProbeResult]
    profile: dict[str, list[float]] | None
    exposures: dict[str, ExposureResult]
    doors: dict[str, DoorResult]
    utility: list[SetDistanceResult]
    paper: PaperResult | None
    inverter: InverterResult
    pairing: dict[str, PairingResult]
    records: dict[str, int]
    used: dict[str, int]
    flags: dict[str, int]
    unreadable: dict[str, list[str]]
    provenance: ProvenanceResult


class NullResult(TypedDict):
    """The law of the NLL of a seed from the prior."""

    dimension: int
    mean: float
    sd: float


class ResamplingResult(TypedDict):
    """How bootstraps and tests were made."""

    draws: int
    seed: int


class SpreadResult(TypedDict):
    """`Spread`."""

    to_own: EstimateResult
    to_own_sd: EstimateResult
    pairwise: EstimateResult | None
    pairwise_sd: EstimateResult | None
    repeat: EstimateResult | None
    to_own_shift: EstimateResult | None
    independent: float


class StagesResult(TypedDict):
    """`Stages`."""

    psnr_support: EstimateResult | None
    psnr_decoder: EstimateResult | None
    psnr: EstimateResult | None
    psnr_ceiling: EstimateResult | None
    psnr_round_trip: EstimateResult | None
    nll: EstimateResult | None
    nll_own: EstimateResult | None
    nll_shift: EstimateResult | None
    seen: EstimateResult | None
    converged: EstimateResult | None


class QueryResult(TypedDict):
    """`QueryMemories`."""

    index: int
    prompt: str
    supports: list[int]
    euclidean: list[list[float]]
    cosine: list[list[float]]
    repeat: list[float] | None


class MemoriesResult(TypedDict):
    """`Memories` with provenance."""

    name: str
    role: str
    queries: list[QueryResult]
    euclidean: SpreadResult
    cosine: SpreadResult
    stages: StagesResult
    provenance: ProvenanceResult


class ImageLevelResult(TypedDict):
    """All image-level runs, and their settings."""

    settings: dict[str, Any]
    notes: list[str]
    runs: list[MemoriesResult]


class Results(TypedDict):
    """The whole file."""

    schema: int
    version: str
    concept: str
    vanilla: str | None
    control: str | None
    settings: dict[str, Any] | None
    scale: str | None
    null: NullResult
    resampling: ResamplingResult
    notes: list[str]
    precision: list[str]
    judge: JudgeResult | None
    runs: list[RunResult]
    memories: ImageLevelResult | None
