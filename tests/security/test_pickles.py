"""Pickles with a payload, wherever weights are taken: refused, and the payload did not run."""

import contextlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from lit_memories.audit.folder import merge
from lit_memories.audit.writer import RecordWriter
from lit_memories.data.cache import cached
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import PROVENANCE_FILE, WEIGHTS_FILE, Erasure
from lit_memories.judges.hub import load_model
from lit_memories.records import PARTS, Place, Record
from lit_memories.seeds import seed_keys, sound_seeds
from lit_memories.tools.convert import convert
from lit_memories.worlds.classifier import load_classifier

ROOT = Path(__file__).parents[2]
Write = Callable[[Path], Path]
Refused = Callable[..., str]


def fire(file: Path) -> None:
    """What a careless program does with a file."""
    for load in (lambda: torch.load(file, weights_only=False), lambda: pickle.loads(file.read_bytes())):  # noqa: S301
        with contextlib.suppress(Exception):  # a plain pickle is no torch file, and the other way round
            load()


@pytest.fixture(autouse=True)
def _nothing_ran(marker: Path, tmp_path: Path, pickled: Write) -> None:
    """After every test: no payload ran; and the same payload does run in careless hands."""
    yield
    assert not marker.exists(), "a payload was executed"
    fire(pickled(tmp_path / "armed.bin"))
    assert marker.exists(), "the payload is harmless, and the test proves nothing"


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
def test_as_the_source_of_a_conversion(name: str, pickled: Write, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is refused"):
        convert(pickled(tmp_path / name), str(tiny), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_in_a_text_encoders_folder_to_convert(pickled: Write, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    pickled(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is refused"):
        convert(folder, str(tiny), tmp_path / "out")


def test_as_an_erasures_weights(pickled: Write, tmp_path: Path) -> None:
    (tmp_path / PROVENANCE_FILE).write_text(
        '{"method": "ESD", "concept": {"name": "x"}, "base": "b", "base_revision": null, "base_fingerprint": "f", '
        '"settings": {}, "steps": 1, "seed": 0, "versions": {}}'
    )
    pickled(tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="damaged"):
        Erasure.load(tmp_path)
    for name in ("erasure.pt", "erasure.bin", "erasure.ckpt"):
        with pytest.raises(ValueError, match="may be a pickle"):
            Erasure.load(pickled(tmp_path / name))


@pytest.mark.parametrize(("part", "suffix"), [("unet", "bin"), ("text_encoder", "bin"), ("vae", "safetensors")])
def test_as_a_part_of_a_pipeline(part: str, suffix: str, pickled: Write, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny, folder)
    (weights,) = (folder / part).glob("*.safetensors")
    weights.unlink()
    stem = {"bin": "pytorch_model" if part == "text_encoder" else weights.stem, "safetensors": weights.stem}[suffix]
    pickled(folder / part / f"{stem}.{suffix}")
    with pytest.raises(ValueError, match="damaged"):
        Diffusion.from_pretrained(folder)


def test_as_a_whole_checkpoint(pickled: Write, tiny: Path, tmp_path: Path) -> None:
    file = pickled(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="refused"):
        Diffusion(str(file), config=str(tiny))


def test_as_a_checkpoint_to_resume_from(pickled: Write, tiny: Path, tmp_path: Path, refused: Refused) -> None:
    file = pickled(tmp_path / "last.ckpt")
    message = refused(
        "fit", f"--config={ROOT / 'recipes/pictograms/erase/esd.yaml'}", f"--model.diffusion.base={tiny}",
        f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.callbacks=[]", "--model.steps=1",
        f"--ckpt_path={file}",
    )  # fmt: skip
    assert "last.ckpt" in message
    assert not (tmp_path / "run" / WEIGHTS_FILE).exists()


def test_as_a_judges_weights(pickled: Write, tmp_path: Path) -> None:
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text, vision = CLIPTextConfig(**tower).to_dict(), CLIPVisionConfig(**tower).to_dict()
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    folder = tmp_path / "clip"
    config.save_pretrained(folder)
    pickled(folder / "pytorch_model.bin")
    with pytest.raises((ValueError, FileNotFoundError)):
        load_model(CLIPModel, folder)
    pickled(folder / "model.safetensors")
    with pytest.raises(ValueError, match="damaged or no weights"):
        load_model(CLIPModel, folder)


def test_as_the_classifiers_weights(pickled: Write, tiny_classifier: Path, tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(tiny_classifier / "config.json", folder)
        pickled(folder / name)
        with pytest.raises((ValueError, OSError)):
            load_classifier(folder)


def test_as_a_file_of_the_cache(pickled: Write, tmp_path: Path) -> None:
    made = cached(pickled(tmp_path / "latents.safetensors"), ["latents"], lambda: {"latents": torch.ones(1)})
    assert made["latents"].equal(torch.ones(1)), "made again, not opened"


def test_as_the_seeds_of_a_run(pickled: Write, tmp_path: Path) -> None:
    RecordWriter(tmp_path / "run").write([Record("k", "concept", 0, "p")], {"k": torch.zeros(1, 2, 2)}, {})
    pickled(tmp_path / "run" / PARTS / "seeds-0.safetensors")
    damaged: list[str] = []
    assert sound_seeds(tmp_path / "run", damaged) == {"k"}
    assert "seeds-0.safetensors is a damaged safetensors file" in damaged[0]
    merge(tmp_path / "run", {"k": Place("concept", 0)})
    assert seed_keys(tmp_path / "run") == {"k"}, "of the file that is one"
