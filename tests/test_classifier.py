"""The judge: what it says of pictures, and what it is loaded from."""

from pathlib import Path

import pytest
import torch

from lit_memories.classifier import PictogramClassifier, PictogramJudge, load_classifier
from lit_memories.concept import Concept

UMBRELLA = Concept("umbrella", "object", ["an umbrella"], factors={"object": "umbrella"})


def test_a_pickled_classifier_is_refused(tmp_path: Path) -> None:
    PictogramClassifier((8, 8)).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        load_classifier(tmp_path)


def test_a_folder_without_a_classifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_classifier(tmp_path)


def test_a_verdict_does_not_depend_on_the_pictures_beside_it(tiny_classifier: Path) -> None:
    judge, images = (
        PictogramJudge(tiny_classifier),
        torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    prompts = ["a red umbrella on a blue background, solid style"] * 3
    together = judge(images, prompts, UMBRELLA)
    alone = [judge(image[None], prompts[:1], UMBRELLA)[0] for image in images]
    assert together == alone
    assert set(together[0]["correct"]) == {"object", "color", "background", "style"}


def test_a_prompt_of_another_grammar_has_no_right_answer(tiny_classifier: Path) -> None:
    (verdict,) = PictogramJudge(tiny_classifier)(torch.zeros(1, 3, 64, 64), ["an umbrella"], UMBRELLA)
    assert verdict["correct"] is None
    assert verdict["shows_concept"] in (0.0, 1.0)
