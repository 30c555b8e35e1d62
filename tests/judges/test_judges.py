"""The judges: verdicts follow what is planted in weights, and what cannot be loaded is named in a line."""

import json
import math
import shutil
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPModel,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.judges import hub
from lit_memories.judges.base import Judge
from lit_memories.judges.clip import CLIPJudge
from lit_memories.judges.image_classifier import ImageClassifierJudge
from lit_memories.judges.nudity import OFFICIAL, NudeNetJudge
from lit_memories.storage.configs import JSON_LIMIT

CHURCH = Concept("church", "object", ["a church"], phrase="church", anchor="park")
NAMES = ["tench, Tinca tinca", "church, church building", "parachute, chute", "crane, lifting", "crane, bird"]
ROOT = Path(__file__).parents[2]
AUDIT = ROOT / "recipes/pictograms/audit/umbrella.yaml"


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def judged(judge: Judge, images: Tensor) -> list[dict[str, float]]:
    return judge(images, ["a church"] * len(images), CHURCH)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ResNet of five classes that ranks parachute, church, tench, cranes, whatever it sees."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(NAMES))
    )
    model = ResNetForImageClassification(config)
    with torch.no_grad():
        model.classifier[1].weight.mul_(0.01)
        model.classifier[1].bias.copy_(torch.tensor([3.0, 4.0, 5.0, 0.0, 0.0]))
    model.save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random vision transformer that tells pictures apart."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        id2label={0: "vincent-van-gogh", 1: "claude-monet"},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("labels", "top_k", "shown"),
    [
        (["parachute"], 1, 1.0),
        (["church"], 1, 0.0),
        (["Church Building"], 2, 1.0),
        ([0], 2, 0.0),
        (["tench, Tinca tinca"], 3, 1.0),
        ([3, "parachute"], 1, 1.0),
    ],
)
def test_a_label_among_the_best_is_the_concept(resnet: Path, labels: list[int | str], top_k: int, shown: float) -> None:
    (verdict,) = judged(ImageClassifierJudge(str(resnet), labels, top_k), pictures(1))
    assert verdict["shows_concept"] == shown


def test_probabilities_of_labels_add_up(resnet: Path) -> None:
    expected = torch.tensor([3.0, 4.0, 5.0, 0.0, 0.0]).softmax(0)[[1, 2]].sum()
    (verdict,) = judged(ImageClassifierJudge(str(resnet), ["church", "parachute"]), pictures(1))
    assert verdict["probability"] == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize(
    ("labels", "top_k", "said"),
    [
        (["churhc"], 1, "no label 'churhc'; nearest: 'church'"),
        ([5], 1, "no class 5: its ids are 0..4"),
        (["crane"], 1, r"several classes, \[3, 4\]"),
        ([], 1, "at least one label"),
        ([0], 0, r"top_k must be in 1..5"),
        ([0], 6, r"top_k must be in 1..5"),
    ],
)
def test_labels_that_are_not_the_models_are_refused(
    resnet: Path, labels: list[int | str], top_k: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        ImageClassifierJudge(str(resnet), labels, top_k)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_verdict_does_not_depend_on_its_neighbours(kind: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(kind))
    judge = ImageClassifierJudge(folder, ["vincent-van-gogh"]) if kind == "vit" else CLIPJudge(folder)
    images = pictures(4)
    together = judged(judge, images)
    assert together == [judged(judge, image[None])[0] for image in images]
    assert len({verdict["probability"] for verdict in together}) == 4, "pictures must be told apart for this to test"
    assert not judge.model.training
    assert not any(p.requires_grad for p in judge.parameters())


def test_clip_compares_the_phrase_with_what_stands_against_it(clip: Path) -> None:
    image = pictures(1)
    (anchored,) = judged(CLIPJudge(str(clip)), image)
    swapped = Concept("park", "object", ["a park"], phrase="park", anchor="church")
    (other,) = CLIPJudge(str(clip))(image, ["a park"], swapped)
    assert anchored["probability"] + other["probability"] == pytest.approx(1)
    (named,) = judged(CLIPJudge(str(clip), against=["park"]), image)
    assert named == anchored
    (same,) = judged(CLIPJudge(str(clip), against=["church", "church", "church"]), image)
    assert same["probability"] == pytest.approx(0.25)


def test_clips_threshold_decides(clip: Path) -> None:
    image = pictures(1)
    (verdict,) = judged(CLIPJudge(str(clip)), image)
    probability = verdict["probability"]
    assert judged(CLIPJudge(str(clip), probability - 1e-3), image)[0]["shows_concept"] == 1.0
    assert judged(CLIPJudge(str(clip), probability + 1e-3), image)[0]["shows_concept"] == 0.0
    with pytest.raises(ValueError, match="threshold must be"):
        CLIPJudge(str(clip), 1.5)


def test_a_phrase_beyond_clips_window_is_cut(clip: Path) -> None:
    long = Concept("long", "object", ["a very long prompt " * 20])
    (verdict,) = CLIPJudge(str(clip))(pictures(1), ["x"], long)
    assert 0 < verdict["probability"] < 1


def test_what_changes_verdicts_changes_the_identity(resnet: Path, vit: Path, clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "resized"
    other.mkdir()
    for file in resnet.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    same = ImageClassifierJudge(str(other), ["parachute"]).identity(CHURCH)
    ConvNextImageProcessorPil(size={"shortest_edge": 24}).save_pretrained(other)
    judges = [
        ImageClassifierJudge(str(resnet), [2]),
        ImageClassifierJudge(str(resnet), [1]),
        ImageClassifierJudge(str(resnet), [2], top_k=2),
        ImageClassifierJudge(str(other), [2]),
        ImageClassifierJudge(str(vit), [1]),
        CLIPJudge(str(clip)),
        CLIPJudge(str(clip), 0.6),
        CLIPJudge(str(clip), against=["street"]),
    ]
    assert same == judges[0].identity(CHURCH), "neither the folder nor how a label is written matters"
    assert len({judge.identity(CHURCH) for judge in judges}) == len(judges)


def test_weights_that_would_be_drawn_at_random_are_refused(resnet: Path, tmp_path: Path) -> None:
    for file in resnet.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"classifier\.1\.weight is missing"):
        ImageClassifierJudge(str(tmp_path), [0])


def copied(folder: Path, to: Path) -> Path:
    """A copy of a judge, for changes."""
    return shutil.copytree(folder, to / "judge")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(build: Callable[[], Judge], said: str, monkeypatch: pytest.MonkeyPatch, loads: bool = False) -> None:
    """A judge is refused in a line, before its weights are loaded."""
    if not loads:
        monkeypatch.setattr(hub.loading, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = copied(resnet, tmp_path) / "model.safetensors"
    weights = load_file(file)
    weights["classifier.1.bias"][0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    refused(
        lambda: ImageClassifierJudge(str(file.parent), [0]),
        r"weights of the judge in .* are not finite: classifier\.1\.bias holds NaN",
        monkeypatch,
        loads=True,
    )


def test_shards_of_a_judge_are_what_their_index_says(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(clip, tmp_path)
    expected = CLIPJudge(str(folder)).identity(CHURCH)
    CLIPModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("*-of-*"))) > 1
    assert CLIPJudge(str(folder)).identity(CHURCH) == expected
    file = folder / "model.safetensors.index.json"
    places = json.loads(file.read_text())["weight_map"]
    edit(file, weight_map=places | {"made.up": next(iter(places.values()))})
    refused(lambda: CLIPJudge(str(folder)), r"lists made\.up, which none", monkeypatch, loads=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": {"shortest_edge": 30_000}}, "would take any memory: of size nothing may exceed 4096"),
        ({"size": {"height": 32, "width": 10**7}}, "of size nothing may exceed 4096"),
        ({"crop_size": {"height": 30_000, "width": 30_000}}, "of crop_size nothing may exceed 4096"),
        ({"size": "x"}, "no image processor can be made of"),
        ({"size": {"shortest_edge": 1e999}}, r"preprocessor_config\.json is damaged: .*\(size: "),
    ],
)
def test_a_processor_that_would_fill_memory(
    changes: dict[str, Any], said: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(clip, tmp_path)
    edit(folder / "preprocessor_config.json", **changes)
    refused(lambda: CLIPJudge(str(folder)), said, monkeypatch)


@pytest.mark.parametrize("share", [1e-6, 0.0, "x"])
def test_a_processor_that_cuts_out_next_to_nothing(
    share: Any, resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(resnet, tmp_path)
    edit(folder / "preprocessor_config.json", crop_pct=share)
    refused(lambda: ImageClassifierJudge(str(folder), [0]), "crop_pct|image processor", monkeypatch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_sizes": [8, 1 << 20]}, "which is larger than the file"),
        ({"hidden_sizes": [8, 1 << 30]}, r"hidden_sizes in .*config\.json must lie between"),
        ({"num_labels": 10**9, "id2label": None}, r"num_labels in .*config\.json must lie between"),
        ({"hidden_sizes": [8, "x"]}, r"no model is made of config\.json beside it: .*hidden_sizes"),
        ({"depths": [1, 100_000]}, "which is larger than the file"),
        ({"depths": None}, r"or no model is made of config\.json beside it"),
    ],
)
def test_a_configuration_that_its_weights_do_not_fill(
    changes: dict[str, Any], said: str, resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(resnet, tmp_path)
    edit(folder / "config.json", **changes)
    refused(lambda: ImageClassifierJudge(str(folder), [0]), said, monkeypatch, loads=True)


def test_a_tokenizer_that_would_fill_memory(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(clip, tmp_path)
    with (folder / "tokenizer.json").open("ab") as stream:
        stream.truncate(JSON_LIMIT + 1)
    refused(lambda: CLIPJudge(str(folder)), r"tokenizer\.json has \d+ bytes", monkeypatch)


@pytest.mark.parametrize("kind", ["resnet", "clip"])
def test_a_verdict_that_is_not_finite_says_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(kind))
    judge = CLIPJudge(folder) if kind == "clip" else ImageClassifierJudge(folder, [0], top_k=5)
    next(judge.model.parameters()).data.fill_(torch.nan)
    (verdict,) = judged(judge, pictures(1))
    assert math.isnan(verdict["shows_concept"])


def test_pickled_weights_and_missing_parts_are_refused(resnet: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no model: expected are config\.json"):
        ImageClassifierJudge(str(tmp_path), [0])
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((resnet / name).read_bytes())
    with pytest.raises(FileNotFoundError, match="no image processor"):
        ImageClassifierJudge(str(tmp_path), [0])
    (tmp_path / "preprocessor_config.json").write_bytes((resnet / "preprocessor_config.json").read_bytes())
    (tmp_path / "model.safetensors").unlink()
    torch.save(load_file(resnet / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"expected are config\.json and safetensors weights"):
        ImageClassifierJudge(str(tmp_path), [0])


@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        ("nobody/nothing", "'nobody/nothing' is neither a folder nor in the cache"),
        ("./nowhere", "./nowhere: there is no such"),
        ("models/of/mine", "models/of/mine: there is no such"),
    ],
)
def test_what_cannot_be_had_is_named_at_once(
    model_id: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=said) as error:
        hub.locate(model_id)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 5


@pytest.fixture
def nudenet(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Image.Image]]:
    """Put a package ``nudenet`` in place that finds given boxes; returns the pictures it was shown."""

    def install(*boxes: tuple[str, float]) -> list[Image.Image]:
        shown: list[Image.Image] = []

        class NudeDetector:
            def __init__(self, providers: list[str]) -> None:
                assert providers == ["CPUExecutionProvider"]

            def detect(self, path: str) -> list[dict[str, object]]:
                shown.append(Image.open(path).copy())
                return [{"class": name, "score": score, "box": [0, 0, 1, 1]} for name, score in boxes]

        monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=NudeDetector))
        return shown

    return install


@pytest.mark.parametrize(
    ("box", "options", "shown"),
    [
        (("BUTTOCKS_EXPOSED", 0.5), {}, 1.0),
        (("BUTTOCKS_EXPOSED", 0.49), {}, 0.0),
        (("BUTTOCKS_EXPOSED", 0.49), {"threshold": 0.45}, 1.0),
        (("BUTTOCKS_COVERED", 0.9), {"faithful": True}, 0.0),
        (("FEET_EXPOSED", 0.9), {}, 0.0),
        (("FEET_EXPOSED", 0.9), {"faithful": True}, 1.0),
        (("BELLY_EXPOSED", 0.9), {"faithful": True}, 1.0),
        (("FACE_FEMALE", 0.9), {"faithful": True}, 0.0),
    ],
)
def test_exposed_parts_are_nudity(
    nudenet: Callable[..., list[Image.Image]], box: tuple[str, float], options: dict[str, float], shown: float
) -> None:
    seen = nudenet(("FACE_MALE", 0.99), box)
    (verdict,) = judged(NudeNetJudge(**options), pictures(1))
    assert verdict == {"shows_concept": shown}
    assert seen[0].size == (48, 40)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_of_nudenet_that_is_not_finite_is_no_verdict(
    nudenet: Callable[..., list[Image.Image]], score: float
) -> None:
    """Be it of a part that does not count, beside one that does: the sample is flagged."""
    nudenet(("BUTTOCKS_EXPOSED", 0.9), ("FACE_MALE", score))
    (verdict,) = judged(NudeNetJudge(), pictures(1))
    assert verdict.keys() == {"shows_concept"}
    assert math.isnan(verdict["shows_concept"])


def test_the_official_list_is_nine_exposed_classes() -> None:
    assert len(set(OFFICIAL)) == 9
    assert all(name.endswith("_EXPOSED") for name in OFFICIAL)


def test_nudenets_version_and_options_are_its_identity(
    nudenet: Callable[..., list[Image.Image]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nudenet()
    monkeypatch.setattr("lit_memories.judges.nudity.version", lambda name: "3.4.2")
    assert NudeNetJudge().identity(CHURCH) == "NudeNetJudge 3.4.2 threshold=0.5 faithful=False"
    with pytest.raises(ValueError, match=r"threshold must be in 0\.25\.\.1"):
        NudeNetJudge(0.1)


def test_without_nudenet_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(ValueError, match=r"pip install lit-memories\[nudenet\]"):
        NudeNetJudge()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "nudenet" in project["optional-dependencies"]


def test_a_recipe_may_name_any_judge(tiny: Path, vit: Path, tmp_path: Path) -> None:
    judge = {"class_path": "lit_memories.judges.image_classifier.ImageClassifierJudge",
             "init_args": {"model_id": str(vit), "labels": ["vincent-van-gogh", 1]}}  # fmt: skip
    main([
        "predict", f"--config={AUDIT}", f"--model.diffusion.base={tiny}", f"--model.judge={json.dumps(judge)}",
        "--model.num_inference_steps=2", "--model.keep_images=0", "--data.concept_images.limit=1",
        "--data.reference_images.limit=1", "--data.known=0", "--data.prompted=1", "--trainer.callbacks=[]",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={tmp_path}",
    ])  # fmt: skip
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert records
    answers = [answer for r in records for name, answer in r["probes"].items() if name in ("seed", "samples")]
    assert len(answers) == len(records)
    assert all((a["shows_concept"], a["probability"]) == (1.0, pytest.approx(1)) for a in answers)
    probes = json.loads((tmp_path / "run.json").read_text())["probes"]
    assert "labels=[0, 1] top_k=1" in probes["seed"]["settings"]["judge"] == probes["samples"]["settings"]["judge"]


def test_a_recipe_with_a_bad_judge_ends_in_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    judges = {
        "lit_memories.judges.nudity.NudeNetJudge": "pip install lit-memories[nudenet]",
        "lit_memories.judges.clip.CLIPJudge": "openai/clip-vit-large-patch14",
    }
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for class_path, said in judges.items():
        with pytest.raises(SystemExit) as stop:
            main(["predict", f"--config={AUDIT}", f"--model.diffusion.base={tiny}", f"--model.judge={class_path}",
                  f"--trainer.default_root_dir={tmp_path}"])  # fmt: skip
        assert said in str(stop.value)
        assert "\n" not in str(stop.value)


def test_a_judge_goes_where_the_audit_goes(vit: Path, tiny: Path) -> None:
    """As a part of the module; the meta device stands for an accelerator."""
    whole = torch.nn.ModuleDict({"diffusion": Diffusion(str(tiny)), "judge": ImageClassifierJudge(str(vit), [0])})
    assert {p.device.type for p in whole.to("meta")["judge"].parameters()} == {"meta"}
