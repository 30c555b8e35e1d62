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
    export(str(tiny), erasure, shutil.copytree(exported, tmp_path / "again"))
    base = shutil.copytree(tiny, tmp_path / "base")
    before = {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="and is no export: choose another OUT, or remove it"):
        export(str(base), erasure, base)
    assert before == {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}
    other = shutil.copytree(exported, tmp_path / "other")
    card = (other / "README.md").read_text(encoding="utf-8")
    (other / "README.md").write_text(card.replace("umbrella erased", "castle erased"), encoding="utf-8")
    with pytest.raises(ValueError, match="holds an export of another erasure"):
        export(str(tiny), erasure, other)


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
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "diffusers"
    assert "Test: umbrella erased from somebody/base" in card
    assert "StableDiffusionPipeline.from_pretrained" in card
    for package, version in versions().items():
        assert f"| {package} | {version} |" in card
