"""Records do not know how many processes made them, nor how many of those died."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from machine import left_over

from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main
from lit_memories.records import PARTS, read_records
from lit_memories.runs import RunInfo, read_run

ROOT = Path(__file__).parents[2]
Command = Callable[..., list[str]]
Together = Callable[[Sequence[list[str]], int], list[str]]
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")
SAFE = "what is recorded is safe: run the same command again to continue"


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in ("records.jsonl", "seeds.safetensors"))


@pytest.fixture(scope="module")
def whole(concept_audit: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept-level audit by one process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    main(concept_audit(folder))
    return folder


@pytest.fixture(scope="module")
def whole_images(image_audit: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image-level audit by one process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    main(image_audit(folder))
    return folder


@pytest.fixture(scope="module")
def killed(
    concept_audit: Command, mortal: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of two processes, the second of which was killed after its second batch of two."""
    folder = tmp_path_factory.mktemp("runs") / "killed"
    return folder, perish(mortal, concept_audit(folder, *TWO), environment, "1 2 SIGKILL")


def perish(
    mortal: Path, command: list[str], environment: dict[str, str], dies: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(mortal), *command],
        env=environment | {"DIES": dies, "PYTHONPATH": str(ROOT)},
        timeout=400, capture_output=True, text=True, check=False,
    )  # fmt: skip


def with_left(whole: Path, folder: Path, count: int) -> Path:
    """A copy of a finished run that lacks its last records."""
    copytree(whole, folder)
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:-count]))
    replace(RunInfo.load(folder), complete=False).save(folder)
    return folder


@pytest.fixture(scope="module")
def by_three(
    whole: Path,
    whole_images: Path,
    killed: tuple[Path, object],
    concept_audit: Command,
    image_audit: Command,
    together: Together,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Run folders that three processes made or finished."""
    root = tmp_path_factory.mktemp("three")
    concepts = {
        "concept": root / "concept",
        "one left": with_left(whole, root / "one", 1),
        "two left": with_left(whole, root / "two", 2),
        "killed": killed[0],
    }
    go_on_alone(concept_audit(killed[0], "--trainer.callbacks=[]", "--trainer.enable_progress_bar=false"))
    commands = [concept_audit(folder) for folder in concepts.values()]
    first, *others = together([*commands, image_audit(root / "image"), commands[0]], 3)
    assert f"nothing left to do: all 48 answers are in {root / 'concept'}" in first
    assert not any("answers are in" in said for said in others), "only the first speaks"
    return concepts | {"image": root / "image"}


def go_on_alone(command: list[str]) -> None:
    """One process takes up a run and is stopped after its second batch."""
    write, written = RecordWriter.write, []

    def stop(self: RecordWriter, *batch: object) -> None:
        write(self, *batch)
        written.append(batch)
        if len(written) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordWriter, "write", stop)
        with pytest.raises(Killed):
            main(command)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["concept", "one left", "two left", "killed"])
def test_three_processes_change_no_byte(name: str, by_three: dict[str, Path], whole: Path) -> None:
    """Of 18 samples, of one or two that are left, and of what two processes and then one had left of a run."""
    assert len(read_records(whole)) == 18
    assert results(by_three[name]) == results(whole)
    assert read_run(by_three[name]).info.complete
    assert not (by_three[name] / PARTS).exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_three_processes_change_no_byte_of_an_image_level_audit(by_three: dict[str, Path], whole_images: Path) -> None:
    assert len(read_records(whole_images)) == 12
    assert results(by_three["image"]) == results(whole_images)
    assert read_run(by_three["image"]).info.complete


@pytest.mark.distributed
def test_a_killed_process_takes_the_run_down(killed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """At once, though the other had work left, and with one line that says which it was and what to do."""
    folder, ended = killed
    assert ended.returncode == 1
    assert f"lit-memories: process 1 was ended by SIGKILL, perhaps as memory ran out; {SAFE}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert left_over(folder) == []


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("dies", "code", "said"),
    [
        ("1 2 raise", 1, f"process 1 ended with exit code 1, its error is above; {SAFE}"),
        ("1 2 SIGTERM", 1, f"process 1 was ended by SIGTERM; {SAFE}"),
        ("1 4 SIGKILL", 1, f"process 1 was ended by SIGKILL, perhaps as memory ran out; {SAFE}"),  # the other waits
        ("0 2 raise", 1, "something of its own"),
        ("0 2 SIGKILL", -9, f"the process that started this one ended; {SAFE}"),
        ("0 2 SIGTERM", -15, f"the process that started this one ended; {SAFE}"),
    ],
)
def test_whoever_dies_takes_the_run_down(
    dies: str,
    code: int,
    said: str,
    whole: Path,
    concept_audit: Command,
    mortal: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    ended = perish(mortal, concept_audit(folder, *TWO), environment, dies)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "gloo" not in ended.stderr
    deadline = time.monotonic() + 60
    while left_over(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left_over(folder) == [], "a process was left behind"
    there = {record.key for record in read_records(folder)}
    assert there, "what was answered before is kept, however far the other had come"
    main(concept_audit(folder))
    assert results(folder) == results(whole)
