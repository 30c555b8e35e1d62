"""A record depends on its sample, the model and the settings, and on nothing else."""

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from cli_errors import refused
from forked import forked
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_memories.audit import base as audit_base
from lit_memories.audit import concept as concept_audit
from lit_memories.audit import folder
from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main
from lit_memories.data.sources import save_images
from lit_memories.diffusion import Diffusion
from lit_memories.metrics import Null, gaussian_nll
from lit_memories.metrics import earth_movers_distance as emd
from lit_memories.records import PARTS, Record
from lit_memories.runs import RunInfo, read_run
from lit_memories.storage import tensors
from lit_memories.worlds import pictograms

Arguments = Callable[..., list[str]]
RESULTS = ("records.jsonl", "seeds.safetensors")
ENOSPC = OSError(errno.ENOSPC, "No space left on device")
ERRORS = (ENOSPC, SafetensorError("I/O error: No space left on device (os error 28)"))


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in RESULTS)


def same(one: RunInfo, other: RunInfo) -> bool:
    """Equal, up to the order in which the metrics summed."""
    assert one.metrics == pytest.approx(other.metrics, rel=1e-9)
    return replace(one, metrics={}) == replace(other, metrics={})


def test_every_sample_has_its_record(undisturbed: Path) -> None:
    run = read_run(undisturbed)
    assert run.info.complete
    probes = {"concept": "seed", "reference": "seed", "known": "known", "prompted": "samples", "retained": "samples"}
    counts = {name: len(run.of(name, probe)) for name, probe in probes.items()}
    assert counts == {"concept": 4, "reference": 5, "known": 3, "prompted": 2, "retained": 2}
    for record in [*run.of("concept", "seed"), *run.of("reference", "seed")]:
        numbers = (
            record.value("seed.nll"),
            record.value("seed.psnr"),
            record.value("seed.psnr_ceiling"),
            record.value("seed.psnr_round_trip"),
            record.value("seed.residual"),
        )
        assert None not in (
            *numbers,
            record.value("seed.evaluations"),
            record.value("seed.converged"),
            record.value("seed.shows_concept"),
            record.value("seed.correct"),
        )
    for record in run.of("known", "known"):
        assert record.value("known.seed_error") < 1e-2
        assert abs(record.value("known.nll_bias")) < 5
    inverted = {record.key for record in run.records if {"seed", "known"} & set(record.probes)}
    assert set(load_file(undisturbed / "seeds.safetensors")) == inverted
    assert not (undisturbed / PARTS).exists()


def test_records_say_of_seeds_what_the_seeds_say(undisturbed: Path) -> None:
    seeds = load_file(undisturbed / "seeds.safetensors")
    for record in read_run(undisturbed).of("concept", "seed"):
        assert record.value("seed.nll") == pytest.approx(float(gaussian_nll(seeds[record.key][None])), abs=1e-9)


def test_a_seed_regenerates_the_picture_it_was_inverted_from(undisturbed: Path, calm: Path, images: Path) -> None:
    """The PSNR in the record is that of a picture made by other code: the plain generation call."""
    diffusion, run = Diffusion.from_pretrained(calm), read_run(undisturbed)
    record = run.of("concept", "seed")[0]
    seed = load_file(undisturbed / "seeds.safetensors")[record.key][None]
    made = diffusion.generate([record.prompt], seed, 4)
    rows = concept_audit.to_pil(made[0])
    kept = run.image("concept", 0, "regenerated")
    from PIL import Image, ImageChops

    with Image.open(kept) as picture:
        assert max(high for _, high in ImageChops.difference(picture, rows).getextrema()) <= 1


def test_metrics_carried_are_the_records_own(undisturbed: Path) -> None:
    run = read_run(undisturbed)
    null = Null(run.info.dimension)
    nll = {
        name: torch.tensor([r.value("seed.nll") for r in run.of(name, "seed")]).double()
        for name in ("concept", "reference")
    }
    psnr = [record.value("seed.psnr") for record in run.of("concept", "seed")]
    expected = {
        "nll_concept": float(nll["concept"].mean()),
        "nll_reference": float(nll["reference"].mean()),
        "psnr_concept": sum(psnr) / len(psnr),
        "distance_w1": float(emd(nll["concept"], null)),
        "relative_w1": float(emd(nll["concept"], null) / emd(nll["reference"], null)),
    }
    for name, value in expected.items():
        assert run.info.metrics[name] == pytest.approx(value, rel=1e-6), name


def test_batch_size_changes_no_byte(undisturbed: Path, arguments: Arguments, tmp_path: Path) -> None:
    """One by one, against sets at once; runs that are taken up below go on in batches of two."""
    main(arguments(tmp_path / "run", batch_size=1))
    assert results(tmp_path / "run") == results(undisturbed)


def test_order_of_images_changes_only_the_index(
    undisturbed: Path, arguments: Arguments, images: Path, tmp_path: Path
) -> None:
    for name in ("concept", "reference"):
        (tmp_path / name).mkdir()
        lines = (images / name / "metadata.jsonl").read_text().splitlines()
        for file in (images / name).glob("*.png"):
            number = len(lines) - 1 - int(file.stem)
            (tmp_path / name / f"{number:06d}.png").write_bytes(file.read_bytes())
        moved = [json.loads(line) | {"file_name": f"{i:06d}.png"} for i, line in enumerate(reversed(lines))]
        (tmp_path / name / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))
    swapped = [f"--data.{name}_images.path={tmp_path / name}" for name in ("concept", "reference")]
    main(arguments(tmp_path / "run", *swapped, "--data.known=0", "--data.prompted=0"))

    def unordered(folder: Path) -> dict[str, Record]:
        records = read_run(folder).records
        return {r.key: replace(r, index=0) for r in records if r.set in {"concept", "reference"}}

    assert unordered(tmp_path / "run") == unordered(undisturbed)
    before = {r.key: r.index for r in read_run(undisturbed).of("concept", "seed")}
    assert {r.key: 3 - r.index for r in read_run(tmp_path / "run").of("concept", "seed")} == before


@pytest.mark.distributed
def test_two_processes_change_no_byte(undisturbed: Path, arguments: Arguments, tmp_path: Path) -> None:
    command = arguments(tmp_path / "run", "--trainer.devices=2", "--trainer.strategy=ddp")
    ended = forked(main, command, processes=2)
    assert [process.code for process in ended] == [0, 0], ended
    assert results(tmp_path / "run") == results(undisturbed)
    alone, together = read_run(undisturbed).info, read_run(tmp_path / "run").info
    assert together.complete
    assert together.metrics == pytest.approx(alone.metrics, rel=1e-9)


def test_a_second_run_does_nothing(arguments: Arguments, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, info = results(undisturbed), read_run(undisturbed).info

    def forbidden(*_: object) -> None:
        raise AssertionError("a recorded sample was audited again")

    monkeypatch.setattr(concept_audit.ConceptAudit, "predict_step", forbidden)
    main(arguments(undisturbed))
    assert results(undisturbed) == before
    assert read_run(undisturbed).info == info


def killed_while_writing(command: list[str]) -> None:
    """An audit whose process is killed in the middle of a line."""
    write = RecordWriter.write

    def cut(self: RecordWriter, records: list[Record], *more: object) -> None:
        if not self.file.exists() or self.file.read_text().count("\n") < 6:
            return write(self, records, *more)
        with self.file.open("a") as lines:
            lines.write(records[0].to_json()[:40])
        return os.kill(os.getpid(), signal.SIGKILL)

    RecordWriter.write = cut
    main(command)


@pytest.mark.distributed
def test_a_killed_run_is_taken_up(undisturbed: Path, arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (ended,) = forked(killed_while_writing, arguments(run, batch_size=3))
    assert ended.code == -signal.SIGKILL, ended.said
    part = (run / PARTS / "records-0.jsonl").read_text()
    assert part.count("\n") == 6
    assert not part.endswith("\n")
    assert len(read_run(run).records) == 6
    assert not read_run(run).info.complete
    main(arguments(run, batch_size=2))
    assert results(run) == results(undisturbed)
    assert read_run(run).info.complete
    assert read_run(run).info.metrics == pytest.approx(read_run(undisturbed).info.metrics, rel=1e-9)


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


def die(*_: object, **__: object) -> None:
    raise Killed


def after_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "to_json", die)


def before_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_base, "merge", die)


def between_seeds_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.replace

    def until_records(self: Path, target: Path) -> Path:
        return die() if target.name == "records.jsonl" else rename(self, target)

    monkeypatch.setattr(Path, "replace", until_records)


def before_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_remove", die)


def before_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_audit, "_check", die)


def killed(moment: Callable[[pytest.MonkeyPatch], None], command: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        moment(patch)
        with pytest.raises(Killed):
            main(command)


@pytest.fixture(scope="module")
def unmerged(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that asked everything, and was killed before its parts were merged."""
    folder = tmp_path_factory.mktemp("runs") / "unmerged"
    killed(before_merging, arguments(folder, batch_size=2))
    return folder


def test_killed_at_the_first_record_the_run_is_completed(
    undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed(after_seeds, arguments(run))
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert same(read_run(run).info, read_run(undisturbed).info)
    assert not (run / PARTS).exists()


@pytest.mark.parametrize("moment", [None, between_seeds_and_records, before_clearing, before_the_last_line])
def test_killed_while_merging_the_run_is_completed(
    moment: Callable[[pytest.MonkeyPatch], None] | None,
    unmerged: Path,
    undisturbed: Path,
    arguments: Arguments,
    tmp_path: Path,
) -> None:
    run = copytree(unmerged, tmp_path / "run")
    if moment:
        killed(moment, arguments(run))
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert same(read_run(run).info, read_run(undisturbed).info)
    assert not (run / PARTS).exists()


def test_a_line_that_only_lacks_its_end_is_kept(
    unmerged: Path, undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    run = copytree(unmerged, tmp_path / "run")
    part = run / PARTS / "records-0.jsonl"
    part.write_bytes(part.read_bytes()[:-1])
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert same(read_run(run).info, read_run(undisturbed).info)


@contextmanager
def disk_full(call: int, error: Exception) -> Iterator[None]:
    """From some call on, no file of seeds can be written."""
    calls, save_file = [], tensors.save_file

    def full(seeds: dict[str, Tensor], file: Path, notes: dict[str, str]) -> None:
        calls.append(file)
        if len(calls) >= call:
            raise error
        save_file(seeds, file, notes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "save_file", full)
        yield


def refused_as_full(command: list[str], run: Path) -> None:
    message = refused(command)
    assert "No space left on device" in message
    assert str(run) in message
    assert "safe" in message


@pytest.mark.slow
def test_a_disk_that_is_full_again_and_again_loses_nothing(
    undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    """At the first batch and at ones in the middle, as either error."""
    run = tmp_path / "run"
    truth, kept = {record.key: record.probes for record in read_run(undisturbed).records}, []
    for call, error in ((1, ENOSPC), (1, ERRORS[1]), (3, ENOSPC), (3, ERRORS[1])):
        with disk_full(call, error):
            refused_as_full(arguments(run, batch_size=2), run)
        found = read_run(run).records
        kept.append(sum(len(record.probes) for record in found))
        assert all(record.probes.items() <= truth[record.key].items() for record in found)
    assert kept[0] == kept[1] < kept[2] < kept[3] < sum(map(len, truth.values()))
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert same(read_run(run).info, read_run(undisturbed).info)


@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_is_full_at_the_merge_loses_nothing(
    error: Exception, unmerged: Path, undisturbed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    run = copytree(unmerged, tmp_path / "run")
    with disk_full(1, error):
        refused_as_full(arguments(run), run)
    main(arguments(run))
    assert results(run) == results(undisturbed)
    assert same(read_run(run).info, read_run(undisturbed).info)


def test_a_disk_full_of_records_loses_nothing(undisturbed: Path, arguments: Arguments, tmp_path: Path) -> None:
    run, open_file = tmp_path / "run", Path.open

    def full(self: Path, mode: str = "r", *rest: object, **options: object) -> object:
        if self.name == "records-0.jsonl" and mode == "a":
            raise ENOSPC
        return open_file(self, mode, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert "No space left on device; the records" in refused(arguments(run))
    main(arguments(run))
    assert results(run) == results(undisturbed)


def test_an_output_folder_that_cannot_be_made_is_named(arguments: Arguments, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refused(arguments(tmp_path / "file"))
    assert message.startswith("lit-memories predict: ")
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.seed=1", "settings.seed: 0 | 1"),
        (
            "--model.num_inference_steps=5",
            "the probe known with other settings (num_inference_steps: 4 | 5)",
        ),
        ("--model.inverter.tolerance=0.25", "numbers of the probe known with other settings (inverter.tolerance: "),
        ("--model.diffusion.weights=random", "random"),
        ("--model.role=control", "role: 'vanilla' | 'control'"),
        (f"--model.concept={Path(__file__).parents[2] / 'recipes/pictograms/concepts/striped.yaml'}", "striped"),
    ],
)
def test_records_of_another_audit_are_not_mixed_in(
    option: str, named: str, undisturbed: Path, arguments: Arguments
) -> None:
    before = results(undisturbed)
    message = refused(arguments(undisturbed, option))
    assert named in message
    assert str(undisturbed) in message
    assert results(undisturbed) == before


def test_an_erasures_folder_is_no_place_for_an_audit(arguments: Arguments, tmp_path: Path) -> None:
    """It would end at the card and the cost of the training, after all of its work."""
    (tmp_path / "erasure.json").write_text("{}")
    message = refused(arguments(tmp_path))
    assert "holds an erasure: choose another folder with --trainer.default_root_dir" in message
    assert not {"run.json", "records.jsonl", "README.md", "cost.json"} & {file.name for file in tmp_path.iterdir()}


def test_records_of_other_images_are_not_mixed_in(undisturbed: Path, arguments: Arguments, images: Path) -> None:
    message = refused(arguments(undisturbed, f"--data.reference_images.path={images / 'concept'}"))
    assert "reference" in message


@pytest.mark.parametrize(
    "inverter", ["fixed_point.FixedPoint", pytest.param("ddim.DDIMInversion", marks=pytest.mark.slow)]
)
def test_a_sample_that_becomes_nan_is_flagged_and_alone(inverter: str, arguments: Arguments, tmp_path: Path) -> None:
    chosen = (f"--model.inverter=lit_memories.inverters.{inverter}", "--data.known=0", "--data.prompted=0")
    main(arguments(tmp_path / "whole", *chosen))
    calls, encode = [], Diffusion.encode_images

    def broken(self: Diffusion, images: Tensor, *rest: object) -> Tensor:
        calls.append(len(images))
        return encode(self, images, *rest) * (torch.nan if len(calls) == 2 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Diffusion, "encode_images", broken)
        main(arguments(tmp_path / "broken", *chosen))
    whole, run = read_run(tmp_path / "whole"), read_run(tmp_path / "broken")
    assert run.info.complete
    flagged = [record for record in run.records if record.flags and record.set == "concept"]
    assert [(record.set, record.index, record.flags) for record in flagged] == [
        ("concept", 1, {"denoising": "not finite"})
    ], "the latents were lost while this probe looked at them, and no other's"
    assert flagged[0].value("denoising.surprise") is None
    unharmed = [record for record in whole.records if record.key != flagged[0].key]
    assert [record for record in run.records if record.key != flagged[0].key] == unharmed
    (sound,) = (record for record in whole.records if record.key == flagged[0].key)
    assert flagged[0].probes["seed"] == sound.probes["seed"]


@pytest.fixture(scope="module")
def strange(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an audit of prompts that are not the pictograms', with a row that stands twice."""
    folder = tmp_path_factory.mktemp("strange")
    for name, word in {"concept": "umbrella", "reference": "something else"}.items():
        rows = pictograms.build(name, 3)
        other = rows.remove_columns("caption").add_column("caption", [f"{word} {i}" for i in range(3)])
        save_images(other.select([0, 1, 2, 0]) if name == "concept" else other, folder / f"{name}.parquet")
    sources = [f"--data.{name}_images.path={folder / name}.parquet" for name in ("concept", "reference")]
    main(arguments(folder / "run", *sources))
    return folder / "run"


def test_prompts_of_any_words_are_counted(strange: Path) -> None:
    """A judge of pictograms has no opinion on other prompts; that is no flaw of the sample."""
    records = read_run(strange).records
    assert [record for record in records if record.flags] == []
    assert {record.value("seed.correct") for record in records} == {None}


def test_repeated_images_count_once(strange: Path) -> None:
    """A row that stands twice in a set is one observation."""
    run = read_run(strange)
    assert len(run.of("concept", "seed")) == 3
    assert run.info.complete


def test_without_a_judge(arguments: Arguments, tmp_path: Path) -> None:
    main(arguments(tmp_path / "run", "--model.judge=null", "--data.known=0", "--data.prompted=0"))
    run = read_run(tmp_path / "run")
    assert {record.value("seed.shows_concept") for record in run.records} == {None}
    assert run.of("known", "known") == []
    assert run.info.probes["seed"]["settings"]["judge"] is None
