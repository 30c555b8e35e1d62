"""A stranger's folder is pictures and captions: nothing in it makes the program read elsewhere or call a host."""

import http.server
import io
import json
import os
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import EpsImagePlugin, Image

from lit_memories.data import shards
from lit_memories.data.presets import I2P, CocoCaptions, PromptList
from lit_memories.data.samples import ImageRows
from lit_memories.data.sources import ImageSource
from lit_memories.report import pictures as report_pictures

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "png")
    return data.getvalue()


def rows_file(file: Path, colour: str) -> Path:
    pq.write_table(pa.table({"image": [{"bytes": png(colour), "path": None}], "caption": [colour]}), file)
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that this process tries to reach."""
    tried: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        tried.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    return tried


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A stranger's host, which would answer."""
    folder = tmp_path / "served"
    folder.mkdir()
    rows_file(folder / "a.parquet", "blue")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Quiet(*arguments, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("target", ["above", "absolute", "address", "pattern"])
@pytest.mark.parametrize("kind", ["parquet", "pictures"])
def test_a_readme_says_nothing(
    kind: str, target: str, streaming: bool, host: str, calls: list[Any], tmp_path: Path
) -> None:
    secret = rows_file(tmp_path / "secret.parquet", "blue")
    folder = tmp_path / "set"
    folder.mkdir()
    if kind == "parquet":
        rows_file(folder / "a.parquet", "red")
    else:
        (folder / "0.png").write_bytes(png())
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "caption": "red"}) + "\n")
    files = {"above": "../secret.parquet", "absolute": str(secret), "address": f"{host}/a.parquet", "pattern": "../*"}
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {files[target]!r}\n---\n"
    )
    (folder / "dataset_infos.json").write_text(json.dumps({"default": {"download_checksums": {host: {}}}}))
    loaded = ImageSource(str(folder), limit=5, streaming=streaming).load()
    assert list(loaded["caption"]) == ["red"]
    assert calls == []


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("use", ["caption", "where"])
@pytest.mark.parametrize("kind", ["Image", "Audio"])
def test_a_table_does_not_say_that_its_captions_are_to_be_looked_up(
    kind: str, use: str, streaming: bool, host: str, calls: list[Any], tmp_path: Path
) -> None:
    """What a column is, a table says itself: of a picture the library would open path and address."""
    place = pa.array([{"bytes": None, "path": f"{host}/a.parquet"}], PICTURE)
    features = {"image": {"_type": "Image"}, "caption": {"_type": kind}}
    table = pa.table({"image": pa.array([{"bytes": png(), "path": None}], PICTURE), "caption": place})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "a.parquet")
    options: dict[str, Any] = {"caption": "a picture", "where": {"caption": 1}} if use == "where" else {}
    with pytest.raises(ValueError, match=f"has neither texts, numbers nor labels in column 'caption', but {kind}"):
        ImageSource(str(tmp_path / "a.parquet"), limit=1, streaming=streaming, **options).load()
    assert calls == []


def test_a_revision_makes_no_repository_of_a_folder(host: str, calls: list[Any], tmp_path: Path) -> None:
    """The library would take it for one, and read its README."""
    rows_file(tmp_path / "set.parquet", "red")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- data_files: {host}/a.parquet\n---\n")
    with pytest.raises(ValueError, match="is on this machine, where nothing has a revision: leave out 'main'"):
        ImageSource(str(tmp_path), revision="main").load()
    assert calls == []


def test_no_program_is_run_to_see_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under the name of a picture would be given to an interpreter."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "1.png").write_bytes(script)
    run: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **_: run.append(arguments))
    rows = ImageRows("concept", ImageSource(str(tmp_path), caption="a picture"), (8, 8))
    assert len(rows.unreadable) == 1
    assert report_pictures.read_picture(tmp_path / "1.png") is None
    assert run == []


def test_scripts_and_tables_of_other_kinds_are_no_data_set(tmp_path: Path, calls: list[Any]) -> None:
    for name in ("set.py", "rows.json", "rows.csv", "state.json"):
        (tmp_path / name).write_text('{"image": "/etc/hostname", "caption": "x"}')
    with pytest.raises(FileNotFoundError, match="cannot open data set"):
        ImageSource(str(tmp_path)).load()
    assert calls == []


@pytest.mark.parametrize("what", ["picture", "folder", "table", "text"])
def test_a_link_that_leads_out_is_refused(what: str, tmp_path: Path) -> None:
    """Its picture would come into a report, and its text into a record."""
    outside = tmp_path / "private"
    outside.mkdir()
    (outside / "0.png").write_bytes(png("blue"))
    (outside / "0.txt").write_text("secret")
    (outside / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "caption": "secret"}) + "\n")
    folder = tmp_path / "set"
    folder.mkdir()
    name = {"picture": "0.png", "folder": "in", "table": "metadata.jsonl", "text": "0.txt"}[what]
    if what != "picture":
        (folder / "0.png").write_bytes(png())
    (folder / name).symlink_to(outside if what == "folder" else outside / name)
    with pytest.raises(FileNotFoundError, match=f"{name} is a link that leads out of the folder"):
        ImageSource(str(folder), caption="a picture").load()


def test_links_within_a_folder_and_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1").write_bytes(png("blue"))
    (snapshot / "1.png").symlink_to("../../blobs/1")
    (snapshot / "0.png").write_bytes(png())
    (snapshot / "2.png").symlink_to("0.png")
    rows = ImageRows("concept", ImageSource(str(snapshot), caption="a picture"), (8, 8))
    assert (len(rows.samples), rows.repeated) == (2, 1)


def test_coco_follows_no_link_either(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(png())
    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    (tmp_path / "coco" / "val2017" / "1.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "coco" / "captions_val2017.json").write_text("{}")
    with pytest.raises(ValueError, match="leads out of the folder"):
        CocoCaptions(str(tmp_path / "coco")).load()


def test_a_pipe_is_no_picture_and_nobody_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png())
    os.mkfifo(tmp_path / "1.png")
    assert len(ImageSource(str(tmp_path), caption="a picture").load()) == 1


def test_a_zip_archive_writes_nothing_and_reads_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png("blue"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../escaped.png", png())
        archive.writestr("a.png", png())
        archive.writestr("metadata.jsonl", json.dumps({"file_name": "../secret.png", "caption": "x"}) + "\n")
    with pytest.raises(FileNotFoundError, match=r"names '../secret\.png', which is not in its folder"):
        ImageSource(str(tmp_path / "a.zip")).load()
    assert not (tmp_path.parent / "escaped.png").exists()


@pytest.fixture
def repeating(tmp_path: Path) -> Path:
    """A picture by the dictionary, forty thousand times: a small file."""
    pictures = pa.array([{"bytes": os.urandom(20_000), "path": None}] * 1000, PICTURE)
    column = pa.chunked_array([pictures] * 40)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": column, "caption": ["x"] * len(column)}), file, compression="zstd")
    assert file.stat().st_size < 200_000
    return file


def test_few_rows_of_a_table_cost_little_whatever_it_holds(repeating: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    batches = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in batches(self, *arguments, **options):
            given.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    before = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    assert len(ImageSource(str(repeating), limit=4).load()) == 4
    assert sum(given) == 4
    assert sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) - before < 10**6


@pytest.mark.parametrize("options", [{}, {"limit": 3000}, {"limit": 3000, "streaming": True}])
def test_all_of_a_table_is_no_more_than_such_a_file_can_hold(
    options: dict[str, Any], repeating: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST", 2**20)
    with pytest.raises(FileNotFoundError, match=r"a\.parquet unpacks to more than"):
        ImageSource(str(repeating), **options).load()


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"limit": 1, "streaming": True}])
def test_a_table_that_would_unpack_to_far_more_than_pictures_is_refused(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST", 2**16)
    file = tmp_path / "a.parquet"
    picture = {"bytes": bytes(2**24), "path": None}
    pq.write_table(pa.table({"image": [picture], "caption": ["x"]}), file, compression="zstd")
    with pytest.raises(FileNotFoundError, match=r"a\.parquet would unpack to 1 values in 0\.016 GiB"):
        ImageSource(str(file), **options).load()


def test_of_a_list_no_more_is_unpacked_than_its_first_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand captions of a picture that are one, by the dictionary; whole they are a gigabyte."""
    held: list[int] = []
    weigh = shards._weight

    def counted(value: Any) -> int:
        held.append(weigh(value))
        return held[-1]

    monkeypatch.setattr(shards, "_weight", counted)
    captions = pa.DictionaryArray.from_arrays(pa.array([0] * 10**5, pa.int32()), pa.array(["x" * 10_000]))
    column = pa.ListArray.from_arrays(pa.array([0, 10**5], pa.int32()), captions)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([{"bytes": png(), "path": None}], PICTURE), "caption": column}), file)
    assert file.stat().st_size < 20_000
    assert list(ImageSource(str(file), limit=1).load()["caption"]) == ["x" * 10_000]
    assert max(held) < 20_000


def test_a_table_of_metadata_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LARGEST", 2**16)
    (tmp_path / "0.png").write_bytes(png())
    rows = {"file_name": ["0.png"] * 10_000, "caption": ["x" * 1000] * 10_000}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    with pytest.raises(FileNotFoundError, match=r"metadata\.parquet is damaged: .* unpacks to more than"):
        ImageSource(str(tmp_path)).load()


def test_holes_in_an_archive_are_no_files(tmp_path: Path) -> None:
    """A header of 512 bytes that claims 200 MiB of nothing."""
    hole = tarfile.TarInfo("1.png")
    hole.type, hole.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(hole.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (200 * 2**20)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    with (tmp_path / "a.tar").open("wb") as file:
        for name, content in (("0.png", png()), ("0.txt", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.write(member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        file.write(bytes(header) + bytes(1024))
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getmember("1.png").size == 200 * 2**20, "the hole is one"
    assert len(ImageSource(str(tmp_path / "a.tar"), caption="a picture").load()) == 1


def test_a_sample_of_an_archive_is_no_larger_than_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LARGEST", 1500)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("0.txt", "0.a.png", "0.b.png", "0.c.png"):
            content = b"x" if name == "0.txt" else png() + bytes(900)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert set(next(shards._samples([tmp_path / "a.tar"]))) == {"__key__", "txt", "caption", "a.png", "image"}


ADDRESS = "https://me:hunter2@127.0.0.1:9/a.parquet?token=hunter3"


@pytest.mark.parametrize(
    "opened",
    [
        lambda: ImageSource(ADDRESS).load(),
        lambda: ImageSource(ADDRESS, streaming=True),
        lambda: ImageSource(ADDRESS.replace(".parquet", "")).load(),
        lambda: CocoCaptions(ADDRESS).load(),
        lambda: PromptList(ADDRESS).load(),
        lambda: I2P(ADDRESS).load(),
    ],
)
def test_passwords_in_addresses_are_said_nowhere(opened: Callable[[], Any]) -> None:
    assert "hunter" not in ImageSource(ADDRESS).describe()
    with pytest.raises((FileNotFoundError, ValueError), match=r"\*\*\*@127\.0\.0\.1") as error:
        opened()
    assert "hunter" not in str(error.value)


@pytest.mark.usefixtures("hub")
def test_an_address_may_have_a_query(host: str, calls: list[Any]) -> None:
    assert list(ImageSource(f"{host}/a.parquet?token=hunter3").load()["caption"]) == ["blue"]
    assert calls
