"""Pictures and captions as people keep them: layouts, names and gaps that are no reason to refuse a data set."""

import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lit_memories.data import opening
from lit_memories.data.cache import cached
from lit_memories.data.presets import CocoCaptions, PromptList
from lit_memories.data.samples import ImageRows
from lit_memories.data.sources import MOST_PIXELS, ImageSource, Source, read_picture
from lit_memories.storage.tensors import read_tensors, write_tensors
from lit_memories.worlds.sources import PictogramSource


def png(number: int = 0, ending: str = "png") -> bytes:
    """A picture of two colours, the same for the same number."""
    pixels = np.full((8, 8, 3), 10 * number, np.uint8)
    pixels[:4] = 255
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, {"jpg": "jpeg"}.get(ending, ending))
    return data.getvalue()


def folder_of(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    return folder


def table(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(path: Path | str, **options: Any) -> list[str]:
    """Captions of the pictures that can be read."""
    return [sample.prompt for sample in ImageRows("concept", ImageSource(str(path), **options), (8, 8)).samples]


@pytest.mark.parametrize("name", ["a[1]b", "~x", "what*is?this", "Zoë's ☂", "a b"])
def test_a_path_is_taken_at_its_word(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / name, ["0.png", "in[2]/1*.png"])
    (folder / "metadata.jsonl").write_text(
        table({"file_name": "0.png", "caption": "x"}, {"file_name": "in[2]/1*.png", "caption": "y"})
    )
    assert read(folder) == ["x", "y"]
    monkeypatch.chdir(tmp_path)
    assert read(name) == ["x", "y"]
    pq.write_table(
        pa.table({"image": [{"bytes": png(), "path": None}], "caption": ["z"]}), tmp_path / f"{name}.parquet"
    )
    assert read(f"{name}.parquet") == ["z"]


def test_of_a_pattern_folders_that_are_there_are_taken_at_their_word(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    for number in range(2):
        picture = [{"bytes": png(number), "path": None}]
        parquet(folder / f"{number}.parquet", picture, [f"number {number}"])
    assert read(f"{folder}/*.parquet") == ["number 0", "number 1"]
    assert read(f"{folder}/[1].parquet") == ["number 1"]


def test_home_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "pictures", ["0.png"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/pictures", caption="a red star") == ["a red star"]
    (tmp_path / "a.csv").write_text("prompt\na lake\n")
    assert [row.prompt for row in PromptList("~/a.csv").load()] == ["a lake"]
    with pytest.raises(FileNotFoundError, match="~/coco holds no images"):
        CocoCaptions("~/coco").load()


def test_a_folder_called_like_a_home_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~x").mkdir()
    Path("~x/a.csv").write_text("prompt\na lake\n")
    assert [row.prompt for row in PromptList("~x/a.csv").load()] == ["a lake"]
    with pytest.raises(FileNotFoundError, match="~x holds no images"):
        CocoCaptions("~x").load()
    with pytest.raises(FileNotFoundError, match="~no-such-user holds no images"):
        CocoCaptions("~no-such-user").load()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("place", ["root", "splits"])
def test_tables_may_stand_above_the_splits_or_in_them(ending: str, place: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", ["train/0.png", "train/1.png", "valid/2.png"])
    rows = [{"file_name": f"{name}.png", "caption": f"{name}, x"} for name in ("train/0", "train/1", "valid/2")]

    def write(file: Path, rows: list[dict[str, str]]) -> None:
        if ending == "jsonl":
            file.with_suffix(".jsonl").write_text(table(*rows))
        elif ending == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file.with_suffix(".parquet"))
        else:
            lines = ["file_name,caption", *(f'{row["file_name"]},"{row["caption"]}"' for row in rows)]
            file.with_suffix(".csv").write_text("\n".join(lines))

    if place == "root":
        write(folder / "metadata", rows)
    else:
        for split in ("train", "valid"):
            own = [row | {"file_name": row["file_name"][len(split) + 1 :]} for row in rows if split in row["file_name"]]
            write(folder / split / "metadata", own)
    assert read(folder) == ["train/0, x", "train/1, x"]
    assert read(folder, split="validation") == ["valid/2, x"]
    with pytest.raises(FileNotFoundError, match=r"no split 'test' with pictures; it has: train, validation"):
        read(folder, split="test")


def test_pictures_that_no_table_lists_are_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ["0.png", "1.png", "more/2.png", "test/3.png"])
    (folder / "metadata.csv").write_text("file_name,caption\n0.png,x\n")
    with pytest.warns(UserWarning, match=r"2 pictures that metadata\.csv does not list are left out, such as 1\.png"):
        assert read(folder) == ["x"]


def test_blank_captions_are_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ["0.png", "1.png"])
    (folder / "metadata.csv").write_text('file_name,caption\n0.png,x\n1.png," "\n')
    with pytest.warns(UserWarning, match="1 of 2 captions of .* are blank, which is no prompt at all"):
        assert read(folder) == ["x", " "]


def test_a_folder_without_captions_says_how_to_give_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no column 'caption': it has image; put a \.txt beside each .* `text`"):
        read(folder_of(tmp_path, ["0.png"]))


@pytest.mark.parametrize("name", ["{}/mine", "./mine", "~/nobody's/mine", "my/own/pictures"])
def test_a_missing_folder_is_said_without_asking_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_open_elsewhere", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match="there is no such folder or file on this machine"):
        read(name.format(tmp_path))


def test_what_the_hub_has_not_may_have_been_meant_to_be_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise ConnectionError("Couldn't reach 'mine' on the Hub")

    monkeypatch.setattr(opening, "_open_elsewhere", unreachable)
    with pytest.raises(FileNotFoundError, match="on the Hub; no folder or file here is called so either"):
        read("mine")


def test_a_picture_in_two_tables_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ["in/0.png"])
    (folder / "metadata.jsonl").write_text(table({"file_name": "in/0.png", "caption": "x"}) * 2)
    assert len(ImageSource(str(folder)).load()) == 2, "one table may have several captions"
    (folder / "in" / "metadata.csv").write_text("file_name,caption\n0.png,x\n")
    with pytest.raises(
        FileNotFoundError, match=r"in/0\.png stands in in/metadata\.csv and in metadata\.jsonl: keep one"
    ):
        read(folder)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, ["0.png", "in/1.png"])
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "in":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(FileNotFoundError, match=r"Permission denied: .*in"):
        read(tmp_path, caption="of both")


def test_captions_may_stand_beside_their_pictures_or_be_the_same_for_all(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ["church/0.png", "church/1.PNG", "dog/2.png"])
    assert read(folder, caption="a picture of a dog") == ["a picture of a dog"] * 3
    assert read(folder, caption="a photo of a {label}") == ["a photo of a church"] * 2 + ["a photo of a dog"]
    assert read(folder, caption="label", where={"label": "dog"}) == ["dog"]
    assert read(folder, text=" umbrella ") == ["umbrella"] * 3
    assert read(folder, text="label {x}", caption="label") == ["label {x}"] * 3
    for text in (" ", "x" * 70_000):
        with pytest.raises(ValueError, match="text must be a caption of 1 to 65536 letters, got "):
            read(folder, text=text)
    with pytest.raises(ValueError, match=r"has no column 'caption': it has image, label"):
        read(folder)
    for number, name in enumerate(("church/0", "church/1", "dog/2")):
        (folder / f"{name}.txt").write_text(f"number {number}\n")
    assert read(folder) == ["number 0", "number 1", "number 2"]
    assert read(folder, split="training", limit=2) == ["number 0", "number 1"]
    (folder / "dog" / "2.txt").rename(folder / "dog" / "2.caption")
    assert read(folder)[2] == "number 2"
    (folder / "dog" / "2.caption").write_text("x" * 70_000)
    with pytest.raises(ValueError, match=r"row 2 of .* has a caption of more than 65536 letters"):
        read(folder)


def test_a_name_that_is_no_text_is_a_picture_all_the_same(tmp_path: Path) -> None:
    folder_of(tmp_path, ["0.png"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/1-\xff.png")).write_bytes(png(1))
    assert read(tmp_path, caption="of both") == ["of both"] * 2
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder_of(place, ["2.png", "3.png"])
    assert read(place, caption="of both") == ["of both"] * 2


def test_pictures_in_a_zip_archive(tmp_path: Path) -> None:
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("in/0.png", png(number))
            archive.writestr("in/metadata.csv", f"file_name,caption\n0.png,number {number}\n")
            archive.writestr("__MACOSX/in/0.png", b"no picture")
    assert read(tmp_path) == read(tmp_path, limit=9) == ["number 0", "number 1"]
    assert read(tmp_path / "1.zip", streaming=True, limit=1) == ["number 1"]


def test_a_damaged_picture_of_a_zip_archive_counts_as_unreadable(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", png(number))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(png(1)) + 20] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    for limit, streaming in ((None, False), (3, True)):
        source = ImageSource(str(tmp_path / "a.zip"), caption="of all", limit=limit, streaming=streaming)
        rows = ImageRows("concept", source, (8, 8))
        assert (len(rows.samples), rows.unreadable) == (2, ["1.png"])


def parquet(file: Path, pictures: list[Any], captions: list[Any]) -> Path:
    pq.write_table(pa.table({"image": pictures, "caption": captions}), file)
    return file


def tar(file: Path, samples: Sequence[dict[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as archive:
        for number, sample in enumerate(samples):
            for ending, content in sample.items():
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


def test_a_folder_of_several_sets_is_read_by_name(tmp_path: Path) -> None:
    for name in ("160px", "320px"):
        (tmp_path / name).mkdir()
        parquet(tmp_path / name / "train.parquet", [{"bytes": png(), "path": None}], [name])
    assert read(tmp_path, name="320px") == ["320px"]
    with pytest.raises(FileNotFoundError, match="it has no folder 'full'"):
        read(tmp_path, name="full")


@pytest.mark.parametrize("options", [{}, {"limit": 9}, {"limit": 9, "streaming": True}, {"shuffle_seed": 0}])
def test_a_picture_that_is_not_there_counts_as_unreadable(options: dict[str, Any], tmp_path: Path) -> None:
    held = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)]
    file = parquet(tmp_path / "a.parquet", [*held, None, {"bytes": b"none", "path": "x.png"}], [*"abcde"])
    reason = (
        r"2 of 5 pictures of the concept set cannot be read, such as (row \d \(the row has none|x.png \(it is no p)"
    )
    with pytest.warns(UserWarning, match=reason):
        rows = ImageRows("concept", ImageSource(str(file), **options), (8, 8))
    assert sorted(sample.prompt for sample in rows.samples) == ["a", "b", "c"]
    assert len(rows.unreadable) == 2
    assert "x.png" in rows.unreadable
    samples = [{"jpg": png(i, "jpg"), "txt": f"{i}".encode()} for i in range(8)] + [{"txt": b"late"}]
    late = tar(tmp_path / "late.tar", samples)
    rows = ImageRows("concept", ImageSource(str(late), image="jpg", caption="txt", **options), (8, 8))
    assert (len(rows.samples), len(rows.unreadable)) == (8, 1)
    gap = folder_of(tmp_path / "folder", ["0.png"])
    (gap / "metadata.jsonl").write_text(table(*({"file_name": f"{i}.png", "caption": f"{i}"} for i in range(2))))
    rows = ImageRows("concept", ImageSource(str(gap), **options), (8, 8))
    assert (len(rows.samples), len(rows.unreadable)) == (1, 1)


def test_of_an_archive_any_picture_is_the_image_and_any_text_the_caption(tmp_path: Path) -> None:
    first, second = {"png": png(0), "txt": b"a"}, {"jpg": png(1, "jpg"), "json": b'{"caption": "b", "width": 8}'}
    file = tar(tmp_path / "mixed.tar", [first, second, {"webp": png(2, "webp"), "txt": b"c", "cls": b"3"}])
    assert read(file) == ["a", "b", "c"]
    assert read(file, where={"cls": 3}) == ["c"]
    rows = ImageRows("concept", ImageSource(str(file), image="png"), (8, 8))
    assert (len(rows.samples), len(rows.unreadable)) == (1, 2)


@pytest.mark.parametrize("options", [{}, {"limit": 1, "streaming": True}])
@pytest.mark.parametrize(("value", "kind"), [(1, "int64"), ({"a": 1}, "rows of their own")])
def test_a_column_without_pictures_is_refused_in_one_line(
    value: Any, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    file = parquet(tmp_path / "a.parquet", [value], ["a"])
    with pytest.raises(ValueError, match=f"has no pictures in column 'image', but {kind}"):
        read(file, **options)


@pytest.mark.parametrize("options", [{}, {"limit": 1, "streaming": True}])
def test_pictures_may_be_plain_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    assert read(parquet(tmp_path / "a.parquet", [png()], ["a"]), **options) == ["a"]


def test_a_column_of_lists_is_refused_in_one_line(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", [[{"bytes": png(), "path": None}]], ["a"])
    with pytest.raises(ValueError, match=r"a\.parquet has lists of pictures in column 'image': a row needs one"):
        read(file)


def test_a_picture_of_too_many_pixels_is_left_out_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header alone says so: the pixels are not there."""
    folder_of(tmp_path, ["0.png"])
    side = int(MOST_PIXELS**0.5) + 1
    header = bytearray(png(1))
    header[16:24] = side.to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    (tmp_path / "1.png").write_bytes(header)
    with pytest.raises(ValueError, match=f"{side} x {side} pixels are more than 50,000,000"):
        read_picture({"bytes": bytes(header), "path": None}, (8, 8))
    rows = ImageRows("concept", ImageSource(str(tmp_path), caption="of both"), (8, 8))
    assert (len(rows.samples), [Path(name).name for name in rows.unreadable]) == (1, ["1.png"])


def test_pictures_that_are_all_one_colour_are_warned_of(tmp_path: Path) -> None:
    folder_of(tmp_path, ["0.png"])
    for name in ("1.png", "2.png"):
        Image.new("RGB", (8, 8), "green").save(tmp_path / name)
    with pytest.warns(UserWarning, match="2 of 3 pictures of the concept set are all one colour"):
        read(tmp_path, caption="of all")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_in_the_cache_is_made_again(bad: float, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_tensors(file, {"x": torch.full((2,), bad)}, {"name": "x"})
    assert cached(file, ["x"], lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert read_tensors(file)["x"].tolist() == [1, 1]


@pytest.mark.parametrize("how", ["exchanged", "another shape", "another type", "without checksums", "a bit"])
def test_what_is_another_file_in_the_cache_is_made_again(how: str, tmp_path: Path) -> None:
    file, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    for one, number in ((file, 1), (other, 2)):
        cached(one, ["x"], lambda number=number: {"x": torch.full((2,), float(number))})  # type: ignore[misc]
    if how == "exchanged":
        other.replace(file)
    elif how == "without checksums":
        save_file({"x": torch.zeros(2)}, file)
    elif how == "a bit":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        write_tensors(file, {"x": torch.zeros(3) if how == "another shape" else torch.zeros(2).half()})
    made = cached(file, ["x"], lambda: {"x": torch.ones(2)})["x"]
    assert (made.tolist(), made.dtype) == ([1, 1], torch.float32)
    assert read_tensors(file)["x"].tolist() == [1, 1]


def test_a_cache_is_read_where_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.safetensors"
    cached(file, ["x"], lambda: {"x": torch.ones(2)})

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    for module in ("lit_memories.data.cache.write_tensors", "pathlib.Path.mkdir"):
        monkeypatch.setattr(module, refuse)
    assert cached(file, ["x"], lambda: {})["x"].tolist() == [1, 1]
    with pytest.warns(UserWarning, match=r"cannot keep what was made for it.*Read-only file system"):
        assert cached(tmp_path / "y", ["x"], lambda: {"x": torch.zeros(1)})["x"].tolist() == [0]


@pytest.mark.parametrize("what", ["table", "archive", "pictograms"])
def test_rows_are_unpacked_elsewhere_if_the_cache_cannot_be_written(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache and access(path, mode))
    sources: dict[str, Source] = {
        "table": ImageSource(str(parquet(tmp_path / "a.parquet", [{"bytes": png(), "path": None}], ["a"]))),
        "archive": ImageSource(str(tar(tmp_path / "a.tar", [{"png": png(), "txt": b"a"}]))),
        "pictograms": PictogramSource("layouts", 1),
    }
    with pytest.warns(UserWarning, match="cache cannot be written: rows are unpacked into a temporary folder"):
        assert len(sources[what].load()) == 1
    assert list(cache.iterdir()) == []
