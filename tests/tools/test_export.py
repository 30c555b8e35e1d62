"""Exported pipelines: files in a form that old and new releases of the libraries read, and a card."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Generator
from transformers import CLIPTokenizer

from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance, versions
from lit_memories.tools.export import export

NAME = "unet.conv_out.weight"


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with an erasure worked in."""
    folder, model = tmp_path_factory.mktemp("export"), Diffusion(str(tiny))
    weight = model.state_dict()[NAME]
    tensors = {NAME: weight + torch.randn(weight.shape, generator=Generator().manual_seed(0))}
    origin = Provenance(
        "Test", {"name": "umbrella"}, "somebody/base", None, model.fingerprint, {}, 1, 0, versions(),
    )  # fmt: skip
    Erasure(tensors, origin).save(folder / "erasure")
    export(str(tiny), folder / "erasure", folder / "full")
    return folder / "full"


def test_text_encoders_have_the_names_that_all_releases_read(exported: Path) -> None:
    """Those that transformers 5 writes are left at random by 4."""
    with safe_open(exported / "text_encoder" / "model.safetensors", "pt") as file:
        names = list(file.keys())
        assert file.metadata() == {"format": "pt"}, "without which transformers 4 does not read it"
    assert names
    assert all(name.startswith("text_model.") for name in names)


def test_configurations_say_what_all_releases_read(exported: Path) -> None:
    config = json.loads((exported / "text_encoder" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert "dtype" not in config
    config = json.loads((exported / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "CLIPTokenizer"
    assert not {"backend", "is_local", "local_files_only"} & config.keys()


def test_a_tokenizer_can_be_made_of_its_words_and_merges(exported: Path, tiny: Path, tmp_path: Path) -> None:
    """Without tokenizer.json, which transformers 4's CLIPTokenizer does not read."""
    shutil.copytree(exported / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    old, new = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"), CLIPTokenizer.from_pretrained(tiny / "tokenizer")
    assert old.get_vocab() == new.get_vocab()
    for text in ("a red umbrella on a blue background", "", "Zebra, 3 umbrellas!"):
        assert old(text).input_ids == new(text).input_ids
    special = json.loads((exported / "tokenizer" / "special_tokens_map.json").read_text())
    assert special["eos_token"] == new.eos_token
    assert (exported / "tokenizer" / "merges.txt").read_text(encoding="utf-8").startswith("#version")


def test_nothing_but_an_export_of_the_same_is_replaced(exported: Path, tiny: Path, tmp_path: Path) -> None:
    """A base model least of all: every erasure of it would be lost with it."""
    erasure = exported.parent / "erasure"
    again = shutil.copytree(exported, tmp_path / "again")
    (again / "again.0a1b2c3d.part").mkdir()  # of an export that was killed
    export(str(tiny), erasure, again)
    base = shutil.copytree(tiny, tmp_path / "base")
    before = {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="is the base itself, which every erasure of it needs: choose another OUT"):
        export(str(base), erasure, base)
    with pytest.raises(ValueError, match="and is no export: choose another OUT, or remove it"):
        export(str(tiny), erasure, base)
    assert before == {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}


@pytest.mark.parametrize("whose", ["weights", "card", "copied"])
def test_an_export_of_the_same_title_may_still_be_another(
    whose: str, exported: Path, tiny: Path, tmp_path: Path
) -> None:
    """Of other weights, of a card that its owner went on writing, or a pipeline with a card from elsewhere."""
    erasure, out = exported.parent / "erasure", shutil.copytree(exported, tmp_path / "full")
    card = (out / "README.md").read_text(encoding="utf-8")
    if whose == "weights":
        loaded = Erasure.load(erasure)
        other = {name: tensor + 1 for name, tensor in loaded.tensors.items()}
        Erasure(other, loaded.provenance).save(erasure := tmp_path / "other")
    elif whose == "card":
        (out / "README.md").write_text(card + "\nMy own findings.\n", encoding="utf-8")
    else:
        lines = [line for line in card.splitlines(keepends=True) if not line.startswith(("erasure:", "lit_memories"))]
        (out / "README.md").write_text("".join(lines), encoding="utf-8")
    said = "holds an export of another erasure" if whose == "weights" else "README.md, and is no export"
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=f"{said}.*: choose another OUT, or remove it"):
        export(str(tiny), erasure, out)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_nothing_tells_of_the_machine(exported: Path, tiny: Path) -> None:
    for file in exported.rglob("*.*"):
        if file.suffix in {".json", ".md", ".txt"}:
            assert str(tiny) not in file.read_text(encoding="utf-8"), file


def test_it_says_where_the_pipeline_is_and_what_audits_it(
    exported: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(str(tiny), exported.parent / "erasure", tmp_path / "full")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"the pipeline is in {tmp_path / 'full'}: ")
    assert f"--model.diffusion.base {tmp_path / 'full'} --model.role erased" in line


def test_it_is_the_erased_model(exported: Path, tiny: Path) -> None:
    ours, base = Diffusion(str(exported)), Diffusion(str(tiny))
    wrong = [name for name, tensor in base.state_dict().items() if not torch.equal(tensor, ours.state_dict()[name])]
    assert wrong == [NAME]
    assert torch.equal(ours.encode_prompts(["an umbrella"]), base.encode_prompts(["an umbrella"]))


def test_the_card_names_what_wrote_it(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    matter = yaml.safe_load(card.split("---")[1])
    assert matter["library_name"] == "diffusers"
    assert len(matter["erasure"]) == 20
    assert "Test: umbrella erased from somebody/base" in card
    assert "StableDiffusionPipeline.from_pretrained" in card
    for package, version in versions().items():
        assert f"| {package} | {version} |" in card
