"""Erasers on the tiny Stable Diffusion 3 and FLUX: their equations, with velocity in noise's place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import changed, fit, normal, probed, snapshot, trainer
from smoke import SMALL, accepted
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.ac import AC
from lit_memories.erasers.advunlearn import AdvUnlearn
from lit_memories.erasers.base import Eraser, draw
from lit_memories.erasers.cost import Cost
from lit_memories.erasers.erasediff import EraseDiff
from lit_memories.erasers.eraseflow import EraseFlow
from lit_memories.erasers.esd import ESD
from lit_memories.erasers.fmn import FMN
from lit_memories.erasers.mace import MACE
from lit_memories.erasers.rece import RECE
from lit_memories.erasers.receler import Receler
from lit_memories.erasers.salun import SalUn
from lit_memories.erasers.scissorhands import Scissorhands
from lit_memories.erasers.spm import SPM
from lit_memories.erasers.teach import Teach
from lit_memories.erasers.uce import UCE
from lit_memories.erasure import Erasure
from lit_memories.ops.adapters import attention_layers
from lit_memories.ops.joint_attention import recorded_joint_attention
from lit_memories.ops.rollout import rollout
from lit_memories.ops.select import select
from lit_memories.prompt_rows import Reader, places

FLOWS = ("sd3", "sd3-without-t5", "flux-dev")
PROMPTS = ["Van Gogh", "a landscape by Van Gogh"]


def loaded(flows: dict[str, Path], name: str) -> Diffusion:
    return Diffusion(str(flows[name]), image_size=32)


def made(cls: type[Eraser], model: Diffusion, concept: Concept, **options: Any) -> Any:
    small = {name: value for name, value in (SMALL | {"batch_size": 2}).items() if name in accepted(cls)}
    return cls(model, concept, **(small | options))


def sets(model: Diffusion, concept: Concept) -> Batch:
    """Random latents, under prompts for the concept, or for its anchor, and under others."""
    return {
        "prompts": concept.prompts,
        "retain": concept.retain,
        "forget_set": Latents(normal(4, *model.latent_shape), concept.prompts[:4]),
        "retain_set": Latents(normal(4, *model.latent_shape, seed=1), concept.retain[:4]),
    }


def reader(model: Diffusion) -> Reader:
    """Of the tokenizer that comes last: T5's, if the model has one."""
    return model.conditioning.readers[-1]


def velocity(model: Diffusion, x: Tensor, s: float, prompts: list[str]) -> Tensor:
    """The network's own output, for latents as it knows them; asked without `Diffusion.predict`."""
    text, added = model.conditioning.split(model.encode_prompts(prompts))
    when = torch.full((len(x),), 1000 * s)
    scaled = x * ((1 - s) ** 2 + s**2) ** 0.5
    return model.denoiser(model.network, scaled, when, text, 1.0, added)


@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
def test_esd_pulls_the_velocity_to_the_negatively_guided_one(
    name: str, flows: dict[str, Path], van_gogh: Concept
) -> None:
    model = loaded(flows, name)
    x = model.draw_seeds([Generator().manual_seed(i) for i in range(2)])
    v, none = velocity(model, x, 0.7, PROMPTS), velocity(model, x, 0.7, ["", ""])
    for eta in (0.0, 1.0, 2.5):
        target = made(ESD, model, van_gogh, eta=eta).probe_target(x, 700.0, PROMPTS)
        torch.testing.assert_close(target, none - eta * (v - none), rtol=1e-4, atol=1e-5)
    phrase = velocity(model, x, 0.7, ["Van Gogh"] * 2)
    target = made(ESD, model, van_gogh, eta=2.0, direction="phrase").probe_target(x, 700.0, PROMPTS)
    torch.testing.assert_close(target, v - 2 * (phrase - none), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FLOWS)
def test_esds_loss_is_that_distance_on_the_way_of_eulers_steps(
    name: str, flows: dict[str, Path], van_gogh: Concept
) -> None:
    """From the same draws: prompts, seeds, and a step of the model's own sampler, with guidance as asked."""
    method = made(ESD, loaded(flows, name), van_gogh, train="attn", num_inference_steps=4, start_guidance=3.5)
    model, generator = method.diffusion, method.generator()
    prompts = draw(van_gogh.prompts, 2, generator)
    seeds = torch.randn(2, *model.latent_shape, generator=generator)
    k = int(torch.randint(4, (1,), generator=generator))
    steps = model.schedule.ddim_steps(4)
    with torch.no_grad():
        for parameter in method.selected.values():
            parameter.add_(0.05 * normal(*parameter.shape))
        other = loaded(flows, name)
        x = rollout(other.predict_fn(other.encode_prompts(prompts), 3.5), seeds, steps[:k])
        s = steps[k].timestep / 1000
        none, v = velocity(other, x, s, ["", ""]), velocity(other, x, s, prompts)
        expected = (velocity(model, x, s, prompts) - (none - (v - none))).square().mean()
    found = method.erase_loss({"prompts": van_gogh.prompts, "retain": van_gogh.retain})
    torch.testing.assert_close(found.detach(), expected, rtol=1e-3, atol=1e-6)
    found.backward()
    assert all(parameter.grad is not None for name, parameter in method.selected.items() if "to_add_out" not in name)


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_esds_prediction_goes_to_its_target(
    name: str, flows: dict[str, Path], van_gogh: Concept, tmp_path: Path
) -> None:
    method = made(ESD, loaded(flows, name), van_gogh, train="full", lr=1e-3, batch_size=4)
    first, last = probed(method, tmp_path, 40)
    assert (first["val/erase_ratio"], first["val/retain_drift"]) == (1, 0)
    assert last["val/erase_ratio"] < 0.8


def test_codes_levels_of_2023_are_refused(flows: dict[str, Path], van_gogh: Concept) -> None:
    with pytest.raises(ValueError, match=r"faithful is ESD's code of 2023 with DDIM's levels, and .* is a flow"):
        made(ESD, loaded(flows, "sd3"), van_gogh, faithful=True)


def test_guidance_that_a_model_was_not_taught_is_refused(flows: dict[str, Path], van_gogh: Concept) -> None:
    with pytest.raises(ValueError, match=r"start_guidance must be 1 for .*, got 3: it was distilled to few steps"):
        made(ESD, loaded(flows, "flux-schnell"), van_gogh)
    made(ESD, loaded(flows, "flux-schnell"), van_gogh, start_guidance=1.0)


GRADIENT: dict[type[Eraser], dict[str, Any]] = {
    ESD: {"train": "attn2"},
    AC: {"train": "attn2-kv"},
    SalUn: {"train": "attn", "mask_guidance": 3.0},
    EraseDiff: {"train": "full"},
    Scissorhands: {"train": "full", "scope": "attn1", "trim_ratio": 0.01},
    FMN: {"train": "attn"},
}
METHODS = pytest.mark.parametrize(("cls", "options"), GRADIENT.items(), ids=[cls.__name__ for cls in GRADIENT])


@METHODS
@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_methods_change_what_they_select(
    cls: type[Eraser], options: dict[str, Any], name: str, flows: dict[str, Path], van_gogh: Concept, tmp_path: Path
) -> None:
    """By the flow's own loss; the erasure, saved and loaded, is the model that was trained."""
    model = loaded(flows, name)
    before, method = snapshot(model), made(cls, model, van_gogh, lr=1e-2, **options)
    batch = sets(model, van_gogh)
    if cls is AC:
        batch["forget_set"] = Latents(batch["forget_set"].latents, van_gogh.anchors[:4])
    fit(method, tmp_path, 2, batch)
    differs = changed(before, model)
    assert differs
    assert differs <= set(method.selected)
    again = Diffusion(str(flows[name]), erasure=tmp_path, image_size=32)
    assert not changed(snapshot(model), again)
    assert Erasure.load(tmp_path).provenance.prediction_type == "flow_prediction"


def test_the_diffusion_loss_is_flow_matchings(flows: dict[str, Path], van_gogh: Concept) -> None:
    """Velocity against noise less picture, at levels drawn as Stable Diffusion 3 draws them."""
    method = made(EraseDiff, loaded(flows, "sd3"), van_gogh)
    latents = normal(2, *method.diffusion.latent_shape)
    with torch.no_grad():
        found = method.diffusion_loss(latents, PROMPTS, Generator().manual_seed(3))
        generator = Generator().manual_seed(3)
        s = torch.randn(2, generator=generator).sigmoid()
        s = (3 * s / (1 + 2 * s)).view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        text, added = method.diffusion.conditioning.split(method.diffusion.encode_prompts(PROMPTS))
        mixed = (1 - s) * latents + s * noise
        v = method.diffusion.network(mixed, text, timestep=1000 * s.flatten(), **added).sample
    torch.testing.assert_close(found, (v - (noise - latents)).square().mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FLOWS)
def test_fmn_turns_the_picture_away_from_the_concepts_rows(
    name: str, flows: dict[str, Path], van_gogh: Concept
) -> None:
    """Its loss is the norm over all layers; the rows are those of every tokenizer."""
    model = loaded(flows, name)
    method = made(FMN, model, van_gogh, train="attn")
    (row,) = method.marks(["a landscape by Van Gogh"])
    before, after = (len(reader(model).words(text)) for text in ("a landscape by", "a landscape by Van Gogh"))
    clip, t5 = [4, 5], list(range(before, after))  # behind a marker, and from the first row on
    windows = {"sd3": clip + [24 + i for i in t5], "sd3-without-t5": clip, "flux-dev": t5}
    assert row.nonzero().flatten().tolist() == windows[name]
    batch = sets(model, van_gogh)
    latents, captions = method.rows(batch["forget_set"], 2)
    noisy, timesteps, _ = method.noised(latents, method.generator())
    with torch.no_grad(), recorded_joint_attention(model.network) as layers:
        method.predict(noisy, timesteps, captions)
    marks = method.marks(captions)
    expected = sum((layer[n, :, :, marks[n] > 0] ** 2).sum() for layer in layers for n in range(2)) ** 0.5
    torch.testing.assert_close(method.erase_loss(batch).detach(), expected)


# UCE, of text that enters in two ways.


@torch.no_grad()
def rows(model: Diffusion, prompt: str, words: str) -> tuple[list[Tensor], Tensor]:
    """By hand: the vector of the last of some words for each tokenizer, and the pooled embedding."""
    text, added = model.conditioning.split(model.encode_prompts([prompt]))
    chosen = []
    for one in model.conditioning.readers:
        held = places([one], prompt, words)
        chosen.append(text[0, held[-1] if held else one.first].double())
    return chosen, added["pooled_projections"][0].double()


@pytest.mark.parametrize("name", [*FLOWS, "flux-schnell"])
def test_uce_is_the_papers_solution_for_both_ways(
    name: str, flows: dict[str, Path], van_gogh: Concept, tmp_path: Path
) -> None:
    """Equation 3 in float64 with explicit sums and an inverse; nothing else changes."""
    concept = Concept("van_gogh", "style", PROMPTS, ["a vase", "a town"], phrase="Van Gogh", anchor="an artist")
    model = loaded(flows, name)
    before, method = snapshot(model), made(UCE, model, concept, lamb=0.3, erase_scale=2.0, preserve_scale=0.7)
    vectors = [rows(model, prompt, "Van Gogh") for prompt in PROMPTS]
    guides = [rows(model, concept.anchored(prompt), "an artist") for prompt in PROMPTS]
    kept = [rows(model, prompt, prompt.split()[-1]) for prompt in concept.retain]
    fit(method, tmp_path, -1, max_epochs=1)
    assert set(method.selected) == set(select(model, "embedders"))
    for key, pooled in (("context_embedder.weight", False), ("time_text_embed.text_embedder.linear_1.weight", True)):

        def flat(found: list[tuple[list[Tensor], Tensor]], pooled: bool = pooled) -> list[Tensor]:
            return [x for texts, pool in found for x in ([pool] if pooled else texts)]

        old = before[f"transformer.{key}"].double()
        left, right = 0.3 * old, 0.3 * torch.eye(old.shape[1], dtype=torch.float64)
        for c, g in zip(flat(vectors), flat(guides), strict=True):
            left, right = left + 2 * torch.outer(old @ g, c), right + 2 * torch.outer(c, c)
        for c in flat(kept):
            left, right = left + 0.7 * torch.outer(old @ c, c), right + 0.7 * torch.outer(c, c)
        found = model.state_dict()[f"transformer.{key}"]
        torch.testing.assert_close(found, (left @ torch.linalg.inv(right)).float(), rtol=1e-3, atol=1e-5)
    after = model.state_dict()
    assert {key for key, tensor in before.items() if not torch.equal(tensor, after[key])} == set(method.selected)


def test_advunlearn_is_refused(flows: dict[str, Path], van_gogh: Concept) -> None:
    for name in ("sd3", "flux-dev"):
        with pytest.raises(ValueError, match="for a model with one text encoder, this one has two or more"):
            made(AdvUnlearn, loaded(flows, name), van_gogh)


def test_rece_says_what_to_use(flows: dict[str, Path], van_gogh: Concept) -> None:
    with pytest.raises(
        ValueError, match=r"RECE attacks what cross-attention reads, and .* has a transformer: UCE edits"
    ):
        made(RECE, loaded(flows, "sd3"), van_gogh)


REFUSALS = {
    MACE: "MACE edits what cross-attention reads, and .* has a transformer: UCE edits",
    Receler: "Receler's erasers stand behind cross-attention, and .* has a transformer: of the methods",
    EraseFlow: "EraseFlow follows DDIM of a U-Net, and .* has a transformer: of the methods",
}


@pytest.mark.parametrize("cls", REFUSALS, ids=lambda cls: cls.__name__)
def test_methods_of_a_u_net_say_what_to_use(cls: type[Eraser], flows: dict[str, Path], van_gogh: Concept) -> None:
    for name in ("sd3", "flux-dev"):
        model = loaded(flows, name)
        with pytest.raises(ValueError, match=REFUSALS[cls]):
            made(cls, model, van_gogh)
        assert not any(module._forward_hooks for module in model.network.modules()), "nothing was hooked onto it"


# Adapters beside the blocks.


@torch.no_grad()
def predicted(model: Diffusion, prompt: str) -> Tensor:
    return model.predict(model.draw_seeds([Generator().manual_seed(0)]), 700.0, model.encode_prompts([prompt]))


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_spm_is_gated_merged_and_exported(name: str, flows: dict[str, Path], van_gogh: Concept, tmp_path: Path) -> None:
    model = loaded(flows, name)
    before, method = snapshot(model), made(SPM, model, van_gogh, lr=1e-1, anchor_weight=1.0, warmup_steps=0)
    assert len(method.selected) == 2 * len(attention_layers(model.network))
    fit(method, tmp_path, 3)
    assert not changed(before, model), "it acts from beside"
    base = loaded(flows, name)
    gated = Diffusion(str(flows[name]), erasure=tmp_path, image_size=32)
    whole = Diffusion(str(flows[name]), erasure=tmp_path, gated=False, image_size=32)
    other = van_gogh.retain[1]
    torch.testing.assert_close(predicted(gated, "Van Gogh"), predicted(whole, "Van Gogh"), rtol=1e-3, atol=1e-4)
    moved = [(predicted(m, other) - predicted(base, other)).norm() for m in (gated, whole)]
    assert moved[0] < moved[1]
    names = {f"transformer.{layer}.weight" for layer in attention_layers(base.network)}
    assert changed(snapshot(base), whole) <= names
    whole.pipeline().save_pretrained(tmp_path / "exported")
    exported = Diffusion(str(tmp_path / "exported"), image_size=32)
    torch.testing.assert_close(predicted(exported, "Van Gogh"), predicted(whole, "Van Gogh"))
    assert not torch.allclose(predicted(whole, "Van Gogh"), predicted(base, "Van Gogh")), "the control"


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_a_ladder_is_taught_by_factors(name: str, flows: dict[str, Path], van_gogh: Concept, tmp_path: Path) -> None:
    """The factors of all blocks learn, and with nothing learnt the model is the base."""
    model = loaded(flows, name)
    batch, method = sets(model, van_gogh), made(Teach, model, van_gogh, pictures=2, rank=2, lr=1e-2)
    fit(method, tmp_path, 2, batch)
    ups = [factor for key, factor in method.selected.items() if key.endswith("lora_up")]
    assert len(ups) == len(attention_layers(model.network))
    assert sum(bool(factor.any()) for factor in ups) > len(ups) / 2
    with method.teacher():
        assert torch.equal(predicted(model, "Van Gogh"), predicted(loaded(flows, name), "Van Gogh"))


def test_what_it_cost_is_counted_however_the_network_is_called(
    flows: dict[str, Path], van_gogh: Concept, tmp_path: Path
) -> None:
    """FLUX's takes keywords alone; without guidance both are asked equally often."""
    for name in ("sd3", "flux-dev"):
        method = made(ESD, loaded(flows, name), van_gogh, start_guidance=1.0)
        trainer(tmp_path / name, 2, Cost()).fit(method)
    one, other = (json.loads((tmp_path / name / "cost.json").read_text()) for name in ("sd3", "flux-dev"))
    assert one["evaluations"] == other["evaluations"] > 0
