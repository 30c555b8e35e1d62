"""What an audit tells those who follow it: a bar, lines, numbers for a logger; and that a stopped one can be asked."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lit_memories.audit import progress
from lit_memories.audit.progress import AuditProgress, Tally
from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main
from lit_memories.records import PARTS, RECORDS_FILE, Record
from lit_memories.runs import RunInfo, read_run
from lit_memories.statistics.convergence import inversion_of

Command = Callable[..., list[str]]


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def stopped(concept_audit: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after its second batch of two."""
    folder, write, written = tmp_path_factory.mktemp("runs") / "stopped", RecordWriter.write, []

    def stop(self: RecordWriter, *batch: object) -> None:
        write(self, *batch)
        written.append(batch)
        if len(written) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordWriter, "write", stop)
        with pytest.raises(Killed):
            main(concept_audit(folder))
    return folder


def test_a_run_from_stop_to_end(
    stopped: Path, concept_audit: Command, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Asked, taken up with a logger, asked again, and started once more though nothing is left."""
    main(["status", str(stopped)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["stopped", "all", "3", "48", "0"] in [row[:5] for row in rows]
    assert ["concept", "3", "9", "0"] in [row[:4] for row in rows]

    main(concept_audit(stopped, "--trainer.logger=lightning.pytorch.loggers.CSVLogger"))
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == f"3 of 48 answers are in {stopped}"
    assert len(lines) <= 10, "a line in ten steps at most"
    form = re.compile(r"(\d+) of 48 answers: [\d.]+ answers/s(, [\d.]+ evaluations/inversion)?(, .+ left)?")
    told = [int(match[1]) for text in lines if (match := form.fullmatch(text))]
    assert len(told) == len(lines)
    assert told == sorted(set(told))
    assert told[-1] > 40
    assert last.startswith(f"all 48 answers are in {stopped}; to read them: lit-memories report {stopped} RUN …")
    with next(stopped.glob("lightning_logs/version_0/metrics.csv")).open() as file:
        logged = list(csv.DictReader(file))
    run = read_run(stopped)
    counts = [float(row["answers"]) for row in logged if row["answers"]]
    assert counts == sorted(set(counts))
    assert (counts[0] > 3, counts[-1]) == (True, 48)
    taken = [found["evaluations"] for record in run.records if (found := inversion_of(record))]
    final = [row for row in logged if row["evaluations_per_inversion"]][-1]
    assert float(final["evaluations_per_inversion"]) == pytest.approx(sum(taken) / len(taken))
    assert float(logged[-1]["nll_concept"]) == pytest.approx(run.info.metrics["nll_concept"])

    main(["status", str(stopped)])
    assert f"{stopped}: complete" in capsys.readouterr().out
    recwarn.clear()
    main(concept_audit(stopped))
    assert capsys.readouterr().out.splitlines() == [f"nothing left to do: all 48 answers are in {stopped}"]
    assert not [warning for warning in recwarn if "DataLoader" in str(warning.message)]


@pytest.mark.slow
def test_a_terminal_gets_a_bar(concept_audit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr(progress, "get_console", lambda: console)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    main(concept_audit(tmp_path / "run"))
    said = console.file.getvalue()
    assert "0/48" in said
    assert re.search(r"48/48.* answers/s, [\d.]+ evaluations/inversion", said)
    assert f"all 48 answers are in {tmp_path / 'run'}; to read them: lit-memories report" in said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1, "the cursor is back"


def line(index: int, evaluations: int | None = 10) -> str:
    return (
        Record(f"key-{index}", "concept", index, "an umbrella", probes={"seed": {"evaluations": evaluations}}).to_json()
        + "\n"
    )


def test_a_tally_follows_all_processes(tmp_path: Path) -> None:
    """Growing files, a line that is half there, a sample made twice, a merge."""
    parts = tmp_path / PARTS
    tally = Tally(tmp_path, [Record.from_json(line(0, 40))])
    tally.look()
    assert (tally.done, tally.evaluations, tally.rate, tally.describe(9)) == (1, 40, None, "40.0 evaluations/inversion")
    parts.mkdir()
    one, two = (parts / f"records-{rank}.jsonl" for rank in range(2))
    one.write_text(line(1, 20) + line(2, None)[:20])
    two.write_text(line(1, 20) + line(3, 30))
    tally.look()
    assert (tally.done, tally.evaluations) == (3, 30)
    one.write_text(line(1, 20) + line(2, None))
    tally.look()
    assert (tally.done, tally.evaluations) == (4, 30)
    assert tally.rate > 0
    assert re.fullmatch(r"\S+ answers/s, 30.0 evaluations/inversion, .+ left", tally.describe(9))
    for file in (one, two):
        file.unlink()
    (tmp_path / RECORDS_FILE).write_text("".join(map(line, range(4))))
    tally.look()
    assert tally.done == 4


def test_what_attacks_cost_is_no_inversions(tmp_path: Path) -> None:
    attack = {"success": 0.0, "evaluations": 800, "looks": 4}
    records = [Record.from_json(line(0, 40)), Record("a", "concept", 1, "", probes={"plain": attack})]
    tally = Tally(tmp_path, records)
    assert (tally.evaluations, tally.attacking) == (40, 800)
    assert tally.describe(9) == "40.0 evaluations/inversion, 800.0 evaluations/attack"
    assert Tally(tmp_path, records[1:]).describe(9) == "800.0 evaluations/attack"


def test_a_folder_that_is_not_shared_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each node would write to a folder of its own, of which the first process merges one."""
    bar = AuditProgress()
    trainer = SimpleNamespace(is_global_zero=True, loggers=[])
    audit = SimpleNamespace(folder=tmp_path, recorded={}, expected=2)
    bar.on_predict_start(trainer, audit)
    RunInfo("run", "vanilla", "umbrella", {}, "", {}, 8, {}, {}).save(tmp_path)
    (tmp_path / RECORDS_FILE).write_text(line(0))
    bar.on_predict_end(trainer, audit)
    assert "must be one folder for all processes" in capsys.readouterr().out
