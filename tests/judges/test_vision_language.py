"""A vision-language model as a judge: its answer is the next token's, and no picture has a say in another's."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lit_memories.audit.concept import ConceptAudit
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_pil
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.judges.vision_language import VLMJudge, answers
from lit_memories.probes import Denoising, Judging, Samples

CHURCH = Concept("church", "object", ["a church"], phrase="church", anchor="park")


@pytest.fixture(scope="module")
def judge(vlm: Path) -> VLMJudge:
    return VLMJudge(str(vlm), batch_size=2)


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def test_the_probability_is_that_of_yes_against_no(vlm: Path, judge: VLMJudge) -> None:
    """By the model and processor as their authors use them, one picture at a time."""
    model, processor = AutoModelForImageTextToText.from_pretrained(vlm), AutoProcessor.from_pretrained(vlm)
    text = 'USER : <image> Does this picture show "church"? Answer yes or no. ASSISTANT :'
    assert judge.text(CHURCH) == text
    vocabulary = processor.tokenizer.get_vocab()
    images = pictures(3)
    found = judge(images, [""] * 3, CHURCH)
    for image, verdict in zip(images, found, strict=True):
        with torch.no_grad():
            inputs = processor(images=to_pil(image), text=text, return_tensors="pt")
            chances = model(**inputs).logits[0, -1].softmax(0)
        yes, no = (float(chances[vocabulary[word]] + chances[vocabulary[word.lower()]]) for word in ("Yes", "No"))
        assert verdict["probability"] == pytest.approx(yes / (yes + no), rel=1e-4)
        assert verdict["shows_concept"] == float(verdict["probability"] >= 0.5)
    assert len({verdict["probability"] for verdict in found}) == 3, "it looks at the picture"


def test_a_verdict_is_its_pictures_own(judge: VLMJudge) -> None:
    images = pictures(5)
    together = judge(images, [""] * 5, CHURCH)
    assert together == [judge.look(image, "", CHURCH) for image in images.split(1)]
    assert together[::-1] == judge(images.flip(0), [""] * 5, CHURCH)


def test_what_verdicts_depend_on_is_its_identity(vlm: Path, judge: VLMJudge) -> None:
    own = judge.identity(CHURCH)
    assert own == VLMJudge(str(vlm), batch_size=2).identity(CHURCH)
    other = Concept("umbrella", "object", ["an umbrella"], phrase="umbrella", anchor="park")
    others = [
        judge.identity(other),
        VLMJudge(str(vlm), batch_size=3).identity(CHURCH),
        VLMJudge(str(vlm), threshold=0.4, batch_size=2).identity(CHURCH),
        VLMJudge(str(vlm), "{}?", batch_size=2).identity(CHURCH),
    ]
    assert len({own, *others}) == 5


def test_an_answer_that_is_not_finite_says_nothing(vlm: Path) -> None:
    judge = VLMJudge(str(vlm))
    next(judge.model.parameters()).data.fill_(torch.nan)
    assert math.isnan(judge.look(pictures(1), "", CHURCH)["shows_concept"])


def test_a_model_without_a_dialogue_is_asked_plainly(vlm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vlm, tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    judge = VLMJudge(str(folder))
    assert judge.text(CHURCH) == '<image>Does this picture show "church"? Answer yes or no.'
    assert 0 < judge.look(pictures(1), "", CHURCH)["probability"] < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.0}, "threshold must be in"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"question": "Is there a church?"}, "where the concept's phrase goes"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VLMJudge("nobody/nothing", **options)


def test_models_that_are_none_are_refused_in_a_line(vlm: Path, clip: Path, judge: VLMJudge) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder nor in the cache"):
        VLMJudge("nobody/nothing")
    with pytest.raises((FileNotFoundError, ValueError), match=r"no processor|no model is made|has no token"):
        VLMJudge(str(clip))
    with pytest.raises(ValueError, match="no token for 'maybe'"):
        answers(judge.processor.tokenizer, ["maybe"], str(vlm))


def test_an_audit_by_it_has_to_measure_its_errors(judge: VLMJudge, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=r"VLMJudge is often wrong.*--model\.probes\+=Judging"):
        ConceptAudit(diffusion, FixedPoint(), CHURCH, [Denoising(), Samples()], judge=judge)
    ConceptAudit(diffusion, FixedPoint(), CHURCH, [Denoising(), Samples(), Judging()], judge=judge)
