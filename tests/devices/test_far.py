"""On a device that is not the CPU: nothing mixes the two, and the host waits for it where it must and nowhere else.

No GPU is needed: `far` is a device whose numbers lie on the CPU, and whose results are therefore the CPU's to the bit.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from far import FAR, Far, far_away, far_strategy
from lightning import LightningDataModule, Trainer
from torch import Generator, Tensor

from lit_memories.audit.base import Audit
from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.image import ImageAudit
from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.concept import Concept
from lit_memories.data.audit import AuditData
from lit_memories.data.memories import MemoryData
from lit_memories.data.sources import ImageSource, save_images
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inverter
from lit_memories.inverters.belm import BELM
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.decoder import DecoderInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.inverters.renoise import ReNoise
from lit_memories.ops.likelihood import log_likelihood
from lit_memories.ops.path import PredictionType
from lit_memories.probes import Denoising, Judging, Known, Likelihood, Reach, Samples, Seed, Typicality, Utility
from lit_memories.storage.signed import unsign
from lit_memories.worlds import pictograms
from lit_memories.worlds.judge import WorldDistance, WorldFeatures, WorldJudge

UMBRELLA = Concept("umbrella", "object", ["umbrella"], ["a star"], anchor="star", factors={"object": "umbrella"})
PROMPTS = ["a red umbrella", "a blue star", "a gear"]
STEPS = 3


def test_the_device_refuses_what_a_gpu_refuses_and_counts_what_makes_the_host_wait() -> None:
    with far_away() as waits:
        x, here = torch.arange(3.0, device=FAR), torch.arange(3.0)
        with pytest.raises(RuntimeError, match="expected all tensors of add on one device"):
            x + here
        assert isinstance(x + torch.tensor(1.0), Far), "a number may be of the CPU"
        assert waits.places == {}
        assert float(x.sum()) == 3.0
        assert x[x > 0].cpu().tolist() == [1.0, 2.0]
        assert set(waits.places) == {"outside: number read", "outside: size read", "outside: copy"}
        with torch.inference_mode():
            torch.ones(2).to(FAR)
        assert waits.places["outside: copy"] == 2


def run(diffusion: Diffusion, inverter: Inverter) -> list[Tensor]:
    """What an inverter finds of three samples in blocks of two."""
    with torch.inference_mode():
        seeds = diffusion.draw_seeds([Generator().manual_seed(i) for i in range(3)])
        predict = BlockwisePredictor(
            diffusion, diffusion.encode_prompts(PROMPTS), diffusion.encode_prompts([""]), 1.0, 2
        )
        steps = diffusion.schedule.ddim_steps(STEPS)
        latents = inverter.sample(predict, seeds, steps)
        found = inverter(predict, latents, steps)
        again = inverter.regenerate(predict, found, steps)
    assert all(x.device == latents.device for x in vars(found).values() if isinstance(x, Tensor))
    return [x.cpu() for x in (latents, found.seeds, found.residual, found.evaluations, again)]


INVERTERS = {
    "fixed point": (FixedPoint(4), 4 * STEPS),
    "ddim": (DDIMInversion(), 0),
    "renoise": (ReNoise(1, average=(0, 2), lambda_ac=1.0, lambda_kl=0.1), 0),
    "renoise, faithful": (ReNoise(1, faithful=True), 0),
    "belm": (BELM(4), 3 * 4),
    "null text": (NullText(inner_steps=2), 2 * STEPS),
}
"""Inverters, and how often each may wait to know which samples are done, which is what a step can cost and no more."""
LOOPS = ("inverters/", "ops/", "audit/", "predict", "_ask")


@pytest.mark.parametrize("name", INVERTERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_an_inverter_waits_only_to_know_which_samples_are_done(
    name: str, prediction_type: PredictionType, diffusion: Diffusion
) -> None:
    if prediction_type == "v_prediction" and name != "fixed point":
        return  # one tells whether levels are looked up without waiting
    inverter, allowed = INVERTERS[name]
    diffusion.schedule = replace(diffusion.schedule, prediction_type=prediction_type)
    expected = run(diffusion, inverter)
    with far_away() as waits:
        diffusion.to(FAR)
        found = run(diffusion, inverter)
    for ours, theirs in zip(found, expected, strict=True):
        if name == "null text":  # fused attention has a backward pass of its own, which the device has not
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
        else:
            assert torch.equal(ours, theirs)
    waited = waits.of(*LOOPS)
    before = {place: count for place, count in waited.items() if count == 1}  # noise, levels: moved before the steps
    assert sum(waited.values()) - len(before) <= allowed, waited
    assert len(before) <= 2, before


def test_a_likelihood_waits_for_its_result_alone(diffusion: Diffusion) -> None:
    def likelihood() -> Tensor:
        seeds = diffusion.draw_seeds([Generator().manual_seed(i) for i in range(2)])
        predict = BlockwisePredictor(
            diffusion, diffusion.encode_prompts(PROMPTS[:2]), diffusion.encode_prompts([""]), 1.0, 2
        )
        generators = [Generator().manual_seed(i) for i in range(2)]
        return log_likelihood(predict, seeds, diffusion.schedule.ladder(4), generators, 2).log_likelihood

    expected = likelihood()
    with far_away() as waits:
        diffusion.to(FAR)
        found = likelihood()
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
    places = waits.of("ops/likelihood")
    assert sum(places.values()) <= 4, places  # signs there; seeds, determinant, gap back


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("audits", 200, keep=umbrella, limit=2), folder / "concept")
    save_images(pictograms.build("audits", 20, withhold=[umbrella], limit=3), folder / "reference")
    return folder


def audited(module: Audit, data: LightningDataModule, folder: Path, **device: Any) -> dict[str, bytes]:
    """The files of a run folder."""
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(devices=1, logger=False, default_root_dir=folder, **options, **device).predict(module, data)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def concept_audit(tiny: Path, classifier: Path, images: Path, cache: Path) -> tuple[Audit, LightningDataModule]:
    features, distance = WorldFeatures(classifier), WorldDistance(classifier)
    utility = Utility([features], distance=distance, vanilla=Diffusion.from_pretrained(tiny))
    audit = ConceptAudit(
        Diffusion.from_pretrained(tiny),
        FixedPoint(3),
        UMBRELLA,
        judge=WorldJudge(classifier),
        name="run",
        num_inference_steps=3,
        block_size=2,
        keep_images=1,
        probes=[
            Denoising(levels=3),
            Samples(),
            utility,
            Judging(),
            Seed(),
            Typicality(),
            Reach(1),
            Known(),
            Likelihood(),
        ],
    )
    sources = [ImageSource(str(images / name)) for name in ("concept", "reference")]
    return audit, AuditData(*sources, known=1, prompted=1, conditionings=["own@3"])


def image_audit(tiny: Path, classifier: Path, images: Path, cache: Path) -> tuple[Audit, LightningDataModule]:
    options = {"name": "run", "num_inference_steps": 3, "block_size": 2, "keep_images": 1}
    decoder = DecoderInversion(max_passes=6)
    audit = ImageAudit(
        Diffusion.from_pretrained(tiny),
        FixedPoint(3),
        UMBRELLA,
        judge=WorldJudge(classifier),
        decoder=decoder,
        cache=cache,
        **options,
    )
    sources = [ImageSource(str(images / name)) for name in ("concept", "reference")]
    return audit, MemoryData(*sources, queries=1, supports=2)


GRADIENTS = "likelihood"
"""What is computed by attention's backward pass, of which the device has another than the CPU."""
EXPLAINED = {
    "outside: copy": "the model goes to the device and back, once",
    "prompted.py: _apply: copy": "the same",
    "outside: number read": "Lightning's and torchmetrics' own, at the end",
    "inverters/fixed_point.py: _solve: size read": "which samples are done, once an evaluation",
    "inverters/decoder.py: _lbfgs: number read": "torch's line search, in which one picture is all there is",
    "inverters/decoder.py: __call__: copy": "numbers of decoder inversions, to be kept",
    "inverters/base.py: <dictcomp>: copy": "what was found, once a batch",
    "audit/answers.py: _values: copy": "numbers of records, once a batch and probe",
    "audit/concept.py: _ask: copy": "seeds to be kept, once a batch",
    "ops/denoising.py: denoise: copy": "noise there, errors back, once a batch and prompt",
    "probes/samples.py: __call__: number read": "which samples are finite, once a batch",
    "probes/utility.py: __call__: number read": "the same",
    "probes/utility.py: <dictcomp>: copy": "features that are kept, once a batch",
    "judges/measures.py: on: copy": "a network goes to where pictures are, once",
    "probes/typicality.py: __call__: copy": "seeds, once a batch",
    "probes/memories.py: __call__: copy": "seeds and latents, to measure how far they are apart, once a query",
    "probes/reach.py: __call__: copy": "which seeds are finite, once a batch",
    "audit/image.py": "the same, and decoder inversions that are kept in files",
    "data/cache.py: <dictcomp>: copy": "into such a file",
    "worlds/judge.py: look: copy": "what the judge sees, by picture",
    "metrics/functional.py: psnr": "PSNR, by picture",
    "images.py: to_pil: copy": "pictures that are kept",
    "conditioning.py: encode_tokens: copy": "a prompt's tokens, once",
    "diffusion.py: draw_seeds: copy": "seeds, drawn on the CPU, once a batch",
    "autoencoder.py: encode: copy": "noise of the encoder's posterior, drawn on the CPU",
    "ops/fingerprint.py: fingerprint: copy": "the autoencoder's weights, hashed once",
    "ops/likelihood.py: log_likelihood: copy": "signs there, the determinant back, once a block",
    "ops/likelihood.py: _collect: copy": "seeds back, once a block",
    "ops/sphere.py: rotate": "a check of the directions, once a batch",
}
"""Where an audit has the host wait for the device, and for what; none of it is in a loop over steps, but the first."""


@pytest.mark.parametrize(
    "made", [concept_audit, pytest.param(image_audit, marks=pytest.mark.slow)], ids=lambda made: made.__name__
)
def test_an_audit_is_the_same_there(
    made: Callable[..., tuple[Audit, LightningDataModule]],
    tiny: Path,
    tiny_classifier: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    """Run folders are equal to the byte, but for what needs gradients; and records are read off once a batch."""
    expected = audited(*made(tiny, tiny_classifier, images, tmp_path / "a"), tmp_path / "cpu", accelerator="cpu")
    audit, data = made(tiny, tiny_classifier, images, tmp_path / "b")
    with far_away() as waits:
        found = audited(audit, data, tmp_path / "far", strategy=far_strategy())
    assert found.keys() == expected.keys()
    lines = ([unsign(line) for line in run["records.jsonl"].decode().splitlines()] for run in (found, expected))
    for (mine, whole), (theirs, sound) in zip(*lines, strict=True):
        assert whole
        assert sound
        a, b = json.loads(mine), json.loads(theirs)
        (one, other), near = (x.pop("probes") for x in (a, b)), set()
        assert a == b
        for probe in other:
            assert one[probe].keys() == other[probe].keys()
            for name in other[probe]:
                if one[probe][name] != other[probe][name]:
                    near.add(probe)
                    assert one[probe][name] == pytest.approx(other[probe][name], rel=1e-3)
        assert made is image_audit or near <= {GRADIENTS}, "what takes no gradient is the same to the bit"
    unexplained = {place for place in waits.places if not any(known in place for known in EXPLAINED)}
    assert not unexplained, {place: waits.places[place] for place in unexplained}
