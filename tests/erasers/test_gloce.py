"""GLoCE: gates and maps restated from recorded outputs, several concepts, the artefact, and bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import UMBRELLA, changed, snapshot
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.gloce import GLoCE, pooled
from lit_memories.erasure import Erasure
from lit_memories.ops.gated import METRIC, recorded_outputs
from lit_memories.ops.generators import seeded
from lit_memories.ops.rollout import rollout

SMALL: dict[str, Any] = {
    "update_rank": 3, "degen_rank": 2, "gate_rank": 2, "threshold": 0.5, "similar": None, "images": 2,
    "num_inference_steps": 4, "start": 0.25, "stop": 0.75, "start_guidance": 2.0, "probe_size": 2,
}  # fmt: skip


def made(diffusion: Diffusion, concept: Concept = UMBRELLA, **options: Any) -> GLoCE:
    return GLoCE(diffusion, concept, **(SMALL | options))


def solved(method: GLoCE) -> GLoCE:
    """As after its one step."""
    method.training_step({"prompts": method.concept.prompts, "retain": method.concept.retain}, 0)
    return method


@torch.no_grad()
def outputs(diffusion: Diffusion, prompts: list[str]) -> dict[str, list[Tensor]]:
    """Of each layer, for each prompt, image and step 1 and 2, one sample at a time: (places, width)."""
    found: dict[str, list[Tensor]] = {}
    steps = diffusion.schedule.ddim_steps(4)
    for prompt in prompts:
        embeds = diffusion.encode_prompts([prompt])
        for image in range(2):
            seed = diffusion.draw_seeds([seeded(f"0/{image}")])
            for number in (1, 2):
                latents = rollout(diffusion.predict_fn(embeds, 2.0), seed, steps[:number])
                with recorded_outputs(diffusion.network) as given:
                    diffusion.predict(latents, steps[number].timestep, embeds)
                for name, output in given.items():
                    found.setdefault(name, []).append(output[0].double())
    return found


@pytest.mark.parametrize("whiten", [None, 0.1])
def test_gates_and_maps_are_the_papers(whiten: float | None, diffusion: Diffusion) -> None:
    """By covariances of stacked outputs and singular vectors, projectors compared as their bases may be turned."""
    method = made(diffusion, whiten=whiten)
    mine, anchor, kept = (
        outputs(diffusion, prompts)
        for prompts in (
            UMBRELLA.prompts, list(dict.fromkeys(UMBRELLA.anchored(p) for p in UMBRELLA.prompts)), UMBRELLA.retain
        )
    )  # fmt: skip
    before = snapshot(diffusion.network)
    solved(method)
    for name in mine:
        y, a, r = (torch.cat(x[name]) for x in (mine, anchor, kept))
        found = {
            part.removeprefix(f"unet.{name}."): tensor[0].detach().double()
            for part, tensor in method.selected.items()
            if part.startswith(f"unet.{name}.")
        }
        close = {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(found["away.mean"], y.mean(0), **close)
        torch.testing.assert_close(found["to.mean"], a.mean(0), **close)
        torch.testing.assert_close(found["gate.mean"], r.mean(0), **close)
        v, u = (torch.linalg.svd(x.T.cov(correction=0)).Vh[:rank] for x, rank in ((y, 3), (a, 2)))
        torch.testing.assert_close(
            found["to.up"] @ found["away.down"], u.T @ u @ (torch.eye(len(v.T)).double() - v.T @ v), **close
        )
        metric = found.get(METRIC, torch.eye(len(v.T)).double())
        away = (y - r.mean(0)) @ metric
        basis = torch.linalg.svd(away.T @ away / len(away)).Vh[:2]
        torch.testing.assert_close(found["gate.basis"] @ found["gate.basis"].T, basis.T @ basis, rtol=1e-2, atol=1e-3)
        peaks = []
        for one in kept[name]:
            apart = (one - r.mean(0)) @ metric
            peaks.append(max(float(((basis @ x) ** 2).sum() / (x @ x)) for x in apart))
        centre = torch.tensor(peaks).mean() + 0.5 * torch.tensor(peaks).std()
        assert found["gate.centre"].item() == pytest.approx(centre.item(), rel=1e-2)
        assert found["gate.below"].item() == 750
        assert [step.timestep < 750 for step in diffusion.schedule.ddim_steps(4)] == [False, True, True, True]
    assert (METRIC in found) == (whiten is not None)
    assert not changed(before, diffusion.network), "no weight is touched"


def test_the_nearest_prompts_set_the_gate(diffusion: Diffusion) -> None:
    method = made(diffusion, similar=1)
    retain = ["a blue star", "a red gear", "a red umbrellas"]
    embeds = diffusion.encode_prompts(["a red umbrella", *retain])
    cosines = torch.cosine_similarity(embeds[:1], embeds[1:], dim=-1).mean(1)
    assert method.nearest(["a red umbrella"], retain) == [retain[int(cosines.argmax())]]
    assert made(diffusion, similar=None).nearest(["umbrella"], retain) != []


def test_as_released_statistics_hold_means_over_squares() -> None:
    given = torch.arange(32.0).view(1, 16, 2)
    whole, two, four = pooled(given)
    assert torch.equal(whole, given)
    torch.testing.assert_close(two[0, 0], given[0, [0, 1, 4, 5]].mean(0))
    torch.testing.assert_close(four[0], given[0].mean(0, keepdim=True))


def test_several_concepts_have_gates_of_their_own(diffusion: Diffusion) -> None:
    parts = [
        Concept(name, "object", [name, f"a red {name}"], ["a blue star", "a green heart"], phrase=name, anchor="star")
        for name in ("umbrella", "gear")
    ]
    method = solved(made(diffusion, Concept("both", "object", parts=parts)))
    for number, one in enumerate(parts):
        alone = solved(made(Diffusion.from_pretrained(diffusion.base), one))
        for name, tensor in alone.selected.items():
            torch.testing.assert_close(method.selected[name][number], tensor[0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_artefact_acts_beside_the_network_and_stays_there(diffusion: Diffusion, tmp_path: Path) -> None:
    method = solved(made(diffusion))
    for name, tensor in method.selected.items():
        if name.endswith("gate.centre"):
            tensor.fill_(-1.0)  # open everywhere
    method.trainer = None
    method.erasure().save(tmp_path)
    loaded, plain = Diffusion(diffusion.base, tmp_path), Diffusion(diffusion.base)
    x = plain.draw_seeds([torch.Generator().manual_seed(i) for i in range(4)])
    timestep = plain.schedule.ddim_steps(4)[2].timestep
    embeds = [model.encode_prompts(["umbrella"] * 4) for model in (plain, loaded, diffusion)]
    before, after, trained = (
        m.predict(x, timestep, e) for m, e in zip((plain, loaded, diffusion), embeds, strict=True)
    )
    assert torch.equal(after, trained)
    assert not torch.equal(after, before)
    early = plain.schedule.ddim_steps(4)[0].timestep
    assert torch.equal(loaded.predict(x, early, embeds[1]), plain.predict(x, early, embeds[0])), "left alone at first"
    assert Erasure.load(tmp_path).is_adapter
    with pytest.raises(ValueError, match=r"GLoCE's erasure stays beside the network: .*cannot be worked into weights"):
        Diffusion(diffusion.base, tmp_path, gated=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"update_rank": 0}, r"update_rank \(0\)"), ({"eta": 0.0}, r"eta \(0.0\)"), ({"images": 0}, r"images \(0\)"),
     ({"start": 0.75}, r"start \(0.75\) and stop \(0.75\)"),
     ({"stop": 9.0}, r"stop \(9.0\)"), ({"whiten": 0.0}, r"whiten \(0.0\)"),
     ({"similar": 0}, r"similar \(0\)")],
)  # fmt: skip
def test_impossible_options_of_gloce_are_refused(options: dict[str, Any], message: str, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=message):
        made(diffusion, **options)


def test_a_concept_that_retains_nothing_is_refused(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="GLoCE's gate is set by what concept 'umbrella' retains, which is nothing"):
        made(diffusion, Concept("umbrella", "object", ["umbrella"], anchor="star"))
