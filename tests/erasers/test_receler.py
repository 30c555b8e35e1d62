"""Receler: its loss restated, the adversary's words, bottlenecks beside the network, and what cannot hold them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import PROMPTS, UMBRELLA, attach, changed, fit, moved, noisy, normal, resumed, snapshot
from torch import Tensor
from torch.nn import functional

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.receler import Receler
from lit_memories.erasure import Erasure
from lit_memories.ops.attention import recorded_attention
from lit_memories.ops.generators import seeded


def made(diffusion: Diffusion, concept: Concept = UMBRELLA, **options: Any) -> Receler:
    small = {"lr": 1e-2, "steps": 4, "batch_size": 2, "probe_size": 2, "num_inference_steps": 4, "rank": 3}
    search = {"mask_stride": 2, "mask_threshold": 0.5, "words": 2, "attack_steps": 2}
    return Receler(diffusion, concept, **(small | search | options))


@torch.no_grad()
def predicted(diffusion: Diffusion, *prompts: str) -> Tensor:
    return diffusion.predict_noise(noisy(diffusion, len(prompts)), 700, diffusion.encode_prompts(prompts))


def test_fresh_and_off_it_is_the_original_to_the_bit(diffusion: Diffusion, tiny: Path) -> None:
    original = predicted(Diffusion.from_pretrained(tiny), "umbrella", "a red gear")
    method = made(diffusion)
    assert torch.equal(predicted(diffusion, "umbrella", "a red gear"), original)
    moved(method)
    with method.teacher():
        assert torch.equal(predicted(diffusion, "umbrella", "a red gear"), original)
    assert not torch.allclose(predicted(diffusion, "umbrella", "a red gear"), original), "the control"


def test_the_loss_is_the_papers(diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    """With a second model as the original, words and mask by hand, and a loop over layers and places."""
    method, original = moved(attach(made(diffusion, regularise=0.7, eta=1.5), tmp_path), 0.2), Diffusion(str(tiny))
    logged: dict[str, Tensor] = {}
    method.log_dict = lambda values, **_: logged.update(values)
    found = method.erase_loss(PROMPTS)
    words = method.search.found.detach()
    generator = method.generator()
    prompts = draw(UMBRELLA.prompts, 2, generator)
    x, t = method.stopped(prompts, generator)
    embeds = diffusion.encode_prompts(prompts).clone()
    with torch.no_grad(), recorded_attention(original.network) as attention:
        named = original.predict_noise(x, t, embeds)
    with torch.no_grad():
        empty = original.predict_noise(x, t, original.encode_prompts(["", ""]))
    for row, prompt in enumerate(prompts):
        behind = 1 + len(prompt.split())
        embeds[row, behind : behind + 2] = words
    with torch.no_grad(), method.adapter.recorded() as added:
        predicted = diffusion.predict_noise(x, t, embeds)
    erase = (predicted - (empty - 1.5 * (named - empty))).square().mean()
    layers = [layer for layer in attention if layer.shape[2] == 64]
    shares = []
    for row, prompt in enumerate(prompts):
        column = prompt.split().index("umbrella") + 1
        seen = sum(layer[row, :, :, column].mean(0) for layer in layers) / len(layers)
        shares.append((seen - seen.min()) / (seen.max() - seen.min()) >= 0.5)
    assert 0 < torch.stack(shares).float().mean() < 1, "the control"
    free = 0.0
    for one in added.values():
        side = int(one.shape[1] ** 0.5)
        total, count = 0.0, 0
        for row in range(2):
            for place in range(side * side):
                scale = 8 / side
                y, z = int(place // side * scale), int(place % side * scale)
                if not shares[row][y * 8 + z]:
                    total, count = total + float(one[row, place].double().square().mean()), count + 1
        free += total / count / len(added)
    assert free > 0
    torch.testing.assert_close(logged["train/erase"], erase)
    assert logged["train/outside"].item() == pytest.approx(free, rel=1e-4)
    assert found.item() == pytest.approx(erase.item() + 0.7 * free, rel=1e-4)


def test_the_adversary_lowers_the_distance_to_the_originals_concept(diffusion: Diffusion, tmp_path: Path) -> None:
    """Adam by hand, with the decay added to the gradient."""
    method = moved(attach(made(diffusion, attack_steps=3), tmp_path))
    method.log_dict = lambda *_, **__: None
    vector = torch.rand(2, 32, generator=seeded("0/words")).requires_grad_(True)
    optimizer = torch.optim.Adam([vector], lr=0.1, weight_decay=0.1)
    generator = method.generator()
    prompts = draw(UMBRELLA.prompts, 2, generator)
    x, t = method.stopped(prompts, generator)
    embeds = diffusion.encode_prompts(prompts)
    with method.teacher():
        shown = diffusion.predict_noise(x, t, embeds)
    for _ in range(3):
        loss = (diffusion.predict_noise(x, t, method.said(embeds, prompts, vector)) - shown).square().mean()
        (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimizer.step()
    method.erase_loss(PROMPTS)
    torch.testing.assert_close(method.search.found.detach(), vector.detach(), rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in method.selected.values())


def test_words_stand_behind_a_prompts_own_where_there_is_room(diffusion: Diffusion) -> None:
    method, vectors = made(diffusion), normal(3, 32)
    long = " ".join(["red"] * 13 + ["umbrella"])
    embeds = diffusion.encode_prompts(["umbrella", long])
    short, full = method.said(embeds, ["umbrella", long], vectors)
    assert torch.equal(short[2:5], vectors)
    assert torch.equal(short[[0, 1, *range(5, 16)]], embeds[0][[0, 1, *range(5, 16)]])
    assert torch.equal(full[15:], vectors[:1])
    assert torch.equal(full[:15], embeds[1][:15])


def test_without_an_adversary_prompts_are_as_they_are(diffusion: Diffusion, tmp_path: Path) -> None:
    method = attach(made(diffusion, attack_steps=0, regularise=0.0), tmp_path)
    method.log_dict = lambda *_, **__: None
    generator = method.generator()
    prompts = draw(UMBRELLA.prompts, 2, generator)
    x, t = method.stopped(prompts, generator)
    with method.teacher():
        target = method.negated(x, t, prompts)
    expected = (method.predict(x, t, prompts) - target).square().mean()
    torch.testing.assert_close(method.erase_loss(PROMPTS), expected)


def test_a_bottleneck_is_the_equation(diffusion: Diffusion) -> None:
    """What attn2 gives, and with it a layer down, GELU, a layer up, against torch's own modules."""
    method = moved(made(diffusion))
    name = method.adapter.names[0]
    layer = dict(diffusion.unet.named_modules())[name]
    x, text = normal(2, 64, layer.to_q.weight.shape[1]), normal(2, 16, 32)
    with torch.no_grad():
        found = layer(x, encoder_hidden_states=text)
        with method.adapter.off():
            plain = layer(x, encoder_hidden_states=text)
        d, b, u, c = (method.selected[f"unet.{name}.eraser.{part}"] for part in
                      ("down.weight", "down.bias", "up.weight", "up.bias"))  # fmt: skip
        torch.testing.assert_close(found, plain + functional.gelu(plain @ d.T + b) @ u.T + c)


@pytest.fixture
def saved(diffusion: Diffusion, tmp_path: Path) -> Path:
    """A run's folder, with bottlenecks that were given something to do."""
    method = moved(made(diffusion), 0.1)
    method.trainer = None
    method.erasure().save(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_artefact_acts_beside_the_network_under_every_prompt(saved: Path, tiny: Path, diffusion: Diffusion) -> None:
    loaded, original = Diffusion(str(tiny), saved), Diffusion(str(tiny))
    for prompts in (["umbrella"], ["a red gear", ""]):
        assert torch.equal(predicted(loaded, *prompts), predicted(diffusion, *prompts))
        assert not torch.allclose(predicted(loaded, *prompts), predicted(original, *prompts)), "the control"
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in original.state_dict().items())
    assert loaded.fingerprint == original.fingerprint != loaded.weights_fingerprint()
    with torch.no_grad():
        x, none = noisy(loaded, 1), loaded.encode_prompts([""])
        guided = loaded.predict_noise(x, 700, loaded.encode_prompts(["a red gear"]), guidance_scale=3.0)
        one = loaded.predict_noise(x, 700, loaded.encode_prompts(["a red gear"]))
        empty = loaded.predict_noise(x, 700, none)
    torch.testing.assert_close(guided, empty + 3 * (one - empty), rtol=0, atol=1e-5)


def test_no_weights_hold_it(saved: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Receler's erasure stays beside the network: .*cannot be worked into"):
        Diffusion(str(tiny), saved, gated=False)
    with pytest.raises(SystemExit, match="cannot be worked into weights"):
        main(["export", str(tiny), str(saved), str(tmp_path / "full")])
    assert not (tmp_path / "full").exists(), "refused before anything is made"
    with pytest.raises(ValueError, match="what stands beside the network: what it adds is no linear map"):
        Diffusion(str(tiny), saved).pipeline()
    with pytest.raises(ValueError, match="carries an adapter, which no method trains on"):
        made(Diffusion(str(tiny), saved))


def test_damaged_bottlenecks_are_refused_and_leave_the_model_as_it_was(saved: Path, tiny: Path) -> None:
    erasure, model = Erasure.load(saved), Diffusion(str(tiny))
    before = predicted(model, "umbrella")
    name = next(name for name in erasure.tensors if name.endswith("up.weight"))
    layer = name.removesuffix(".eraser.up.weight")
    for change, message in (
        ({name: None}, "is not whole"),
        ({name: normal(3, 3)}, "do not fit"),
        ({f"{layer}s.eraser.up.bias": normal(3)}, "no cross-attention"),
    ):
        tensors = {key: value for key, value in (dict(erasure.tensors) | change).items() if value is not None}
        with pytest.raises(ValueError, match=message):
            Erasure(tensors, erasure.provenance).apply(model)
        assert torch.equal(predicted(model, "umbrella"), before)
    zero = {key: torch.zeros_like(x) if ".up." in key else x for key, x in erasure.tensors.items()}
    with pytest.raises(ValueError, match="changes nothing"):
        Erasure(zero, erasure.provenance).apply(model)


def test_the_networks_own_weights_never_change(diffusion: Diffusion, tmp_path: Path) -> None:
    before = snapshot(diffusion)
    method = made(diffusion, faithful=True)
    fit(method, tmp_path, 2)
    assert not changed(before, diffusion)
    tensors = load_file(tmp_path / "erasure.safetensors")
    assert set(tensors) == set(method.selected)
    assert Erasure.load(tmp_path).is_adapter
    assert not Erasure.load(tmp_path).mergeable
    assert any(tensor.any() for name, tensor in tensors.items() if name.endswith("up.weight"))


def test_a_resumed_search_goes_on_where_it_was(tiny: Path, tmp_path: Path) -> None:
    whole, half = resumed(lambda: made(Diffusion.from_pretrained(tiny)), tmp_path)
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"words": 0}, {"mask_stride": 0}, {"regularise": -1.0}, {"attack_steps": -1}, {"attack_lr": 0.0},
     {"attack_decay": -1.0}, {"mask_threshold": 1.5}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_impossible_options_of_receler_are_refused(options: dict[str, Any], diffusion: Diffusion) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        made(diffusion, **options)


def test_prompts_without_the_phrase_and_masks_of_no_layer_are_refused(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="has no prompt with the phrase 'gear' in it"):
        made(diffusion, Concept("gear", "object", ["umbrella"], phrase="gear", anchor="star"))
    with pytest.raises(ValueError, match=r"no cross-attention is 16 times .*: mask_stride may be one of \[2\]"):
        made(diffusion, mask_stride=16)
