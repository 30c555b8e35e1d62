"""What a report knows about runs: plain data, each statistic with its interval."""

import math
from dataclasses import dataclass

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.records import Role, SetName
from lit_memories.report.conditionings import Conditioned
from lit_memories.report.pairing import Pairing
from lit_memories.report.placebos import Placebos


def beyond(estimate: Estimate, size: float) -> bool:
    """Whether a whole interval lies outside of [-size, size]; one that is not known does not."""
    return estimate.low > size or estimate.high < -size


@dataclass(frozen=True)
class SetStatistics:
    """What one run says about its concept or its reference images.

    Args:
        count: images that enter: those that the run and vanilla hold.
        psnr: mean PSNR of the regenerated images to the originals, dB.
        psnr_ceiling: the same of the VAE round trip: no inversion can do better.
        psnr_round_trip: mean PSNR of the regenerated images to the VAE round trip, dB.
        nll: mean NLL of the seeds, nats.
        nll_sd: population standard deviation of the NLL between images, nats.
        z: distance of the mean NLL from that of the null, in standard deviations of the null, signed.
        w1: earth mover's distance of the NLL to the null, nats.
        shift: mean of NLL less vanilla's, paired by image, nats.
        seen: share of regenerated images in which the judge sees the concept.
    """

    count: int
    psnr: Estimate | None
    psnr_ceiling: Estimate | None
    psnr_round_trip: Estimate | None
    nll: Estimate
    nll_sd: Estimate
    z: Estimate
    w1: Estimate
    shift: Estimate
    seen: Estimate | None


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
class RunStatistics:
    """Everything about one run.

    Args:
        name: of the run.
        role: of its model.
        concept: about E.
        reference: about R.
        relative_distance: W1 to the null of E over that of R.
        relative_distance_w2_squared: the official code's form of it.
        forgetting: shift of E less shift of R, nats.
        fraction: forgetting in units of the control's, on the images that the control holds too; None without a
            control, its interval NaN if the control is not told from vanilla.
        damage: shift of R, nats.
        prompted: share of samples under the concept's prompts that show it.
        unprompted: share of samples without any prompt that show it; None where none were asked for.
        retained: share of samples under other prompts in which the judge sees every factor of the prompt.
        retained_by_factor: the same for each factor.
        retained_change: `retained` less vanilla's, paired by sample.
        conditionings: what was forgotten under the own prompt and each other conditioning that it and vanilla have.
        typicality: for each test, the share of E's seeds that it calls atypical at level 0.05; empty in older runs.
        likelihood: forgetting of the images' own likelihood instead of their seeds': the shift of -log p(latents |
            prompt) of E less that of R, nats; None where it was not asked for.
        reach: mean angle from E's seeds towards noise at which the concept is lost, degrees.
        reach_change: the same less vanilla's, paired by image, degrees.
        placebos: false alarms on this run's own reference images; None where nothing moved or they are too few.
        resolvable: the smallest forgetting whose interval would exclude 0 with power 0.8 on as many images that scatter
            as these do, nats; None for vanilla and sets of one image.
        goal: a forgetting worth resolving: a tenth of the control's or, without a usable one, 5 nats.
        images_needed: images of each of E and R that would resolve it; None where `resolvable` is.
        inverter: hygiene.
        precision: of the trainer.
        pairing: how many samples of E and of R its numbers rest on.
        records: records of each set, flagged ones included.
        used: records of each set that enter the statistics.
        flags: how many records carry which flag.
        unreadable: names of unreadable files, by set.
    """

    name: str
    role: Role
    concept: SetStatistics
    reference: SetStatistics
    relative_distance: Estimate
    relative_distance_w2_squared: Estimate
    forgetting: Estimate
    fraction: Estimate | None
    damage: Estimate
    prompted: Estimate | None
    unprompted: Estimate | None
    retained: Estimate | None
    retained_by_factor: dict[str, Estimate]
    retained_change: Estimate | None
    conditionings: tuple[Conditioned, ...]
    typicality: dict[str, Estimate]
    likelihood: Estimate | None
    reach: Estimate | None
    reach_change: Estimate | None
    placebos: Placebos | None
    resolvable: float | None
    goal: float
    images_needed: int | None
    inverter: InverterStatistics
    precision: str
    pairing: dict[SetName, Pairing]
    records: dict[str, int]
    used: dict[str, int]
    flags: dict[str, int]
    unreadable: dict[str, list[str]]

    def under(self, label: str) -> Conditioned | None:
        """What was forgotten under a conditioning; None if it or vanilla was not audited under it."""
        return next((entry for entry in self.conditionings if entry.label == label), None)


@dataclass(frozen=True)
class Summary:
    """All runs, vanilla first, and what they share."""

    concept_name: str
    runs: tuple[RunStatistics, ...]
    control: str | None
    dimension: int
    null_mean: float
    null_sd: float
    guidance_scale: float | None
    inverter: str | None
    notes: tuple[str, ...]

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
        return not beyond(control.damage, abs(control.forgetting.value))

    @property
    def psnr_spread(self) -> float | None:
        """How much the mean PSNR on E differs between models, dB, or None if fewer than two have one."""
        means = [run.concept.psnr.value for run in self.runs if run.concept.psnr is not None]
        return max(means) - min(means) if len(means) > 1 else None
