"""UCE and RECE: one step without training, checked against the papers' formulas a matrix at a time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, changed, fit, noisy, snapshot, trainer
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.closed_form import ClosedFormEraser
from lit_memories.erasers.rece import RECE
from lit_memories.erasers.uce import UCE
from lit_memories.erasure import Erasure
from lit_memories.ops.ridge import edit_map
from lit_memories.ops.select import select

METHODS = pytest.mark.parametrize("cls", [UCE, RECE])


def made(cls: type[ClosedFormEraser], diffusion: Diffusion, concept: Concept = UMBRELLA, **options: Any) -> Any:
    return cls(diffusion, concept, **({"probe_size": 2} | options))


@torch.no_grad()
def embeds(diffusion: Diffusion, *prompts: str) -> Tensor:
    return diffusion.encode_prompts(prompts)


def parts(method: ClosedFormEraser) -> tuple[Tensor, Tensor, Tensor]:
    """Concepts, guides and preserved vectors in double precision."""
    with torch.no_grad():
        concepts, guides = method.rows_of(PROMPTS["prompts"])
        return concepts.double(), guides.double(), method.preserved(method.concept.retain).double()


@METHODS
def test_only_keys_and_values_change_and_all_of_them_do(
    cls: type[ClosedFormEraser], diffusion: Diffusion, tmp_path: Path
) -> None:
    before, method = snapshot(diffusion), made(cls, diffusion)
    run = fit(method, tmp_path, -1, max_epochs=1)
    assert run.global_step == 1
    names = set(select(diffusion, "attn2-kv"))
    assert len(names) == 8
    assert changed(before, diffusion) == names
    erasure = Erasure.load(tmp_path)
    assert set(erasure.tensors) == names
    assert erasure.provenance.steps == 1
    again = Diffusion.from_pretrained(diffusion.base, erasure=tmp_path)
    assert not changed(snapshot(diffusion), again)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": "following", "preserve_tokens": "all", "lamb": 0.1},
        {"tokens": "all", "erase_scale": 2.0, "preserve_scale": 0.3},
    ],
)
def test_every_matrix_is_the_papers_solution(options: dict[str, Any], diffusion: Diffusion, tmp_path: Path) -> None:
    """Equation 3's closed form with an explicit inverse for each matrix."""
    method = made(UCE, diffusion, **options)
    concepts, guides, preserved = parts(method)
    lamb, erase, keep = method.lamb, method.erase_scale, method.preserve_scale
    before = {name: parameter.detach().double().clone() for name, parameter in method.selected.items()}
    fit(method, tmp_path)
    right = lamb * torch.eye(32).double() + erase * concepts.T @ concepts + keep * preserved.T @ preserved
    for name, original in before.items():
        left = lamb * original + erase * original @ guides.T @ concepts + keep * original @ preserved.T @ preserved
        expected = (left @ torch.linalg.inv(right)).float()
        torch.testing.assert_close(method.selected[name].detach(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_edited_unet_is_the_vanilla_one_on_mapped_embeddings(diffusion: Diffusion, tmp_path: Path) -> None:
    """And on embeddings mapped back it is the vanilla one on plain embeddings: nothing is gone."""
    vanilla, method = Diffusion.from_pretrained(diffusion.base), made(UCE, diffusion)
    edit = edit_map(*parts(method), method.lamb, method.erase_scale, method.preserve_scale)
    fit(method, tmp_path)
    x, c = noisy(diffusion, 3), embeds(diffusion, "umbrella", "a blue star", "").double()
    edited = diffusion.predict_noise(x, 700, c.float())
    torch.testing.assert_close(edited, vanilla.predict_noise(x, 700, (c @ edit.T).float()), rtol=0, atol=1e-5)
    assert not torch.allclose(edited[0], vanilla.predict_noise(x, 700, c.float())[0], atol=1e-4), "the control"
    back = (c @ torch.linalg.inv(edit).T).float()
    restored = diffusion.predict_noise(x, 700, back)
    torch.testing.assert_close(restored, vanilla.predict_noise(x, 700, c.float()), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_concepts_keys_become_the_guides_and_preserved_ones_stay(diffusion: Diffusion, tmp_path: Path) -> None:
    method, free = made(UCE, diffusion), made(UCE, Diffusion.from_pretrained(diffusion.base), preserve_scale=0.0)
    concepts, guides, preserved = (part.float() for part in parts(method))
    before = {name: parameter.detach().clone() for name, parameter in method.selected.items()}
    fit(method, tmp_path / "preserving")
    fit(free, tmp_path / "not")
    for name, original in before.items():
        kept, unkept = method.selected[name], free.selected[name]
        distance = (concepts @ original.T - guides @ original.T).norm()
        assert (concepts @ unkept.T - guides @ original.T).norm() < 0.1 * distance
        drift, more = ((preserved @ (w - original).T).norm() for w in (kept, unkept))
        assert drift < 0.3 * more


@pytest.mark.parametrize(("cls", "rounds"), [(UCE, None), (RECE, 0)])
def test_without_rounds_rece_is_uce(cls: type[ClosedFormEraser], rounds: int | None, diffusion: Diffusion) -> None:
    method = made(cls, diffusion, **({} if rounds is None else {"rounds": rounds}))
    concepts, guides, preserved = parts(method)
    assert torch.equal(method.solve(concepts, guides, preserved), edit_map(concepts, guides, preserved))


@pytest.mark.parametrize(("rounds", "tokens"), [(1, {}), (2, {}), (2, {"tokens": "following", "round_tokens": "all"})])
def test_a_round_of_rece_edits_the_embedding_that_brings_the_concept_back(
    rounds: int, tokens: dict[str, Any], diffusion: Diffusion
) -> None:
    """Equations 7 and 8 with explicit inverses, a matrix at a time; officially rounds edit other tokens than UCE."""
    options = {"adversary_lamb": 0.01, "round_lamb": 0.2, "round_preserve_scale": 0.3} | tokens
    method = made(RECE, diffusion, rounds=rounds, **options)
    concepts, guides, preserved = parts(method)
    with torch.no_grad():
        again, again_guides = (x.double() for x in method.rows_of(PROMPTS["prompts"], method.round_tokens))
    assert (len(again) > len(concepts)) == bool(tokens)
    identity = torch.eye(32).double()
    original = [parameter.detach().double() for parameter in method.selected.values()]

    def edited(old: list[Tensor], c: Tensor, g: Tensor, lamb: float, keep: float) -> list[Tensor]:
        right = torch.linalg.inv(lamb * identity + c.T @ c + keep * preserved.T @ preserved)
        return [(lamb * w + w @ g.T @ c + keep * w @ preserved.T @ preserved) @ right for w in old]

    now = edited(original, concepts, guides, 0.5, 1.0)
    for _ in range(rounds):
        gram = 0.01 * identity + sum(w.T @ w for w in now)
        found = again @ (torch.linalg.inv(gram) @ sum(w.T @ o for w, o in zip(now, original, strict=True))).T
        now = edited(now, found, again_guides, 0.2, 0.3)
    with torch.no_grad():
        edit = method.edit({**PROMPTS, "retain": method.concept.retain})
    for old, new in zip(original, now, strict=True):
        torch.testing.assert_close(old @ edit, new, rtol=1e-6, atol=1e-8)


def test_rounds_make_the_way_back_harder(diffusion: Diffusion) -> None:
    """The embedding that undoes UCE does not undo RECE."""
    method = made(RECE, diffusion, adversary_lamb=1e-4)
    concepts, guides, preserved = parts(method)
    weight = torch.cat([parameter.detach().double() for parameter in method.selected.values()])
    uce, rece = edit_map(concepts, guides, preserved), method.solve(concepts, guides, preserved)
    back = concepts @ torch.linalg.inv(uce).T
    wanted = concepts @ weight.T
    assert (back @ (weight @ uce).T - wanted).norm() < 1e-6 * wanted.norm()
    assert (back @ (weight @ rece).T - wanted).norm() > 0.1 * (guides @ weight.T - wanted).norm()


def test_the_last_token_is_that_of_the_concepts_name(diffusion: Diffusion) -> None:
    """Token 0 is the marker; in "a red umbrella on a blue background" the name is token 3."""
    prompts = ["umbrella", "a red umbrella on a blue background"]
    concepts, guides = made(UCE, diffusion).rows_of(prompts)
    full, guided = embeds(diffusion, *prompts), embeds(diffusion, "star", "a red star on a blue background")
    torch.testing.assert_close(concepts, torch.stack([full[0, 1], full[1, 3]]))
    torch.testing.assert_close(guides, torch.stack([guided[0, 1], guided[1, 3]]))


@pytest.mark.parametrize(("tokens", "first"), [("following", 3), ("all", 0)])
def test_more_tokens_are_aligned_with_the_guides(tokens: str, first: int, diffusion: Diffusion) -> None:
    concepts, guides = made(UCE, diffusion, tokens=tokens).rows_of(["a red umbrella"])
    torch.testing.assert_close(concepts, embeds(diffusion, "a red umbrella")[0, first:])
    torch.testing.assert_close(guides, embeds(diffusion, "a red star")[0, first:])


def test_names_and_guides_of_several_words_are_aligned_from_their_last(diffusion: Diffusion) -> None:
    """What follows is cut to the shorter of the two."""
    concept = replace(UMBRELLA, phrase="red umbrella", anchor="blue star on a background")
    concepts, guides = made(UCE, diffusion, concept).rows_of(["a red umbrella"])
    torch.testing.assert_close(concepts, embeds(diffusion, "a red umbrella")[0, 3:4])
    torch.testing.assert_close(guides, embeds(diffusion, "a blue star on a background")[0, 6:7])
    concepts, guides = made(UCE, diffusion, concept, tokens="following").rows_of(["a red umbrella"])
    assert len(concepts) == len(guides) == 16 - 6
    torch.testing.assert_close(concepts, embeds(diffusion, "a red umbrella")[0, 3:13])


def test_an_empty_guide_is_the_rest_of_the_prompt_or_the_first_marker(diffusion: Diffusion) -> None:
    _, guides = made(UCE, diffusion, replace(UMBRELLA, anchor="")).rows_of(["umbrella", "a red umbrella"])
    expected = embeds(diffusion, "", "a red")
    torch.testing.assert_close(guides, torch.stack([expected[0, 0], expected[1, 2]]))


def test_a_prompt_that_hides_the_name_is_edited_at_its_own_last_word(diffusion: Diffusion) -> None:
    concepts, guides = made(UCE, diffusion).rows_of(["a red gear"])
    torch.testing.assert_close(concepts, embeds(diffusion, "a red gear")[0, 3:4])
    torch.testing.assert_close(guides, embeds(diffusion, "star")[0, 1:2])


def test_preserved_vectors_are_last_words_or_whole_prompts(diffusion: Diffusion) -> None:
    full = embeds(diffusion, *UMBRELLA.retain)
    last = made(UCE, diffusion).preserved(UMBRELLA.retain)
    torch.testing.assert_close(last, torch.stack([full[0, 3], full[1, 3]]))
    whole = made(UCE, diffusion, preserve_tokens="all").preserved(UMBRELLA.retain)
    torch.testing.assert_close(whole, full.flatten(0, 1))


@METHODS
def test_nothing_need_be_preserved(cls: type[ClosedFormEraser], diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(cls, diffusion, replace(UMBRELLA, retain=[]))
    assert method.preserved([]).shape == (0, 32)
    fit(method, tmp_path)
    assert (tmp_path / "erasure.safetensors").is_file()


@pytest.mark.parametrize(("count", "scale"), [(0, 1.0), (1, 1.0), (4, 0.25), (50, 0.1)])
def test_the_weight_of_2023_is_shared_by_the_preserved_prompts(count: int, scale: float, diffusion: Diffusion) -> None:
    concept = replace(UMBRELLA, retain=[f"gear {number}" for number in range(count)])
    assert made(UCE, diffusion, concept, preserve_scale=None).preserve_scale == scale


@METHODS
def test_solving_again_gives_the_same(cls: type[ClosedFormEraser], diffusion: Diffusion, tmp_path: Path) -> None:
    """It starts from the original matrices, not from the edited ones."""
    method = made(cls, diffusion)
    fit(method, tmp_path)
    once = snapshot(diffusion)
    method.training_step(PROMPTS, 0)
    assert not changed(once, diffusion)


def test_it_is_solved_in_full_precision_under_autocast(diffusion: Diffusion, tmp_path: Path) -> None:
    """Rounded to 8 bits the edit would be off by far more."""
    plain, mixed = made(UCE, diffusion), made(UCE, Diffusion.from_pretrained(diffusion.base))
    trainer(tmp_path / "plain", 1).fit(plain)
    trainer(tmp_path / "mixed", 1, precision="bf16-mixed").fit(mixed)
    for name, parameter in plain.selected.items():
        torch.testing.assert_close(mixed.selected[name], parameter, rtol=0, atol=1e-6)


def test_the_probe_aims_at_the_anchor(diffusion: Diffusion) -> None:
    method, x = made(UCE, diffusion), noisy(diffusion)
    with method.teacher():
        target = method.probe_target(x, 500, UMBRELLA.prompts)
        expected = diffusion.predict_noise(x, 500, diffusion.encode_prompts(["star", "a red star"]))
    assert torch.equal(target, expected)


def test_there_is_no_loss(diffusion: Diffusion) -> None:
    with pytest.raises(NotImplementedError, match="no loss"):
        made(UCE, diffusion).erase_loss(PROMPTS)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (UCE, {"lamb": 0.0}),
        (UCE, {"erase_scale": -1.0}),
        (UCE, {"preserve_scale": -1.0}),
        (RECE, {"lamb": 0.0}),
        (RECE, {"rounds": -1}),
        (RECE, {"adversary_lamb": 0.0}),
        (RECE, {"round_lamb": 0.0}),
        (RECE, {"round_preserve_scale": -0.1}),
    ],
)
def test_impossible_options_are_refused(
    cls: type[ClosedFormEraser], options: dict[str, Any], diffusion: Diffusion
) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(cls, diffusion, **options)
