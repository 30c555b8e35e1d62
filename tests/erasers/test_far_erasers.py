"""Every method trains on a device that is not the CPU: nothing mixes the two, and it comes to the same."""

from pathlib import Path

import pytest
import torch
from far import far_away, far_strategy
from lightning import LightningDataModule, Trainer
from smoke import ROOT, is_closed_form, method, small
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import ErasureData
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser

RECIPES = sorted((ROOT / "recipes/pictograms/erase").glob("*.yaml"))
UMBRELLA = Concept("umbrella", "object", ["umbrella", "a red umbrella"], ["a blue star", "a red gear"], anchor="star")

EXPLAINED = {
    "outside": "the model goes there and back; Lightning keeps what is logged",
    "prompted.py: _apply: copy": "the model",
    "ops/simplex.py: gumbel_shares: copy": "noise of a search, drawn on the CPU",
    "erasers/age.py: erase_loss: copy": "two losses that are logged",
    "erasers/eap.py: erase_loss: copy": "the same",
    "data/erasure.py: _on: copy": "the model, to draw images",
    "conditioning.py: encode_tokens: copy": "a prompt's tokens",
    "prompted.py: tokenize: copy": "the same, where a method looks at them",
    "prompted.py: words: number read": "which are read on the host",
    "diffusion.py: draw_seeds: copy": "noise, drawn on the CPU so that it is the same anywhere",
    "data/erasure.py: <listcomp>: copy": "drawn images, to be kept",
    "ops/everywhere.py: on: copy": "noise levels, once",
    "erasers/rollout.py: stopped: copy": "noise, drawn on the CPU",
    "erasers/salun.py: _mask_losses: copy": "images to find the mask by",
    "ops/schedule.py: noised: copy": "noise and timesteps, drawn on the CPU so that they are the same anywhere",
    "erasers/base.py: rows: copy": "this step's images",
    "erasers/base.py: _swap: copy": "the original weights, at the first use of the teacher",
    "erasers/base.py: training_step: copy": "what is logged",
    "erasers/base.py: validation_step: copy": "what is logged",
    "erasers/two_loss.py: training_step: copy": "what is logged",
    "erasers/erasediff.py: merge: copy": "what is logged",
    "erasers/scissorhands.py": "images to trim by",
    "erasers/spm.py": "noise, and what is logged",
    "erasers/advunlearn.py": "noise, words to begin the attack with, and what is logged",
    "erasers/eraseflow.py": "noise of paths and which steps, drawn on the CPU, and what is logged",
    "prompted.py: marks: copy": "where words stand, read on the host",
    "erasers/mace.py": "this step's images, timesteps and noise, drawn on the CPU",
    "erasers/receler.py": "where words go, read on the host, and what is logged",
    "ops/masks.py: attention_mask: number read": "whether every prompt has a token to look for",
    "erasers/fmn.py": "what is logged",
    "on_train_end": "whether the loss is a number",
    "check_losses": "the same; besides at the end at each of `LOOK_EVERY` steps",
    "erasers/result.py: check_result": "what training came to, when it is over",
    "erasers/ant.py": "which steps, drawn on the CPU",
    "erasers/max_min.py": "candidates and the draws among them",
    "ops/clusters.py": "whether clusters have settled, once",
    "erasers/stereo.py": "words that are searched for, once, and which is drawn",
    "words.py": "tokens, read on the host",
    "ops/attack.py": "the word that is learnt",
    "erasers/speed.py": "how many vectors each matrix retains, and their noise, drawn on the CPU",
    "ops/null_space.py": "how many directions are left, once a matrix",
    "erasers/gloce.py": "which prompts are similar, once, and the numbers of a gate",
    "ops/gated.py": "timesteps, once a layer",
    "erasers/closed_form.py: _vectors: number read": "tokens, read on the host",
}
"""Where training has the host wait for the device, and for what."""


def trained(eraser: Eraser, folder: Path, **device: object) -> dict[str, Tensor]:
    """What a method made of the tensors it may change, in two steps, with its probe before and after."""
    data: LightningDataModule | None = None
    if eraser.forget_images or eraser.retain_images:
        data = ErasureData(count=2, num_inference_steps=2, cache=folder / "cache")
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(devices=1, max_steps=2, logger=False, default_root_dir=folder, **options, **device).fit(eraser, data)
    return {name: tensor.detach().clone() for name, tensor in eraser.selected.items()}


QUICK = {"esd", "salun", "uce"}
"""One that follows a rollout, one that learns from images, one in closed form; the others are tried in `.ci/run`."""


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=() if r.stem in QUICK else pytest.mark.slow, id=r.stem) for r in RECIPES],
)
def test_a_method_trains_there_as_here(recipe: Path, tiny: Path, tmp_path: Path) -> None:
    def build() -> Eraser:
        options = small(recipe, scope="attn1", mask_stride=2) | ({} if is_closed_form(recipe) else {"steps": 2})
        return method(recipe)(Diffusion.from_pretrained(tiny), UMBRELLA, **options)

    expected, eraser = trained(build(), tmp_path / "cpu", accelerator="cpu"), build()
    before = _whole({name: tensor.detach().clone() for name, tensor in eraser.selected.items()})
    with far_away() as waits:
        found = trained(eraser, tmp_path / "far", strategy=far_strategy())
    moved, error = _whole(expected) - before, _whole(found) - _whole(expected)
    assert error.norm() < 0.02 * moved.norm(), "Adam makes steps of the rounding of gradients that are zero"
    unexplained = {place for place in waits.places if not any(known in place for known in EXPLAINED)}
    assert not unexplained, {place: waits.places[place] for place in unexplained}
    steps = {place: count for place, count in waits.of("erasers/").items() if "_swap" not in place}
    assert sum(steps.values()) <= 30 * 2, f"in two steps and two probes: {steps}"


def _whole(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
