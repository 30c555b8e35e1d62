"""What is read off pictures: against the libraries' own, and what happens where a network cannot be had."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPModel, CLIPProcessor

from lit_memories.concept import Concept
from lit_memories.judges.clip import CLIPJudge
from lit_memories.judges.measures import Features, layered_distance
from lit_memories.judges.networks import CLIPFeatures, CLIPScore, InceptionFeatures, PickScore
from lit_memories.worlds.classifier import load_classifier
from lit_memories.worlds.judge import WorldDistance, WorldFeatures

PROMPTS = ["a church", "umbrella"]


@pytest.fixture
def images() -> Tensor:
    """As files have them."""
    noise = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    return noise.mul(255).round().div(255)


class Plain(CLIPModel):
    """As torchmetrics takes it: with tensors for features, which newer transformers wrap."""

    def get_image_features(self, *args: Any, **options: Any) -> Tensor:
        return super().get_image_features(*args, **options).pooler_output

    def get_text_features(self, *args: Any, **options: Any) -> Tensor:
        return super().get_text_features(*args, **options).pooler_output


def test_clip_score_is_that_of_torchmetrics(clip: Path, images: Tensor) -> None:
    model, processor = Plain.from_pretrained(clip), CLIPProcessor.from_pretrained(clip, backend="pil")
    found = CLIPScore(str(clip))(images, PROMPTS)
    for image, prompt, score in zip(images, PROMPTS, found, strict=True):
        wanted = clip_score(image.mul(255).to(torch.uint8), prompt, lambda: (model, processor))
        assert float(score) == pytest.approx(float(wanted), abs=1e-3)
    assert (found >= 0).all()


def test_pick_score_is_the_models_own_scale_of_the_cosine(clip: Path, images: Tensor) -> None:
    """As its authors compute it, with tokenizer and image processor of another model."""
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip, backend="pil")
    model.logit_scale.data.fill_(2.0)
    pick = PickScore(str(clip), processor_id=str(clip))
    pick.clip.model.logit_scale.data.fill_(2.0)
    pixels = processor(images=list(images.mul(255).to(torch.uint8)), return_tensors="pt")["pixel_values"]
    tokens = processor(text=PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=pixels, **tokens).logits_per_image.diagonal()
    assert torch.allclose(pick(images, PROMPTS), logits, atol=1e-4)


def test_a_preference_model_is_a_clip_judge_too(clip: Path, tmp_path: Path, images: Tensor) -> None:
    """One whose folder holds weights alone takes another's tokenizer and image processor."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    with pytest.raises(FileNotFoundError, match="no image processor"):
        CLIPJudge(str(tmp_path))
    church = Concept("church", "object", ["a church"], phrase="church", anchor="park")
    judge = CLIPJudge(str(tmp_path), processor_id=str(clip))
    assert judge(images, PROMPTS, church) == CLIPJudge(str(clip))(images, PROMPTS, church)
    assert judge.identity(church) == CLIPJudge(str(clip)).identity(church)


def test_features_of_clip_are_its_embeddings(clip: Path, images: Tensor) -> None:
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip, backend="pil")
    pixels = processor(images=list(images.mul(255).to(torch.uint8)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = model(pixel_values=pixels, **processor(text=PROMPTS, padding=True, return_tensors="pt")).image_embeds
    assert torch.allclose(CLIPFeatures(str(clip))(images), wanted, atol=1e-5)


def test_features_of_pictograms_are_what_the_heads_see(tiny_classifier: Path) -> None:
    images = torch.rand(3, 3, 64, 64)
    classifier, features = load_classifier(tiny_classifier), WorldFeatures(tiny_classifier)(images)
    logits = classifier(images)
    for name, head in classifier.heads.items():
        assert torch.allclose(head(features), logits[name], atol=1e-5)


def test_a_distance_is_zero_to_itself_and_grows_with_noise(tiny_classifier: Path) -> None:
    image, noise = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    distance = WorldDistance(tiny_classifier)
    others = torch.cat([image, 0.9 * image + 0.1 * noise, 0.5 * image + 0.5 * noise, noise])
    found = distance(image.expand(4, -1, -1, -1), others)
    assert found[0] == 0
    assert (found.diff() > 0).all()


def test_the_layered_distance_is_lpips_with_weights_of_one() -> None:
    """Unit vectors at each place: at a right angle 2, opposite 4, whatever their length."""
    a, b = torch.zeros(2, 1, 2, 1, 2)
    a[0, 0], b[0, 0, 0, 0], b[0, 1, 0, 1] = 3.0, -5.0, 0.5
    assert float(layered_distance([a], [b])) == pytest.approx((4 + 2) / 2)
    assert float(layered_distance([a, a], [b, b])) == pytest.approx(6)


class Inception(nn.Module):
    """In place of torchmetrics' network, of which only the call is kept: file of weights in, uint8 pictures."""

    def __init__(self, name: str, features: list[str], weights: str, antialias: bool) -> None:
        super().__init__()
        assert (name, features, antialias) == ("inception-v3-compat", ["2048"], False)
        self.scale = nn.Parameter(torch.load(weights)["scale"])

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images.flatten(1)[:, :2048].float() * self.scale


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package torch-fidelity, as far as it is imported."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Inception)


@pytest.mark.usefixtures("fidelity")
def test_inception_takes_its_weights_from_a_file_of_tensors(tmp_path: Path, images: Tensor) -> None:
    torch.save({"scale": torch.tensor(2.0)}, tmp_path / "weights.pth")
    features = InceptionFeatures(tmp_path / "weights.pth")
    assert torch.equal(features(images), images.mul(255).round().flatten(1)[:, :2048] * 2)
    torch.save({"scale": torch.tensor(3.0)}, tmp_path / "other.pth")
    assert features.identity() != InceptionFeatures(tmp_path / "other.pth").identity()


@pytest.mark.usefixtures("fidelity")
def test_a_pickle_that_runs_code_is_no_file_of_weights(tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"scale": Run()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="a pickle that needs code to be run"):
        InceptionFeatures(tmp_path / "weights.pth").identity()
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        InceptionFeatures(tmp_path / "nowhere.pth").identity()


def test_features_are_a_pictures_own(tiny_classifier: Path) -> None:
    features: Features = WorldFeatures(tiny_classifier)
    images = torch.rand(5, 3, 64, 64)
    assert torch.equal(features(images)[2:4], features(images[2:4]))
