"""Run folders of which any file was cut, flipped or taken away, or which many commands want at once."""

import itertools
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_memories.cli import main
from lit_memories.records import LOCK, RECORDS_FILE, RUN_FILE, SEEDS_FILE, read_records
from lit_memories.runs import read_run

sys.path.append(str(Path(__file__).parent))
from cli_errors import refused

pytestmark = pytest.mark.slow
Arguments = Callable[..., list[str]]
RESULTS = (RECORDS_FILE, SEEDS_FILE)


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


def flipped(seed: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        broken = bytearray(content)
        bit = random.Random(seed).randrange(8 * len(broken))  # noqa: S311
        broken[bit // 8] ^= 1 << bit % 8
        return bytes(broken)

    return flip


DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "removed": None,
    "emptied": cut(0),
    "cut to a half": cut(0.5),
    "cut to 97 %": cut(0.97),
    "one bit": flipped(0),
    "another bit": flipped(1),
    "a third bit": flipped(2),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*RESULTS, RUN_FILE, "config.yaml", "a picture"])
def test_whatever_happens_to_a_file_of_a_run_the_same_audit_mends_it(
    name: str, damage: str, undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    """What is read is what was recorded, or is said to be damaged or missing; afterwards all is as it was."""
    run = shutil.copytree(undisturbed, tmp_path / "run")
    file = run / name if name != "a picture" else min((run / "images").iterdir())
    change = DAMAGE[damage]
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    known = read_run(undisturbed)
    try:
        found = read_run(run)
    except (ValueError, OSError) as error:
        damaged = True
        assert file.name in str(error)  # noqa: PT017
    else:
        damaged = bool(found.gaps)
        assert damaged or (found.info, found.records) == (known.info, known.records)
        assert all(record in known.records for record in found.records)
    if name == RUN_FILE and damaged and file.exists():
        assert "remove it and run the same audit again" in refused(arguments(run))
        file.unlink()
    main(arguments(run))
    for result in RESULTS:
        assert (run / result).read_bytes() == (undisturbed / result).read_bytes()
    mended = read_run(run)
    assert mended.info == known.info
    assert not mended.gaps


def test_of_commands_that_start_at_once_one_works_and_others_end(
    undisturbed: Path, arguments: Arguments, environment: dict[str, str], tmp_path: Path
) -> None:
    """Three begin in one folder while a reader follows, who never misses a record that was there before."""
    run, stop = tmp_path / "run", threading.Event()
    truth = {(r.key, probe): answer for r in read_run(undisturbed).records for probe, answer in r.probes.items()}
    followed: list[set[tuple[str, str]]] = [set()]

    def follow() -> None:
        while not stop.is_set():
            followed.append({(r.key, probe) for r in (read_records(run) if run.is_dir() else []) for probe in r.probes})

    reader = threading.Thread(target=follow)
    reader.start()
    command = [sys.executable, "-W", "ignore", "-m", "lit_memories", *arguments(run, batch_size=1)]
    options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **options) for _ in range(3)]
    said = [process.communicate(timeout=300)[1] for process in started]
    stop.set()
    reader.join()
    codes = [process.returncode for process in started]
    assert 0 in codes, said
    for code, text in zip(codes, said, strict=True):
        assert code == 0 or "is being written by process" in text, text
    assert all(one <= other for one, other in itertools.pairwise(followed))
    assert followed[-1] <= truth.keys()
    assert len(followed) > 2
    for result in RESULTS:
        assert (run / result).read_bytes() == (undisturbed / result).read_bytes()
    assert not (run / LOCK).exists()
