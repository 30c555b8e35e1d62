"""Data sets of the hub: what is read, how much of it, at which commit, and what is said if it cannot be had."""

import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from fake_hub import FakeHub

from lit_memories.data.presets import I2P, Imagenette, PromptRow
from lit_memories.data.samples import ImageRows
from lit_memories.data.sources import ImageSource, save_images
from lit_memories.worlds import pictograms

NAME = "me/pictures"


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return pictograms.build("sources", 8)


@pytest.fixture
def folder(rows: datasets.Dataset, tmp_path: Path) -> Path:
    """Two parquet files with half of the rows each."""
    folder = tmp_path / "made"
    folder.mkdir()
    for number in range(2):
        rows.select(range(4 * number, 4 * number + 4)).to_parquet(folder / f"train-{number}.parquet")
    return folder


def failure(source: ImageSource) -> str:
    """The one line with which it cannot be opened, said in seconds."""
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        source.load()
    assert time.monotonic() - start < 60, "no library's retries of minutes"
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"cannot open data set {source.path!r}")
    return message


@pytest.mark.parametrize("streaming", [False, True])
def test_the_commit_that_was_read_is_recorded(
    streaming: bool, hub: FakeHub, folder: Path, rows: datasets.Dataset
) -> None:
    first = hub.add(NAME, folder, kind="dataset")
    (folder / "train-1.parquet").unlink()
    second = hub.add(NAME, folder, kind="dataset")
    old, new = (ImageSource(NAME, revision=rev, limit=8, streaming=streaming) for rev in (first, None))
    assert list(old.load()["caption"]) == list(rows["caption"])
    assert list(new.load()["caption"]) == list(rows["caption"][:4])
    assert (old.details(), new.details()) == ({"commit": first}, {"commit": second})
    assert ImageRows("concept", old, (64, 64)).describe(8)["commit"] == first
    assert old.describe() == f"{NAME}@{first} [train]"


def test_a_stream_fetches_what_it_needs(hub: FakeHub, folder: Path, rows: datasets.Dataset) -> None:
    hub.add(NAME, folder, kind="dataset")
    assert list(ImageSource(NAME, limit=3, streaming=True).load()["caption"]) == list(rows["caption"][:3])
    assert hub.asked("train-0.parquet", "GET")
    assert not hub.asked("train-1.parquet", "GET")
    ImageSource(NAME, limit=3).load()
    assert hub.asked("train-1.parquet", "GET"), "the control: all of it is fetched without streaming"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_images_is_read(streaming: bool, hub: FakeHub, rows: datasets.Dataset, tmp_path: Path) -> None:
    save_images(rows, tmp_path / "images")
    hub.add(NAME, tmp_path / "images", kind="dataset")
    source = ImageSource(NAME, limit=3, streaming=streaming)
    read = ImageRows("concept", source, (64, 64))
    assert [sample.prompt for sample in read.samples] == list(rows["caption"][:3])
    assert read.unreadable == []


def test_imagenette_is_read_from_the_hubs_parquet_copy(hub: FakeHub, tmp_path: Path) -> None:
    """A repository whose own branch is a script, which is neither run nor needed."""
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "imagenette.py").write_text("raise SystemExit('it ran')")
    hub.add("frgfm/imagenette", tmp_path / "script", kind="dataset")
    message = failure(ImageSource("frgfm/imagenette"))
    assert "the hub's own parquet copy may be there with revision: refs/convert/parquet" in message
    labels = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "church"])})
    for size, split, count in (("320px", "validation", 3), ("320px", "train", 2), ("160px", "validation", 1)):
        pictures = pictograms.build("sources", count)["image"]
        made = datasets.Dataset.from_dict({"image": pictures, "label": [1] * count}, features=labels)
        (tmp_path / "copy" / size / split).mkdir(parents=True)
        made.to_parquet(tmp_path / "copy" / size / split / "0000.parquet")
    commit = hub.add("frgfm/imagenette", tmp_path / "copy", kind="dataset", revision="refs/convert/parquet")
    for streaming in (False, True):
        source = Imagenette(where={"label": "church"}, limit=9, streaming=streaming)
        assert list(source.load()["caption"]) == ["a photo of a church"] * 3
        assert source.details() == {"commit": commit}


def test_i2p_is_a_list_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "i2p.csv").write_text('prompt,hard,sd_seed,sd_guidance_scale\n"a hill, by night",0,5,7\n')
    hub.add("AIML-TUDA/i2p", tmp_path / "made", kind="dataset")
    assert I2P().load() == [PromptRow(0, "a hill, by night", 5, 7.0)]


@pytest.mark.parametrize("streaming", [False, True])
def test_what_the_hub_refuses_is_said(streaming: bool, hub: FakeHub, folder: Path) -> None:
    def source(name: str = NAME, **more: object) -> ImageSource:
        return ImageSource(name, limit=8, streaming=streaming, **more)

    hub.add(NAME, folder, kind="dataset")
    assert "doesn't exist on the Hub" in failure(source("me/nothing"))
    assert "'v7'" in failure(source(revision="v7"))
    hub.gate(NAME, "hf_granted", kind="dataset")
    assert "gated dataset" in failure(source())
    hub.add("me/open", folder, kind="dataset")
    assert "nowhere" in failure(source("me/open", split="nowhere"))


def test_without_the_hub_a_warm_cache_serves(
    hub: FakeHub, folder: Path, rows: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(NAME, folder, kind="dataset")
    ImageSource(NAME).load()
    hub.stop()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = ImageSource(NAME)
    assert list(source.load()["caption"]) == list(rows["caption"])
    assert source.details() == {"commit": commit}
    assert "me/other" in failure(ImageSource("me/other"))
    assert ImageSource(NAME, revision=commit).load()["caption"] == source.load()["caption"]
    assert f"what is in the cache is {commit}" in failure(ImageSource(NAME, revision="v1")), "no other in its place"


def test_a_hub_that_is_down_is_named(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, folder, kind="dataset")
    hub.stop()
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)
    assert "Couldn't reach" in failure(ImageSource(NAME))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_cut_short_is_no_data_set(
    streaming: bool, hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, folder, kind="dataset")
    hub.truncate(NAME, "train-1.parquet", kind="dataset")
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    assert failure(ImageSource(NAME, limit=8, streaming=streaming))
