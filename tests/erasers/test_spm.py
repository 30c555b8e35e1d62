"""SPM: an adapter beside the network, anchored at random conditions, gated by the prompt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import PROMPTS, UMBRELLA, attach, changed, fit, moved, noisy, probed, resumed, snapshot
from torch import Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.spm import SPM
from lit_memories.erasure import Erasure


def made(diffusion: Diffusion, **options: Any) -> SPM:
    common = {"lr": 1e-2, "batch_size": 2, "probe_size": 2, "num_inference_steps": 4, "anchors": 2}
    return SPM(diffusion, UMBRELLA, **(common | {"anchor_weight": 1.0} | options))


@torch.no_grad()
def predicted(diffusion: Diffusion, *prompts: str) -> Tensor:
    return diffusion.predict_noise(noisy(diffusion, len(prompts)), 700, diffusion.encode_prompts(prompts))


def test_fresh_and_off_it_is_the_original_to_the_bit(diffusion: Diffusion, tiny: Path) -> None:
    original = predicted(Diffusion.from_pretrained(tiny), "umbrella", "a red gear")
    method = made(diffusion)
    assert torch.equal(predicted(diffusion, "umbrella", "a red gear"), original)
    moved(method)
    on = predicted(diffusion, "umbrella", "a red gear")
    with method.teacher():
        assert torch.equal(predicted(diffusion, "umbrella", "a red gear"), original)
        assert not diffusion.predict_noise(noisy(diffusion), 9, diffusion.encode_prompts(["a", "b"])).requires_grad
    assert torch.equal(predicted(diffusion, "umbrella", "a red gear"), on)
    assert not torch.allclose(on, original), "the control"


def test_the_teacher_leaves_also_after_an_error(diffusion: Diffusion) -> None:
    method = moved(made(diffusion))
    on = predicted(diffusion, "umbrella")

    def fail() -> None:
        with method.teacher():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(predicted(diffusion, "umbrella"), on)


def test_the_networks_own_weights_never_change(diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    before = snapshot(diffusion)
    method = made(diffusion)
    fit(method, tmp_path, 3)
    assert not changed(before, diffusion)
    tensors = load_file(tmp_path / "erasure.safetensors")
    assert set(tensors) == set(method.selected)
    assert all(name.endswith((".lora_down", ".lora_up")) for name in tensors)
    assert any(tensor.any() for name, tensor in tensors.items() if name.endswith(".lora_up"))
    with method.teacher():
        assert torch.equal(predicted(diffusion, "umbrella"), predicted(Diffusion.from_pretrained(tiny), "umbrella"))


@pytest.mark.parametrize("rank", [1, 3])
def test_the_adapter_is_on_every_attention_layer(rank: int, diffusion: Diffusion) -> None:
    """Of the tiny network's four blocks: proj_in, proj_out, two times q, k, v, out, and the two of the feed-forward."""
    method = made(diffusion, rank=rank)
    assert len(method.selected) == 2 * 4 * (2 + 8 + 2)
    assert all(tensor.shape[0] == rank for name, tensor in method.selected.items() if name.endswith("lora_down"))


def test_the_factors_are_a_function_of_the_seed(tiny: Path) -> None:
    one, two, other = (made(Diffusion.from_pretrained(tiny), seed=seed).selected for seed in (0, 0, 1))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("options", [{}, {"eta": 2.0, "direction": "phrase"}, {"anchor_weight": 30.0}, {"anchors": 5}])
def test_the_loss_is_the_papers(options: dict[str, Any], diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    """Equations 5 and 7, with a second model in the place of the adapter that is off."""
    method, original = attach(moved(made(diffusion, **options)), tmp_path), Diffusion.from_pretrained(tiny)
    logged: dict[str, Tensor] = {}
    method.log_dict = lambda values, **_: logged.update(values)
    generator = method.generator()
    prompts = draw(UMBRELLA.prompts, 2, generator)
    x, t = method.stopped(prompts, generator)
    embeds = diffusion.encode_prompts(prompts)
    conditions = torch.randn(method.anchors, *embeds.shape, generator=generator)
    wanted = embeds.flatten(1).norm(dim=1) * (0.8 + 0.4 * torch.rand(method.anchors, 2, generator=generator))
    conditions = conditions / conditions.flatten(2).norm(dim=2)[..., None, None] * wanted[..., None, None]

    def of(model: Diffusion, condition: Tensor | list[str]) -> Tensor:
        condition = model.encode_prompts(condition) if isinstance(condition, list) else condition
        return model.predict_noise(x, t, condition)

    with torch.no_grad():
        concept = of(original, prompts if method.direction == "prompt" else ["umbrella"] * 2)
        empty = of(original, ["", ""])
        base = empty if method.direction == "prompt" else of(original, prompts)
    erase = (of(diffusion, prompts) - (base - method.eta * (concept - empty))).square().mean()
    anchor = sum((of(diffusion, c) - of(original, c)).square().mean() for c in conditions) / method.anchors
    torch.testing.assert_close(method.erase_loss(PROMPTS), erase + method.anchor_weight * anchor)
    torch.testing.assert_close(logged["train/erase"], erase)
    torch.testing.assert_close(logged["train/anchor"], method.anchor_weight * anchor)


def test_anchors_are_random_and_about_as_long_as_the_concept(diffusion: Diffusion) -> None:
    method = made(diffusion, anchors=50)
    embeds = diffusion.encode_prompts(["umbrella", "a red umbrella"]) * torch.tensor([1.0, 3.0])[:, None, None]
    found = method._conditions(embeds, torch.Generator().manual_seed(0)).unflatten(0, (50, 2))
    ratios = found.flatten(2).norm(dim=2) / embeds.flatten(1).norm(dim=1)
    assert 0.8 <= ratios.min() < 0.85
    assert 1.15 < ratios.max() <= 1.2 + 1e-5
    cosines = torch.cosine_similarity(found.flatten(2), embeds.flatten(1)[None], dim=2)
    assert cosines.abs().max() < 0.2, "noise, not concepts"


def test_faithful_anchors_are_the_second_half_of_interleaved_pairs(diffusion: Diffusion) -> None:
    """Of four drawn the third and the fourth, each behind an empty prompt."""
    embeds = diffusion.encode_prompts(["umbrella", "a red umbrella"])
    drawn, mixed = (
        made(Diffusion.from_pretrained(diffusion.base), anchors=4, faithful=faithful)
        ._conditions(embeds, torch.Generator().manual_seed(0))
        .unflatten(0, (4, 2))
        for faithful in (False, True)
    )
    empty = diffusion.encode_prompts(["", ""])
    for found, expected in zip(mixed, (empty, drawn[2], empty, drawn[3]), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_erase_term_falls_and_the_anchor_term_holds(diffusion: Diffusion, tmp_path: Path) -> None:
    start, end = probed(made(diffusion, lr=3e-2), tmp_path, 25)
    assert start["val/erase_ratio"] == 1
    assert end["val/erase_ratio"] < 0.9
    x, embeds = noisy(diffusion, 8), diffusion.encode_prompts(["umbrella"] * 4)
    conditions = made(Diffusion.from_pretrained(diffusion.base))._conditions(embeds, torch.Generator().manual_seed(9))
    original = Diffusion.from_pretrained(diffusion.base)
    with torch.no_grad():
        truth = original.predict_noise(x, 700, conditions)
        drift = (diffusion.predict_noise(x, 700, conditions) - truth).norm() / truth.norm()
    assert drift < 0.2


def test_resumed_is_uninterrupted(tiny: Path, tmp_path: Path) -> None:
    """The schedule of the learning rate goes on where it was."""
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(tiny), steps=4, warmup_steps=1, cycles=1), tmp_path)
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())
    checkpoint = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert all(name.startswith("adapter.") for name in checkpoint["state_dict"])
    assert len(checkpoint["state_dict"]) == len(whole)


def test_the_learning_rate_rises_falls_and_starts_again(diffusion: Diffusion) -> None:
    configured = made(diffusion, lr=1.0, steps=20, warmup_steps=4, cycles=2).configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(20):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert rates[4:12] == sorted(rates[4:12], reverse=True)
    assert rates[11] < 0.1
    assert rates[12] == pytest.approx(1)


@pytest.fixture
def saved(diffusion: Diffusion, tmp_path: Path) -> Path:
    """A run's folder, with an adapter that was given something to do."""
    method = moved(made(diffusion), 0.1)
    method.trainer = None
    method.erasure().save(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_artefact_loads_gated_and_merged_and_both_agree_where_the_gate_is_open(
    saved: Path, tiny: Path, diffusion: Diffusion
) -> None:
    """The gate is open for prompts that hold the concept's name, and for others it is not."""
    gated, merged = (Diffusion.from_pretrained(tiny, erasure=saved, gated=gated) for gated in (True, False))
    original = Diffusion.from_pretrained(tiny)
    for prompts in (["umbrella"], ["a red umbrella", "umbrella"]):
        torch.testing.assert_close(predicted(gated, *prompts), predicted(merged, *prompts), rtol=0, atol=1e-5)
        torch.testing.assert_close(predicted(gated, *prompts), predicted(diffusion, *prompts), rtol=0, atol=1e-5)
        assert not torch.allclose(predicted(gated, *prompts), predicted(original, *prompts), atol=1e-3), "the control"
    assert not torch.allclose(predicted(gated, "a red gear"), predicted(merged, "a red gear"), atol=1e-4)
    state, plain = gated.state_dict(), original.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.items()), "gated, it acts from beside"
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in merged.state_dict().items())


def strengths(diffusion: Diffusion, *prompts: str) -> list[float]:
    return diffusion.encode_prompts(prompts)[:, -1, 0].tolist()


def test_the_gate_is_the_phrases_and_is_saved(saved: Path, tiny: Path) -> None:
    provenance = Erasure.load(saved).provenance
    assert provenance.gate == ["umbrella"]
    assert provenance.method == "SPM"
    gated = Diffusion.from_pretrained(tiny, erasure=saved)
    assert gated.encode_prompts(["umbrella"]).shape == (1, 17, 32), "one row more for the strength"
    plain = Diffusion.from_pretrained(tiny)
    concept, other = plain.encode_prompts(["umbrella", "a red gear"]).flatten(1)
    cosine = float(torch.cosine_similarity(concept, other, dim=0))
    assert strengths(gated, "umbrella", "a red umbrella", "a red gear") == pytest.approx([1, 1, cosine**2], abs=1e-5)
    assert cosine < 0.99


def test_each_prompt_of_a_batch_has_its_own_strength(saved: Path, tiny: Path) -> None:
    gated = Diffusion.from_pretrained(tiny, erasure=saved)
    together = predicted(gated, "umbrella", "a red gear", "")
    x = noisy(gated, 3)
    for row, prompt in enumerate(("umbrella", "a red gear", "")):
        with torch.no_grad():
            alone = gated.predict_noise(x[row : row + 1], 700, gated.encode_prompts([prompt]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


def byhand(saved: Path, tiny: Path, prompt: str, strength: float) -> Tensor:
    """The adapter worked into the weights at some strength, under a prompt."""
    tensors = {name: factor.clone() for name, factor in Erasure.load(saved).tensors.items()}
    model = Diffusion.from_pretrained(tiny)
    weights = dict(model.unet.named_parameters())
    for name in {name.removeprefix("unet.").rsplit(".", 1)[0] for name in tensors}:
        down, up = (tensors[f"unet.{name}.lora_{way}"] for way in ("down", "up"))
        weights[f"{name}.weight"].data += strength * torch.einsum("or,r...->o...", up.flatten(1), down)
    return predicted(model, prompt)


@pytest.mark.parametrize("power", [2, 1])
def test_the_gate_is_as_released_or_as_in_the_paper(power: int, saved: Path, tiny: Path) -> None:
    """Released inference scales both factors by the prompt's nearness, for the empty prompt in guidance as well."""
    gated = Diffusion(str(tiny), saved, gate_power=power)
    plain = Diffusion.from_pretrained(tiny)
    concept, other = plain.encode_prompts(["umbrella", "a red gear"]).flatten(1)
    strength = float(torch.cosine_similarity(concept, other, dim=0)) ** power
    conditional, empty = (byhand(saved, tiny, prompt, strength) for prompt in ("a red gear", ""))
    with torch.no_grad():
        guided = gated.predict_noise(noisy(gated, 1), 700, gated.encode_prompts(["a red gear"]), guidance_scale=3.0)
    torch.testing.assert_close(predicted(gated, "a red gear"), conditional, rtol=0, atol=1e-5)
    torch.testing.assert_close(guided, empty + 3 * (conditional - empty), rtol=0, atol=1e-5)
    assert not torch.allclose(empty, predicted(gated, ""), atol=1e-5), "the control: by itself it has another strength"


def test_an_audit_and_its_null_text_have_the_samples_own_strength(saved: Path, tiny: Path) -> None:
    gated = Diffusion.from_pretrained(tiny, erasure=saved)
    prompts, empty = gated.encode_prompts(["a red gear", "umbrella"]), gated.encode_prompts([""])
    predict = BlockwisePredictor(gated, prompts, empty, 3.0, 4)
    x, rows = noisy(gated, 2), torch.tensor([1, 0])
    with torch.no_grad():
        expected = gated.predict_noise(x, 700, prompts[rows], guidance_scale=3.0)
        own = gated.predict_noise(x, 700, prompts[rows])
        torch.testing.assert_close(predict(x, 700, rows), expected, rtol=0, atol=1e-5)
        other = predict.under(x, 700, predict.empty.expand(2, -1, -1), rows)
    torch.testing.assert_close(other + 3 * (own - other), expected, rtol=0, atol=1e-5)


def test_rounding_is_not_multiplied(tiny: Path, tmp_path: Path) -> None:
    def trained(weight: float, precision: str) -> None:
        method = made(Diffusion.from_pretrained(tiny), anchor_weight=weight)
        fit(method, tmp_path / str(weight), 1, precision=precision)

    with pytest.raises(ValueError, match="anchor_weight 1000 multiplies the rounding of bf16-mixed"):
        trained(1000.0, "bf16-mixed")
    trained(10.0, "bf16-mixed")
    trained(1000.0, "32-true")


def test_a_pipeline_takes_the_merged_form_only(saved: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"what stands beside the network: merge it by .*gated false"):
        Diffusion.from_pretrained(tiny, erasure=saved).pipeline()
    main(["export", str(tiny), str(saved), str(tmp_path / "full")])
    exported, merged = Diffusion.from_pretrained(tmp_path / "full"), Diffusion(str(tiny), saved, gated=False)
    assert torch.equal(predicted(exported, "umbrella"), predicted(merged, "umbrella"))


def test_a_gated_model_is_not_trained_on(saved: Path, tiny: Path) -> None:
    with pytest.raises(ValueError, match="carries an adapter"):
        made(Diffusion.from_pretrained(tiny, erasure=saved))


def test_the_fingerprint_of_what_computes_knows_the_adapter(saved: Path, tiny: Path) -> None:
    original, gated = Diffusion.from_pretrained(tiny), Diffusion.from_pretrained(tiny, erasure=saved)
    assert gated.fingerprint == original.fingerprint
    assert gated.weights_fingerprint() != original.weights_fingerprint()


def test_an_adapter_that_was_not_trained_changes_nothing_and_is_refused(diffusion: Diffusion, tmp_path: Path) -> None:
    method = made(diffusion, lr=0.0)
    with pytest.raises(ValueError, match="training changed nothing"):
        fit(method, tmp_path, 1)
    method.erasure().save(tmp_path)
    for gated in (True, False):
        with pytest.raises(ValueError, match="changes nothing"):
            Diffusion.from_pretrained(diffusion.base, erasure=tmp_path, gated=gated)


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"anchors": 0}, {"cycles": 0}, {"anchor_weight": -1.0}, {"warmup_steps": -1}],
    ids=lambda o: next(iter(o)),
)
def test_impossible_options_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)
