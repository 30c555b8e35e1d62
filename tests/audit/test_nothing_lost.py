"""Run folders that were damaged, robbed or shared: what is wrong is named, made again, and never counted as whole."""

import json
import multiprocessing
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lit_memories import seeds
from lit_memories.audit.folder import merge
from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main
from lit_memories.data.conditionings import Conditioning
from lit_memories.lock import lock, unlock
from lit_memories.records import (
    LOCK,
    PARTS,
    RECORDS_FILE,
    RUN_FILE,
    SEEDS,
    SEEDS_FILE,
    Place,
    Record,
    read_lines,
    read_records,
)
from lit_memories.runs import RunInfo, read_run
from lit_memories.storage.tensors import read_notes

sys.path.append(str(Path(__file__).parent))
from cli_errors import refused

Arguments = Callable[..., list[str]]


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the run that nothing disturbed."""
    return shutil.copytree(undisturbed, tmp_path / "run")


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in (RECORDS_FILE, SEEDS_FILE))


# Records and seeds know their model.


def other_model(base: Path, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 1}, weights, {"format": "pt"})
    return folder


def test_records_without_their_run_file_are_not_taken_for_another_models(
    run: Path, undisturbed: Path, calm: Path, arguments: Arguments, tmp_path: Path
) -> None:
    (run / RUN_FILE).unlink()
    other = other_model(calm, tmp_path / "other")
    message = refused(arguments(run, f"--model.diffusion.base={other}"))
    assert "holds records of another model" in message
    assert read_lines(run / RECORDS_FILE) == list(read_run(undisturbed).records), "nothing was touched"
    main(arguments(run))  # its own model takes them up
    assert results(run) == results(undisturbed)
    assert read_run(run).info == read_run(undisturbed).info


def test_answers_without_their_run_file_are_not_taken_for_those_of_other_settings(
    run: Path, arguments: Arguments
) -> None:
    (run / RUN_FILE).unlink()
    message = refused(arguments(run, "--model.num_inference_steps=3"))
    assert "answers of the probe" in message
    assert "other settings" in message


def test_a_damaged_run_file_says_how_to_mend_it(run: Path, undisturbed: Path, arguments: Arguments) -> None:
    (run / RUN_FILE).write_text((run / RUN_FILE).read_text()[:-40])
    message = refused(arguments(run))
    assert "remove it and run the same audit again" in message
    (run / RUN_FILE).unlink()
    main(arguments(run))
    assert results(run) == results(undisturbed)


def test_exchanged_records_are_named(run: Path) -> None:
    file = run / RECORDS_FILE
    records = [Record.from_json(line) for line in file.read_text().splitlines()]
    for record in records:
        record.model = "another"
    file.write_text("".join(record.to_json() + "\n" for record in records))
    with pytest.raises(ValueError, match=r"another model \(another\).*restore what belongs"):
        read_run(run)


def test_exchanged_seeds_are_named(run: Path, arguments: Arguments) -> None:
    from lit_memories.storage.tensors import read_tensors, write_tensors

    assert read_notes(run / SEEDS_FILE) == {"model": RunInfo.load(run).fingerprint}
    write_tensors(run / SEEDS_FILE, read_tensors(run / SEEDS_FILE), {"model": "another"})
    said = "seeds.safetensors holds seeds of another model (another) than this one"
    assert said in refused(arguments(run))
    for command in (["status", str(run)], ["report", str(run), f"--out={run.parent / 'out'}"]):
        message = refused(command)
        assert f"{said} ({RunInfo.load(run).fingerprint}): run.json, records or seeds were exchanged" in message


def test_records_of_an_earlier_release_need_their_run_file(run: Path, arguments: Arguments) -> None:
    old = Path(__file__).parents[1] / "old_runs" / "vanilla"
    shutil.copy(old / RECORDS_FILE, run / RECORDS_FILE)
    (run / RUN_FILE).unlink()
    assert "nothing says of which model they are" in refused(arguments(run))


# What is damaged is seen, and made again.


def test_a_flipped_bit_never_changes_a_record_in_silence(undisturbed: Path, tmp_path: Path) -> None:
    """Of 400 flips each is named, or leaves a gap, or nothing of a record is other than it was."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(undisturbed / RUN_FILE, folder)
    shutil.copy(undisturbed / SEEDS_FILE, folder)
    sound, known = (undisturbed / RECORDS_FILE).read_bytes(), read_run(undisturbed)
    for bit in random.Random(0).sample(range(8 * len(sound)), 400):  # noqa: S311
        broken = bytearray(sound)
        broken[bit // 8] ^= 1 << bit % 8
        (folder / RECORDS_FILE).write_bytes(broken)
        try:
            found = read_run(folder)
        except ValueError:
            continue
        assert found.gaps or found.records == known.records
        assert all(record in known.records for record in found.records)


@pytest.mark.parametrize("where", ["a record", "the end of a line", "the last end of a line"])
def test_a_damaged_record_is_named_and_made_again(
    where: str, run: Path, undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    broken = bytearray((run / RECORDS_FILE).read_bytes())
    places = {"a record": broken.index(b'"nll": ') + 8, "the end of a line": broken.index(b"\n")}
    broken[places.get(where, len(broken) - 1)] ^= 1
    (run / RECORDS_FILE).write_bytes(broken)
    if where == "the last end of a line":
        assert read_run(run).gaps
    else:
        with pytest.raises(ValueError, match=r"records\.jsonl:\d+: .* run the same audit again"):
            read_run(run)
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert not read_run(run).gaps


def test_a_file_of_records_that_was_cut_is_seen_and_completed(
    run: Path, undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    content = (run / RECORDS_FILE).read_bytes()
    (run / RECORDS_FILE).write_bytes(content[: len(content) * 4 // 5])
    assert RunInfo.load(run).complete, "it still says so"
    found = read_run(run)
    assert any("answers of samples for the retained set" in gap for gap in found.gaps)
    main(["report", str(run), "--out", str(tmp_path / "out"), "--draws=20"])
    results_file = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "is incomplete" in json.dumps(results_file)
    main(arguments(run))
    assert results(run) == results(undisturbed)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_lost_seeds_are_seen_and_found_again(damage: str, run: Path, undisturbed: Path, arguments: Arguments) -> None:
    file = run / SEEDS_FILE
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[-5] ^= 4
        file.write_bytes(content[:-100] if damage == "cut" else content)
    if damage != "flipped":  # which only reading all of them shows
        assert "12 seeds are missing" in read_run(run).gaps
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert not read_run(run).gaps


def test_a_bit_flipped_in_the_run_file_is_named(run: Path) -> None:
    text = (run / RUN_FILE).read_text()
    (run / RUN_FILE).write_text(text.replace('"rows": 4', '"rows": 6', 1))
    with pytest.raises(ValueError, match="was changed after it was written"):
        read_run(run)


# One writer, any number of readers.


def _hold(folder: Path, ready: "multiprocessing.Event", done: "multiprocessing.Event") -> None:
    lock(folder)
    ready.set()
    done.wait(60)


def test_a_second_audit_in_a_folder_ends_at_its_start(run: Path, arguments: Arguments) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        message = refused(arguments(run))
        assert f"is being written by process {other.pid} on" in message
        assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    finally:
        other.kill()
        other.join()
    main(arguments(run))  # a killed process holds nothing
    assert not (run / LOCK).exists()


def test_a_lock_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="lock leads out of its folder"):
        lock(tmp_path / "run")
    assert not (tmp_path / "victim").exists()


def test_a_lock_is_had_again_after_a_failure_in_the_same_process(tmp_path: Path) -> None:
    lock(tmp_path)
    lock(tmp_path)
    unlock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    unlock(tmp_path)


def test_an_audit_that_fails_in_a_process_that_lives_on_lets_others_write(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        """Nothing of the program catches it."""

    def stop(*_: object) -> None:
        assert (tmp_path / LOCK).exists()
        raise Stopped

    monkeypatch.setattr(RecordWriter, "write", stop)
    with pytest.raises(Stopped):
        main(arguments(tmp_path))
    assert not (tmp_path / LOCK).exists()


def record(index: int) -> Record:
    return Record(f"key{index}", "concept", index, "p", {"seed": {"nll": float(index)}}, model="m", asked={"seed": "s"})


def test_readers_see_every_record_while_parts_are_merged(tmp_path: Path) -> None:
    """Many merges, each of one more batch, and a reader that never sees fewer records than before."""
    places = {f"key{i}": Place("concept", i) for i in range(60)}
    seen, stop = [0], threading.Event()

    def follow() -> None:
        while not stop.is_set():
            seen.append(len(read_records(tmp_path)))

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        for index in range(60):
            RecordWriter(tmp_path).write([record(index)], {f"key{index}": torch.zeros(1, 2, 2)}, {})
            merge(tmp_path, places)
    finally:
        stop.set()
        reader.join()
    assert seen == sorted(seen)
    assert len(read_records(tmp_path)) == 60


def test_a_part_that_a_merge_takes_away_under_the_reader_is_found_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordWriter(tmp_path)
    writer.write([record(0), record(1)], {}, {})
    reading = Path.read_bytes

    def merged_first(self: Path) -> bytes:
        if self.parent.name == PARTS:
            monkeypatch.setattr(Path, "read_bytes", reading)
            merge(tmp_path, {f"key{i}": Place("concept", i) for i in range(2)})
        return reading(self)

    monkeypatch.setattr(Path, "read_bytes", merged_first)
    assert len(read_records(tmp_path)) == 2


# Seeds in files of a bounded size.


def test_many_seeds_are_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {f"key{i}": torch.full((1, 2, 2), float(i)) for i in range(40)}
    places = {f"key{i}": Place("concept", i) for i in range(40)}
    for first in (0, 20):
        keys = [f"key{i}" for i in range(first, first + 20)]
        records = [record(i) for i in range(first, first + 20)]
        RecordWriter(tmp_path).write(records, {key: made[key] for key in keys}, {})
    merge(tmp_path, places)
    assert not (tmp_path / SEEDS).exists()
    monkeypatch.setattr(seeds, "FILE_SEEDS", 4)
    merge(tmp_path, places)
    files = sorted((tmp_path / SEEDS).iterdir())
    assert len(files) > 8
    assert not (tmp_path / SEEDS_FILE).exists()
    assert seeds.seed_keys(tmp_path) == seeds.sound_seeds(tmp_path) == made.keys()
    found = seeds.read_seeds(tmp_path, made)
    assert all(torch.equal(found[key], made[key]) for key in made)
    before = {file: file.read_bytes() for file in files}
    merge(tmp_path, places)
    assert {file: file.read_bytes() for file in files} == before, "in which file a seed is depends on its key alone"
    monkeypatch.setattr(seeds, "FILE_SEEDS", 100_000)
    merge(tmp_path, places)
    assert seeds.seed_keys(tmp_path) == made.keys()
    assert not (tmp_path / SEEDS).exists()


def test_killed_between_two_files_no_seed_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {f"key{i}": Place("concept", i) for i in range(12)}
    made = {f"key{i}": torch.full((1, 2, 2), float(i)) for i in range(12)}
    RecordWriter(tmp_path).write([record(i) for i in range(12)], made, {})
    merge(tmp_path, places)
    monkeypatch.setattr(seeds, "FILE_SEEDS", 1)
    write, left = seeds.write_tensors, [3]

    def dies(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(seeds, "write_tensors", dies)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path, places)
    assert seeds.sound_seeds(tmp_path) == made.keys()
    left[0] = 100
    merge(tmp_path, places)
    assert seeds.sound_seeds(tmp_path) == made.keys()


# Runs that change.


@pytest.mark.slow
def test_a_limit_that_is_lowered_on_an_unfinished_run_leaves_one_that_is_completed(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RecordWriter.write
    batches = []

    def cut(self: RecordWriter, *rest: object) -> None:
        batches.append(1)
        if len(batches) > 6:
            raise KeyboardInterrupt
        whole(self, *rest)

    folder, fewer = tmp_path / "run", "--data.concept_images.limit=2"
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", cut)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main(arguments(folder))
    with pytest.warns(UserWarning, match="set aside"):
        main(arguments(folder, fewer, "--data.prompted=1", "--data.known=1"))
    main(arguments(tmp_path / "fresh", fewer, "--data.prompted=1", "--data.known=1"))
    assert results(folder) == results(tmp_path / "fresh")
    assert not read_run(folder).gaps


@pytest.mark.parametrize("text", ["empty@inf", "empty@nan", "empty@-1", "empty@1e999"])
def test_a_guidance_that_is_no_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="unknown conditioning"):
        Conditioning.parse(text)


def test_files_have_the_mode_that_the_umask_gives(run: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert {file.stat().st_mode & 0o777 for file in run.rglob("*") if file.is_file()} == {0o666 & ~mask}


def test_a_lock_that_a_kill_left_is_taken_again_and_again(tmp_path: Path) -> None:
    """By processes of other numbers, and so of other lengths."""
    file = tmp_path / "lock"
    for left in ("", "process 1234567 on a-machine-with-a-long-name\n", "process 12 on m\n"):
        file.write_text(left)
        for _ in range(2):
            lock(tmp_path)
            held = file.read_bytes()
            assert held.startswith(b"process ")
            assert b"\0" not in held
            unlock(tmp_path)
            file.write_bytes(held)  # as if the process had been killed while it had the lock
