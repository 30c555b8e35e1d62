"""A run whose samples change: it becomes the run that would have been made at once, and nothing found is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lit_memories.audit.concept import ConceptAudit
from lit_memories.cli import main
from lit_memories.records import STALE, read_stale
from lit_memories.runs import read_run
from lit_memories.tools.status import look

Arguments = Callable[..., list[str]]
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def command(arguments: Arguments) -> Command:
    """An audit with more drawn samples than pictures, so that their prompts depend on which pictures there are."""

    def build(folder: Path, limit: int, *more: str) -> list[str]:
        drawn = ["--data.known=7", "--data.prompted=5", "--data.unprompted=1", "--data.conditionings=[empty,shuffled]"]
        limits = [f"--data.{name}_images.limit={limit}" for name in ("concept", "reference")]
        return arguments(folder, *drawn, *limits, "--model.keep_images=3", *more)

    return build


@pytest.fixture(scope="module")
def four(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of four pictures a set, made at once."""
    folder = tmp_path_factory.mktemp("runs") / "four"
    main(command(folder, 4))
    return folder


@pytest.fixture(scope="module")
def two(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two pictures a set, made at once."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    main(command(folder, 2))
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    """All files of the run itself."""
    files = [file for file in folder.rglob("*") if file.is_file() and STALE not in file.parts]
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name not in {"config.yaml", "cost.json"}
    }


def answers(folder: Path) -> int:
    """How many answers of probes a run holds."""
    return sum(len(record.probes) for record in read_run(folder).records)


def audited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sets of the samples that are audited from now on."""
    found: list[str] = []
    step = ConceptAudit.predict_step

    def counting(self: ConceptAudit, batch: list, batch_idx: int) -> list:
        found.extend(sample.set for sample in batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ConceptAudit, "predict_step", counting)
    return found


def test_a_set_that_grows_is_the_run_made_at_once(
    two: Path, four: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "four"
    shutil.copytree(two, run)
    found = audited(monkeypatch)
    with pytest.warns(UserWarning, match="records are of samples that this audit no longer has"):
        main(command(run, 4))
    assert everything(run) == everything(four)
    assert "unprompted" not in found, "what does not depend on the pictures is not drawn again"
    status = look(run)
    assert status.state == "complete"
    assert status.total == answers(run)
    assert read_stale(run), "what was found of the old prompts is kept"


def test_a_set_that_shrinks_and_grows_again_costs_nothing(
    two: Path, four: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "two"
    shutil.copytree(four, run)
    with pytest.warns(UserWarning, match="set aside"):
        main(command(run, 2))
    assert everything(run) == everything(two)
    found = audited(monkeypatch)
    main(command(run.rename(tmp_path / "four"), 4, "--model.name=four", "--model.keep_images=2"))
    found_again = [name for name in found if name not in {"concept", "reference", "prompted", "retained"}]
    assert found_again == [], "records and seeds came back; only pictures are drawn again"
    assert (tmp_path / "four/records.jsonl").read_bytes() == (four / "records.jsonl").read_bytes()
    assert (tmp_path / "four/seeds.safetensors").read_bytes() == (four / "seeds.safetensors").read_bytes()


@pytest.mark.slow
def test_a_picture_that_is_replaced_leaves_its_set(arguments: Arguments, images: Path, tmp_path: Path) -> None:
    mine = tmp_path / "images"
    shutil.copytree(images / "concept", mine)
    source = (f"--data.concept_images.path={mine}", "--data.known=0", "--data.prompted=0")
    main(arguments(tmp_path / "run", *source))
    before = read_run(tmp_path / "run")
    first = sorted(mine.glob("*.png"))[0]
    Image.open(first).transpose(Image.Transpose.ROTATE_90).save(first)
    with pytest.warns(UserWarning, match="1 records are of samples"):
        main(arguments(tmp_path / "run", *source))
    main(arguments(tmp_path / "other", *source, "--model.name=tiny"))
    after, at_once = read_run(tmp_path / "run"), read_run(tmp_path / "other")
    assert after.records == at_once.records
    assert len(after.of("concept", "seed")) == len(before.of("concept", "seed"))
    assert [record.key for record in read_stale(tmp_path / "run")] == [before.of("concept", "seed")[0].key]
    pictures = [run.image("concept", 0, "original").read_bytes() for run in (before, at_once)]
    assert pictures[0] == pictures[1]


def test_a_lower_number_of_seeds_leaves_a_run_that_is_complete(
    undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    with pytest.warns(UserWarning, match="2 records are of samples"):
        main(arguments(run, "--data.known=1"))
    status = look(run)
    assert (status.state, status.total) == ("complete", answers(run))
    assert len(read_run(run).of("known", "known")) == 1


@pytest.mark.slow
def test_a_conditioning_named_twice_is_one(arguments: Arguments, tmp_path: Path) -> None:
    main(arguments(tmp_path, "--data.conditionings=[empty,empty]", "--data.known=0", "--data.prompted=0"))
    status = look(tmp_path)
    assert status.state == "complete"
    assert status.total == answers(tmp_path) == 3 * 18
    assert len(status.run.records) == 18
