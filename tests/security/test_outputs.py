"""No command writes through a link or to a pipe, wherever among its files that stands."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_memories.cli import main
from lit_memories.lightning_files import Log

sys.path.append(str(Path(__file__).parents[1] / "report"))
from synthetic_runs import Model, write

Refused = Callable[..., str]
Commands = dict[str, Callable[[Path], list[str]]]

WRITTEN = {
    "fit": {"erasure.safetensors", "erasure.json", "README.md", "cost.json", "config.yaml", "metrics.csv"},
    "pretrain": {"config.json", "config.yaml"},
    "predict": {"run.json", "records.jsonl", "seeds.safetensors", "cost.json", "config.yaml"},
    "report": {"report.html", "results.json", "main.csv", "main.tex", "forgetting.png"},
    "convert": {"erasure.safetensors", "erasure.json", "README.md"},
    "export": {"model_index.json", "diffusion_pytorch_model.safetensors"},
    "generate": {"0_0.png", "metadata.jsonl", "settings.json"},
    "draw": {"000000.png", "metadata.jsonl"},
    "draw-parquet": {"rows.parquet"},
    "measure": {"figures.json"},
}
"""Some of the files that each command writes."""


@pytest.mark.parametrize("command", WRITTEN)
def test_no_command_writes_through_a_link(command: str, commands: Commands, refused: Refused, tmp_path: Path) -> None:
    arguments, outside = commands[command], tmp_path / "outside"
    main(arguments(tmp_path / "first"))
    paths = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*"))
    files = [path for path in paths if (tmp_path / "first" / path).is_file()]
    assert {file.name for file in files} >= WRITTEN[command]
    assert {(tmp_path / "first" / file).stat().st_mode & 0o777 for file in files} == {0o666 & ~_umask()}
    outside.mkdir()
    (outside / "precious").write_text("mine")
    for number, path in enumerate(paths):
        out = tmp_path / str(number)
        (out / path).parent.mkdir(parents=True)
        (out / path).symlink_to(outside / "precious" if path in files else outside)
        assert str(out / path) in refused(*arguments(out))
        assert (out / path).is_symlink()
    out = tmp_path / "pipe"
    (out / files[-1]).parent.mkdir(parents=True)
    os.mkfifo(out / files[-1])
    assert f"{out / files[-1]} is neither a file nor a folder" in refused(*arguments(out))
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.csv", "hparams.yaml", "."])
def test_a_link_that_comes_while_a_log_is_written_is_not_followed(name: str, tmp_path: Path) -> None:
    """In the place of a file or of the log's folder; the training goes on, and says so."""
    log, outside = Log(tmp_path / "run"), tmp_path / "outside"
    log.log_hyperparams({"rate": 1.0})
    log.log_metrics({"loss": 1.0})
    log.save()
    planted = Path(log.log_dir) / name
    planted.rename(tmp_path / "before")
    (outside if name == "." else tmp_path).mkdir(exist_ok=True)
    planted.symlink_to(outside)
    log.log_metrics({"loss": 2.0})
    with pytest.warns(UserWarning, match=r"leads out of its folder, to \S+outside.*training goes on, the log has gaps"):
        log.save()
    assert not outside.is_file()
    assert not outside.is_dir() or not list(outside.iterdir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_status_and_probes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path, Model("vanilla", "vanilla"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    main(["status", str(run)])
    main(["probes"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("command", "buffered"),
    [("--help", ""), ("--help", "1"), ("probes", ""), pytest.param("probes", "1", marks=pytest.mark.slow)],
)
def test_a_full_device_as_the_output_is_one_line(command: str, buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lit_memories", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "its output cannot be written: No space left on device" in done.stderr
