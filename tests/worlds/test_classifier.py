"""The judge: what it says of pictures, and what it is loaded from."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_memories.concept import Concept
from lit_memories.worlds.classifier import WorldClassifier, load_classifier
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.pictograms import FACTORS, GRAMMAR

UMBRELLA = Concept("umbrella", "object", ["an umbrella"], factors={"object": "umbrella"})


def test_a_pickled_classifier_is_refused(tmp_path: Path) -> None:
    WorldClassifier.of(GRAMMAR, (8, 8)).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(FileNotFoundError, match="there are no weights at all in safetensors"):
        load_classifier(tmp_path)


def test_a_folder_without_a_classifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_classifier(tmp_path)


def test_a_verdict_does_not_depend_on_the_pictures_beside_it(tiny_classifier: Path) -> None:
    judge, images = (
        WorldJudge(tiny_classifier),
        torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    prompts = ["a red umbrella on a blue background, solid style"] * 3
    together = judge(images, prompts, UMBRELLA)
    alone = [judge(image[None], prompts[:1], UMBRELLA)[0] for image in images]
    assert together == alone
    assert set(together[0]["correct"]) == {"object", "color", "background", "style"}


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ({"colour": "red"}, "no factor 'colour' in factors: choose of object, color, background, style"),
        ({"style": "dotted"}, "no style 'dotted' in factors: choose one of solid"),
        ({}, "factors must say how WorldJudge tells it"),
    ],
)
def test_a_concept_that_cannot_be_told_is_refused(tiny_classifier: Path, factors: dict[str, str], named: str) -> None:
    """Of a concept without factors the judge would say that every picture shows it."""
    with pytest.raises(ValueError, match="concept 'x': ") as error:
        WorldJudge(tiny_classifier).check(Concept("x", "color", ["x"], factors=factors))
    assert named in str(error.value)


def test_a_prompt_of_another_grammar_has_no_right_answer(tiny_classifier: Path) -> None:
    (verdict,) = WorldJudge(tiny_classifier)(torch.zeros(1, 3, 64, 64), ["an umbrella"], UMBRELLA)
    assert verdict["correct"] is None
    assert verdict["shows_concept"] in (0.0, 1.0)


def test_the_probability_is_that_of_all_factors_together(tiny_classifier: Path) -> None:
    image, prompt = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), ["an umbrella"]
    judge = WorldJudge(tiny_classifier)
    logits = judge.classifier(image)
    red, solid = logits["color"][0].double().softmax(0)[0], logits["style"][0].double().softmax(0)[0]
    both = Concept("red and solid", "color", ["x"], factors={"color": "red", "style": "solid"})
    assert judge(image, prompt, both)[0]["probability"] == pytest.approx(float(red * solid), rel=1e-5)
    total = sum(
        judge(image, prompt, Concept("x", "style", ["x"], factors={"style": style}))[0]["probability"]
        for style in FACTORS["style"]
    )
    assert total == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ["heads.object.weight", "heads.style.bias", "features.0.0.weight"])
def test_weights_that_are_missing_or_not_finite_are_refused(name: str, tiny_classifier: Path, tmp_path: Path) -> None:
    """They would be drawn at random, another judge at every load; of NaN the first value is always the largest."""
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({key: tensor for key, tensor in weights.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"does not fill the model: {name} is missing"):
        load_classifier(folder)
    for illness in (math.nan, math.inf):
        save_file(weights | {name: torch.full_like(weights[name], illness)}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=f"are not finite: {name} holds NaN"):
            load_classifier(folder)


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ([8, "x"], r"widths in .*config\.json cannot be"),
        (8, r"widths in .*config\.json cannot be 8"),
        ([8, 10**9], r"widths in .*config\.json must lie between"),
        ([1 << 19, 8], "which is larger than the file"),
        ([8] * 100_000, "which is larger than the file"),
    ],
)
def test_a_configuration_takes_no_memory_that_weights_do_not(
    widths: object, said: str, tiny_classifier: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_classifier, tmp_path / "classifier")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"widths": widths}))
    with pytest.raises(ValueError, match=said) as caught:
        load_classifier(folder)
    assert "\n" not in str(caught.value)


def test_a_verdict_from_logits_that_are_not_finite_is_none(tiny_classifier: Path) -> None:
    judge = WorldJudge(tiny_classifier)
    torch.nn.init.constant_(judge.classifier.heads["color"].bias, math.inf)  # type: ignore[arg-type]
    (verdict,) = judge(torch.rand(1, 3, 64, 64), ["an umbrella"], UMBRELLA)
    assert math.isnan(verdict["shows_concept"])
