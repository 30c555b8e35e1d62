"""The fake hub speaks as the libraries expect: what a test sees of it, it would see of the hub."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, load_dataset
from diffusers import StableDiffusionPipeline
from fake_hub import FakeHub
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image
from transformers import CLIPTextModel

MINE, GRANTED, OTHER = "hf_mine", "hf_granted", "hf_other"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small file, a large one, and one in a folder."""
    made = tmp_path / "made"
    (made / "part").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "weights.bin").write_bytes(bytes(range(256)) * 64)
    (made / "part" / "notes.txt").write_text("hello")
    return made


def test_what_was_published_comes_back(hub: FakeHub, folder: Path) -> None:
    commit = hub.add("me/model", folder)
    got = Path(snapshot_download("me/model"))
    assert got.name == commit
    for file in folder.rglob("*.*"):
        assert (got / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_a_warm_cache_asks_for_no_file_again(hub: FakeHub, folder: Path) -> None:
    commit = hub.add("me/model", folder)
    snapshot_download("me/model")
    before = len(hub.requests)
    snapshot_download("me/model", revision=commit)
    assert hub.requests[before:] == []


def test_a_token_stays_on_the_hub(hub: FakeHub, folder: Path) -> None:
    hub.add("me/model", folder)
    hf_hub_download("me/model", "weights.bin", token=MINE)
    assert {request.token for request in hub.requests if request.cdn} == {None}
    assert {request.token for request in hub.requests if not request.cdn} == {MINE}


def test_revisions_and_listings(hub: FakeHub, folder: Path) -> None:
    api = HfApi()
    first = hub.add("me/model", folder, revision="v1")
    (folder / "config.json").write_text("[]")
    second = hub.add("me/model", folder)
    assert first != second
    assert api.model_info("me/model").sha == second
    assert api.model_info("me/model", revision="v1").sha == first
    assert sorted(api.list_repo_files("me/model")) == ["config.json", "part/notes.txt", "weights.bin"]
    assert [f.path for f in api.list_repo_tree("me/model")] == ["part", "config.json", "weights.bin"]
    assert [f.path for f in api.list_repo_tree("me/model", "part")] == ["part/notes.txt"]
    (info,) = api.get_paths_info("me/model", ["weights.bin"])
    assert info.lfs.size == 256 * 64
    assert {ref.name for ref in api.list_repo_refs("me/model").branches} == {"main", "v1"}
    for revision, content in (("v1", "{}"), (first, "{}"), (second, "[]"), (None, "[]")):
        assert Path(hf_hub_download("me/model", "config.json", revision=revision)).read_text() == content


def test_refusals_have_the_hubs_names(hub: FakeHub, folder: Path) -> None:
    hub.add("me/model", folder)
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("me/nothing")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("me/nothing", token=OTHER)
    with pytest.raises(RevisionNotFoundError):
        snapshot_download("me/model", revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("me/model", "nothing.json")
    hub.gate("me/model", GRANTED)
    for token in (None, OTHER):
        with pytest.raises(GatedRepoError) as caught:
            hf_hub_download("me/model", "config.json", token=token)
        assert caught.value.response.status_code == (401 if token is None else 403)
    assert hf_hub_download("me/model", "config.json", token=GRANTED)


def test_down_it_refuses_connections(hub: FakeHub, folder: Path) -> None:
    hub.add("me/model", folder)
    warm = snapshot_download("me/model")
    hub.stop()
    assert snapshot_download("me/model") == warm
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("me/other")


def test_a_download_that_breaks_off_is_noticed(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/model", folder)
    hub.truncate("me/model", "weights.bin")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    with pytest.raises(Exception, match="peer closed connection"):
        hf_hub_download("me/model", "weights.bin")
    assert len(hub.asked("weights.bin", "GET")) > 1, "it was tried again"


def test_what_is_pushed_is_there(hub: FakeHub, folder: Path) -> None:
    api = HfApi(token=MINE)
    api.create_repo("me/new", exist_ok=True)
    api.upload_folder(repo_id="me/new", folder_path=folder)
    files = hub.files("me/new")
    assert files["weights.bin"] == (folder / "weights.bin").read_bytes()
    assert files["part/notes.txt"] == b"hello"
    assert api.create_repo("me/new", exist_ok=True).repo_id == "me/new"
    assert {r.token for r in hub.requests if r.cdn} == {None}


def test_diffusers_and_transformers(hub: FakeHub, tiny: Path) -> None:
    hub.add("me/pipeline", tiny)
    pipeline = StableDiffusionPipeline.from_pretrained("me/pipeline", safety_checker=None)
    assert pipeline.unet.config.in_channels == 4
    assert CLIPTextModel.from_pretrained("me/pipeline", subfolder="text_encoder").config.hidden_size == 32


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """An image folder with metadata."""
    made = tmp_path / "pictures"
    made.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(made / f"{number}.png")
    (made / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n}.png,number {n}\n" for n in range(3)))
    return made


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder(hub: FakeHub, pictures: Path, streaming: bool) -> None:
    hub.add("me/pictures", pictures, kind="dataset")
    rows = list(load_dataset("me/pictures", split="train", streaming=streaming))
    assert [row["text"] for row in rows] == ["number 0", "number 1", "number 2"]
    assert [row["image"].getpixel((0, 0))[0] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(hub: FakeHub, tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "rows" / "data").mkdir(parents=True)
    Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "rows" / "data" / "train-00000-of-00001.parquet")
    commit = hub.add("me/rows", tmp_path / "rows", kind="dataset")
    rows = list(load_dataset("me/rows", split="train", streaming=streaming, revision=commit))
    assert [row["text"] for row in rows] == ["a", "b"]
    assert not hub.asked("revision/main"), "the pin is asked for"
    assert Path(datasets.config.HF_DATASETS_CACHE) == hub.cache / "datasets"


def test_a_child_process_finds_it(hub: FakeHub, folder: Path) -> None:
    commit = hub.add("me/model", folder)
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('me/model'))"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | hub.environ, capture_output=True, text=True, check=True
    )
    assert Path(run.stdout.strip()).name == commit
