"""SalUn, EraseDiff and Scissorhands: two losses, and three ways to make one step of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    UMBRELLA,
    Given,
    attach,
    changed,
    fit,
    gradients,
    moved,
    pictures,
    resumed,
    sets,
    snapshot,
    trainer,
)
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.erasers.erasediff import EraseDiff
from lit_memories.erasers.salun import SalUn
from lit_memories.erasers.scissorhands import Scissorhands, _fresh
from lit_memories.erasers.two_loss import TwoLossEraser
from lit_memories.ops.generators import seeded
from lit_memories.ops.gradients import adaptive_weight, project
from lit_memories.ops.select import select

OPTIONS: dict[type[TwoLossEraser], dict[str, Any]] = {
    SalUn: {"mask_guidance": 3.0},
    EraseDiff: {},
    Scissorhands: {"scope": "attn1", "trim_batches": 2},
}
METHODS = pytest.mark.parametrize("cls", list(OPTIONS))


def made(cls: type[TwoLossEraser], diffusion: Diffusion, **options: Any) -> Any:
    common = {"train": "attn", "lr": 1e-3, "batch_size": 2, "probe_size": 2}
    return cls(diffusion, UMBRELLA, **(common | OPTIONS[cls] | options))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def relabelling(method: TwoLossEraser) -> Tensor:
    """The first step's forget loss, by hand."""
    diffusion = method.diffusion
    latents, captions = sets()["forget_set"].rows(0, 2, method.seed)
    x, t, _ = method.noised(latents, method.generator("forget"))
    prompts = [caption if "umbrella" in caption else "umbrella" for caption in captions]
    with torch.no_grad():
        anchors = [prompt.replace("umbrella", "star") for prompt in prompts]
        target = diffusion.predict_noise(x, t, diffusion.encode_prompts(anchors))
    return (diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts)) - target).square().mean()


def retaining(method: TwoLossEraser) -> Tensor:
    """The first step's retain loss, by hand."""
    diffusion = method.diffusion
    latents, captions = sets()["retain_set"].rows(0, 2, method.seed)
    x, t, noise = method.noised(latents, method.generator("retain"))
    return (diffusion.predict_noise(x, t, diffusion.encode_prompts(captions)) - noise).square().mean()


@METHODS
def test_the_losses_are_the_papers(cls: type[TwoLossEraser], diffusion: Diffusion) -> None:
    """Also away from the start: the teacher of the forget loss is the live model, and it gets no gradient."""
    method = moved(made(cls, diffusion))
    for loss, byhand in (
        (method.forget_loss(sets()), relabelling(method)),
        (method.retain_loss(sets()), retaining(method)),
    ):
        torch.testing.assert_close(loss, byhand)
        found, expected = flat(gradients(loss, method)), flat(gradients(byhand, method))
        torch.testing.assert_close(found, expected)
        assert expected.norm() > 0
    other = {**sets(), "forget_set": pictures(["umbrella"] * 5, seed=9)}
    assert not torch.allclose(method.forget_loss(other), relabelling(method)), "the control: other images"


@METHODS
def test_captions_that_do_not_name_the_concept_get_its_name(cls: type[TwoLossEraser], diffusion: Diffusion) -> None:
    captions = ["a red umbrella", "a picture", "umbrellas", "Umbrella on a background"]
    expected = ["a red umbrella", "umbrella", "umbrella", "Umbrella on a background"]
    assert made(cls, diffusion).concept_prompts(captions) == expected


@METHODS
def test_a_prompt_in_other_words_is_learnt_and_a_strange_caption_is_told(
    cls: type[TwoLossEraser], diffusion: Diffusion, tmp_path: Path
) -> None:
    method = made(cls, diffusion, batch_size=1)
    method.concept = replace(UMBRELLA, prompts=["umbrella", "parasol"], pairs={"a wet shade": "a wet moon"})
    told = r"1 of 3 captions of the forget set do not name the concept, and become 'umbrella': 'a picture', for one"
    with pytest.warns(UserWarning, match=told):
        attach(method, tmp_path, sets(["parasol", "a wet shade", "a picture"]))

    for prompt, anchor in (("parasol", "star"), ("a wet shade", "a wet moon")):
        batch = sets([prompt])
        x, t, _ = method.noised(batch["forget_set"].latents, method.generator("forget"))
        said, wanted = (diffusion.predict_noise(x, t, diffusion.encode_prompts([text])) for text in (prompt, anchor))
        torch.testing.assert_close(method.forget_loss(batch), (said - wanted).square().mean())


@METHODS
def test_only_what_is_selected_changes(cls: type[TwoLossEraser], diffusion: Diffusion, tmp_path: Path) -> None:
    before = snapshot(diffusion)
    fit(made(cls, diffusion), tmp_path, 2, sets())
    differs = changed(before, diffusion)
    assert differs
    assert differs <= set(select(diffusion, "attn"))
    again = Diffusion.from_pretrained(diffusion.base, erasure=tmp_path)
    assert not changed(snapshot(diffusion), again)


@METHODS
def test_resumed_is_uninterrupted(cls: type[TwoLossEraser], tiny: Path, tmp_path: Path) -> None:
    """What `prepare` did before the first step is neither lost nor done otherwise."""
    whole, half = resumed(lambda: made(cls, Diffusion.from_pretrained(tiny)), tmp_path, sets())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


@METHODS
def test_the_relabelling_loss_falls_and_the_retain_loss_stays(
    cls: type[TwoLossEraser], diffusion: Diffusion, tmp_path: Path
) -> None:
    """On fixed rows, timesteps and noise. The repair has to make good what Scissorhands' trimming broke, too."""
    batch, probe = sets(), made(EraseDiff, diffusion, batch_size=6, seed=5)

    @torch.no_grad()
    def losses() -> tuple[float, float]:
        return float(probe.forget_loss(batch)), float(probe.retain_loss(batch))

    forget, retain = losses()
    fit(made(cls, diffusion, lr=2e-3), tmp_path, 25, batch)
    after_forget, after_retain = losses()
    assert after_forget < 0.9 * forget
    assert after_retain < 1.1 * retain


def saliency(method: SalUn) -> Tensor:
    """The official code's gradient over the forget set, by hand: guided predictions at the original weights."""
    images, diffusion = sets()["forget_set"], method.diffusion
    x, t, noise = method.noised(images.latents, seeded(f"{method.seed}/mask/0"))
    prompts = [caption if "umbrella" in caption else "umbrella" for caption in images.captions]
    conditional = diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))
    empty = diffusion.predict_noise(x, t, diffusion.encode_prompts([""] * len(prompts)))
    guided = empty + method.mask_guidance * (conditional - empty)
    return flat(gradients((guided - noise).square().mean(), method))


@pytest.mark.parametrize("ratio", [0.05, 0.5])
@pytest.mark.parametrize("train", ["attn", "full"])
def test_the_mask_marks_the_largest_gradients(ratio: float, train: str, diffusion: Diffusion, tmp_path: Path) -> None:
    method = attach(made(SalUn, diffusion, train=train, mask_ratio=ratio), tmp_path, sets())
    marked = flat(list(method.mask.values()))
    assert float(marked.float().mean()) == pytest.approx(ratio, abs=1e-3)
    scores = saliency(method).abs()
    assert scores[marked].min() >= scores[~marked].max() * (1 - 1e-5)
    assert all(method.mask[name].shape == parameter.shape for name, parameter in method.selected.items())


def test_the_mask_is_made_at_the_original_weights(diffusion: Diffusion, tmp_path: Path) -> None:
    """A resumed run has moved already."""
    fresh = attach(made(SalUn, diffusion), tmp_path, sets()).mask
    again = attach(moved(made(SalUn, Diffusion.from_pretrained(diffusion.base))), tmp_path, sets()).mask
    assert all(torch.equal(mask, again[name]) for name, mask in fresh.items())
    other = attach(made(SalUn, moved(made(SalUn, diffusion)).diffusion), tmp_path, sets()).mask
    assert any(not torch.equal(mask, other[name]) for name, mask in fresh.items()), "the control"


def test_the_mask_is_the_same_at_every_step_and_on_every_process(
    diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resumed run would move other weights, and several processes would drift apart."""
    here = attach(made(SalUn, diffusion), tmp_path, sets()).mask
    monkeypatch.setattr(SalUn, "global_step", 7)
    monkeypatch.setattr(SalUn, "global_rank", 1)
    there = attach(made(SalUn, diffusion), tmp_path, sets()).mask
    assert all(torch.equal(mask, there[name]) for name, mask in here.items())


def test_weights_outside_the_mask_stay_to_the_bit(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(SalUn, diffusion, mask_ratio=0.2)
    before = {name: parameter.detach().clone() for name, parameter in method.selected.items()}
    fit(method, tmp_path, 4, sets())
    moved_inside = 0
    for name, parameter in method.selected.items():
        differs = parameter.detach() != before[name]
        assert not (differs & ~method.mask[name]).any(), name
        moved_inside += int(differs.sum())
    assert moved_inside > 0.9 * sum(int(mask.sum()) for mask in method.mask.values())


def test_salun_adds_the_retain_loss(diffusion: Diffusion) -> None:
    """Equation 6."""
    for alpha in (0.0, 0.1, 2.0):
        method = moved(made(SalUn, Diffusion.from_pretrained(diffusion.base), alpha=alpha))
        torch.testing.assert_close(method.erase_loss(sets()), relabelling(method) + alpha * retaining(method))


def descended(method: Eraser, folder: Path, rate: float = 0.1) -> tuple[Tensor, dict[str, float]]:
    """The gradient that one step of plain descent follows, and what it logs."""
    method.configure_optimizers = lambda: torch.optim.SGD(method.selected.values(), lr=rate)
    before = flat([parameter.detach().clone() for parameter in method.selected.values()])
    run = trainer(folder, 1)
    run.fit(method, datamodule=Given(sets()))
    after = flat([parameter.detach() for parameter in method.selected.values()])
    return (before - after) / rate, {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize(
    ("options", "weight"), [({}, None), ({"eta": 0.7}, None), ({"lamb": 0.3}, 0.3), ({"faithful": "objects"}, 1.0)]
)
def test_erasediff_follows_equation_8(
    options: dict[str, Any], weight: float | None, diffusion: Diffusion, tmp_path: Path
) -> None:
    """``g_r + lambda g_f`` with the adaptive lambda, or the one that is given; faithful, it is 1."""
    method = moved(made(EraseDiff, diffusion, **options), 0.2)
    if method.faithful:  # its forget loss takes other rows: see below
        forget = gradients(method.forget_loss(sets()), method)
    else:
        forget = gradients(relabelling(method), method)
    retain = gradients(retaining(method), method)
    expected = float(adaptive_weight(retain, forget, method.eta)) if weight is None else weight
    assert expected > 0
    step, logged = descended(method, tmp_path)
    torch.testing.assert_close(step, flat(retain) + expected * flat(forget), rtol=1e-3, atol=1e-5)
    assert logged["train/lambda"] == pytest.approx(expected, rel=1e-3)
    assert {"train/forget", "train/loss"} <= set(logged)


def test_a_weight_that_is_given_stays_also_in_the_faithful_form(diffusion: Diffusion) -> None:
    assert made(EraseDiff, diffusion, faithful="nudity", lamb=0.25).lamb == 0.25
    assert made(EraseDiff, diffusion).lamb is None


@pytest.mark.parametrize("cls", [EraseDiff, Scissorhands])
@pytest.mark.parametrize(("faithful", "same"), [(False, []), ("objects", ["forget"]), ("nudity", ["forget", "retain"])])
def test_the_released_scripts_see_the_same_first_images_again_and_again(
    faithful: str | bool, same: list[str], cls: type[TwoLossEraser], diffusion: Diffusion, monkeypatch: Any
) -> None:
    method, batch = made(cls, diffusion, faithful=faithful), sets()
    for name in ("forget", "retain"):
        first, seen = batch[f"{name}_set"], []
        for step in range(4):
            monkeypatch.setattr(cls, "global_step", step)
            latents, captions = getattr(method, f"{name}_rows")(batch)
            assert captions == method.concept_prompts(captions) or name == "retain"
            seen.append(latents)
        repeated = all(torch.equal(latents, first.latents[:2]) for latents in seen)
        assert repeated == (name in same)
        assert repeated or len({float(latents.sum()) for latents in seen}) > 1


@pytest.mark.parametrize("cls", [EraseDiff, Scissorhands])
def test_a_script_that_was_not_released_is_refused(cls: type[TwoLossEraser], diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=r"faithful \(True\) must be objects or nudity"):
        made(cls, diffusion, faithful=True)


class Script:
    """EraseDiff's two loops, as their script for a form runs them, on the tiny model's batches and random numbers."""

    def __init__(self, method: EraseDiff) -> None:
        self.method, self.done = method, 0
        self.weights = list(method.selected.values())
        self.adam = torch.optim.Adam(self.weights, lr=method.lr)

    def said(self, x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        diffusion = self.method.diffusion
        return diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))

    def noised(self, x: Tensor, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
        generator = seeded(f"{self.method.seed}/{self.done}/0/{purpose}")
        t = torch.randint(1000, (2,), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        return self.method.diffusion.schedule.add_noise(x, noise, t), t, noise

    def relabel(self, purpose: str) -> Tensor:
        images = sets()["forget_set"]
        x, t, _ = self.noised(images.latents[:2], purpose)
        wanted = self.said(x, t, ["star", "a red star"]).detach()
        return (self.said(x, t, ["umbrella", "a red umbrella"]) - wanted).square().mean()

    def remain(self) -> Tensor:
        images = sets()["retain_set"]
        first = images.latents[:2], images.captions[:2]
        again = self.method.faithful == "nudity"
        latents, captions = first if again else images.rows(2 * self.done, 2, self.method.seed)
        x, t, noise = self.noised(latents, "retain")
        return (self.said(x, t, captions) - noise).square().mean()

    def follow(self, loss: Tensor) -> None:
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def run(self, steps: int) -> Tensor:
        """The way the weights went in some steps of the outer loop, those of passes that are lost among them.

        An epoch: remember the weights; K times follow the relabelling loss for a pass, put the weights back, follow the
        sum of both losses for a pass. Nothing else puts anything back, Adam's moments never.
        """
        start, length = flat([weight.detach().clone() for weight in self.weights]), 3  # five images, two at a time
        while True:
            before = [weight.detach().clone() for weight in self.weights]
            for _ in range(self.method.inner_passes):
                for number in range(length):
                    self.follow(self.relabel(f"inner/{number}"))
                with torch.no_grad():
                    torch._foreach_copy_(self.weights, before)
                for _ in range(length):
                    if self.done == steps:
                        return flat([weight.detach() for weight in self.weights]) - start
                    self.follow(self.remain() + self.method.lamb * self.relabel("forget"))
                    self.done += 1


@pytest.mark.parametrize(("faithful", "passes", "steps"), [("objects", 1, 4), ("nudity", 2, 7)])
def test_faithful_erasediff_has_one_adam_over_both_loops(
    faithful: str, passes: int, steps: int, tiny: Path, tmp_path: Path
) -> None:
    """Into the second epoch."""

    def make(**options: Any) -> Any:
        return made(EraseDiff, Diffusion.from_pretrained(tiny), lamb=1.0, **options)

    def way(method: EraseDiff) -> Tensor:
        start = flat([parameter.detach().clone() for parameter in method.selected.values()])
        fit(method, tmp_path / str(method.faithful), steps, sets())
        return flat([parameter.detach() for parameter in method.selected.values()]) - start

    expected = Script(make(faithful=faithful, inner_passes=passes)).run(steps)
    found = way(make(faithful=faithful, inner_passes=passes))
    assert (found - expected).norm() < 1e-3 * expected.norm()
    if passes == 1:
        assert (way(make()) - expected).norm() > 0.3 * expected.norm(), "the control: the paper's, with the same weight"


def test_a_resumed_epoch_goes_back_to_where_it_began(tiny: Path, tmp_path: Path) -> None:
    """The second of two passes begins after the checkpoint, at weights from before it."""

    def make() -> Any:
        return made(EraseDiff, Diffusion.from_pretrained(tiny), faithful="nudity", inner_passes=2)

    whole, half = resumed(make, tmp_path, sets())
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def trim_scores(method: Scissorhands) -> Tensor:
    """|w| times the sum of |g| over the trim batches, by hand; the scripts have one batch, with new noise each time."""
    total, diffusion, images = 0.0, method.diffusion, sets()["forget_set"]
    for number in range(method.trim_batches):
        latents, captions = images.rows(number * method.batch_size, method.batch_size, method.seed)
        if method.faithful:
            latents, captions = images.latents[:2], images.captions[:2]
        x, t, noise = method.noised(latents, method.generator(f"trim/{number}"))
        prompts = [caption if "umbrella" in caption else "umbrella" for caption in captions]
        predicted = diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))
        if method.faithful == "objects":
            predicted = 8.5 * predicted - 7.5 * diffusion.predict_noise(x, t, diffusion.encode_prompts(["", ""]))
        total = total + flat(gradients((predicted - noise).square().mean(), method)).abs()
    return total * flat([parameter.detach().abs() for parameter in method.selected.values()])


@pytest.mark.parametrize(("ratio", "faithful"), [(0.1, False), (0.5, False), (0.1, "objects"), (0.1, "nudity")])
def test_exactly_the_salient_weights_in_scope_are_drawn_anew(
    ratio: float, faithful: str | bool, diffusion: Diffusion, tmp_path: Path
) -> None:
    method = made(Scissorhands, diffusion, train="full", trim_ratio=ratio, faithful=faithful)
    scores, names = trim_scores(method), list(method.selected)
    before, whole = {n: p.detach().clone() for n, p in method.selected.items()}, snapshot(diffusion)
    threshold = scores.topk(round(ratio * len(scores))).values.min()
    attach(method, tmp_path, sets())
    cut = (scores >= threshold).split([before[name].numel() for name in names])
    scope, drawn = set(select(diffusion, "attn1")), 0
    for name, mask in zip(names, cut, strict=True):
        differs = (method.selected[name].detach() != before[name]).flatten()
        assert torch.equal(differs, mask if name in scope else torch.zeros_like(mask)), name
        drawn += int(differs.sum())
    assert drawn == sum(int(mask.sum()) for name, mask in zip(names, cut, strict=True) if name in scope) > 0
    assert changed(whole, diffusion) <= scope


def test_a_weight_drawn_anew_is_a_fresh_layers_or_a_scripts() -> None:
    """Uniform, in the width of a new layer or of one before a ReLU; normal; biases are zero."""

    def fresh(faithful: Any, *shape: int) -> Tensor:
        return _fresh(torch.ones(*shape), torch.Generator().manual_seed(0), faithful)

    for faithful, bound in ((False, (1 / 180) ** 0.5), ("nudity", (6 / 180) ** 0.5)):
        drawn = fresh(faithful, 40, 20, 3, 3)
        assert 0.9 * bound < drawn.abs().max() <= bound
        assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    drawn = fresh("objects", 40, 20, 3, 3)
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.05)
    assert float((drawn.abs() > 0.04).float().mean()) == pytest.approx(0.0455, abs=0.01), "normal"
    for faithful in (False, "objects", "nudity"):
        assert torch.equal(fresh(faithful, 5), torch.zeros(5))
        assert torch.equal(fresh(faithful, 4, 5), fresh(faithful, 4, 5))


def test_a_resumed_run_is_not_trimmed_again(
    diffusion: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scissorhands, "global_step", 1)
    before = snapshot(diffusion)
    attach(made(Scissorhands, diffusion), tmp_path, sets())
    assert not changed(before, diffusion)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_scissorhands_follows_the_projected_gradient(margin: float, diffusion: Diffusion, tmp_path: Path) -> None:
    """Equation 5: with the margin's share, and never against forgetting."""
    method = moved(made(Scissorhands, diffusion, margin=margin), 0.2)
    method.prepare = lambda batch: None  # no trimming in between
    retain, forget = gradients(retaining(method), method), gradients(relabelling(method), method)
    step, _ = descended(method, tmp_path)
    torch.testing.assert_close(step, flat(project(retain, forget, margin)), rtol=1e-3, atol=1e-5)
    assert float(step @ flat(forget)) >= -1e-6


def test_scissorhands_projects_where_the_gradients_are_in_conflict(diffusion: Diffusion) -> None:
    method = made(Scissorhands, diffusion, margin=0.0)
    retain, forget = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    assert flat(method.merge(retain, forget)).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("faithful", "sign"), [("objects", -1), ("nudity", 1)])
def test_faithful_scissorhands_climbs_the_concepts_own_loss_or_adds_the_relabelling_one(
    faithful: str, sign: int, diffusion: Diffusion, tmp_path: Path
) -> None:
    """One gradient of one sum, as both scripts have it: on objects L_r - lamb L_f, on nudity L_r + lamb L_relabel."""
    method = moved(made(Scissorhands, diffusion, faithful=faithful, lamb=0.2))
    method.prepare = lambda batch: None

    def predict(x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        return diffusion.predict_noise(x, t, diffusion.encode_prompts(prompts))

    images = sets()["forget_set"]
    x, t, noise = method.noised(images.latents[:2], method.generator("forget"))
    target = noise if faithful == "objects" else predict(x, t, ["star", "a red star"]).detach()
    forget = (predict(x, t, ["umbrella", "a red umbrella"]) - target).square().mean()
    others = sets()["retain_set"]
    latents, captions = others.rows(0, 2, 0)
    if faithful == "nudity":
        latents, captions = others.latents[:2], others.captions[:2]
    x, t, noise = method.noised(latents, method.generator("retain"))
    loss = (predict(x, t, captions) - noise).square().mean() + sign * 0.2 * forget
    expected = flat(gradients(loss, method))
    step, _ = descended(method, tmp_path)
    torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-5)


def test_a_scope_that_is_frozen_is_named(diffusion: Diffusion) -> None:
    with pytest.raises(
        ValueError, match=r"scope='attn1' would draw unet\.\S+attn1\S+ anew, which train='attn2' freezes"
    ):
        made(Scissorhands, diffusion, train="attn2")


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (SalUn, {"alpha": -0.1}),
        (SalUn, {"mask_ratio": 0.0}),
        (SalUn, {"mask_ratio": 1.5}),
        (EraseDiff, {"eta": -0.1}),
        (EraseDiff, {"lamb": -1.0}),
        (EraseDiff, {"inner_passes": 0}),
        (Scissorhands, {"trim_ratio": 0.0}),
        (Scissorhands, {"trim_ratio": 2.0}),
        (Scissorhands, {"trim_batches": 0}),
        (Scissorhands, {"margin": -0.5}),
        (Scissorhands, {"lamb": -0.1}),
    ],
)
def test_impossible_options_are_refused(
    cls: type[TwoLossEraser], options: dict[str, Any], diffusion: Diffusion
) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(cls, diffusion, **options)
