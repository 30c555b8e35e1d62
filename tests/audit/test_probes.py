"""Questions are paid once, are asked in turn, and need what they say they need."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_errors import refused
from safetensors.torch import load_file

from lit_memories.audit.answers import values_of
from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.needs import by_name
from lit_memories.audit.writer import RecordWriter
from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.denoising import denoise
from lit_memories.ops.generators import seeded
from lit_memories.probes import PROBES, Likelihood, Reach, Seed
from lit_memories.probes.base import Answers
from lit_memories.records import PARTS, Record
from lit_memories.runs import RunInfo, read_run

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests/old_runs"
Arguments = Callable[..., list[str]]
FEW = "--data.known=0", "--data.prompted=0"
RESULTS = "records.jsonl", "seeds.safetensors"


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in RESULTS)


def named(*probes: str, **options: dict[str, Any]) -> str:
    places = {name: f"lit_memories.probes.{name.lower()}.{name}" for name in probes}
    made = [{"class_path": place, "init_args": options.get(name, {})} for name, place in places.items()]
    return f"--model.probes={json.dumps(made)}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Probe and set of every question that is put from now on, a sample each."""
    found: list[tuple[str, str]] = []
    for name, probe in PROBES.items():

        def spy(self: Any, group: Any, name: str = name, ask: Any = probe.__call__) -> Any:
            found.extend((name, group.set) for _ in group.prompts)
            return ask(self, group)

        monkeypatch.setattr(probe, "__call__", spy)
    return found


def test_one_more_probe_is_asked_alone_with_the_seeds_that_are_there(
    undisturbed: Path, arguments: Arguments, tmp_path: Path, asked: list[tuple[str, str]], monkeypatch: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = read_run(run)

    def forbidden(*_: object) -> None:
        raise AssertionError("an image was inverted again")

    monkeypatch.setattr(FixedPoint, "__call__", forbidden)
    main(arguments(run, "--model.probes+={class_path: Reach, init_args: {directions: 1}}"))
    assert set(asked) == {("reach", "concept")}
    assert len(asked) == 4
    after = read_run(run)
    assert after.info.complete
    assert (run / "seeds.safetensors").read_bytes() == (undisturbed / "seeds.safetensors").read_bytes()
    for old, new in zip(before.records, after.records, strict=True):
        assert old.probes == {name: answer for name, answer in new.probes.items() if name != "reach"}
        assert ("reach" in new.probes) == (new.set == "concept")
    monkeypatch.undo()
    main(arguments(tmp_path / "at_once", "--model.probes+={class_path: Reach, init_args: {directions: 1}}"))
    assert results(run) == results(tmp_path / "at_once"), "added later or asked at once"


def test_a_probe_taken_out_leaves_its_numbers(
    undisturbed: Path, arguments: Arguments, tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    main(arguments(run, named("Seed")))
    assert asked == []
    assert results(run) == results(undisturbed)
    assert set(RunInfo.load(run).probes) == set(RunInfo.load(undisturbed).probes)


def test_other_settings_of_a_probe_are_refused_and_nothing_is_lost(
    undisturbed: Path, arguments: Arguments, tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    message = refused(arguments(run, named("Denoising", Denoising={"levels": 5})))
    assert "numbers of the probe denoising with other settings (levels: 4 | 5" in message
    assert "the other probes'" in message
    assert results(run) == results(undisturbed)
    main(arguments(run, named("Samples", "Likelihood", Samples={"guidance_scale": 3.0})))
    assert {name for name, _ in asked} == {"likelihood"}, "the others are asked as before"


def test_all_samples_meet_a_probe_before_the_next(arguments: Arguments, tmp_path: Path, asked: list) -> None:
    """What decides can be read before what costs the most has begun; a killed run resumes probe by probe."""
    write, run = RecordWriter.write, tmp_path / "run"

    def stop(self: RecordWriter, records: list[Record], *more: Any) -> None:
        write(self, records, *more)
        if any("seed" in record.probes for record in records):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordWriter, "write", stop)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - Lightning has its own
            main(arguments(run, named("Denoising", "Seed", "Typicality", Denoising={"levels": 2}), *FEW))
    first = read_run(run)
    assert all("denoising" in record.probes for record in first.records)
    assert 0 < sum("seed" in record.probes for record in first.records) < len(first.records)
    names = [name for name, _ in asked]
    assert names == sorted(names), "denoising before seed"
    asked.clear()
    main(arguments(run, named("Denoising", "Seed", "Typicality", Denoising={"levels": 2}), *FEW))
    assert "denoising" not in {name for name, _ in asked}
    main(arguments(tmp_path / "whole", named("Denoising", "Seed", "Typicality", Denoising={"levels": 2}), *FEW))
    assert results(run) == results(tmp_path / "whole")


def test_a_limit_leaves_the_rest_for_later(
    undisturbed: Path, arguments: Arguments, tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    run = tmp_path / "run"
    probes = ("Denoising", "Samples", "Seed", "Typicality", "Known")
    usual = {"Denoising": {"levels": 4}, "Samples": {"guidance_scale": 3.0}}
    main(arguments(run, named(*probes, **usual, Seed={"limit": 2})))
    found = read_run(run)
    assert found.info.complete
    assert [len(found.of("concept", name)) for name in ("denoising", "seed", "typicality")] == [4, 2, 2]
    asked.clear()
    main(arguments(run, named(*probes, **usual)))
    assert asked.count(("seed", "concept")) == 2, "no number depends on it, and none is found twice"
    assert results(run) == results(undisturbed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.probes+=Seed"], "the probe seed is named twice"),
        (["--model.probes=[]"], "no probe is named"),
        ([named("Typicality")], "the probe typicality needs the seeds that the probe seed finds"),
        (["--model.judge=null", "--model.probes+=Reach"], "the probe reach needs a judge"),
        ([named("Denoising", Denoising={"levels": 1})], "levels must be 2 or more"),
        ([named("Denoising", Denoising={"noises": 0})], "noises 1 or more"),
        ([named("Likelihood", Likelihood={"probes": 0})], "probes must be at least 1"),
        ([named("Reach", Reach={"directions": 0})], "directions must be at least 1"),
        ([named("Seed", Seed={"limit": 0})], "limit must be at least 1"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    options: list[str], message: str, arguments: Arguments, tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    said = refused(arguments(tmp_path / "run", *options))
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "run" / "records.jsonl").exists()
    assert asked == []


def test_a_probe_that_is_none_is_named(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no probe is called Denoisign, did you mean Denoising"):
        main(arguments(tmp_path, "--model.probes+=Denoisign"))


def test_needs_are_checked_by_name() -> None:
    assert list(by_name([Seed(), Reach()], judged=True)) == ["seed", "reach"]
    with pytest.raises(ValueError, match="needs a judge"):
        by_name([Seed(), Reach()], judged=False)


def test_names_of_this_package_are_taken() -> None:
    """A report takes what it says of them from here, and not from a run folder."""
    other = type("Seed", (Reach,), {})()
    assert other.name == "seed"
    with pytest.raises(ValueError, match="the probe seed is another than this package's of that name: rename"):
        by_name([other], judged=True)


def test_an_answer_is_for_each_sample() -> None:
    answers = Answers({"number": torch.arange(3.0)})
    assert values_of(answers, 3) == [{"number": 0.0}, {"number": 1.0}, {"number": 2.0}]
    with pytest.raises(ValueError, match="was asked about 2 samples and answered for 3"):
        values_of(answers, 2)
    assert values_of(Answers({}), 2) == [{}, {}], "without a judge there is nothing to say"


def test_gradients_are_there_in_a_compiled_model(arguments: Arguments, tmp_path: Path) -> None:
    """`needs` says gradients; compiled blocks give them, so nobody is refused."""
    assert "gradients" in Likelihood.needs
    few = (named("Likelihood"), *FEW, "--data.concept_images.limit=1", "--data.reference_images.limit=1")
    main(arguments(tmp_path / "plain", *few))
    main(arguments(tmp_path / "compiled", *few, "--model.diffusion.speed.compile=aot_eager"))
    plain, compiled = (
        read_run(tmp_path / name).of("concept", "likelihood")[0].number("likelihood.log_likelihood")
        for name in ("plain", "compiled")
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(("empty", "noises"), [(True, 2), (False, 1)])
@torch.inference_mode()
def test_surprise_is_that_of_the_equation(
    empty: bool, noises: int, undisturbed: Path, calm: Path, arguments: Arguments, tmp_path: Path
) -> None:
    """Record by record the very numbers of `ops.denoising`, for all prompts, from the sample's noise."""
    options = named("Denoising", Denoising={"levels": 4, "noises": noises, "empty": empty})
    main(arguments(tmp_path, options, *FEW, "--data.conditionings=[empty, own@2]", "--model.keep_images=0"))
    run, diffusion = read_run(tmp_path), Diffusion.from_pretrained(calm)
    audit = {record.key: record for record in run.records}
    assert len(audit) == 27
    assert RunInfo.load(tmp_path).probes["denoising"]["settings"]["log_snr"] == pytest.approx(
        [float(torch.logit(torch.tensor(step.alpha).double())) for step in diffusion.schedule.ladder(4)], abs=1e-6
    )
    from lit_memories.data.samples import ImageRows
    from lit_memories.data.sources import ImageSource

    place = re.search(r"(\S+)/concept", run.info.data["concept"]["source"])[1]
    rows = ImageRows("concept", ImageSource(f"{place}/concept"), diffusion.image_size)
    sample = rows.with_pixels(rows.samples[1])
    latents = diffusion.encode_images(sample.image[None])

    def surprise(prompt: str, guidance_scale: float) -> float:
        predict = diffusion.predict_fn(diffusion.encode_prompts([prompt]).expand(noises, -1, -1), guidance_scale)
        generator = seeded(f"0/concept/{sample.content}/denoising")
        steps = diffusion.schedule.ladder(4)
        return float(denoise(lambda x, t, _: predict(x, t), latents, steps, [generator], noises, noises > 1).surprise)

    own, none, guided = (
        next(r for r in audit.values() if (r.set, r.index, r.conditioning) == ("concept", 1, label))
        for label in (None, "empty", "own@2")
    )
    assert own.number("denoising.surprise") == pytest.approx(surprise(sample.prompt, 1.0), rel=1e-5)
    assert none.number("denoising.surprise") == pytest.approx(surprise("", 1.0), rel=1e-5)
    assert guided.number("denoising.surprise") == pytest.approx(surprise(sample.prompt, 2.0), rel=1e-5)
    if empty:
        without = own.number("denoising.surprise_empty")
        assert without == pytest.approx(none.number("denoising.surprise"), rel=1e-6)
        assert own.number("denoising.gap") == pytest.approx(without - own.number("denoising.surprise"), abs=1e-9)
    else:
        assert own.value("denoising.surprise_empty") is own.value("denoising.gap") is None
    assert len(own.value("denoising.profile")) == 4


OLDER = ("Samples", "Seed", "Typicality", "Known")


def shipped(folder: Path, *more: str) -> list[str]:
    """The command line with which the release before this one wrote the folders in ``old_runs``, and one more probe."""
    return [
        *("predict", f"--config={ROOT / 'recipes/pictograms/audit/umbrella.yaml'}", "--data.concept_images.limit=2"),
        *("--data.reference_images.limit=2", "--data.known=1", "--data.prompted=2", "--data.unprompted=1"),
        *("--data.conditionings=[empty]", "--model.num_inference_steps=4", "--model.keep_images=0"),
        named("Denoising", *OLDER, Denoising={"levels": 2}, Samples={"guidance_scale": 3.0}),
        *("--trainer.callbacks=[]", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *(f"--trainer.default_root_dir={folder}", "--model.name=vanilla", *more),
    ]


def test_a_folder_of_the_first_schema_is_read_and_goes_on(
    tmp_path: Path, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written by the release before: a report reads it and says what it lacks, an audit asks that and nothing else."""
    monkeypatch.chdir(ROOT)
    runs = [tmp_path / name for name in ("vanilla", "control")]
    for run in runs:
        shutil.copytree(OLD / run.name, run)
    old = read_run(runs[0])
    assert [len(old.of(name, "seed")) for name in ("concept", "reference")] == [2, 2]
    assert old.of("known", "known")[0].number("known.nll_bias") is not None
    assert old.of("retained", "samples")[0].number("samples.met") in (0, 1)
    main(["report", *map(str, runs), f"--out={tmp_path / 'out'}", "--draws=20"])
    said = " ".join(capsys.readouterr().out.split())
    assert "vanilla, control: the probe denoising was not asked, so verdicts rest on the NLL of seeds" in said
    assert "--trainer.default_root_dir" in said
    main(shipped(runs[0]))
    assert {name for name, _ in asked} == {"denoising"}
    new = read_run(runs[0])
    assert new.info.complete
    assert new.info.schema == 2

    def answers(records: tuple[Record, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {
            (r.set, r.index, r.prompt): {name: answer for name, answer in r.probes.items() if name != "denoising"}
            for r in records
        }

    assert answers(new.records) == answers(old.records)
    seeds = [
        sorted(x.sum().item() for x in load_file(run / "seeds.safetensors").values())
        for run in (OLD / "vanilla", runs[0])
    ]
    assert seeds[0] == seeds[1]
    with pytest.raises(SystemExit) as error:
        main(["report", *map(str, runs), f"--out={tmp_path / 'out'}"])
    assert "was written by an earlier release; run its audit again" in f"{error.value}{capsys.readouterr().err}"
    main(
        shipped(
            runs[1],
            "--model.diffusion.base=checkpoints/without-umbrella",
            "--model.role=control",
            "--model.name=control",
        )
    )
    main(["report", *map(str, runs), f"--out={tmp_path / 'out'}", "--draws=20"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["headline"] for run in results["runs"]] == ["denoising.surprise"] * 2


def test_an_image_level_folder_of_the_first_schema_is_read(tmp_path: Path) -> None:
    run = read_run(OLD / "image")
    assert len(run.of("memory", "memories")) == 4
    main(["report", str(OLD / "image"), f"--out={tmp_path}", "--draws=20"])
    (found,) = json.loads((tmp_path / "results.json").read_text())["memories"]["runs"]
    assert found["stages"]["psnr"]["value"] > 10


def test_a_run_folder_says_what_its_probes_cost(undisturbed: Path) -> None:
    cost = read_run(undisturbed).cost
    assert cost["denoising"]["samples"] == cost["seed"]["samples"] == 9
    assert cost["denoising"]["evaluations"] == 9 * 16
    assert cost["samples"]["evaluations"] == 4 * 4 * 2
    assert cost["seed"]["evaluations"] > 9 * 4
    assert all(entry["seconds"] >= 0 for entry in cost.values())
    assert not list((undisturbed / PARTS).glob("*"))


def test_probes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["probes"])
    said = " ".join(capsys.readouterr().out.split())
    for name, probe in PROBES.items():
        assert f"{name}: {probe.question}" in said
        assert probe.says in said
        assert probe.cost in said
        assert f"{probe.__module__}.{probe.__name__}" in said


def test_the_usual_probes_are_those_of_the_recipe(diffusion: Diffusion) -> None:
    from lit_memories.concept import Concept

    audit = ConceptAudit(diffusion, FixedPoint(), Concept("umbrella", "object", ["umbrella"]))
    assert list(audit.probes) == ["denoising", "samples", "seed", "typicality", "known"]
