"""Audits that are killed again and again, at random and at the worst moments, and lose nothing."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from diffusers import StableDiffusionPipeline

from lit_memories.data.sources import save_images
from lit_memories.records import PARTS, RECORDS_FILE, RUN_FILE, SEEDS_FILE, read_records
from lit_memories.runs import RunInfo
from lit_memories.worlds import pictograms

Arguments = Callable[..., list[str]]
pytestmark = [pytest.mark.slow, pytest.mark.distributed]
ROOT = Path(__file__).parents[2]
RESULTS = (RECORDS_FILE, SEEDS_FILE)
RECIPES = ROOT / "recipes/pictograms/audit"
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp_fork")
SERVER = """
import ctypes, json, os, resource, sys, traceback
import torch
torch.set_num_threads(1)
import lit_memories.audit.concept, lit_memories.audit.image, lit_memories.worlds.classifier, lit_memories.recipes
from lit_memories.cli import main
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: ranks that lose their parent are waited for here
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            exec(order["before"])
            main(order["argv"])
            os._exit(0)
        except BaseException:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    try:
        os.setpgid(child, child)
    except PermissionError:
        pass
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    print("gone", flush=True)
"""
"""Imports everything once and forks a process group a command, so that kills hit audits and not imports."""


class Server:
    """Runs commands in process groups of their own that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        cache = str(datasets.config.HF_DATASETS_CACHE)
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": cache}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER], cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, argv: Sequence[str], before: str = "") -> int:
        """Begin a command; the number of its process group."""
        self.process.stdin.write(json.dumps({"argv": list(argv), "log": str(self.log), "before": before}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """The command's exit code, once all of its processes are gone."""
        code = int(self.process.stdout.readline())
        assert self.process.stdout.readline() == "gone\n"
        return code

    def kill(self, group: int) -> int:
        """Kill all of a command's processes."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.killpg(group, signal.SIGKILL)
        return self.wait()

    def run(self, argv: Sequence[str], before: str = "") -> str:
        """A command from beginning to end; what it said."""
        self.start(argv, before)
        assert self.wait() == 0, self.log.read_text()[-3000:]
        return self.log.read_text()

    def stop(self) -> None:
        """End the server."""
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serving = Server(tmp_path_factory.mktemp("server"))
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def calm(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with a prediction so small that every inversion converges."""
    folder = tmp_path_factory.mktemp("calm")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(0.05)
    pipeline.vae.register_to_config(scaling_factor=3.0)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("torture", 6000, keep=umbrella, limit=90), folder / "concept.parquet")
    save_images(pictograms.build("torture", 200, withhold=[umbrella], limit=90), folder / "reference.parquet")
    return folder


def source(name: str, file: Path) -> str:
    return f"--data.{name}_images={{class_path: ImageSource, init_args: {{path: {file}, limit: 90}}}}"


@pytest.fixture(scope="module")
def concept_audit(calm: Path, tiny_classifier: Path, images: Path) -> Arguments:
    """The command line of an audit of 240 samples in 60 batches."""

    def arguments(folder: Path, *more: str) -> list[str]:
        return [
            "predict", f"--config={RECIPES / 'umbrella.yaml'}", f"--model.diffusion.base={calm}",
            f"--model.judge.classifier={tiny_classifier}", "--model.name=tiny", "--model.num_inference_steps=2",
            "--model.keep_images=3", "--model.block_size=4", source("concept", images / "concept.parquet"),
            source("reference", images / "reference.parquet"), "--data.known=20", "--data.prompted=20",
            "--data.batch_size=4", "--trainer.callbacks=[]", "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false", f"--trainer.default_root_dir={folder}", *more,
        ]  # fmt: skip

    return arguments


def answers(run: Path) -> dict[tuple[str, str], Any]:
    """What probes found of each sample."""
    return {(r.key, probe): answer for r in read_records(run) for probe, answer in r.probes.items()}


def lines(run: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (run / PARTS).glob("records-*.jsonl"))


def until(condition: Callable[[], bool], group: int) -> None:
    """Wait for a moment of a process group, or for its end."""
    ends = time.monotonic() + 120

    def holds() -> bool:
        try:
            return condition()
        except FileNotFoundError:  # a folder went away while it was listed
            return False

    while not holds():
        assert time.monotonic() < ends, "the moment never came"
        try:
            if (Path("/proc") / str(group) / "stat").read_text().rpartition(") ")[2][0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.0005)


Moment = Callable[[Path, int], None]


def starting(dice: random.Random) -> Moment:
    """Some time before the first batch is on disk: while the model, the images or the run folder are read."""
    delay = dice.uniform(0, 1.5)
    return lambda run, group: time.sleep(delay)


def after_batches(dice: random.Random) -> Moment:
    """A little after some more records are there: in a network, or while the next batch is written."""
    batches, delay = dice.randint(1, 4), dice.uniform(0, 0.15)

    def wait(run: Path, group: int) -> None:
        before = lines(run)
        until(lambda: lines(run) >= before + 4 * batches, group)
        time.sleep(delay)

    return wait


def while_writing_seeds(dice: random.Random) -> Moment:
    """When the unfinished file of a batch's seeds is seen."""
    batches = dice.randint(0, 3)

    def wait(run: Path, group: int) -> None:
        before = lines(run)
        until(lambda: lines(run) >= before + 4 * batches, group)
        until(lambda: any((run / PARTS).glob("*.part")), group)

    return wait


def a_query_later(dice: random.Random) -> Moment:
    """A little after the next query of an image-level audit is on disk."""
    delay = dice.uniform(0, 0.3)

    def wait(run: Path, group: int) -> None:
        before = lines(run)
        until(lambda: lines(run) > before, group)
        time.sleep(delay)

    return wait


def merging(dice: random.Random) -> Moment:
    """When all is recorded: before, while and after the parts are gathered."""
    trigger = dice.choice(["seeds.safetensors.*.part", "records.jsonl.*.part", "run.json.*.part", "parts"])
    delay = dice.choice([0, 0, dice.uniform(0, 0.02)])

    def wait(run: Path, group: int) -> None:
        until((run / PARTS).is_dir, group)
        until(lambda: lines(run) > 0, group)
        if trigger == "parts":
            until(lambda: not (run / PARTS).is_dir(), group)
        else:
            until(lambda: any(run.glob(trigger)), group)
        time.sleep(delay)

    return wait


def tortured(
    server: Server,
    arguments: Arguments,
    run: Path,
    moments: Sequence[Moment],
    undisturbed: Path,
) -> int:
    """Begin an audit again and again and kill it; how often it really was.

    After every kill each record that was there before is there still, and is what an undisturbed run says.
    """
    truth = answers(undisturbed)
    kept: dict[tuple[str, str], Any] = {}
    kills = 0
    for number, moment in enumerate(moments):
        group = server.start(arguments(run, *(TWO if number % 2 else ())))
        moment(run, group)
        code = server.kill(group)
        assert code in (0, -signal.SIGKILL), server.log.read_text()[-3000:]
        kills += code == -signal.SIGKILL
        found = answers(run)
        assert kept.keys() <= found.keys(), f"kill {number} lost an answer"
        assert all(truth[key] == answer for key, answer in found.items())
        kept = found
    return kills


def equal(run: Path, undisturbed: Path) -> None:
    """Two finished runs are the same, file by file; none of their records is missing and none is there twice."""
    for name in RESULTS:
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    keys = [json.loads(line)["key"] for line in (run / RECORDS_FILE).read_text().splitlines()]
    assert len(keys) == len(set(keys))
    one, other = RunInfo.load(run), RunInfo.load(undisturbed)
    assert one.complete
    assert other.complete
    assert one.metrics == pytest.approx(other.metrics, rel=1e-9)
    names = [{str(file.relative_to(folder)) for file in folder.rglob("*")} for folder in (run, undisturbed)]
    assert names[0] == names[1]
    for picture in (run / "images").glob("*"):
        assert picture.read_bytes() == (undisturbed / "images" / picture.name).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(server: Server, concept_audit: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    server.run(concept_audit(folder))
    return folder


def test_an_audit_killed_at_any_moment_loses_nothing(
    server: Server, concept_audit: Arguments, undisturbed: Path, tmp_path: Path
) -> None:
    """With one and with two processes in turns: 14 kills on the way, then 10 around its end."""
    dice, run = random.Random(1), tmp_path / "run"  # noqa: S311
    on_the_way = [starting] * 4 + [after_batches] * 6 + [while_writing_seeds] * 4
    dice.shuffle(on_the_way)
    kills = tortured(server, concept_audit, run, [kind(dice) for kind in on_the_way], undisturbed)
    assert kills == len(on_the_way), "each of these finds the audit at work"
    assert len(answers(run)) < len(answers(undisturbed)), "and not at its end, however fast the machine is"
    for _ in range(10):
        kills += tortured(server, concept_audit, run, [merging(dice)], undisturbed)
        if (run / RUN_FILE).is_file() and (info := RunInfo.load(run)).complete:  # the kill came too late, or nearly
            replace(info, complete=False, metrics={}).save(run)
    assert kills >= 20
    server.run(concept_audit(run))
    equal(run, undisturbed)


def test_processes_that_the_trainer_starts_are_killed(
    concept_audit: Arguments, undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    """As from a shell: two processes of ``ddp``, the second of which is a command of its own."""
    run, log = tmp_path / "run", tmp_path / "log.txt"
    command = [sys.executable, "-W", "ignore", "-m", "lit_memories", *concept_audit(run)]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    with log.open("w") as said:
        started = subprocess.Popen(
            command, cwd=ROOT, env=server.environment, stdout=said, stderr=said, start_new_session=True
        )
    until(lambda: lines(run) >= 40, started.pid)
    os.killpg(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, log.read_text()[-3000:]
    assert 40 <= len(answers(run)) < len(answers(undisturbed))
    assert len(list((run / PARTS).glob("records-*.jsonl"))) == 2, "both had written"
    server.run(concept_audit(run))
    equal(run, undisturbed)


LIMITED = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
"""


def test_files_that_cannot_grow_lose_nothing(
    server: Server, concept_audit: Arguments, undisturbed: Path, tmp_path: Path
) -> None:
    """The operating system fails to write more: the configuration, a batch's seeds, half a record, the merge."""
    run = tmp_path / "run"
    seeds = (undisturbed / SEEDS_FILE).stat().st_size
    for limit in (500, 8000, 20_000, seeds - 1):
        server.start(concept_audit(run), LIMITED.format(limit=limit))
        assert server.wait() == 1
        (message,) = [line for line in server.log.read_text().splitlines() if line.startswith("SystemExit")]
        assert "File too large" in message or "os error 27" in message
        if limit > 500:
            assert f"cannot write to {run}: " in message
            assert "safe" in message
    assert len(answers(run)) == len(answers(undisturbed)), "the last failed only in the merge"
    server.run(concept_audit(run))
    equal(run, undisturbed)


@pytest.fixture(scope="module")
def image_audit(calm: Path, tiny_classifier: Path, images: Path) -> Arguments:
    """The command line of an image-level audit of 4 queries and 2 supports."""

    def arguments(folder: Path, *more: str) -> list[str]:
        return [
            "predict", f"--config={RECIPES / 'image.yaml'}", f"--model.diffusion.base={calm}",
            f"--model.judge.classifier={tiny_classifier}", "--model.name=tiny", "--model.num_inference_steps=2",
            "--model.decoder.max_passes=40", f"--model.cache={folder}.cache",
            source("query", images / "concept.parquet"),
            source("support", images / "reference.parquet"), "--data.queries=6", "--data.supports=2",
            "--trainer.callbacks=[]", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={folder}", *more,
        ]  # fmt: skip

    return arguments


def test_an_image_level_audit_loses_nothing_either(server: Server, image_audit: Arguments, tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    server.run(image_audit(undisturbed))
    dice = random.Random(2)  # noqa: S311
    moments = [kind(dice) for kind in (starting, a_query_later, a_query_later, merging)]
    assert tortured(server, image_audit, run, moments, undisturbed) >= 3
    server.run(image_audit(run))
    equal(run, undisturbed)
    caches = [{file.name for file in Path(f"{folder}.cache").glob("*.safetensors")} for folder in (run, undisturbed)]
    assert caches[0] == caches[1]


@pytest.fixture(scope="module")
def eraser(calm: Path) -> Arguments:
    """The command line of an erasure of two steps."""

    def arguments(folder: Path, *more: str) -> list[str]:
        return [
            "fit", f"--config={ROOT / 'recipes/pictograms/erase/esd.yaml'}", f"--model.diffusion.base={calm}",
            "--model.steps=2", "--model.num_inference_steps=2", "--trainer.callbacks=[]",
            "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}", *more,
        ]  # fmt: skip

    return arguments


def test_an_erasure_is_whole_or_not_there(server: Server, eraser: Arguments, tmp_path: Path) -> None:
    """Killed while its files are written, at moments a little later each time; what is left is cleared."""
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    server.run(eraser(undisturbed))
    files = ("README.md", "erasure.json", "erasure.safetensors")
    for number in range(12):
        group = server.start(eraser(run))
        until(lambda: any(file.name in files for part in run.glob("run.*.part") for file in part.iterdir()), group)
        time.sleep(0.002 * number)
        server.kill(group)
    server.run(eraser(run))
    for name in files:
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert not [*run.rglob("*.part"), *run.rglob(".tmp*")]


def test_files_that_cannot_grow_end_other_commands_in_one_line(
    server: Server, eraser: Arguments, calm: Path, tmp_path: Path
) -> None:
    """The operating system fails to write more, to temporary folders too."""
    server.run(eraser(tmp_path / "erasure"))
    server.run(["draw", str(tmp_path / "drawn"), "--size=3"])  # from now on its rows are in the cache
    commands = {
        "fit": (eraser(tmp_path / "fit", "--model.train=full"), 20_000),
        "export": (["export", str(calm), str(tmp_path / "erasure"), str(tmp_path / "export")], 20_000),
        "draw": (["draw", str(tmp_path / "draw"), "--size=3"], 100),
    }
    for name, (command, limit) in commands.items():
        server.start(command, LIMITED.format(limit=limit))
        assert server.wait() == 1
        (message,) = [line for line in server.log.read_text().splitlines() if line.startswith("SystemExit")]
        assert f"cannot write {tmp_path / name}: " in message
        assert "File too large" in message or "os error 27" in message
        assert not [*(tmp_path / name).rglob("*.part"), *(tmp_path / name).glob("*.safetensors")]
