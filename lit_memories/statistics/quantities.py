"""What is known about runs: plain data, each statistic with its interval."""

import math
from dataclasses import dataclass, field
from typing import Any

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.numbers import Asked, Number
from lit_memories.runs import Role
from lit_memories.statistics.conditionings import Conditioned
from lit_memories.statistics.doors import Door
from lit_memories.statistics.judging import JudgeErrors
from lit_memories.statistics.pairing import Pairing
from lit_memories.statistics.placebos import Placebos
from lit_memories.statistics.utility import SetDistance


def beyond(estimate: Estimate, size: float) -> bool:
    """Whether a whole interval lies outside of [-size, size]; one that is not known does not."""
    return estimate.low > size or estimate.high < -size


@dataclass(frozen=True)
class SetStatistics:
    """One number of one set of one run.

    Args:
        count: samples that enter.
        value: mean of the number, the share of samples above 0.5 of a rate, or that of p-values below 0.05 of a test.
        change: the same less vanilla's, paired by sample; for numbers that are compared so.
    """

    count: int
    value: Estimate
    change: Estimate | None


@dataclass(frozen=True)
class Resolution:
    """What as many images that scatter as these can resolve.

    Args:
        least: the smallest forgetting whose interval would exclude 0 with power 0.8.
        goal: a forgetting worth resolving: a tenth of the control's or, without a usable one, 5 nats.
        images: of each of E and R that would resolve it.
    """

    least: float
    goal: float
    images: int


@dataclass(frozen=True)
class NumberStatistics:
    """One number of one run.

    Args:
        number: what the probe says of it.
        sets: what it is on each set that holds it.
        forgetting: how far E moved from vanilla, in the direction of forgetting, less R; None unless the number is
            compared so.
        fraction: forgetting in units of the control's, on the images that the control holds too; None without a
            control, its interval NaN if the control is not told from vanilla.
        damage: how far R moved.
        conditionings: what was forgotten under the own prompt and each other conditioning that it and vanilla have.
        placebos: false alarms on this run's own reference images; None where nothing moved or they are too few.
        resolution: None for vanilla and sets of one image.
    """

    number: Number
    sets: dict[str, SetStatistics]
    forgetting: Estimate | None = None
    fraction: Estimate | None = None
    damage: Estimate | None = None
    conditionings: tuple[Conditioned, ...] = ()
    placebos: Placebos | None = None
    resolution: Resolution | None = None

    def value(self, name: str) -> Estimate | None:
        """What it is on a set; None where the set does not hold it."""
        return self.sets[name].value if name in self.sets else None

    def change(self, name: str) -> Estimate | None:
        """How far a set moved from vanilla."""
        return self.sets[name].change if name in self.sets else None

    def under(self, label: str) -> Conditioned | None:
        """What was forgotten under a conditioning; None if it or vanilla was not looked at under it."""
        return next((entry for entry in self.conditionings if entry.label == label), None)


@dataclass(frozen=True)
class PaperStatistics:
    """The paper's measures of one run's seeds.

    Args:
        z_concept: distance of E's mean NLL from that of the null, in standard deviations of the null, signed.
        z_reference: the same of R.
        nll_sd_concept: population standard deviation of E's NLL between images, nats.
        nll_sd_reference: the same of R.
        w1_concept: earth mover's distance of E's NLL to the null, nats.
        w1_reference: the same of R.
        relative_distance: W1 to the null of E over that of R.
        relative_distance_w2_squared: the official code's form of it.
    """

    z_concept: Estimate
    z_reference: Estimate
    nll_sd_concept: Estimate
    nll_sd_reference: Estimate
    w1_concept: Estimate
    w1_reference: Estimate
    relative_distance: Estimate
    relative_distance_w2_squared: Estimate


@dataclass(frozen=True)
class InverterStatistics:
    """How far the inverter of a run can be trusted.

    Args:
        known: images with a known seed.
        nll_bias: mean NLL of their inverted seeds less that of the true ones, nats.
        worst_bias: the largest such difference, without sign.
        seed_error: mean relative error of their seeds.
        inversions: under the images' own prompts, as all else here; other conditionings have a share of their own.
        unmeasured: how many of them left no residual, so that nothing says whether they converged.
        converged: share of the others in which every step met the tolerance.
        evaluations: mean network evaluations an image.
        worst_residual: largest residual.
    """

    known: int
    nll_bias: Estimate | None
    worst_bias: float | None
    seed_error: Estimate | None
    inversions: int
    unmeasured: int
    converged: Estimate | None
    evaluations: Estimate | None
    worst_residual: float | None


@dataclass(frozen=True)
class Guarded:
    """What keeps a concept out of a run's pictures at inference.

    Args:
        name: of the guard.
        settings: its options, by name.
        acts_on: ``guidance`` or ``prompts``.
        on_vanilla: whether the weights below it are vanilla's to the bit.
    """

    name: str
    settings: dict[str, Any]
    acts_on: str
    on_vanilla: bool


@dataclass(frozen=True)
class RunStatistics:
    """Everything about one run.

    Args:
        name: of the run.
        role: of its model.
        headline: path of the number that carries its verdict.
        asked: the probes it was asked, by name.
        numbers: what each number of theirs says, by path.
        paper: the paper's measures; None without seeds.
        retained_by_factor: share of samples under other prompts in which the judge sees each factor of the prompt.
        inverter: hygiene.
        precision: of the trainer.
        pairing: how many samples of E and of R the headline rests on.
        records: records of each set, flagged ones included.
        used: records of each set that enter the statistics.
        flags: how many answers carry which flag, by probe and flag.
        unreadable: names of unreadable files, by set.
        cost: network evaluations, seconds and samples of each probe, as far as the run tells.
        profile: of E and R, the surprise by noise level less vanilla's, and the levels; None without it.
        exposures: by path of a number, how many pictures of the concept a model has seen that learnt and reads the
            same, the number that reads it best first; empty where no scale holds. An interval's end is 0 or infinity
            where the scale says no more than "fewer than" or "more than".
        doors: what the attacks that it was put to came to, by name.
        guard: what erases at inference only; None where weights alone were audited.
        utility: how far its pictures of other things are from vanilla's and from real ones; empty where it kept no
            features of them.
    """

    name: str
    role: Role
    headline: str
    asked: dict[str, Asked]
    numbers: dict[str, NumberStatistics]
    paper: PaperStatistics | None
    retained_by_factor: dict[str, Estimate]
    inverter: InverterStatistics
    precision: str
    pairing: dict[str, Pairing]
    records: dict[str, int]
    used: dict[str, int]
    flags: dict[str, int]
    unreadable: dict[str, list[str]]
    cost: dict[str, dict[str, float]]
    profile: dict[str, list[float]] | None
    exposures: dict[str, Estimate] = field(default_factory=dict)
    doors: dict[str, Door] = field(default_factory=dict)
    guard: Guarded | None = None
    utility: tuple[SetDistance, ...] = ()

    @property
    def leading(self) -> NumberStatistics:
        """The number that carries the verdict."""
        return self.numbers[self.headline]

    @property
    def forgetting(self) -> Estimate:
        """By the number that carries the verdict."""
        return _known(self.leading.forgetting)

    @property
    def fraction(self) -> Estimate | None:
        """The same in units of the control's."""
        return self.leading.fraction

    @property
    def damage(self) -> Estimate:
        """How far reference images moved, by the same number."""
        return _known(self.leading.damage)

    def value(self, path: str, name: str) -> Estimate | None:
        """A number on a set; None where the run does not have it."""
        return self.numbers[path].value(name) if path in self.numbers else None

    def change(self, path: str, name: str) -> Estimate | None:
        """How far a set moved from vanilla by a number."""
        return self.numbers[path].change(name) if path in self.numbers else None

    @property
    def prompted(self) -> Estimate | None:
        """Share of samples under the concept's prompts that show it."""
        return self.value("samples.shows_concept", "prompted")

    @property
    def unprompted(self) -> Estimate | None:
        """Share of samples without any prompt that show it."""
        return self.value("samples.shows_concept", "unprompted")

    @property
    def retained(self) -> Estimate | None:
        """Share of samples under other prompts in which the judge sees every factor of the prompt."""
        return self.value("samples.met", "retained")

    @property
    def retained_change(self) -> Estimate | None:
        """The same less vanilla's, paired by sample."""
        return self.change("samples.met", "retained")


def _known(estimate: Estimate | None) -> Estimate:
    if estimate is None:  # a comparison has been checked for that
        raise ValueError("the number that carries verdicts is not compared by forgetting")
    return estimate


@dataclass(frozen=True)
class Summary:
    """All runs, vanilla first, and what they share.

    Of its fields, ``scale`` is the name of the scale on which exposures stand, ``doses`` its rungs, ``no_scale`` why
    there is none, ``base`` the hub id or folder of the vanilla model, and ``judge`` how often the runs' judge is wrong;
    None where that was not measured.
    """

    concept_name: str
    runs: tuple[RunStatistics, ...]
    headline: str
    control: str | None
    dimension: int
    null_mean: float
    null_sd: float
    guidance_scale: float | None
    inverter: str | None
    notes: tuple[str, ...]
    scale: str | None = None
    doses: tuple[float, ...] = ()
    no_scale: str | None = None
    base: str | None = None
    judge: JudgeErrors | None = None

    @property
    def vanilla(self) -> RunStatistics:
        """The vanilla run."""
        return self.runs[0]

    @property
    def control_run(self) -> RunStatistics | None:
        """The run that sets the scale, or None."""
        return next((run for run in self.runs if run.name == self.control), None)

    @property
    def calibrated(self) -> bool:
        """Whether a control sets a scale: told from vanilla, and its reference images moved less than that scale."""
        control = self.control_run
        if control is None or control.fraction is None or math.isnan(control.fraction.low):
            return False
        if control.forgetting.value <= 0:  # it knows the concept better than vanilla does
            return False
        return not beyond(control.damage, abs(control.forgetting.value))

    @property
    def by_seeds(self) -> bool:
        """Whether verdicts rest on seeds, so that they depend on the inverter."""
        return self.headline.startswith("seed.")

    @property
    def probes(self) -> dict[str, Asked]:
        """Every probe that a run was asked, by name."""
        return {name: asked for run in self.runs for name, asked in run.asked.items()}

    @property
    def psnr_spread(self) -> float | None:
        """How much the mean PSNR on E differs between models, dB, or None if fewer than two have one."""
        means = [psnr.value for run in self.runs if (psnr := run.value("seed.psnr", "concept")) is not None]
        return max(means) - min(means) if len(means) > 1 else None
