"""Nodes on the loopback device, as torchrun starts them."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forked import free_port
from machine import left_over

from lit_memories.cli import main
from lit_memories.records import read_records
from lit_memories.runs import read_run

ROOT = Path(__file__).parents[2]
Command = Callable[..., list[str]]
pytestmark = [pytest.mark.slow, pytest.mark.distributed]
NODES = ("--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp")


def answers(folder: Path) -> int:
    return sum(len(record.probes) for record in read_records(folder))


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in ("records.jsonl", "seeds.safetensors"))


def on_two_nodes(program: Sequence[str], environment: dict[str, str]) -> list[subprocess.CompletedProcess[str]]:
    port = str(free_port())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    place = ["--master-addr", "127.0.0.1", "--master-port", port]
    started = [
        subprocess.Popen(
            [*torchrun, *place, "--node-rank", node, *program],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for node in ("0", "1")
    ]  # fmt: skip
    ended = []
    for process in started:
        out, err = process.communicate(timeout=400)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


def wait_until(so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not so() and time.monotonic() < deadline:
        time.sleep(0.2)
    return so()


@pytest.mark.parametrize("who", ["process", "agent"])
def test_torchrun_leaves_nobody_behind(
    who: str, concept_audit: Command, mortal: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Of two processes one is killed, and the agent ends the other; the agent is killed, and both end themselves."""
    run = tmp_path / "run"
    dies = environment | {"DIES": "1 2 SIGKILL" if who == "process" else "9 0 SIGKILL", "PYTHONPATH": str(ROOT)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    two = ("--trainer.devices=2", "--trainer.strategy=ddp")
    command = [*torchrun, *place, str(mortal), *concept_audit(run, *two)]
    with subprocess.Popen(command, cwd=ROOT, env=dies, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as agent:
        if who == "agent":
            assert wait_until(lambda: run.is_dir() and answers(run) > 2)
            agent.kill()
        agent.communicate(timeout=400)
    assert agent.returncode != 0
    assert wait_until(lambda: left_over(run) == [])
    assert 2 < answers(run) < 48, "not all, or this test proves nothing"
    assert not read_run(run).info.complete


def test_two_nodes_change_no_byte(concept_audit: Command, environment: dict[str, str], tmp_path: Path) -> None:
    main(concept_audit(tmp_path / "one"))
    first, second = on_two_nodes(["-m", "lit_memories", *concept_audit(tmp_path / "two", *NODES)], environment)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert read_run(tmp_path / "two").info.complete
    assert f"all 48 answers are in {tmp_path / 'two'}" in first.stdout
    assert "answers" not in second.stdout


def test_a_node_that_dies_takes_the_other_down(
    concept_audit: Command, mortal: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    dies = environment | {"DIES": "1 2 SIGKILL", "PYTHONPATH": str(ROOT)}
    first, second = on_two_nodes([str(mortal), *concept_audit(run, *NODES)], dies)
    assert 0 not in (first.returncode, second.returncode)
    assert "another process of this run ended before its time, look for its error" in first.stderr
    assert "what is recorded is safe: run the same command again to continue" in first.stderr
    assert answers(run) > 4, "the first node worked on until it had to wait for the other"
    main(concept_audit(tmp_path / "one"))
    main(concept_audit(run))
    assert results(run) == results(tmp_path / "one")
