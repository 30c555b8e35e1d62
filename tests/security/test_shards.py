"""Weights in several files: what their index says, or one line before any of them is loaded."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_memories.diffusion import Diffusion
from lit_memories.storage import pipelines
from lit_memories.storage.configs import JSON_LIMIT
from lit_memories.storage.shards import check_shards, complete_sets

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with its weights in shards: in ``safetensors``, and as pickles in ``bin``."""
    diffusion, root = Diffusion.from_pretrained(tiny), tmp_path_factory.mktemp("sharded")
    for kind in ("safetensors", "bin"):
        folder = shutil.copytree(tiny, root / kind)
        for part in PARTS:
            for file in (folder / part).glob("*.safetensors"):
                file.unlink()
            getattr(diffusion, part).save_pretrained(folder / part, max_shard_size="20KB")
            if kind == "bin":
                pickle(folder / part)
            assert len(shards(folder / part)) > 1
    return root


@pytest.fixture(params=["safetensors", "bin"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sharded(kind: str, made: Path, tmp_path: Path) -> Path:
    """A U-Net's folder with its weights in shards, in a copy of the pipeline."""
    return shutil.copytree(made / kind, tmp_path / "model") / "unet"


def pickle(folder: Path) -> None:
    """Shards in safetensors become pickles."""
    index = json.loads(index_of(folder).read_text())
    index_of(folder).unlink()
    stem = "pytorch_model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
    for number, file in enumerate(shards(folder), start=1):
        name = f"{stem}-{number:05}-of-{len(shards(folder)) or 1:05}.bin"
        index["weight_map"] = {k: name if v == file.name else v for k, v in index["weight_map"].items()}
        torch.save(load_file(file), folder / f"{name}.part")
    for file in shards(folder):
        file.unlink()
    for file in folder.glob("*.part"):
        file.rename(file.with_suffix(""))
    (folder / f"{stem}.bin.index.json").write_text(json.dumps(index))


def shards(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if "-of-" in file.name and file.suffix != ".part")


def index_of(folder: Path) -> Path:
    (file,) = folder.glob("*.index*.json")
    return file


def change_shard(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = torch.load(file) if file.suffix == ".bin" else load_file(file)
    change(tensors)
    if file.suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file, {"format": "pt"})


def change_map(folder: Path, change: Callable[[dict[str, Any]], Any], name: str | None = None) -> None:
    file = folder / name if name else index_of(folder)
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def refusal(folder: Path) -> str:
    """The line in which shards are refused, of which nothing was loaded."""
    (names,) = complete_sets([file.name for file in folder.iterdir()]).values()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        check_shards(folder, None, names)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_the_model(kind: str, made: Path, diffusion: Diffusion) -> None:
    assert Diffusion.from_pretrained(made / kind).fingerprint == diffusion.fingerprint


@pytest.mark.parametrize("part", PARTS)
def test_all_parts_are_checked_before_they_are_loaded(
    part: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(made / "safetensors", tmp_path / "model") / part
    change_map(folder, lambda places: places.setdefault("made.up", next(iter(places.values()))))
    monkeypatch.setattr(
        pipelines.PIPELINES["StableDiffusionPipeline"].models[part],
        "from_pretrained",
        lambda *_, **__: pytest.fail("weights were loaded"),
    )
    with pytest.raises(ValueError, match=r"lists made\.up, which none of the shards holds"):
        Diffusion.from_pretrained(folder.parent)


def test_a_tensor_that_no_shard_holds(sharded: Path) -> None:
    """It would be drawn at random, another one at every load."""
    name = next(iter(json.loads(index_of(sharded).read_text())["weight_map"]))
    for file in shards(sharded):
        change_shard(file, lambda tensors: tensors.pop(name, None))
    assert f"lists {name}, which none of the shards holds" in refusal(sharded)


def test_a_tensor_that_the_index_does_not_list(sharded: Path) -> None:
    change_shard(shards(sharded)[1], lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "holds extra, and" in (said := refusal(sharded))
    assert "does not list it" in said


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    names: list[str] = []
    change_shard(shards(sharded)[0], lambda tensors: names.extend(tensors))
    change_shard(shards(sharded)[1], lambda tensors: tensors.update({names[0]: torch.zeros(1)}))
    assert f"{names[0]} stands in two shards" in refusal(sharded)


def test_a_tensor_in_another_shard_than_the_index_says(sharded: Path) -> None:
    first, second = (file.name for file in shards(sharded)[:2])
    change_map(sharded, lambda places: places.update({k: second for k, v in places.items() if v == first}))
    assert f"says that it is in {second}" in refusal(sharded)


@pytest.mark.parametrize("where", ["../vae/other", "{absolute}", "link", "nothing", "config.json", 3, None])
def test_an_index_that_names_other_files(where: Any, sharded: Path) -> None:
    outside = sharded.parent / "outside"
    shutil.copy(shards(sharded)[0], outside)
    (sharded / "link").symlink_to(outside)
    where = str(outside) if where == "{absolute}" else where
    change_map(sharded, lambda places: places.update(dict.fromkeys(list(places)[:1], where)))
    assert f"names {str(where)!r}, which is none of the model's files in its folder" in refusal(sharded)


def test_a_shard_that_is_missing(sharded: Path) -> None:
    shards(sharded)[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"{sharded.name} has no weights of variant none: there are no weights"):
        Diffusion.from_pretrained(sharded.parent)


def test_shards_without_an_index(sharded: Path) -> None:
    index_of(sharded).unlink()
    assert "has weights in shards and no index" in refusal(sharded)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}, "metadata": 3}', "[" * 3000, '{"weight_map": {"a": NaN}}'],
)
def test_an_index_that_is_none(content: str, sharded: Path) -> None:
    index_of(sharded).write_text(content)
    assert f"{index_of(sharded)} is damaged" in refusal(sharded)


def test_an_index_that_would_fill_memory(sharded: Path) -> None:
    with index_of(sharded).open("ab") as stream:
        stream.truncate(JSON_LIMIT + 1)
    assert f"{index_of(sharded)} has {JSON_LIMIT + 1} bytes" in refusal(sharded)


@pytest.mark.parametrize("kind", ["safetensors"], indirect=True)
def test_a_shard_whose_header_would_fill_memory(sharded: Path) -> None:
    shards(sharded)[-1].write_bytes((71_000_000).to_bytes(8, "little") + b"{")
    assert f"{shards(sharded)[-1]} is a damaged safetensors file: its header claims" in refusal(sharded)


@pytest.mark.parametrize("kind", ["bin"], indirect=True)
def test_a_shard_with_compressed_parts(sharded: Path) -> None:
    file = shards(sharded)[-1]
    with zipfile.ZipFile(file) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert f"{file} is refused: it is damaged" in refusal(sharded)


@pytest.mark.parametrize("kind", ["bin"], indirect=True)
def test_a_shard_that_is_no_mapping(sharded: Path) -> None:
    torch.save([torch.zeros(1)], shards(sharded)[-1])
    assert "holds a list, not tensors by name" in refusal(sharded)


@pytest.mark.parametrize("kind", ["safetensors"], indirect=True)
def test_a_file_alone_with_an_index_of_its_own(sharded: Path, tiny: Path) -> None:
    """The libraries would believe the index."""
    for file in shards(sharded):
        file.unlink()
    (single,) = (tiny / sharded.name).glob("*.safetensors")
    shutil.copy(single, sharded)
    change_map(sharded, lambda places: places.update({**dict.fromkeys(places, single.name), "made.up": single.name}))
    assert "lists made.up, which none of the shards holds" in refusal(sharded)


def test_a_variants_index_is_its_own(made: Path, diffusion: Diffusion, tmp_path: Path) -> None:
    """One of other weights beside it is not asked."""
    folder = shutil.copytree(made / "safetensors", tmp_path / "model")
    for part in PARTS:
        getattr(diffusion, part).save_pretrained(folder / part, max_shard_size="40KB", variant="other")
        assert len(list((folder / part).glob("*.index*.json"))) == 2
    change_map(folder / "unet", dict.clear, "diffusion_pytorch_model.safetensors.index.json")
    assert Diffusion.from_pretrained(folder, variant="other").fingerprint == diffusion.fingerprint
    with pytest.raises(ValueError, match="does not list it"):
        Diffusion.from_pretrained(folder)
