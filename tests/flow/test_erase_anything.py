"""EraseAnything: two levels in turn, each against its own formula, on tiny Stable Diffusion 3 and FLUX."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import changed, fit, gradients, moved, probed, resumed, snapshot
from test_flow_erasers import PROMPTS, loaded, sets, velocity
from torch import Generator

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.erase_anything import EraseAnything, reverse_contrast
from lit_memories.erasure import Erasure

NAMES = pytest.mark.parametrize("name", ["sd3", "flux-dev"])


def made(model: Diffusion, concept: Concept, **options: Any) -> Any:
    common = {"batch_size": 2, "probe_size": 2, "num_inference_steps": 4, "lr": 1e-2, "rank": 2, "guidance_input": 1.0}
    return EraseAnything(model, concept, **(common | options))


def noisy(model: Diffusion, count: int = 2) -> torch.Tensor:
    return model.draw_seeds([Generator().manual_seed(i) for i in range(count)])


@NAMES
def test_factors_stand_where_the_text_asks_and_is_asked(name: str, flows: dict[str, Path], van_gogh: Concept) -> None:
    method = made(loaded(flows, name), van_gogh)
    layers = {key.removeprefix("transformer.").rsplit(".", 1)[0] for key in method.selected}
    blocks = 2 if name == "sd3" else 1
    assert layers == {f"transformer_blocks.{i}.attn.add_{part}_proj" for i in range(blocks) for part in "qk"}


@NAMES
def test_the_upper_level_is_esd_and_the_norm_of_attention(name: str, flows: dict[str, Path], van_gogh: Concept) -> None:
    method = moved(made(loaded(flows, name), van_gogh, attention_weight=0.2))
    model, plain, x = method.diffusion, loaded(flows, name), noisy(method.diffusion)
    found = method.upper_loss(x, 700.0, PROMPTS)
    with torch.no_grad():
        none, v = velocity(plain, x, 0.7, ["", ""]), velocity(plain, x, 0.7, PROMPTS)
        erase = (velocity(model, x, 0.7, PROMPTS) - (2 * none - v)).square().mean()
        _, layers = method.looking(x, 700.0, PROMPTS)
        total = 0.0
        for layer in layers:
            for sample, prompt in enumerate(PROMPTS):
                for row in method.diffusion.places(prompt, "Van Gogh"):
                    total += float(layer[sample, :, :, row].norm(dim=0).sum()) / (len(layers) * 2)
    torch.testing.assert_close(found.detach(), erase + 0.2 * total, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(velocity(model, x, 0.7, PROMPTS), v), "the control: the factors do something"


@NAMES
def test_the_lower_level_is_flow_matching_and_contrast(name: str, flows: dict[str, Path], van_gogh: Concept) -> None:
    """The target of either is none of the model's in training, and only the latter gets gradients."""
    method = moved(made(loaded(flows, name), van_gogh, retain_weight=1.0, contrast_weight=0.0))
    batch = sets(method.diffusion, van_gogh)
    x = noisy(method.diffusion)
    latents, captions = method.rows(batch["retain_set"], 2)
    flow_matching = method.diffusion_loss(latents, captions, method.generator("retain"))
    torch.testing.assert_close(method.lower_loss(x, 700.0, PROMPTS, batch), flow_matching)
    method.retain_weight, method.contrast_weight = 0.0, 1.0
    loss = method.lower_loss(x, 700.0, PROMPTS, batch)
    assert any(gradient.any() for gradient in gradients(loss, method))
    with method.teacher():
        near = method.attended(x, 700.0, PROMPTS, ["Van Gogh"] * 2)
    torch.testing.assert_close(near.norm(dim=1), torch.ones(2))
    assert float(loss) < 0


def test_the_contrast_is_the_share_of_the_synonym() -> None:
    """It falls as the vector leaves the synonym, and as it nears another word: the released one only the former."""
    near, far = torch.eye(4)[:1], torch.eye(4)[1:3, None]
    found = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    exp = torch.tensor([0.6, 0.8, 0.0]).div(0.5).exp()
    torch.testing.assert_close(reverse_contrast(found, near, far, 0.5), (exp[0] / exp.sum()).log())
    nearer = torch.tensor([[0.6, 0.8**0.5 * 0.8**0.5, 0.0, 0.0]])
    aside = torch.tensor([[0.6, 0.0, 0.0, 0.8]])
    assert reverse_contrast(nearer, near, far, 0.5) < reverse_contrast(aside, near, far, 0.5)
    assert reverse_contrast(aside, near, far, 0.5) < reverse_contrast(near, near, far, 0.5)


def test_words_are_looked_for_in_their_own_prompt(flows: dict[str, Path], van_gogh: Concept) -> None:
    method = made(loaded(flows, "sd3-without-t5"), van_gogh)
    marks = method.marks(["a landscape by Van Gogh", "a landscape by an artist"], ["Van Gogh", "an artist"])
    assert [row.nonzero().flatten().tolist() for row in marks] == [[4, 5], [4, 5]]
    assert "" in van_gogh.retain or all(method.unlike), "prompts without words are no other words"


@NAMES
def test_levels_take_turns_and_weights_stay(
    name: str, flows: dict[str, Path], van_gogh: Concept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    for level in ("upper", "lower"):
        plain = getattr(EraseAnything, f"{level}_loss")

        def watch(self: Any, *args: Any, level: str = level, plain: Any = plain) -> Any:
            turns.append(level)
            return plain(self, *args)

        monkeypatch.setattr(EraseAnything, f"{level}_loss", watch)
    model = loaded(flows, name)
    before, batch = snapshot(model), sets(model, van_gogh)
    fit(made(model, van_gogh, synonyms=["a Dutch painter"]), tmp_path, 3, batch)
    assert turns == ["upper", "lower", "upper"]
    assert not changed(before, model)
    assert Erasure.load(tmp_path).is_adapter
    erased, base = Diffusion(str(flows[name]), erasure=tmp_path, image_size=32), loaded(flows, name)
    differs = changed(snapshot(base), erased)
    assert differs
    assert all(key.endswith(("add_q_proj.weight", "add_k_proj.weight")) for key in differs)


def test_resumed_is_uninterrupted(flows: dict[str, Path], van_gogh: Concept, tmp_path: Path) -> None:
    batch = sets(loaded(flows, "sd3"), van_gogh)
    whole, half = resumed(lambda: made(loaded(flows, "sd3"), van_gogh), tmp_path, batch)
    assert all(torch.equal(tensor, half[name]) for name, tensor in whole.items())


def test_the_prediction_goes_to_its_target(flows: dict[str, Path], van_gogh: Concept, tmp_path: Path) -> None:
    model = loaded(flows, "sd3")
    method = made(model, van_gogh, rank=8, batch_size=4, lr=3e-2, attention_weight=0.0, contrast_weight=0.0)
    first, last = probed(method, tmp_path, 40, sets(model, van_gogh))
    assert first["val/erase_ratio"] == 1
    assert last["val/erase_ratio"] < 0.99


def test_a_distilled_network_is_told_the_guidance(flows: dict[str, Path], van_gogh: Concept) -> None:
    model = loaded(flows, "flux-dev")
    x, embeds = noisy(model), model.encode_prompts(PROMPTS)
    method = made(model, van_gogh, guidance_input=3.0)
    with torch.no_grad():
        assert torch.equal(method.predict(x, 700.0, PROMPTS), model.predict(x, 700.0, embeds, 3.0))
        assert not torch.equal(method.predict(x, 700.0, PROMPTS), model.predict(x, 700.0, embeds, 1.0))


def test_what_it_is_not_for_is_refused(diffusion: Diffusion, flows: dict[str, Path], van_gogh: Concept) -> None:
    umbrella = Concept("umbrella", "object", ["umbrella"], ["star"], anchor="star")
    with pytest.raises(
        ValueError, match=r"EraseAnything is for transformers .* has a U-Net: .* AC, SalUn and EraseDiff"
    ):
        made(diffusion, umbrella)
    alone = Concept("van_gogh", "style", ["Van Gogh"])
    with pytest.raises(
        ValueError, match=r"needs prompts that hold the phrase 'Van Gogh', and others to retain: .* 1 and 0"
    ):
        made(loaded(flows, "sd3"), alone)
    for options in ({"rank": 0}, {"temperature": 0.0}, {"contrast_weight": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            made(loaded(flows, "sd3"), van_gogh, **options)
