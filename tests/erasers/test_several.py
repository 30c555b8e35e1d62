"""Several concepts are erased together where a method can: each under its own words."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Given, attach, fit, normal, pictures, resumed, trainer
from torch import Tensor

from lit_memories.concept import Concept, Part
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import SEVERAL, Eraser
from lit_memories.erasers.erasediff import EraseDiff
from lit_memories.erasers.esd import ESD
from lit_memories.erasers.fmn import FMN
from lit_memories.erasers.gloce import GLoCE
from lit_memories.erasers.mace import MACE
from lit_memories.erasers.rece import RECE
from lit_memories.erasers.salun import SalUn
from lit_memories.erasers.scissorhands import Scissorhands
from lit_memories.erasers.speed import SPEED
from lit_memories.erasers.uce import UCE
from lit_memories.erasure import Erasure

PARTS = [
    Part("umbrella", "object", ["umbrella", "a red umbrella"], ["a blue star", "a gear"], anchor="note"),
    Part("heart", "object", ["heart", "a blue heart", "a heart on red"], ["a blue star"], anchor="clover"),
]
BOTH = Concept("both", "object", parts=PARTS)
TAKERS: dict[type[Eraser], dict[str, Any]] = {
    ESD: {"direction": "phrase", "num_inference_steps": 4},
    UCE: {},
    RECE: {},
    SPEED: {"threshold": 10.0},
    MACE: {"mask_threshold": None, "lr": 1e-2},
    GLoCE: {"whiten": 0.01, "gate_rank": 4, "threshold": 0.1, "similar": None, "num_inference_steps": 4},
    SalUn: {"batch_size": 2},
    EraseDiff: {"batch_size": 2},
    Scissorhands: {"batch_size": 2, "scope": "attn1"},
}


def images() -> Batch:
    named = ["umbrella", "a blue heart", "a red umbrella", "heart", "a heart on red"]
    batch: Batch = {"prompts": BOTH.prompts, "retain": BOTH.retain}
    return {**batch, "forget_set": pictures(named), "retain_set": pictures(BOTH.retain * 2, seed=1)}


@pytest.mark.parametrize("kind", TAKERS, ids=lambda kind: kind.__name__)
def test_several_are_erased_together(kind: type[Eraser], diffusion: Diffusion, tmp_path: Path) -> None:
    """Both prompts' predictions change, and the artefact says of what it is, so that its audit can ask of each."""
    x = normal(1, 4, 16, 16)

    def predicted(model: Diffusion) -> list[Tensor]:
        with torch.no_grad():
            return [model.predict(x, 500, model.encode_prompts([prompt])) for prompt in ("umbrella", "heart")]

    before = predicted(diffusion)
    method = kind(diffusion, BOTH, probe_size=2, **TAKERS[kind])
    fit(method, tmp_path, 4, images())
    assert all(not torch.equal(old, new) for old, new in zip(before, predicted(diffusion), strict=True))
    kept = Erasure.load(tmp_path).provenance.concept
    assert Concept(**kept) == BOTH


def test_errors_name_the_methods_that_take_several(diffusion: Diffusion) -> None:
    assert set(re.findall(r"\w+", SEVERAL)) - {"and"} == {kind.__name__ for kind in TAKERS}
    assert all(kind.several for kind in TAKERS)
    with pytest.raises(ValueError, match=r"^FMN takes one concept, and 'both' is 2: ESD, UCE, .* take several$"):
        FMN(diffusion, BOTH)


def test_a_phrase_is_that_of_its_prompt(diffusion: Diffusion) -> None:
    """A direction for both at once would take each from the other too."""
    method, x = ESD(diffusion, BOTH, direction="phrase", eta=2.0), normal(2, 4, 16, 16)
    together = method.negated(x, 500.0, ["a red umbrella", "a blue heart"])
    for row, (part, prompt) in enumerate(zip(PARTS, ["a red umbrella", "a blue heart"], strict=True)):
        alone = ESD(Diffusion(diffusion.base), part, direction="phrase", eta=2.0)
        torch.testing.assert_close(together[row], alone.negated(x[row : row + 1], 500.0, [prompt])[0])


def test_what_is_edited_of_several_is_what_is_of_each(diffusion: Diffusion) -> None:
    """Vectors and guides are those of the parts, in the prompts' order, up to rounding of other batches."""
    found = UCE(diffusion, BOTH).rows_of([prompt for part in PARTS for prompt in part.prompts])
    each = [UCE(Diffusion(diffusion.base), part).rows_of(part.prompts) for part in PARTS]
    for side, sides in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(side, torch.cat(sides))


def test_an_adapter_learns_at_its_own_concepts_steps(diffusion: Diffusion, tmp_path: Path) -> None:
    method = MACE(diffusion, BOTH, probe_size=2, lr=1e-2, mask_threshold=None)
    before = [[factor.clone() for factor in adapter.parameters()] for adapter in method.adapters]
    trainer(tmp_path, 1).fit(method, datamodule=Given(images()))
    moved = [
        any(not torch.equal(old, new) for old, new in zip(start, adapter.parameters(), strict=True))
        for start, adapter in zip(before, method.adapters, strict=True)
    ]
    assert moved == [True, False]
    assert all(adapter.silent for adapter in method.adapters), "fused, and no longer beside the network"


def test_a_resumed_run_of_several_ends_as_a_whole_one(diffusion: Diffusion, tmp_path: Path) -> None:
    def made() -> MACE:
        return MACE(Diffusion(diffusion.base), BOTH, probe_size=2, lr=1e-2, mask_threshold=None, steps=4)

    whole, half = resumed(made, tmp_path, images())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_images_of_one_of_several_are_missing(diffusion: Diffusion, tmp_path: Path) -> None:
    method = MACE(diffusion, BOTH, mask_threshold=None)
    with pytest.raises(ValueError, match="MACE needs images of heart, and no caption of the forget set names it"):
        attach(method, tmp_path, {**images(), "forget_set": pictures(["umbrella", "a red umbrella"])})


def test_images_must_say_which_of_several_they_show(diffusion: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a picture' names none of umbrella, heart: of several"):
        attach(SalUn(diffusion, BOTH), tmp_path, {**images(), "forget_set": pictures(["umbrella", "a picture"])})
