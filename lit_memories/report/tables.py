"""What the tables of a report show."""

from collections.abc import Callable, Sequence

from lit_memories.report.formats import Column, Row, Table, Value
from lit_memories.report.image_level import Memories
from lit_memories.report.placebos import Placebo, Placebos
from lit_memories.report.quantities import RunStatistics, Summary


def _count(key: str, title: str, value: Callable[[Row], int]) -> Column:
    return Column(key, title, value, interval=False)


def _placebo(key: str, title: str, value: Callable[[Placebos], Value], digits: int = 1) -> Column:
    def of_run(run: RunStatistics) -> Value:
        return None if run.placebos is None else value(run.placebos)

    return Column(key, title, of_run, digits, interval=False)


NAME = Column("model", "model", lambda run: run.name, interval=False, left=True)
MAIN = (
    NAME,
    Column("role", "role", lambda run: run.role, interval=False, left=True),
    Column("forgetting", "forgetting, nats", lambda run: run.forgetting),
    Column("fraction", "of control", lambda run: run.fraction, digits=2, missing="not calibrated"),
    Column("damage", "damage, nats", lambda run: run.damage),
    Column("prompted", "prompted concept, %", lambda run: run.prompted, digits=0, percent=True),
    Column("retained", "other prompts met, %", lambda run: run.retained, digits=0, percent=True),
    Column("seen", "concept in rebuilt images, %", lambda run: run.concept.seen, digits=0, percent=True),
)
MEASURES = (
    NAME,
    Column("nll_concept", "NLL(E), nats", lambda run: run.concept.nll),
    Column("z_concept", "z(E)", lambda run: run.concept.z, digits=2),
    Column("nll_reference", "NLL(R), nats", lambda run: run.reference.nll),
    Column("z_reference", "z(R)", lambda run: run.reference.z, digits=2),
    Column("w1_concept", "W1(E), nats", lambda run: run.concept.w1),
    Column("w1_reference", "W1(R), nats", lambda run: run.reference.w1),
    Column("relative_distance", "relative distance, W1", lambda run: run.relative_distance, digits=2),
    Column(
        "relative_distance_w2_squared",
        "relative distance, official squared form",
        lambda run: run.relative_distance_w2_squared,
        digits=2,
    ),
    Column("psnr_concept", "PSNR(E), dB", lambda run: run.concept.psnr),
    Column("psnr_reference", "PSNR(R), dB", lambda run: run.reference.psnr),
)
HYGIENE = (
    NAME,
    _count("concept_used", "E used", lambda run: run.used["concept"]),
    _count("reference_used", "R used", lambda run: run.used["reference"]),
    _count("known_used", "known seeds", lambda run: run.inverter.known),
    Column("resolvable", "resolvable, nats", lambda run: run.resolvable, interval=False),
    Column("images_needed", "images to resolve the goal", lambda run: run.images_needed, interval=False),
    _count("flagged", "flagged", lambda run: sum(run.flags.values())),
    _count("unmeasured", "residual not measured", lambda run: run.inverter.unmeasured),
    _count("unreadable", "unreadable", lambda run: sum(map(len, run.unreadable.values()))),
    Column("psnr_ceiling_concept", "VAE ceiling(E), dB", lambda run: run.concept.psnr_ceiling),
    Column("psnr_round_trip_concept", "PSNR(E) to round trip, dB", lambda run: run.concept.psnr_round_trip),
    Column("nll_bias", "bias on known seeds, nats", lambda run: run.inverter.nll_bias, digits=2),
    Column("worst_bias", "worst bias, nats", lambda run: run.inverter.worst_bias, digits=2, interval=False),
    Column("seed_error", "seed error", lambda run: run.inverter.seed_error, digits=4),
    Column("converged", "converged, %", lambda run: run.inverter.converged, digits=0, percent=True),
    Column("evaluations", "evaluations", lambda run: run.inverter.evaluations, digits=0),
    Column("worst_residual", "worst residual", lambda run: run.inverter.worst_residual, digits=5, interval=False),
)


BASIN = (
    Column("reach", "reach, degrees", lambda run: run.reach, digits=0),
    Column("reach_change", "reach less vanilla's, degrees", lambda run: run.reach_change, digits=0),
    Column("prompted", "concept among samples under its prompts, %", lambda run: run.prompted, 0, percent=True),
    Column("unprompted", "concept among samples without a prompt, %", lambda run: run.unprompted, 0, percent=True),
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


def tables(summary: Summary) -> list[Table]:
    """The tables of a report; those of options that no audit was asked for are left out."""
    found = [
        Table("main", "What was forgotten, and at what price", MAIN, summary.runs),
        Table("measures", "The paper's measures", MEASURES, summary.runs),
        Table("hygiene", "What the measurement can resolve", HYGIENE, summary.runs),
    ]
    for name, title, columns in (
        ("conditionings", "Forgetting under other prompts and guidance, nats", _conditionings(summary)),
        ("seeds", "Beyond the seed's norm", _seeds(summary)),
        ("basin", "Needle or basin", _basin(summary)),
        ("placebos", "Placebos", PLACEBOS if any(run.placebos for run in summary.runs) else ()),
        ("placebo_words", "Placebos, word by word: forgetting in nats and corrected p", _words(summary)),
    ):
        if columns:
            found.append(Table(name, title, (NAME, *columns), summary.runs, detail=name == "placebo_words"))
    return found


def memory_tables(memories: Sequence[Memories]) -> list[Table]:
    """The tables of image-level audits, if there are any."""
    rows = tuple(memories)
    found = [
        Table("memories", "Many memories of one image: how far apart its seeds are", MEMORIES, rows),
        Table("stages", "Many memories of one image: what each stage leaves", STAGES, rows),
    ]
    return found if rows else []


def _conditionings(summary: Summary) -> list[Column]:
    """Three columns a conditioning, if there is one besides the own prompt."""
    labels = [entry.label for entry in summary.vanilla.conditionings]
    columns = []
    for label in labels if len(labels) > 1 else []:
        key = label.replace("@", "_at_")

        def amount(run: RunStatistics, label: str = label) -> Value:
            return None if (found := run.under(label)) is None else found.forgetting

        def chance(run: RunStatistics, label: str = label) -> Value:
            return None if (found := run.under(label)) is None else found.p

        def met(run: RunStatistics, label: str = label) -> Value:
            return None if (found := run.under(label)) is None else found.converged

        columns += [
            Column(f"forgetting_{key}", label, amount),
            Column(f"p_{key}", f"p, {label}", chance, digits=4, interval=False),
            Column(f"converged_{key}", f"converged, {label}, %", met, digits=0, percent=True),
        ]
    return columns


def _seeds(summary: Summary) -> list[Column]:
    """Typicality and likelihood, as far as they were measured."""
    columns = []
    for name in summary.vanilla.typicality:

        def share(run: RunStatistics, name: str = name) -> Value:
            return run.typicality.get(name)

        columns.append(Column(f"atypical_{name}", f"atypical {name.replace('_', ' ')}, %", share, 0, percent=True))
    if any(run.likelihood is not None for run in summary.runs):
        columns.append(Column("likelihood", "forgetting of log p(x), nats", lambda run: run.likelihood))
    return columns


def _basin(summary: Summary) -> tuple[Column, ...]:
    """Reach and the rates among samples of the prior, if more than the prompted rate was measured."""
    asked = any(run.reach is not None or run.unprompted is not None for run in summary.runs)
    return BASIN if asked else ()


def _words(summary: Summary) -> list[Column]:
    """Two columns a placebo word."""
    words = sorted({entry.word for run in summary.runs if run.placebos for entry in run.placebos.words})
    columns = []
    for word in words:

        def placebo(run: RunStatistics, word: str = word) -> Placebo | None:
            words = () if run.placebos is None else run.placebos.words
            return next((entry for entry in words if entry.word == word), None)

        def amount(run: RunStatistics, of: Callable[[RunStatistics], Placebo | None] = placebo) -> Value:
            return None if (found := of(run)) is None else found.forgetting

        def chance(run: RunStatistics, of: Callable[[RunStatistics], Placebo | None] = placebo) -> Value:
            return None if (found := of(run)) is None else found.p_corrected

        columns += [Column(f"forgetting_{word}", word, amount)]
        columns += [Column(f"p_{word}", f"p, {word}", chance, digits=4, interval=False)]
    return columns
