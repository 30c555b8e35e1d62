"""Run folders that others made: they show no file of the reader's, and what they say stays text."""

import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lit_memories.audit.writer import RecordWriter
from lit_memories.records import IMAGES, PARTS, RECORDS_FILE, RUN_FILE, SEEDS_FILE, Record
from lit_memories.report import report
from lit_memories.runs import RunInfo, read_run
from lit_memories.storage.signed import unsign

sys.path.append(str(Path(__file__).parents[1] / "report"))
from synthetic_runs import Model, asked, change_records, write

Refused = Callable[..., str]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}{% raw %}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run folder of a vanilla model, with pictures."""
    return write(tmp_path / "runs", Model("vanilla", "vanilla"), pictures=2)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder of the reader's own, with a picture and a file of each kind that a run has."""
    folder = tmp_path / "home"
    (folder / "pictures").mkdir(parents=True)
    Image.new("RGB", (64, 64), (1, 2, 3)).save(folder / "pictures" / "concept-0000-original.png")
    for name in (RUN_FILE, RECORDS_FILE, SEEDS_FILE):
        (folder / name).write_text("private")
    return folder


def link(run: Path, name: str, target: Path) -> None:
    place = run / name
    if place.is_dir():
        place.rename(run / "moved")
    else:
        place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (IMAGES, "pictures"),
        (PARTS, "."),
        (RUN_FILE, RUN_FILE),
        (RECORDS_FILE, RECORDS_FILE),
        (SEEDS_FILE, SEEDS_FILE),
        (f"{IMAGES}/concept-0000-original.png", "pictures/concept-0000-original.png"),
        (f"{PARTS}/records-0.jsonl", RECORDS_FILE),
        (f"{IMAGES}/more", "pictures"),
        (SEEDS_FILE, "nothing-there"),
    ],
)
def test_links_out_of_a_run_are_refused(name: str, target: str, run: Path, secret: Path, tmp_path: Path) -> None:
    link(run, name, secret / target)
    for read in (read_run, RecordWriter, lambda folder: report([folder], tmp_path / "out")):
        with pytest.raises(ValueError, match=re.escape(f"{run / name} leads out of its folder")):
            read(run)
    assert not (tmp_path / "out" / "report.html").exists()
    assert (secret / RECORDS_FILE).read_text() == "private"


def test_links_inside_a_run_and_to_it_are_fine(run: Path, tmp_path: Path) -> None:
    (run / RECORDS_FILE).rename(run / "kept.jsonl")
    (run / RECORDS_FILE).symlink_to("kept.jsonl")
    (tmp_path / "link").symlink_to(run)
    assert read_run(tmp_path / "link").records == read_run(run).records != ()


@pytest.mark.parametrize("name", [RECORDS_FILE, f"{IMAGES}/concept-0001-original.png", f"{PARTS}/records-0.jsonl"])
def test_a_pipe_does_not_hang_the_reader(name: str, run: Path) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).parent.mkdir(exist_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        read_run(run)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "concept/../..", "", "Concept", 3, None])
def test_a_set_is_one_of_the_known(name: object, run: Path) -> None:
    """The set and the index name picture files."""
    change_records(run, lambda record: record | {"set": name})
    with pytest.raises(ValueError, match="not a record"):
        read_run(run)


@pytest.mark.parametrize("index", [-1, "../0", 1.5, True, 2**63, None])
def test_an_index_is_a_number(index: object, run: Path) -> None:
    change_records(run, lambda record: record | {"index": index})
    with pytest.raises(ValueError, match="not a record"):
        read_run(run)


@pytest.mark.parametrize("label", ["two\nlines", "\x1b[2J", "\x9b31m", "\u202egnp.exe", "bell\x07", "nul\x00"])
def test_what_is_shown_in_terminals_has_no_control_characters(label: str, run: Path) -> None:
    info = RunInfo.load(run)
    for change in ({"name": label}, {"concept": label}):
        with pytest.raises(ValueError, match="control characters"):
            replace(info, **change)
        (run / RUN_FILE).write_text(json.dumps(asdict(info) | change))
        with pytest.raises(ValueError, match="control characters") as stop:
            RunInfo.load(run)
        assert str(stop.value).isprintable()
    line, _ = unsign(Record("k", "concept", 0, "p").to_json())
    for change in ({"key": label}, {"flag": label}, {"conditioning": label}, {"correct": {label: True}}):
        with pytest.raises(ValueError, match="not a record") as stop:
            Record.from_json(json.dumps(json.loads(line) | change))
        assert str(stop.value).isprintable()


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_nothing_in_a_run_becomes_part_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every text that a stranger can set, set to HTML, template code, markup of terminals and LaTeX."""
    text = HOSTILE + " [red]x[/red] \\input{/etc/passwd} $\\frac{ =1+1"
    hostile = {
        "concept": text, "versions": {text: text}, "settings": {text: {text: [text]}},
        "model": {"base": text, "fingerprint": "f", "erasure": {"method": text, "concept": {"name": text}}},
        "data": {name: {"source": text, "rows": 24, "unreadable": [text]} for name in ("concept", "reference")},
        "probes": asked(seed={"inverter": text, text: [text]}),
    }  # fmt: skip
    runs = []
    for name, role in (("vanilla", "vanilla"), ("erased", "erased"), ("control", "control")):
        run = write(tmp_path / "runs", Model(name, role, concept_shift=9.0, noise=1.0, info=hostile), pictures=2)
        replace(RunInfo.load(run), name=name + text).save(run)
        change_records(run, lambda r: r | {"prompt": text} | ({"correct": {text: True}} if r["set"] != "known" else {}))
        change_records(run, lambda record: record | ({"flag": text} if record["index"] == 5 else {}))
        runs.append(run)
    report(runs, tmp_path / "out", draws=50)
    page = (tmp_path / "out" / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert "script" not in {tag for tag, _ in tags.seen}
    assert {attributes["src"][:22] for tag, attributes in tags.seen if tag == "img"} == {"data:image/png;base64,"}
    assert not [name for _, attributes in tags.seen for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)" in page, "it is there, as text"
    assert "{{7*7}}" in page, "and was not calculated"
    tex = (tmp_path / "out" / "tables" / "main.tex").read_text()
    assert "\\input{" not in tex
    assert "\\textbackslash{}input" in tex
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "[red]" in said.replace("\n", "").replace(" ", "") or "[r" in said, "markup is shown, not obeyed"


def test_pictures_in_a_run_cannot_be_bombs(run: Path, tmp_path: Path) -> None:
    """A picture of a gigapixel in a few kilobytes, a cut one, and one that is none are left out."""
    header = io.BytesIO()
    Image.new("1", (8, 8)).save(header, "png")
    data = bytearray(header.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    for index, content in enumerate((bytes(data), header.getvalue()[:40], b"<svg onload=alert(1)>")):
        (run / IMAGES / f"concept-{index:04d}-original.png").write_bytes(content)
    report([run], tmp_path / "out", draws=50)
    assert "were not kept or cannot be read" in (tmp_path / "out" / "report.html").read_text()


def test_nothing_that_a_run_says_of_a_probe_becomes_part_of_the_page_or_is_imported(tmp_path: Path) -> None:
    """A probe that only the folder knows: its question and titles are text, and its module is nobody's business."""
    text = "<script>alert(1)</script> {{7*7}} [red]x[/red] \\input{x} $y$ & =1+1"
    number = {"name": "x", "title": text, "compare": "forgetting", "unit": text, "zero": text, "one": text}
    evil = {"question": text, "settings": {text: "os.system"}, "sets": ["concept", "reference", text]}
    evil |= {"conditioned": False, "numbers": [number]}
    runs = []
    for name, role in (("vanilla", "vanilla"), ("erased", "erased")):
        probes = asked() | {"evil": evil}
        run = write(tmp_path / "runs", Model(name, role, noise=1.0, info={"probes": probes}))
        lines = [
            {"key": f"{of}{i}", "set": of, "index": i, "prompt": "", "probes": {"evil": {"x": float(i % 7)}}}
            for of in ("concept", "reference")
            for i in range(24)
        ]
        with (run / RECORDS_FILE).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        runs.append(run)
    report(runs, tmp_path / "out", draws=20)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{7*7}}" in page
    assert "\\input{x}" not in (tmp_path / "out" / "tables" / "probe_evil.tex").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": [{"name": "../x", "title": "x"}]},
        {"numbers": [{"name": "x", "title": "\x1b[2J"}]},
        {"numbers": [{"name": "x", "title": "x", "digits": 10**9}]},
        {"numbers": [{"name": "x", "title": "x", "compare": "exec"}]},
        {"numbers": [{"name": "x", "title": "x"}, {"name": "x", "title": "y"}]},
        {"numbers": "x"},
        {"question": "a\nb"},
        {"sets": [1]},
    ],
)
def test_a_probe_that_is_none_is_refused(change: dict[str, object], run: Path) -> None:
    info = json.loads((run / RUN_FILE).read_text())
    probe = {"question": "", "settings": {}, "sets": ["concept"], "conditioned": False, "numbers": []} | change
    del info["crc32"]
    (run / RUN_FILE).write_text(json.dumps(info | {"probes": info["probes"] | {"evil": probe}}))
    with pytest.raises(ValueError, match=r"damaged or of another version: (?!it was changed)"):
        read_run(run)
    (run / RUN_FILE).write_text(json.dumps(info | {"probes": {"../../evil": probe}}))
    with pytest.raises(ValueError, match="damaged or of another version"):
        read_run(run)
