"""What the tables of a report show."""

from collections.abc import Callable, Sequence
from functools import partial

from lit_memories.numbers import Asked, Number
from lit_memories.probes.judging import Judging
from lit_memories.report.doors import door_tables
from lit_memories.report.exposure import exposure_columns
from lit_memories.report.formats import Column, Row, Table, Value
from lit_memories.report.judging import judge_columns
from lit_memories.report.utility import utility_table
from lit_memories.statistics.image_level import Memories
from lit_memories.statistics.pairing import HEADLINES
from lit_memories.statistics.placebos import Placebo, Placebos
from lit_memories.statistics.quantities import RunStatistics, Summary


def _count(key: str, title: str, value: Callable[[Row], int]) -> Column:
    return Column(key, title, value, interval=False)


def _placebo(key: str, title: str, value: Callable[[Placebos], Value], digits: int = 1) -> Column:
    def of_run(run: RunStatistics) -> Value:
        return None if run.leading.placebos is None else value(run.leading.placebos)

    return Column(key, title, of_run, digits, interval=False)


def _paper(key: str, title: str, digits: int = 1) -> Column:
    return Column(key, title, lambda run: None if run.paper is None else getattr(run.paper, key), digits)


def _resolution(key: str, title: str) -> Column:
    def of_run(run: RunStatistics) -> Value:
        return None if run.leading.resolution is None else getattr(run.leading.resolution, key)

    return Column(f"resolution_{key}", title, of_run, interval=False)


NAME = Column("model", "model", lambda run: run.name, interval=False, left=True)
MAIN = (
    NAME,
    Column("role", "role", lambda run: run.role, interval=False, left=True),
    Column("forgetting", "forgetting, nats", lambda run: run.forgetting),
    Column("fraction", "of control", lambda run: run.fraction, digits=2, missing="not calibrated"),
)
WORDS = Column(
    "fraction_empty", "of control, without the prompt", lambda run: _fraction(run, "denoising.surprise_empty"), digits=2
)
PRICE = (
    Column("damage", "damage, nats", lambda run: run.damage),
    Column("prompted", "prompted concept, %", lambda run: run.prompted, digits=0, percent=True),
    Column("retained", "other prompts met, %", lambda run: run.retained, digits=0, percent=True),
)
PAPER = (
    NAME,
    Column("nll_concept", "NLL(E), nats", lambda run: run.value("seed.nll", "concept")),
    _paper("z_concept", "z(E)", 2),
    Column("nll_reference", "NLL(R), nats", lambda run: run.value("seed.nll", "reference")),
    _paper("z_reference", "z(R)", 2),
    Column("forgetting_nll", "forgetting by the seeds' NLL, nats", lambda run: _forgetting(run, "seed.nll")),
    Column("fraction_nll", "of control", lambda run: _fraction(run, "seed.nll"), digits=2),
    Column("damage_nll", "damage, nats", lambda run: run.change("seed.nll", "reference")),
    _paper("w1_concept", "W1(E), nats"),
    _paper("w1_reference", "W1(R), nats"),
    _paper("relative_distance", "relative distance, W1", 2),
    _paper("relative_distance_w2_squared", "relative distance, official squared form", 2),
    Column("psnr_concept", "PSNR(E), dB", lambda run: run.value("seed.psnr", "concept")),
    Column("psnr_reference", "PSNR(R), dB", lambda run: run.value("seed.psnr", "reference")),
    Column(
        "seen", "concept in rebuilt images, %", lambda run: run.value("seed.shows_concept", "concept"), 0, percent=True
    ),
)
HYGIENE = (
    NAME,
    _count("concept_used", "E used", lambda run: run.used["concept"]),
    _count("reference_used", "R used", lambda run: run.used["reference"]),
    _count("known_used", "known seeds", lambda run: run.inverter.known),
    _resolution("least", "resolvable, nats"),
    _resolution("images", "images to resolve the goal"),
    _count("flagged", "flagged", lambda run: sum(run.flags.values())),
    _count("unmeasured", "residual not measured", lambda run: run.inverter.unmeasured),
    _count("unreadable", "unreadable", lambda run: sum(map(len, run.unreadable.values()))),
    Column("nll_bias", "bias on known seeds, nats", lambda run: run.inverter.nll_bias, digits=2),
    Column("worst_bias", "worst bias, nats", lambda run: run.inverter.worst_bias, digits=2, interval=False),
    Column("seed_error", "seed error", lambda run: run.inverter.seed_error, digits=4),
    Column("converged", "converged, %", lambda run: run.inverter.converged, digits=0, percent=True),
    Column("evaluations", "evaluations an inversion", lambda run: run.inverter.evaluations, digits=0),
    Column("worst_residual", "worst residual", lambda run: run.inverter.worst_residual, digits=5, interval=False),
)
PLACEBOS = (
    _placebo("splits", "random halves", lambda found: found.splits),
    _placebo("split_intervals", "intervals that tell halves apart, %", lambda found: 100 * found.split_intervals, 0),
    _placebo("words", "words", lambda found: len(found.words)),
    _placebo("distinguishable", "words distinguishable from 0", lambda found: found.distinguishable),
)
MEMORIES = (
    NAME,
    Column("role", "role", lambda run: run.role, interval=False, left=True),
    _count("queries", "queries", lambda run: len(run.queries)),
    _count("memories", "memories", lambda run: run.count),
    Column("cosine_to_own", "1 − cosine to the own seed", lambda run: run.cosine.to_own, digits=3),
    Column("cosine_to_own_shift", "less vanilla's", lambda run: run.cosine.to_own_shift, digits=3),
    Column("cosine_pairwise", "between memories", lambda run: run.cosine.pairwise, digits=3),
    Column("cosine_repeat", "null: found again", lambda run: run.cosine.repeat, digits=3),
    Column("cosine_independent", "null: independent", lambda run: run.cosine.independent, interval=False),
    Column("euclidean_to_own", "Euclidean to the own seed", lambda run: run.euclidean.to_own),
    Column("euclidean_pairwise", "Euclidean between memories", lambda run: run.euclidean.pairwise),
    Column("euclidean_repeat", "Euclidean null: found again", lambda run: run.euclidean.repeat),
    Column(
        "euclidean_independent", "Euclidean null: independent", lambda run: run.euclidean.independent, interval=False
    ),
)
STAGES = (
    NAME,
    Column("psnr_support", "1. support decoded, dB", lambda run: run.stages.psnr_support),
    Column("psnr_decoder", "2. query decoded, dB", lambda run: run.stages.psnr_decoder),
    Column("psnr", "3. query regenerated, dB", lambda run: run.stages.psnr),
    Column("psnr_round_trip", "stage 3 against stage 2, dB", lambda run: run.stages.psnr_round_trip),
    Column("psnr_ceiling", "VAE ceiling, dB", lambda run: run.stages.psnr_ceiling),
    Column("nll", "NLL of memories, nats", lambda run: run.stages.nll),
    Column("nll_shift", "less vanilla's, nats", lambda run: run.stages.nll_shift),
    Column("nll_own", "NLL of own seeds, nats", lambda run: run.stages.nll_own),
    Column("seen", "concept in regenerated, %", lambda run: run.stages.seen, digits=0, percent=True),
    Column("converged", "converged, %", lambda run: run.stages.converged, digits=0, percent=True),
)
JUDGED = {"shows_concept", "success"}
"""Rates that a judge gives."""


def tables(summary: Summary) -> list[Table]:
    """The tables of a report: the verdict's, one for each probe that was asked, and what they rest on."""
    empty = any("denoising.surprise_empty" in run.numbers for run in summary.runs)
    main = (*MAIN, *([WORDS] if empty else []), *PRICE, *judge_columns(summary))
    found = [Table("main", "What was forgotten, and at what price", main, summary.runs), *door_tables(summary)]
    found += utility_table(summary)
    if any(run.paper is not None for run in summary.runs):
        found.append(Table("paper", "The paper's measures", (*PAPER, *judge_columns(summary)), summary.runs))
    for name, title, columns in (
        ("exposure", "Pictures of the concept that a model has seen which reads the same", exposure_columns(summary)),
        ("conditionings", "Forgetting under other prompts and guidance, nats", _conditionings(summary)),
        ("placebos", "Placebos", PLACEBOS if any(run.leading.placebos for run in summary.runs) else ()),
        ("placebo_words", "Placebos, word by word: forgetting in nats and corrected p", _words(summary)),
        ("cost", "What each probe cost: evaluations a sample, and seconds", _cost(summary)),
    ):
        if columns:
            detail = name in ("placebo_words", "cost")
            found.append(Table(name, title, (NAME, *columns), summary.runs, detail=detail))
    hygiene = HYGIENE if any("seed" in run.asked for run in summary.runs) else HYGIENE[:9]
    found.append(Table("hygiene", "What the measurement can resolve", hygiene, summary.runs))
    return found + probe_tables(summary)


def probe_tables(summary: Summary) -> list[Table]:
    """A table for each probe, of every number that it says is compared."""
    found = []
    for asked in summary.probes.values():
        columns = [column for number in asked.numbers for column in _columns(summary, asked, number)]
        if columns:
            judged = any(number.name in JUDGED and number.compare == "rate" for number in asked.numbers)
            columns += judge_columns(summary) if judged and asked.name != Judging.name else ()
            title = asked.question or asked.name
            found.append(Table(f"probe_{asked.name}", title, (NAME, *columns), summary.runs, detail=True))
    return found


def _columns(summary: Summary, asked: Asked, number: Number) -> list[Column]:
    """What a table shows of a number: as it is compared, on each set that has it."""
    path, unit = asked.path(number), f", {number.unit}" if number.unit else ", %" if number.percent else ""
    held = [run.numbers[path] for run in summary.runs if path in run.numbers]
    columns, options = [], {"digits": number.digits, "percent": number.percent}
    if any(found.forgetting is not None for found in held):
        columns += [
            Column(f"{number.name}_forgetting", f"forgetting by {number.title}{unit}", partial(_forgetting, path=path)),
            Column(f"{number.name}_fraction", "of control", partial(_fraction, path=path), digits=2),
            Column(f"{number.name}_damage", f"damage by {number.title}{unit}", partial(_damage, path=path)),
        ]
    for name in dict.fromkeys(name for found in held for name in found.sets):
        label, key = f"{number.title} ({name}){unit}", f"{number.name}_{name}"
        columns.append(Column(key, label, partial(_value, path=path, name=name), **options))  # type: ignore[arg-type]
        if any(found.change(name) is not None for found in held):
            change = partial(_change, path=path, name=name)
            columns.append(Column(f"{key}_change", "less vanilla's", change, **options))  # type: ignore[arg-type]
    return columns


def _value(run: RunStatistics, path: str, name: str) -> Value:
    return run.value(path, name)


def _change(run: RunStatistics, path: str, name: str) -> Value:
    return run.change(path, name)


def _forgetting(run: RunStatistics, path: str) -> Value:
    return run.numbers[path].forgetting if path in run.numbers else None


def _fraction(run: RunStatistics, path: str) -> Value:
    return run.numbers[path].fraction if path in run.numbers else None


def _damage(run: RunStatistics, path: str) -> Value:
    return run.numbers[path].damage if path in run.numbers else None


def _cost(summary: Summary) -> list[Column]:
    """Two columns a probe that a run tells the cost of."""
    columns = []
    for name in dict.fromkeys(name for run in summary.runs for name in run.cost):

        def each(run: RunStatistics, name: str = name) -> Value:
            entry = run.cost.get(name, {})
            return entry["evaluations"] / entry["samples"] if entry.get("samples") else None

        def seconds(run: RunStatistics, name: str = name) -> Value:
            return run.cost.get(name, {}).get("seconds")

        columns += [
            Column(f"evaluations_{name}", f"{name}: evaluations a sample", each, digits=0, interval=False),
            Column(f"seconds_{name}", f"{name}: seconds", seconds, digits=0, interval=False),
        ]
    return columns


def memory_tables(memories: Sequence[Memories]) -> list[Table]:
    """The tables of image-level audits, if there are any."""
    rows = tuple(memories)
    found = [
        Table("memories", "Many memories of one image: how far apart its seeds are", MEMORIES, rows),
        Table("stages", "Many memories of one image: what each stage leaves", STAGES, rows),
    ]
    return found if rows else []


def cost_line(summary: Summary) -> str:
    """What each probe cost over all runs, in one line; empty where no run tells."""
    parts = []
    for name in dict.fromkeys(name for run in summary.runs for name in run.cost):
        entries = [run.cost[name] for run in summary.runs if name in run.cost]
        totals = {key: sum(entry.get(key, 0.0) for entry in entries) for key in ("evaluations", "seconds", "samples")}
        each = totals["evaluations"] / totals["samples"] if totals["samples"] else 0.0
        parts.append(f"{name} {each:.0f} evaluations a sample, {totals['seconds']:.0f} s")
    return f"Cost: {'; '.join(parts)}." if parts else ""


def _conditionings(summary: Summary) -> list[Column]:
    """Columns for each conditioning and number that verdicts rest on, if there is one besides the own prompt."""
    columns = []
    for path in HEADLINES:
        vanilla = summary.vanilla.numbers.get(path)
        labels = [] if vanilla is None else [entry.label for entry in vanilla.conditionings]
        what = "surprise" if path == HEADLINES[0] else "seeds"
        for label in labels if len(labels) > 1 else []:
            key = f"{what}_{label.replace('@', '_at_')}"
            amount = partial(_under, path=path, label=label, name="forgetting")
            chance = partial(_under, path=path, label=label, name="p")
            met = partial(_under, path=path, label=label, name="converged")
            columns += [
                Column(f"forgetting_{key}", f"{what}, {label}", amount),
                Column(f"p_{key}", f"p, {what}, {label}", chance, digits=4, interval=False),
            ]
            if path != HEADLINES[0]:
                columns.append(Column(f"converged_{key}", f"converged, {label}, %", met, digits=0, percent=True))
    return columns


def _under(run: RunStatistics, path: str, label: str, name: str) -> Value:
    found = run.numbers[path].under(label) if path in run.numbers else None
    return None if found is None else getattr(found, name)


def _words(summary: Summary) -> list[Column]:
    """Two columns a placebo word."""
    words = sorted({entry.word for run in summary.runs if run.leading.placebos for entry in run.leading.placebos.words})
    columns = []
    for word in words:

        def placebo(run: RunStatistics, word: str = word) -> Placebo | None:
            words = () if run.leading.placebos is None else run.leading.placebos.words
            return next((entry for entry in words if entry.word == word), None)

        def amount(run: RunStatistics, of: Callable[[RunStatistics], Placebo | None] = placebo) -> Value:
            return None if (found := of(run)) is None else found.forgetting

        def chance(run: RunStatistics, of: Callable[[RunStatistics], Placebo | None] = placebo) -> Value:
            return None if (found := of(run)) is None else found.p_corrected

        columns += [Column(f"forgetting_{word}", word, amount)]
        columns += [Column(f"p_{word}", f"p, {word}", chance, digits=4, interval=False)]
    return columns
