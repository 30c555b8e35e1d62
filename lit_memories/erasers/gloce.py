"""GLoCE, gated low-rank adaptation for concept erasure (Lee et al. 2025, arXiv:2503.12356)."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.closed_form import OneStepEraser
from lit_memories.ops.gated import ALWAYS, METRIC, GatedMaps, recorded_outputs, score
from lit_memories.ops.generators import seeded
from lit_memories.ops.moments import Moments, principal, whitener
from lit_memories.ops.path import ddim_step

ROWS = 16
"""Runs at once."""
SHARP, OPEN = 1e-3, 0.99
"""A gate is `OPEN` this far above its centre, in units of the threshold, as officially."""


class Gate(NamedTuple):
    """What a gate looks at: the last arguments of `lit_memories.ops.gated.score`."""

    mean: Tensor
    basis: Tensor
    metric: Tensor | None


class GLoCE(OneStepEraser):
    r"""Puts what cross-attention gives for the anchor where it gives what it gives for the concept.

    Statistics of a few runs solve for all of it. With what a layer gives for the concept's prompts (mean
    :math:`\mu`, principal directions V), and for the anchor's (mean :math:`\beta`, principal directions U), at all
    places and steps of the runs, an output y becomes

    .. math:: (1 - g(y))\, y + g(y)\, \eta\, [\beta + U U^\top (1 - V V^\top)\, (y - \mu)]

    with the gate :math:`g(y) = \sigma(k (s(y) - c))`, which looks at the share s of :math:`y - \nu` that lies in the
    principal directions of the concept's :math:`y - \nu`. Here :math:`\nu` is the mean for other things, the most
    similar ones of the ``retain`` prompts (officially for a neutral prompt), and it opens at :math:`c = m + \tau d`,
    mean and standard deviation of the largest s in single pictures of these.

    Several concepts have a gate and a map each; where more are open, the widest one acts. The artefact acts beside the
    network, under every prompt.

    Args:
        diffusion: the model; its weights are not changed.
        concept: what to erase, and the anchor whose outputs take its place; its ``retain`` prompts open no gate.
        update_rank: directions of the concept's that are taken out, columns of V.
        degen_rank: those of the anchor's that are left, columns of U.
        gate_rank: directions by which the gate sees the concept.
        eta: :math:`\eta`.
        threshold: :math:`\tau`.
        whiten: have the gate look at :math:`y - \nu` where what is retained is white, after this share of its mean
            variance is added in each direction; null for plain distances, as in the paper. A concept then may differ
            in directions in which little varies. It costs a whole matrix a layer.
        similar: how many of the ``retain`` prompts the gate is held shut for, the nearest ones; null for all.
        images: runs a prompt.
        num_inference_steps: length of the runs.
        start: share of the runs' steps, at their beginning, that is left alone, by the artefact too.
        stop: share of their steps after which the runs end.
        start_guidance: guidance scale of the runs.
        faithful: as released, statistics hold the means over 2, 4 and 8 places square beside the places.
        probe_size: how many fixed noisy latents validation looks at.
        seed: of the runs.

    Raises:
        ValueError: if the network has no cross-attention, there is nothing to retain, or a number is out of range; in
            training, if no layer's gate tells the concept from what is retained.
    """

    one_process = "its only step takes statistics of a few runs, in which there is little to share"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        update_rank: int = 16,
        degen_rank: int = 2,
        gate_rank: int = 1,
        eta: float = 1.0,
        threshold: float = 2.5,
        whiten: float | None = None,
        similar: int | None = 3,
        images: int = 3,
        num_inference_steps: int = 50,
        start: float = 0.0,
        stop: float = 1.0,
        start_guidance: float = 7.5,
        faithful: bool = False,
        probe_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(diffusion, concept, train=None, steps=1, probe_size=probe_size, seed=seed)
        if diffusion.component != "unet":
            raise ValueError(
                f"GLoCE stands behind cross-attention, and {diffusion.base} has a transformer: of the methods that "
                "need prompts only ESD, UCE and SPM are for both"
            )
        if min(update_rank, degen_rank, gate_rank, images) < 1 or min(eta, threshold) <= 0:
            raise ValueError(
                f"update_rank ({update_rank}), degen_rank ({degen_rank}), gate_rank ({gate_rank}) and images "
                f"({images}) must be at least 1, eta ({eta}) and threshold ({threshold}) above 0"
            )
        if not 0 <= start < stop <= 1:
            raise ValueError(f"start ({start}) and stop ({stop}) must be shares of a run, one after the other")
        diffusion.schedule.ddim_steps(num_inference_steps)  # refuses an impossible number
        if whiten is not None and whiten <= 0:
            raise ValueError(f"whiten ({whiten}) must be above 0, or null for plain distances")
        if similar is not None and similar < 1:
            raise ValueError(f"similar ({similar}) must be at least 1, or null for all retained prompts")
        if not concept.retain:
            raise ValueError(f"GLoCE's gate is set by what concept {concept.name!r} retains, which is nothing: add "
                             "retain prompts to its file")  # fmt: skip
        self.concepts: list[Concept] = [*concept.parts] or [concept]
        self.update_rank, self.degen_rank, self.gate_rank = update_rank, degen_rank, gate_rank
        self.eta, self.threshold, self.whiten, self.similar, self.images = eta, threshold, whiten, similar, images
        self.num_inference_steps, self.start, self.stop = num_inference_steps, start, stop
        self.start_guidance, self.faithful = start_guidance, faithful
        self.adapter = GatedMaps.fresh(diffusion.network, len(self.concepts), gate_rank, degen_rank, whiten is not None)
        self.adopt({f"{diffusion.component}.{name}": tensor for name, tensor in self.adapter.factors().items()})

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model with the gates shut, without gradients."""
        with self.adapter.off(), torch.no_grad():
            yield

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Solve for each concept's gates and maps."""
        with torch.autocast(self.device.type, enabled=False), self.teacher():
            for number, one in enumerate(self.concepts):
                named = [prompt for prompt in batch["prompts"] if self.concept.of(prompt) is one]
                for name, tensor in self.solve(one, named, batch["retain"]).items():
                    self.selected[f"{self.diffusion.component}.{name}"][number].copy_(tensor)

    def solve(self, one: Concept, named: Sequence[str], retain: Sequence[str]) -> dict[str, Tensor]:
        """The tensors of a concept's gates and maps, by name.

        Args:
            one: the concept.
            named: its prompts.
            retain: prompts that open no gate, unless others are more similar.
        """
        others = self.nearest(named, retain)
        theirs, kept = self.moments(named), self.moments(others)
        anchors = self.moments(list(dict.fromkeys(one.anchored(prompt) for prompt in named)))
        gates = {name: self.gate(theirs[name], kept[name]) for name in theirs}
        peaks = self.peaks(others, gates)
        below = (1 - self.start) * self.diffusion.schedule.num_train_timesteps if self.start else ALWAYS
        found: dict[str, Tensor] = {}
        for name, (mean, basis, metric) in gates.items():
            mine, anchor, peak = theirs[name], anchors[name], peaks[name]
            away, up = principal(mine.covariance, self.update_rank), principal(anchor.covariance, self.degen_rank)
            slope = math.log(OPEN / (1 - OPEN)) / (SHARP * self.threshold)
            found |= {
                f"{name}.gate.basis": basis,
                f"{name}.gate.mean": mean,
                f"{name}.gate.centre": peak.mean() + self.threshold * peak.std(),
                f"{name}.gate.slope": torch.full_like(mean[0], slope),
                f"{name}.gate.below": torch.full_like(mean[0], below),
                f"{name}.away.down": up.T - up.T @ away @ away.T,
                f"{name}.away.mean": mine.mean,
                f"{name}.to.up": self.eta * up,
                f"{name}.to.mean": self.eta * anchor.mean,
            }
            if metric is not None:
                found[f"{name}.{METRIC}"] = metric
        return found

    def gate(self, mine: Moments, others: Moments) -> Gate:
        """What a layer's gate looks at, given the concept's outputs and those of other things."""
        if self.whiten is None:
            return Gate(others.mean, principal(mine.about(others.mean), self.gate_rank), None)
        metric = whitener(others.covariance, self.whiten)
        return Gate(others.mean, principal(metric @ mine.about(others.mean) @ metric, self.gate_rank), metric)

    @property
    def window(self) -> range:
        """The steps of a run of which statistics are taken, at least one."""
        first, end = (round(share * self.num_inference_steps) for share in (self.start, self.stop))
        first = min(first, self.num_inference_steps - 1)
        return range(first, max(end, first + 1))

    def runs(self, prompts: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """What layers give for prompts, (n, places, width) by name, in turn at each step of a few prompts' runs.

        The noise that the runs begin with is the same for all prompts.
        """
        steps = self.diffusion.schedule.ddim_steps(self.num_inference_steps)
        asked = [(prompt, image) for prompt in prompts for image in range(self.images)]
        for first in range(0, len(asked), ROWS):
            rows, images = zip(*asked[first : first + ROWS], strict=True)
            latents = self.diffusion.draw_seeds([seeded(f"{self.seed}/{image}") for image in images])
            predict = self.diffusion.predict_fn(self.diffusion.encode_prompts(rows), self.start_guidance)
            for number, step in enumerate(steps[: self.window.stop]):
                if number in self.window:
                    with recorded_outputs(self.diffusion.network) as found:
                        self.predict(latents, step.timestep, rows)
                    yield found
                latents = ddim_step(latents, predict(latents, step.timestep), step)

    def moments(self, prompts: Sequence[str]) -> dict[str, Moments]:
        """Of what layers give for prompts, at all places, by name."""
        found: dict[str, Moments] = {}
        for outputs in self.runs(prompts):
            for name, output in outputs.items():
                for places in pooled(output) if self.faithful else [output]:
                    more = Moments.of(places.flatten(0, 1))
                    found[name] = found[name] + more if name in found else more
        return found

    def peaks(self, prompts: Sequence[str], gates: Mapping[str, Gate]) -> dict[str, Tensor]:
        """The largest score of each picture of prompts at each step (m,), by layer."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for outputs in self.runs(prompts):
            for name, output in outputs.items():
                found[name].append(score(output.double(), *gates[name]).amax(1))
        return {name: torch.cat(scores) for name, scores in found.items()}

    def nearest(self, named: Sequence[str], retain: Sequence[str]) -> list[str]:
        """The prompts to retain that are most similar to the concept's, by the mean cosine of their rows."""
        mine, theirs = (
            functional.normalize(self.diffusion.conditioning.split(self.diffusion.encode_prompts(x))[0].float(), dim=-1)
            for x in (named, retain)
        )
        similar = torch.einsum("nrw,mrw->m", mine, theirs)
        order = similar.argsort(descending=True, stable=True).tolist()
        return [retain[i] for i in order[: self.similar]]


def pooled(outputs: Tensor) -> list[Tensor]:
    """Outputs (n, places, width) of a square, and their means over 2, 4 and 8 places square, if there is room."""
    side = math.isqrt(outputs.shape[1])
    square = outputs.transpose(1, 2).unflatten(2, (side, -1))
    return [functional.avg_pool2d(square, size).flatten(2).transpose(1, 2) for size in (1, 2, 4, 8) if size <= side]
