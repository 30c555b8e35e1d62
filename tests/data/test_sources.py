"""Any data set with images and captions, and the pictogram world, look the same to an audit."""

import io
from pathlib import Path

import datasets
import pytest
from PIL import Image

from lit_memories.cli import main
from lit_memories.data import pictograms
from lit_memories.data.sources import ImageSource, PictogramSource, save_images


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return pictograms.build("sources", 8)


@pytest.fixture(scope="module", params=["folder", "rows.parquet"])
def saved(request: pytest.FixtureRequest, rows: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / request.param
    save_images(rows, path)
    return path


def picture(image: dict) -> Image.Image:
    source = io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]
    with Image.open(source) as opened:
        return opened.convert("RGB")


def test_what_is_saved_is_read(saved: Path, rows: datasets.Dataset) -> None:
    loaded = ImageSource(str(saved)).load()
    assert loaded.column_names == ["image", "caption"]
    assert loaded["caption"] == rows["caption"]
    assert [picture(row["image"]).tobytes() for row in loaded] == [row["image"].tobytes() for row in rows]


def test_rows_can_be_chosen_by_name(saved: Path, rows: datasets.Dataset) -> None:
    style = pictograms.STYLES[rows[0]["style"]]
    loaded = ImageSource(str(saved), where={"style": style}).load()
    assert loaded["caption"] == [caption for caption in rows["caption"] if f"{style} style" in caption]
    assert 0 < len(loaded) < len(rows)
    assert ImageSource(str(saved), limit=3).load()["caption"] == rows["caption"][:3]
    assert ImageSource(str(saved), where={"index": 2}).load()["caption"] == rows["caption"][2:3]


def test_columns_can_have_any_name(rows: datasets.Dataset, tmp_path: Path) -> None:
    other = rows.rename_columns({"image": "picture", "caption": "text"})
    save_images(other, tmp_path / "rows.parquet")
    loaded = ImageSource(str(tmp_path / "rows.parquet"), image="picture", caption="text").load()
    assert loaded.column_names == ["image", "caption"]
    assert loaded["caption"] == rows["caption"]


@pytest.mark.parametrize("option", ["image", "caption", "where"])
def test_a_missing_column_is_named(option: str, saved: Path) -> None:
    options = {option: {"nowhere": 1} if option == "where" else "nowhere"}
    with pytest.raises(ValueError, match=r"has no column 'nowhere': it has .*caption") as error:
        ImageSource(str(saved), **options).load()
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_label_that_does_not_exist_is_named(tmp_path: Path, rows: datasets.Dataset) -> None:
    save_images(rows, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="tartan"):
        ImageSource(str(tmp_path / "rows.parquet"), where={"style": "tartan"}).load()


@pytest.mark.parametrize("name", ["missing", "missing.parquet"])
def test_a_missing_data_set_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=name) as error:
        ImageSource(str(tmp_path / name)).load()
    assert "\n" not in str(error.value)


def test_an_empty_folder_and_a_missing_split_are_named(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        ImageSource(str(tmp_path / "empty")).load()
    if saved.is_dir():
        with pytest.raises(FileNotFoundError, match="'nowhere'"):
            ImageSource(str(saved), split="nowhere").load()


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(FileNotFoundError, match=r"bad\.parquet") as error:
        ImageSource(str(tmp_path / "bad.parquet")).load()
    assert "\n" not in str(error.value)


def test_filters_that_leave_nothing_say_so(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"no rows left in .*index=-1") as error:
        ImageSource(str(saved), where={"index": -1}).load()
    assert str(saved) in str(error.value)
    with pytest.raises(ValueError, match="no rows left in pictograms"):
        PictogramSource(size=4, withhold=[{"color": name} for name in pictograms.COLORS]).load()


def test_a_caption_that_is_missing_is_named(tmp_path: Path, rows: datasets.Dataset) -> None:
    captions = [None, *rows["caption"][1:]]
    save_images(rows.remove_columns("caption").add_column("caption", captions), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"row 0 .*no caption"):
        ImageSource(str(tmp_path / "rows.parquet")).load()


def test_pictograms_look_like_any_source(saved: Path) -> None:
    drawn = PictogramSource(split="sources", size=8).load()
    loaded = ImageSource(str(saved)).load()
    assert drawn.column_names == loaded.column_names
    assert drawn["caption"] == loaded["caption"]
    assert [picture(a["image"]).tobytes() for a in drawn] == [picture(b["image"]).tobytes() for b in loaded]


def test_sources_describe_themselves() -> None:
    assert ImageSource("a/b", split="test", where={"style": "x"}).describe() == "a/b [test] style=x"
    source = PictogramSource(keep={"object": "star"}, withhold=[{"style": "solid"}])
    assert source.describe() == "pictograms [test] object=star not style=solid"


@pytest.mark.parametrize("name", ["folder", "rows.parquet"])
def test_the_draw_command_writes_them(name: str, tmp_path: Path) -> None:
    main(["draw", str(tmp_path / name), "--split=sources", "--size=8"])
    assert ImageSource(str(tmp_path / name)).load()["caption"] == pictograms.build("sources", 8)["caption"]
