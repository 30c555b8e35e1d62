"""Data sets that others made: archives write nowhere, rows name no file of the reader's."""

import contextlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lit_memories.data.sources import ImageSource, read_picture


def png(colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "png")
    return data.getvalue()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture of the reader's own, beside the data set."""
    file = tmp_path / "secret.png"
    file.write_bytes(png("blue"))
    return file


@pytest.fixture
def escape(tmp_path: Path) -> Path:
    """Where an archive would like to write."""
    return tmp_path / "escaped"


@pytest.fixture(autouse=True)
def _own_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", tmp_path / "cache" / "extracted")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache" / "downloads")


def names(escape: Path) -> list[str]:
    """Ways to spell that place."""
    return [f"{'../' * depth}{str(escape)[1:]}" for depth in (1, 6, 30)] + [str(escape), f"a/../../{escape.name}"]


def as_zip(file: Path, escape: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*names(escape), "a.png"):
            archive.writestr(name, png())
        archive.writestr("metadata.jsonl", json.dumps({"file_name": "a.png", "caption": "x"}) + "\n")


def as_tar(file: Path, escape: Path) -> None:
    with tarfile.open(file, "w") as archive:
        for name in (*names(escape), "a.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(png())
            archive.addfile(entry, io.BytesIO(png()))
        outward = tarfile.TarInfo("out")
        outward.type, outward.linkname = tarfile.SYMTYPE, str(escape.parent)
        archive.addfile(outward)
        through = tarfile.TarInfo(f"out/{escape.name}")
        through.size = len(png())
        archive.addfile(through, io.BytesIO(png()))


@pytest.mark.parametrize("pack", [as_zip, as_tar])
@pytest.mark.parametrize("beside", [True, False], ids=["with metadata", "alone"])
def test_archives_write_nowhere_else(
    pack: Callable[[Path, Path], None], beside: bool, escape: Path, tmp_path: Path
) -> None:
    """As the shards of a folder, and handed to what data sets are unpacked with."""
    folder = tmp_path / "rows"
    folder.mkdir()
    archive = folder / f"train.{pack.__name__.removeprefix('as_')}"
    pack(archive, escape)
    if beside:
        (folder / "a.png").write_bytes(png())
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "caption": "x"}) + "\n")
    with contextlib.suppress(FileNotFoundError, ValueError):  # it may find the honest part, or nothing
        ImageSource(str(folder)).load()
    unpacked = Path(datasets.DownloadManager().extract(str(archive)))
    assert (unpacked / "a.png").is_file(), "the honest part was unpacked"
    assert not escape.exists()
    assert not [file for file in unpacked.rglob("*") if not file.resolve().is_relative_to(unpacked.resolve())]


@pytest.mark.parametrize("kind", ["parent", "absolute"])
def test_metadata_names_files_of_its_folder_only(kind: str, secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    name = {"parent": f"../{secret.name}", "absolute": str(secret)}[kind]
    rows = [{"file_name": "a.png", "caption": "x"}, {"file_name": name, "caption": "y"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(FileNotFoundError, match="cannot open data set"):
        ImageSource(str(folder)).load()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("target", ["path", "url"])
def test_rows_hold_their_pictures(target: str, streaming: bool, secret: Path, tmp_path: Path) -> None:
    """A row that names a file would bring a picture of the reader's into the report, or call a stranger's host."""
    place = str(secret) if target == "path" else "http://127.0.0.1:9/picture.png"
    pictures = [{"bytes": png(), "path": "a.png"}, {"bytes": None, "path": place}]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": pa.array(pictures), "caption": ["x", "y"]}), file)
    with pytest.raises(ValueError, match="names pictures by path"):
        ImageSource(str(file), streaming=streaming, limit=2).load()
    pq.write_table(pa.table({"image": pa.array(pictures[:1]), "caption": ["x"]}), file)
    rows = ImageSource(str(file), streaming=streaming, limit=2).load()
    assert read_picture(rows[0]["image"], (8, 8)).getpixel((0, 0)) == (255, 0, 0)
