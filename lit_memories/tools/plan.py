"""``lit-memories plan``: what an audit will hold and ask, before it runs, from configurations and images alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

from lit_memories.audit.base import Audit
from lit_memories.audit.needs import guidances_of
from lit_memories.probes.prices import Price, Terms
from lit_memories.recipes import RecipeCLI, quiet_libraries, run
from lit_memories.records import Place
from lit_memories.runs import CONDITIONED
from lit_memories.tools import outlines

ACCELERATOR = 80e9
"""Bytes of the accelerator that a plan is held against."""
MODELS = {"lit_memories.Diffusion", "lit_memories.diffusion.Diffusion"}
"""What recipes call the class of models."""


@dataclass(frozen=True)
class Plan:
    """What an audit will hold and ask.

    Args:
        parts: of the model, and of those that probes bring.
        calls: what is computed at a time.
        embeddings: bytes of those that are kept.
        samples: how many of a set are put to a probe, by both names.
        prices: what they cost together.
    """

    parts: Sequence[outlines.Held]
    calls: Sequence[outlines.Call]
    embeddings: int
    samples: Mapping[tuple[str, str], int]
    prices: Mapping[tuple[str, str], Price]

    @property
    def weights(self) -> int:
        """Bytes of all weights on the accelerator."""
        return sum(part.size for part in self.parts if not part.offloaded)

    @property
    def most(self) -> int:
        """Bytes that are held together at most."""
        return self.weights + self.embeddings + max(call.size for call in self.calls if call.asked)


class PlanCLI(RecipeCLI):
    """Makes a recipe's audit or eraser around an outline of its model, and runs nothing.

    Attributes:
        trainer_settings: what the recipe says of its trainer, which is not made.
        classes: dotted paths of the classes that the recipe names.
    """

    trainer_settings: Namespace
    classes: list[str]

    def before_instantiate_classes(self) -> None:
        """Take outlines for models, and nothing for a judge, none of which is loaded."""
        quiet_libraries()
        asked = self.config[self.subcommand]
        self.trainer_settings = asked.trainer
        self.classes = [str(part["class_path"]) for part in within(asked) if part.get("class_path")]
        for settings in within(asked.model):
            if settings.get("class_path") in MODELS:
                settings.class_path = f"{outlines.__name__}.{outlines.Outline.__name__}"
            if isinstance(judge := settings.get("judge"), Namespace):
                judge.class_path, judge.init_args = f"{outlines.__name__}.{outlines.Unseen.__name__}", Namespace()
        asked.trainer = Namespace()

    def instantiate_trainer(self, **_: Any) -> Any:
        """None is needed."""
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


class _Asked:
    """An audit for its data to feed: it keeps where the samples stand, in place of opening a run folder."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.places: dict[str, Place] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.audit, name)

    def open_run(self, data: dict[str, Any], places: Mapping[str, Place]) -> dict[str, list[str]]:
        """Keep the places; all probes are left to ask."""
        self.places = dict(places)
        return {name: self.audit.asked_of(place) for name, place in places.items()}


def plan(argv: Sequence[str]) -> None:
    """Print what an audit by a recipe will hold and ask.

    Args:
        argv: ``plan`` and the options of ``predict``.

    Raises:
        ValueError: as the audit would, before it begins.
        FileNotFoundError: if configurations or images are missing.
    """
    found, console = planned(argv), Console(highlight=False)
    for table in (weights_table(found), calls_table(found)):
        console.print(table)
        console.print()
    console.print(verdict(found), soft_wrap=True)
    console.print()
    console.print(evaluations_table(found))


def planned(argv: Sequence[str]) -> Plan:
    """What `plan` prints; arguments and errors as there."""
    return plan_of(run(["predict", *argv[1:]], PlanCLI))


def plan_of(cli: RecipeCLI) -> Plan:
    """The plan of an audit that a `PlanCLI` made."""
    audit, data = cli.model, cli.datamodule
    held = outlines.parts(audit.diffusion)
    held += [part for owner, model in outlines.others(audit) for part in outlines.parts(model, owner)]
    calls = outlines.calls(audit, sorted(guidances_of(audit.guidance_scale, audit.probes.values(), data)))
    return Plan(held, calls, outlines.kept(audit), *counted(audit, data))


def verdict(found: Plan) -> str:
    """Whether it fits."""
    fits = "fits" if found.most <= ACCELERATOR else "does not fit"
    return (
        f"together at most {gigabytes(found.most)} GB, {gigabytes(found.embeddings)} of them embeddings that are kept: "
        f"this {fits} an accelerator of {ACCELERATOR / 1e9:.0f} GB; a judge, the workspace of libraries and what a "
        "lesson teaches come on top"
    )


def counted(audit: Audit, data: Any) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], Price]]:
    """How many samples of each set are put to each probe, and what that costs together, by set and probe.

    Args:
        audit: of an outline.
        data: the audit's; its images are read, to leave out those that cannot be, or stand there twice.
    """
    asked = _Asked(audit)
    data.trainer = SimpleNamespace(lightning_module=asked, world_size=1)
    data.setup("predict")
    special = {sample.name: sample.guidance_scale for sample in getattr(data.rows, "samples", ())}
    samples: dict[tuple[str, str], int] = {}
    prices: dict[tuple[str, str], Price] = {}
    for name, place in asked.places.items():
        guidance = special.get(name)
        terms = Terms(
            set=place.set,
            inverter=audit.inverter,
            steps=audit.steps,
            schedule=audit.diffusion.schedule,
            evaluations=audit.diffusion.evaluations,
            guidance_scale=audit.guidance_scale if guidance is None else guidance,
            asked_guidance=guidance,
            conditioned=place.conditioned,
        )
        for probe in audit.asked_of(place):
            key = CONDITIONED if place.conditioned else place.set, probe
            one, before = audit.probes[probe].price(terms), prices.get(key, Price())
            samples[key] = samples.get(key, 0) + 1
            prices[key] = Price(before.least + one.least, before.most + one.most, one.shared)
    return samples, prices


def weights_table(found: Plan) -> Table:
    """The weights, by part."""
    table = _table("weights", "numbers", "GB")
    for part in found.parts:
        name = part.name + (" (in the host's memory)" if part.offloaded else "")
        table.add_row(name, f"{part.count:,}", gigabytes(part.size))
    table.add_row(
        "all on the accelerator" if any(part.offloaded for part in found.parts) else "all",
        f"{sum(part.count for part in found.parts if not part.offloaded):,}",
        gigabytes(found.weights),
    )
    return table


def calls_table(found: Plan) -> Table:
    """What calls take beside the weights."""
    table = _table("a call, beside weights", "rows", "GB")
    for call in found.calls:
        table.add_row(call.name + ("" if call.asked else " (not asked)"), str(call.rows), gigabytes(call.size))
    return table


def evaluations_table(found: Plan) -> Table:
    """Network evaluations, by probe and set."""
    table = _table("probe", "set", "samples", "evaluations", "at most")
    for (name, probe), price in found.prices.items():
        table.add_row(probe, name, str(found.samples[name, probe]), *_numbers(price))
    whole = [Price(price.least + price.shared, price.most + price.shared) for price in found.prices.values()]
    total = Price(sum(price.least for price in whole), sum(price.most for price in whole))
    table.add_row("all", "", "", *_numbers(total))
    return table


def gigabytes(size: int) -> str:
    """Bytes as a number of 10^9, to three digits or so.

    Example:
        >>> [gigabytes(n) for n in (23_802_816_640, 246_000_000, 1_000)]
        ['23.8', '0.246', '0.000']
    """
    return f"{size / 1e9:.1f}" if size >= 1e10 else f"{size / 1e9:.2f}" if size >= 1e9 else f"{size / 1e9:.3f}"


def _numbers(price: Price) -> tuple[str, str]:
    least, most = price.least + price.shared, price.most + price.shared
    return f"{least:,}", "?" if most == float("inf") else f"{most:,.0f}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 or heading == "set" else "right")
    return table


def within(value: Any) -> Iterator[Namespace]:
    """All settings of classes in a value."""
    if isinstance(value, Namespace):
        yield value
        for part in list(vars(value).values()):
            yield from within(part)
    elif isinstance(value, list):
        for part in value:
            yield from within(part)
