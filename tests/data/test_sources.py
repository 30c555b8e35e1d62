"""Any data set with images and captions, and the pictogram world, look the same to an audit."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
from PIL import Image

from lit_memories.cli import main
from lit_memories.data.sources import ImageSource, save_images
from lit_memories.worlds import pictograms
from lit_memories.worlds.sources import PictogramSource


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
    assert ImageSource("a/b", name="small", revision="v1", shuffle_seed=3).describe() == (
        "a/b small@v1 [train] shuffled by 3"
    )
    source = PictogramSource(keep={"object": "star"}, withhold=[{"style": "solid"}])
    assert source.describe() == "pictograms [test] object=star not style=solid"


@pytest.mark.parametrize("name", ["folder", "rows.parquet"])
def test_the_draw_command_writes_them(name: str, tmp_path: Path) -> None:
    main(["draw", str(tmp_path / name), "--split=sources", "--size=8"])
    assert ImageSource(str(tmp_path / name)).load()["caption"] == pictograms.build("sources", 8)["caption"]
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match="is there already: choose another OUT"):
        main(["draw", str(tmp_path / name), "--split=sources", "--size=3"])
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    with pytest.raises(SystemExit, match="size must be at least 1, got -5"):
        main(["draw", str(tmp_path / "none"), "--size=-5"])


def write_tar(path: Path, names: Sequence[str], rows: datasets.Dataset) -> None:
    """A shard as webdataset has it: files of one name belong together."""
    with tarfile.open(path, "w") as archive:
        for name, row in zip(names, rows, strict=True):
            buffer = io.BytesIO()
            row["image"].save(buffer, "PNG")
            for suffix, content in {"png": buffer.getvalue(), "txt": row["caption"].encode()}.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(rows: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``tar`` and ``parquet`` of two files with half of the rows each."""
    folder = tmp_path_factory.mktemp("shards")
    for kind in ("tar", "parquet"):
        (folder / kind).mkdir()
    for number, half in enumerate((rows.select(range(4)), rows.select(range(4, 8)))):
        write_tar(folder / "tar" / f"{number}.tar", [f"{number}{i}" for i in range(4)], half)
        half.to_parquet(folder / "parquet" / f"{number}.parquet")
    return folder


def shard_source(path: Path, **options: object) -> ImageSource:
    columns = {"image": "png", "caption": "txt"} if "tar" in f"{path.parent.name}{path.name}" else {}
    return ImageSource(str(path), **{"limit": 8, **columns, **options})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("path", ["tar", "tar/*.tar", "tar/1.tar", "parquet", "parquet/*.parquet", "parquet/1.parquet"])
def test_shards_are_read_in_order(path: str, streaming: bool, shards: Path, rows: datasets.Dataset) -> None:
    expected = rows.select(range(4, 8)) if "1." in path else rows
    loaded = shard_source(shards / path, streaming=streaming).load()
    assert loaded["caption"] == list(expected["caption"])
    assert [picture(row["image"]).tobytes() for row in loaded] == [row["image"].tobytes() for row in expected]


def test_a_stream_reads_no_further_than_asked(shards: Path, tmp_path: Path, rows: datasets.Dataset) -> None:
    """The second shard is no parquet file: who reads it fails."""
    (tmp_path / "0.parquet").write_bytes((shards / "parquet" / "0.parquet").read_bytes())
    (tmp_path / "1.parquet").write_bytes(b"nothing of the kind")
    path = str(tmp_path / "*.parquet")
    for streaming in (True, False):
        assert ImageSource(path, limit=4, streaming=streaming).load()["caption"] == rows["caption"][:4]
    for source in (ImageSource(path, limit=5, streaming=True), ImageSource(path, limit=5), ImageSource(path)):
        with pytest.raises(FileNotFoundError, match=r"cannot open data set .*\*\.parquet") as error:
            source.load()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="needs a limit"):
        ImageSource(path, streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_seed_chooses_the_rows(streaming: bool, shards: Path, rows: datasets.Dataset) -> None:
    def chosen(seed: int | None, limit: int = 5) -> list[str]:
        return list(
            shard_source(shards / "parquet", shuffle_seed=seed, limit=limit, streaming=streaming).load()["caption"]
        )

    assert chosen(0) == chosen(0)
    assert chosen(0) == chosen(0, 8)[:5]
    assert len({tuple(chosen(seed)) for seed in range(4)}) > 1
    assert chosen(0, 8) != chosen(None, 8)
    assert sorted(chosen(0, 8)) == sorted(rows["caption"])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stream_is_filtered_by_label(streaming: bool, shards: Path, rows: datasets.Dataset) -> None:
    style = pictograms.STYLES[rows[5]["style"]]
    loaded = shard_source(shards / "parquet", where={"style": style}, streaming=streaming).load()
    assert loaded["caption"] == [caption for caption in rows["caption"] if f"{style} style" in caption]
    with pytest.raises(ValueError, match="no rows left"):
        shard_source(shards / "parquet", where={"index": -1}, streaming=streaming).load()


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_is_unpacked_where_a_shard_says(streaming: bool, tmp_path: Path, rows: datasets.Dataset) -> None:
    """Members that lead out of their archive are rows like others, and no files."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    path = tmp_path / "in" / "deep" / "0.tar"
    names = ["../../evil0", f"{tmp_path}/evil1", *(f"fine{i}" for i in range(6))]
    write_tar(path, names, rows)
    before = sorted(tmp_path.rglob("*"))
    loaded = shard_source(path, streaming=streaming).load()
    assert loaded["caption"] == list(rows["caption"])
    assert [picture(row["image"]).size for row in loaded] == [(64, 64)] * 8
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(Path(datasets.config.HF_DATASETS_CACHE).parent.rglob("evil[01]*"))


def test_of_several_captions_the_first_is_taken(rows: datasets.Dataset, tmp_path: Path) -> None:
    captions = [[caption, "another", "a third"] for caption in rows["caption"]]
    rows.remove_columns("caption").add_column("sentences", captions).to_parquet(tmp_path / "rows.parquet")
    loaded = ImageSource(str(tmp_path / "rows.parquet"), caption="sentences").load()
    assert loaded["caption"] == list(rows["caption"])
    none = [[], *captions[1:]]
    rows.remove_columns("caption").add_column("sentences", none).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"row 0 .*no caption"):
        ImageSource(str(tmp_path / "none.parquet"), caption="sentences").load()


def test_captions_are_made_of_columns(saved: Path, rows: datasets.Dataset) -> None:
    loaded = ImageSource(str(saved), caption="a {object}, {style}, number {index}", limit=2).load()
    names = [
        (rows.features["object"].int2str(row["object"]), pictograms.STYLES[row["style"]])
        for row in rows.select(range(2))
    ]
    assert loaded["caption"] == [f"a {thing}, {style}, number {i}" for i, (thing, style) in enumerate(names)]
    assert ImageSource(str(saved), caption="style", limit=2).load()["caption"] == [style for _, style in names]


@pytest.mark.parametrize("caption", ["a {}", "{label.__class__}", "{label[0]}", "{label", "{{label}}"])
def test_texts_that_are_no_captions_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="must be a column, or a text with columns in it"):
        ImageSource("somewhere", caption=caption)


def test_other_files_beside_a_folder_of_images_do_no_harm(rows: datasets.Dataset, tmp_path: Path) -> None:
    """Of one picture and two JSON files the library would take the folder for a table."""
    save_images(rows.select(range(1)), tmp_path / "folder")
    for name in ("settings.json", "more.json"):
        (tmp_path / "folder" / name).write_text("{}")
    assert ImageSource(str(tmp_path / "folder")).load()["caption"] == rows["caption"][:1]
