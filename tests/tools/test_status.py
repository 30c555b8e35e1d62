"""Status reads a run folder as others write it, and says no more than the folder does."""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flat_records import flat
from safetensors.torch import save_file

from lit_memories import records
from lit_memories.cli import main
from lit_memories.lock import lock, unlock
from lit_memories.probes import PROBES
from lit_memories.records import PARTS, RECORDS_FILE, RUN_FILE, SEEDS_FILE, Record, read_lines, read_records
from lit_memories.runs import RunInfo, read_run
from lit_memories.storage.tensors import read_tensors
from lit_memories.tools import status
from lit_memories.tools.status import Status, describe, duration, expected_answers, look

BEGAN = 1_700_000_000.0
DATA = {
    "concept": {"source": "a", "rows": 6, "unreadable": []},
    "reference": {"source": "b", "rows": 4, "unreadable": []},
    "conditioned": {"source": "the images again", "rows": 10, "unreadable": []},
    "known": {"source": "seeds", "rows": 2, "unreadable": []},
    "prompted": {"source": "seeds", "rows": 1, "unreadable": []},
    "retained": {"source": "seeds", "rows": 1, "unreadable": []},
}
ASKED = {name: PROBES[name].asked({}).to_dict() for name in ("seed", "known", "samples")}
EXPECTED = {
    "concept": {"seed": 6}, "reference": {"seed": 4}, "known": {"known": 2}, "prompted": {"samples": 1},
    "retained": {"samples": 1}, "conditioned": {"seed": 10},
}  # fmt: skip
INFO = RunInfo("esd", "erased", "umbrella", {}, "", {}, 16, DATA, {}, probes=ASKED, expected=EXPECTED)


def record(index: int, **values: object) -> Record:
    numbers = {"nll": 1.0, "residual": 1e-4, "evaluations": 40 + index, "converged": index != 1}
    kept = {name: values.pop(name) for name in ("key", "set", "conditioning") if name in values}
    return replace(flat(f"key-{index}", "concept", index, "an umbrella", **numbers, **values), **kept)


def at(file: Path, seconds: float) -> None:
    """Let a file be written so many seconds after the run began."""
    os.utime(file, (BEGAN + seconds, BEGAN + seconds))


def batch(folder: Path, rank: int, records: list[Record], seconds: float) -> None:
    """What a process leaves of a batch."""
    parts = folder / PARTS
    parts.mkdir(exist_ok=True)
    seeds = parts / f"seeds-{records[0].key}.safetensors"
    save_file({r.key: torch.zeros(2) for r in records}, seeds)
    lines = parts / f"records-{rank}.jsonl"
    with lines.open("a") as stream:
        stream.writelines(r.to_json() + "\n" for r in records)
    at(seeds, seconds)
    at(lines, seconds)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two processes, 10 seconds a batch: 8 records in 40 seconds, the first batch after 10."""
    folder = tmp_path / "esd"
    INFO.save(folder)
    at(folder / RUN_FILE, 0)
    batch(folder, 0, [record(0), record(1, flag="diverged")], 10)
    batch(folder, 1, [record(2), record(3)], 20)
    batch(folder, 0, [record(4), record(5)], 30)
    batch(folder, 1, [record(0, key="again", conditioning="empty"), record(0, key="r", set="reference")], 40)
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """An audit is at work in a folder."""
    lock(folder)
    try:
        yield
    finally:
        unlock(folder)


def seen(folder: Path, seconds: float) -> Status:
    return look(folder, BEGAN + seconds)


def test_counts_are_those_of_the_records(run: Path) -> None:
    found = seen(run, 45)
    assert found.expected == {
        "concept": 6, "reference": 4, "known": 2, "prompted": 1, "retained": 1, "conditioned": 10
    }  # fmt: skip
    assert found.total == 24
    assert {name: len(found.of(name)) for name in ("concept", "reference", "conditioned", "known")} == {
        "concept": 6, "reference": 1, "conditioned": 1, "known": 0
    }  # fmt: skip
    assert found.processes == {"0": 4, "1": 4}


def test_speed_is_that_of_the_files(run: Path) -> None:
    with held(run):
        found = seen(run, 45)
    assert found.state == "running"
    assert found.rate == pytest.approx(8 / 40)
    assert found.seconds_left == pytest.approx(14 / (8 / 40))
    assert describe(found) == (
        f"{run}: running, last write 5 s ago; 0.2 inversions/s, about 70 s left; answers by process: 0: 4, 1: 4"
    )


def test_speed_is_that_of_the_last_attempt(run: Path) -> None:
    at(run / RUN_FILE, 35)  # taken up again: what the first attempt left says nothing of this one's speed
    assert seen(run, 45).rate == pytest.approx(2 / 5)


@pytest.mark.parametrize(("seconds", "state"), [(30, "running"), (41, "running"), (99, "running"), (101, "stalled")])
def test_silence_is_measured_in_batches(run: Path, seconds: float, state: str) -> None:
    """A batch takes 10 seconds: after a minute at least, as clocks of file systems differ, it is none any more."""
    with held(run):
        assert seen(run, seconds).state == state
    assert ("in the future" in describe(seen(run, seconds))) == (seconds < 40)


def test_only_a_run_that_a_process_holds_is_running(run: Path) -> None:
    """However fresh its files are, and whatever a killed one left."""
    shutil.copytree(run, run.parent / "copy", copy_function=shutil.copy2)
    with held(run):
        assert seen(run, 41).state == "running"
        lock(run.parent / "copy")
        shutil.copy(run.parent / "copy" / "lock", run.parent / "left")
        unlock(run.parent / "copy")
    shutil.copy(run.parent / "left", run / "lock")
    line = describe(seen(run, 41))
    assert line.startswith(f"{run}: stopped, last write 1 s ago; ")
    assert line.endswith("run the same command again to continue")


def test_looking_disturbs_no_audit_that_starts(run: Path) -> None:
    """Whether the lock is held is seen by taking it for a moment."""
    (run / "lock").touch()
    with (run / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        done = threading.Timer(0.02, looking.close)
        done.start()
        lock(run)
    done.join()
    unlock(run)


def test_slow_batches_may_be_silent_for_longer(run: Path) -> None:
    batch(run, 0, [record(7)], 140)
    with held(run):
        assert seen(run, 140 + 399).state == "running"
        assert seen(run, 140 + 401).state == "stalled"


def test_a_run_that_has_just_begun_has_no_speed(tmp_path: Path) -> None:
    INFO.save(tmp_path)
    at(tmp_path / RUN_FILE, 0)
    with held(tmp_path):
        found = seen(tmp_path, 300)
    assert (found.state, found.rate, found.seconds_left, found.run.records) == ("running", None, None, ())


def test_a_cut_line_is_no_record(run: Path) -> None:
    with (run / PARTS / "records-0.jsonl").open("a") as lines:
        lines.write(record(8).to_json()[:30])
    assert len(seen(run, 45).run.records) == 8


def merge(run: Path) -> None:
    """Bring a run to its end, whatever its data lack."""
    records = read_records(run)
    (run / RECORDS_FILE).write_text("".join(r.to_json() + "\n" for r in records))
    seeds = {key: seed for file in (run / PARTS).glob("seeds-*") for key, seed in read_tensors(file).items()}
    save_file(seeds, run / SEEDS_FILE)
    shutil.rmtree(run / PARTS)
    expected = {"concept": {"seed": 6}, "reference": {"seed": 1}, "conditioned": {"seed": 1}}
    replace(INFO, complete=True, expected=expected).save(run)


def test_a_complete_run_is_complete_however_old(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge(run)
    assert look(run).state == "complete"
    main(["status", str(run)])
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: complete"


def test_complete_is_what_a_report_calls_so(run: Path) -> None:
    """By what is there, not by what the run says of itself."""
    merge(run)
    (run / SEEDS_FILE).unlink()
    found = look(run)
    assert found.run.gaps == read_run(run).gaps == ["8 seeds are missing"]
    assert found.state == "stopped"
    assert "; 8 seeds are missing; what is recorded is safe" in describe(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00garbage\xff\n", "records.jsonl:1: not a record"),
        (b"\x00garbage\xff", "records.jsonl: its last line is cut"),
        (b'{"key": "k", "set": "concept", "index": 0, "prompt": "x", "new": 1}\n', "unknown fields ['new']"),
    ],
)
def test_records_that_are_none_are_told(run: Path, content: bytes, said: str) -> None:
    merge(run)
    (run / RECORDS_FILE).write_bytes(content)
    found = look(run)
    assert found.state == "stopped"
    assert said in describe(found)
    assert "0 of 6 answers of seed for the concept set" in describe(found)


def test_any_file_of_records_is_read(run: Path) -> None:
    (run / PARTS / "records-0.jsonl").rename(run / PARTS / "records-x.jsonl")
    found = seen(run, 45)
    assert (len(found.run.records), found.processes) == (8, {"1": 4, "x": 4})


def test_names_that_command_a_terminal_are_shown_escaped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = run.rename(run.parent / "a\x1b[31m\nb")
    main(["status", str(named)])
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "a\\x1b[31m b: stopped" in said


def test_a_merge_meanwhile_hides_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts vanish into the merged file just after they were listed."""
    before = seen(run, 45).run.records

    def merged(file: Path, damaged: list[str] | None = None) -> list[Record]:
        if (run / PARTS).exists():
            (run / RECORDS_FILE).write_text("".join(r.to_json() + "\n" for r in before))
            shutil.rmtree(run / PARTS)
        return read_lines(file, damaged)

    monkeypatch.setattr(status, "read_lines", merged)
    monkeypatch.setattr(records, "read_lines", merged)
    assert seen(run, 45).run.records == before


def test_the_table_says_it_and_the_folder_stays_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in run.rglob("*")}
    main(["status", str(run), str(run)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    # 7 of 8 converged; (40 + 41 + … + 45 + 40 + 40) / 8 evaluations
    assert ["esd", "all", "8", "24", "1", "88", "%", "41.9"] in rows
    assert ["concept", "6", "6", "1", "83", "%", "42.5"] in rows
    assert ["prompted", "0", "1", "0", "–", "–"] in rows
    assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in run.rglob("*")} == before


def test_an_image_level_audit_has_three_sets() -> None:
    data = {"memory": {"source": "a", "rows": 3}, "supports": {"source": "b", "rows": 12}}
    asked = {"memories": PROBES["memories"].asked({}).to_dict()}
    counts = {name: {"memories": count} for name, count in {"own": 3, "repeat": 3, "memory": 12}.items()}
    info = replace(INFO, data=data, probes=asked, expected={})
    assert expected_answers(info) == counts
    overlapping = {**data, "supports": {"source": "b", "rows": 6, "each": 4}}
    assert expected_answers(replace(info, data=overlapping)) == counts


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "has no run.json"),
        ("{", "is damaged or of another version"),
        (json.dumps({**vars(INFO), "data": {"concept": {}}, "expected": {}}), "does not say how many samples"),
        (json.dumps({**vars(INFO), "schema": 3, "new": {}}), "is of a newer release (schema 3, not 2): update"),
    ],
)
def test_what_is_no_run_is_named(
    content: str | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["status", str(tmp_path)])
    message = str(stop.value)
    assert named in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_times_have_two_digits() -> None:
    assert [duration(s) for s in (0, 7.6, 500, 9000, 400000)] == ["0 s", "8 s", "8 min", "2.5 h", "4.6 days"]
