"""Images inverted under other prompts and guidance, and what else an audit can be asked for."""

import math
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.data.conditionings import Conditioning
from lit_memories.data.samples import Sample
from lit_memories.records import Record
from lit_memories.runs import read_run

Arguments = Callable[..., list[str]]
MORE = ("--data.conditionings=[empty, anchor, own@2]",)
MEASURES = ("--model.probes+=Likelihood", "--model.probes+={class_path: Reach, init_args: {directions: 1}}")
CONCEPT = Concept("umbrella", "object", ["umbrella"], anchor="star", paraphrases=["parasol", "brolly"])


@pytest.fixture(scope="module")
def asked(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an audit under four conditionings."""
    folder = tmp_path_factory.mktemp("runs") / "asked"
    main(arguments(folder, *MORE))
    return folder


def test_every_image_has_a_record_under_every_conditioning(asked: Path) -> None:
    run = read_run(asked)
    assert run.info.complete
    assert run.conditionings == ["anchor", "empty", "own@2"]
    assert {name: len(run.of("concept", "seed", name)) for name in run.conditionings} == dict.fromkeys(
        run.conditionings, 4
    )
    assert [len(run.of("reference", "seed", name)) for name in run.conditionings] == [0, 5, 5], (
        "anchors change no other prompt"
    )
    assert {record.prompt for record in run.of("concept", "seed", "empty")} == {""}
    assert all(
        "clover" in record.prompt and "umbrella" not in record.prompt for record in run.of("concept", "seed", "anchor")
    )
    assert [r.prompt for r in run.of("concept", "seed", "own@2")] == [r.prompt for r in run.of("concept", "seed")]
    assert len({record.key for record in run.records}) == len(run.records)


def test_the_own_records_are_those_of_a_plain_audit(asked: Path, undisturbed: Path) -> None:
    own = {record.key: record for record in read_run(asked).records if record.conditioning is None}
    assert own == {record.key: record for record in read_run(undisturbed).records}
    assert read_run(asked).info.metrics == pytest.approx(read_run(undisturbed).info.metrics)


def test_conditionings_change_what_is_found(asked: Path) -> None:
    run = read_run(asked)
    own = [record.value("seed.nll") for record in run.of("concept", "seed")]
    for name in run.conditionings:
        assert [record.value("seed.nll") for record in run.of("concept", "seed", name)] != own, name


def test_conditionings_can_be_added_to_a_finished_run(
    undisturbed: Path, asked: Path, arguments: Arguments, tmp_path: Path
) -> None:
    copytree(undisturbed, tmp_path / "run")
    main(arguments(tmp_path / "run", *MORE, batch_size=16))
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == (asked / "records.jsonl").read_bytes()
    assert read_run(tmp_path / "run").info.complete


@pytest.fixture(scope="module")
def measured(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an audit that measures all there is."""
    folder = tmp_path_factory.mktemp("runs") / "measured"
    main(arguments(folder, *MEASURES))
    return folder


def test_likelihood_and_reach_are_there_when_asked_for(measured: Path, undisturbed: Path) -> None:
    run, plain = read_run(measured), read_run(undisturbed)
    for record in [*run.of("concept", "seed"), *run.of("reference", "seed")]:
        assert record.value("likelihood.bits_per_dim") == pytest.approx(
            -record.value("likelihood.log_likelihood") / math.log(2) / run.info.dimension
        )
        assert record.value("likelihood.gap") > 0.1, "four levels are too few"
        assert (record.value("reach.reach") is not None) == (record.set == "concept")
    assert all(0 <= record.value("reach.reach") <= 90 for record in run.of("concept", "seed"))
    assert all(
        record.value("likelihood.log_likelihood") is None and record.value("reach.reach") is None
        for record in plain.records
    )
    assert run.info.settings_hash == plain.info.settings_hash, "what is asked beside changes no key"
    assert [record.value("seed.nll") for record in run.of("concept", "seed")] == [
        record.value("seed.nll") for record in plain.of("concept", "seed")
    ]


def test_measures_do_not_depend_on_the_batch(measured: Path, arguments: Arguments, tmp_path: Path) -> None:
    few = ("--data.concept_images.limit=2", "--data.reference_images.limit=1", "--data.known=0", "--data.prompted=0")
    main(arguments(tmp_path / "run", *MEASURES, *few, batch_size=1))
    alone, together = ({r.key: r for r in read_run(folder).records} for folder in (tmp_path / "run", measured))
    assert len(alone) == 3
    assert alone.items() <= together.items()


def test_every_inverted_seed_is_tested_for_typicality(undisturbed: Path) -> None:
    from lit_memories.metrics.typicality import TESTS, norm_test

    run, seeds = read_run(undisturbed), load_file(undisturbed / "seeds.safetensors")
    for record in run.records:
        if record.set not in ("concept", "reference"):
            assert record.probes.get("typicality") is None
            continue
        assert set(record.probes.get("typicality")) == {*TESTS, "combined"}
        expected = norm_test(seeds[record.key][None])
        assert record.probes.get("typicality")["norm"] == pytest.approx(
            [float(expected.value), float(expected.p_value)]
        )
        assert record.probes.get("typicality")["combined"][1] >= min(
            p for _, p in record.probes.get("typicality").values()
        )


@pytest.mark.parametrize("text", ["", "own", "word", "empty@", "empty@x", "empty@-1", "own@nan"])
def test_unknown_conditionings_are_refused(text: str) -> None:
    if text == "empty@":
        assert Conditioning.parse(text).guidance_scale is None
        return
    with pytest.raises(ValueError, match="unknown conditioning"):
        Conditioning.parse(text)


def test_a_concept_without_paraphrases_says_so() -> None:
    rows = SimpleNamespace(samples=[Sample("concept", 0, "x", "an umbrella")])
    with pytest.raises(ValueError, match="has no paraphrases"):
        Conditioning.parse("paraphrase").all(rows, Concept("umbrella", "object", ["umbrella"]))


def test_prompts_of_conditionings() -> None:
    concept, reference = Sample("concept", 1, "x", "a red umbrella"), Sample("reference", 0, "y", "a red gear")
    found = {name: Conditioning.parse(name) for name in ("empty", "anchor", "paraphrase", "phrase", "own@3")}
    of_concept, of_reference = (SimpleNamespace(samples=[sample]) for sample in (concept, reference))
    prompts = {name: [sample.prompt for sample in how.all(of_concept, CONCEPT)] for name, how in found.items()}
    assert prompts == {
        "empty": [""],
        "anchor": ["a red star"],
        "paraphrase": ["a red brolly"],
        "phrase": ["umbrella"],
        "own@3": ["a red umbrella"],
    }
    others = {name: how.all(of_reference, CONCEPT) for name, how in found.items()}
    assert {name for name, samples in others.items() if not samples} == {"anchor", "paraphrase", "phrase"}
    assert others["empty"][0].prompt == ""
    assert others["own@3"][0].guidance_scale == 3


def test_reach_needs_a_judge(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(
            arguments(tmp_path, "--model.judge=null", "--model.probes+={class_path: Reach, init_args: {directions: 1}}")
        )
    assert "the probe reach needs a judge" in str(stop.value)


def test_old_records_are_still_read() -> None:
    assert Record.from_json('{"key": "a", "set": "concept", "index": 0, "prompt": "", "nll": 1.0}').conditioning is None
