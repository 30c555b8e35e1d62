"""Text encoders away from the accelerator, and prompts that are embedded once and kept on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from far import FAR, Far, far_away
from lightning import Trainer
from torch import Generator, Tensor, nn

from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.embedding import Embeddings, encoder_of
from lit_memories.concept import Concept
from lit_memories.data.audit import AuditData
from lit_memories.data.sources import ImageSource, save_images
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.probes import Denoising, Samples
from lit_memories.speed import Speed
from lit_memories.tools.outlines import Outline, calls, parts
from lit_memories.words import Words
from lit_memories.worlds import pictograms

PROMPTS = ["a painting", "van gogh"]


def flow(folder: Path, **speed: Any) -> Diffusion:
    return Diffusion(str(folder), speed=Speed(**speed), image_size=32)


def latents_of(model: Diffusion) -> Tensor:
    seeds = model.draw_seeds([Generator().manual_seed(i) for i in range(2)])
    with torch.no_grad():
        return model.predict(seeds, 500.0, model.encode_prompts(PROMPTS), 3.5)


@pytest.mark.parametrize("name", ["flux-dev", "sd3"])
def test_encoders_stay_and_the_rest_goes(name: str, flows: dict[str, Path]) -> None:
    expected = latents_of(flow(flows[name]))
    model = flow(flows[name], offload_text=True)
    assert torch.equal(latents_of(model), expected)
    with far_away():
        model.to(FAR)
        where = {part: {isinstance(x, Far) for x in module.parameters()} for part, module in model.named_children()}
        assert {part for part, far in where.items() if far == {True}} == {"transformer", "vae"}
        assert {part for part, far in where.items() if far == {False}} == set(model.conditioning.encoders)
        assert model.encode_prompts(PROMPTS).device == FAR
        found = latents_of(model).cpu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert [part for part, _ in model.named_children()] == [part for part, _ in flow(flows[name]).named_children()]


def test_attacks_on_tokens_take_the_encoder_back(tiny: Path) -> None:
    model = Diffusion(str(tiny), speed=Speed(offload_text=True))
    ids = model.tokenize(PROMPTS)
    with torch.no_grad():
        expected = Words(model).embeds(ids)
    model = Diffusion(str(tiny), speed=Speed(offload_text=True))
    with far_away(), torch.no_grad():
        model.to(FAR)
        words = Words(model)
        assert isinstance(words.table, Far)
        torch.testing.assert_close(words.embeds(ids.to(FAR)).cpu(), expected, atol=1e-5, rtol=1e-5)
        model.to(FAR)
        assert isinstance(words.table, Far)


class Counted:
    """How often text encoders are asked."""

    def __init__(self, model: Diffusion) -> None:
        self.calls = 0
        for encoder in model.conditioning.encoders.values():
            encoder.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls += 1


@pytest.fixture
def images(tmp_path: Path) -> Path:
    save_images(pictograms.build("audits", 100, keep={"object": "umbrella"}, limit=2), tmp_path / "concept")
    save_images(pictograms.build("audits", 20, withhold=[{"object": "umbrella"}], limit=2), tmp_path / "reference")
    return tmp_path


def audited(model: Diffusion, images: Path, folder: Path, concept: Concept) -> dict[str, bytes]:
    audit = ConceptAudit(
        model, FixedPoint(2), concept, [Denoising(2), Samples(3.5)], name="run", num_inference_steps=2, block_size=2
    )
    data = AuditData(*(ImageSource(str(images / name)) for name in ("concept", "reference")), known=0, prompted=1)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(accelerator="cpu", logger=False, default_root_dir=folder, **options).predict(audit, data)
    return {name: (folder / name).read_bytes() for name in ("records.jsonl", "run.json")}


@pytest.mark.parametrize("name", ["flux-dev", "sd3"])
def test_prompts_are_embedded_once(name: str, flows: dict[str, Path], images: Path, van_gogh: Concept) -> None:
    """With all prompts there an audit asks no text encoder, and finds the same to the byte."""
    expected = audited(flow(flows[name]), images, images / "without", van_gogh)
    first, again = (flow(flows[name], text_cache=images / "cache") for _ in range(2))
    counted = Counted(first), Counted(again)
    assert audited(first, images, images / "first", van_gogh) == expected
    assert audited(again, images, images / "again", van_gogh) == expected
    assert counted[0].calls > 0
    assert counted[1].calls == 0
    files = len(list((images / "cache").glob("prompts-*.safetensors")))
    assert files * len(first.conditioning.encoders) == counted[0].calls


def test_other_encoders_prompts_and_places_are_others(flows: dict[str, Path], tmp_path: Path) -> None:
    def kept(model: Diffusion, prompts: list[str]) -> int:
        Embeddings(encoder_of(model))(prompts)
        return len(list(tmp_path.iterdir()))

    assert kept(flow(flows["sd3"], text_cache=tmp_path), PROMPTS) == 2
    assert kept(flow(flows["sd3"], text_cache=tmp_path, offload_text=True), [*PROMPTS, PROMPTS[0]]) == 2
    assert kept(flow(flows["sd3-without-t5"], text_cache=tmp_path), PROMPTS) == 4
    changed = flow(flows["sd3"], text_cache=tmp_path)
    with torch.no_grad():
        changed.text_encoder_3.shared.weight.add_(1)
    assert kept(changed, PROMPTS) == 6
    half = Diffusion(str(flows["sd3"]), torch_dtype="bfloat16", speed=Speed(text_cache=tmp_path), image_size=32)
    assert kept(half, PROMPTS) == 8


def test_a_damaged_file_is_made_anew(flows: dict[str, Path], tmp_path: Path) -> None:
    model = flow(flows["flux-dev"], text_cache=tmp_path)
    expected = Embeddings(encoder_of(model))(PROMPTS)
    for file in tmp_path.iterdir():
        file.write_bytes(b"nothing")
    assert torch.equal(Embeddings(encoder_of(model))(PROMPTS), expected)
    assert torch.equal(model.encode_prompts(PROMPTS[:1]), expected[:1])


def test_settings_say_what_results_depend_on() -> None:
    assert Speed(text_cache=Path("x"), offload_text=True).settings() == {"offload_text": True}


def test_a_plan_leaves_out_what_is_away(flows: dict[str, Path], van_gogh: Concept) -> None:
    model = Outline(str(flows["flux-dev"]), speed=Speed(offload_text=True, vae_tiling=True), image_size=32)
    assert {part.name for part in parts(model) if part.offloaded} == {"text_encoder", "text_encoder_2"}
    found = {
        call.name: call.asked for call in calls(ConceptAudit(model, FixedPoint(2), van_gogh, [Denoising(2)]), [1.0])
    }
    assert not found["prompt"]
    assert found["pictures decoded in tiles"]
    assert not found["pictures decoded"]
