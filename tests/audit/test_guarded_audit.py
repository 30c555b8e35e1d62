"""An audit of a guarded model: what its run says, whom it pairs with, and what the report makes of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_errors import refused

from lit_memories.cli import main
from lit_memories.runs import read_run

Arguments = Callable[..., list[str]]
SAMPLES = "{class_path: lit_memories.probes.samples.Samples, init_args: {guidance_scale: 3.0}}"
DENOISING = "{class_path: lit_memories.probes.denoising.Denoising, init_args: {levels: 4}}"
ASKED = f"--model.probes=[{DENOISING},{SAMPLES}]"
GUARD = Path(__file__).parents[2] / "recipes/pictograms/guard/sld.yaml"


@pytest.fixture(scope="module")
def on(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("guarded") / "on"
    main(arguments(run, ASKED, f"--model.diffusion.guard={GUARD}", "--model.name=sld"))
    return run


@pytest.fixture(scope="module")
def off(arguments: Arguments, on: Path) -> Path:
    run = on.parent / "off"
    main(arguments(run, ASKED, "--model.name=vanilla"))
    return run


def test_a_guarded_run_says_what_guards_it(on: Path, off: Path) -> None:
    guarded, plain = read_run(on).info, read_run(off).info
    assert guarded.role == "erased"
    assert guarded.model["guard"] == {
        "name": "SLD",
        "concept": "umbrella",
        "strength": "strong",
        "acts_on": "guidance",
    }
    assert guarded.model["weights"] == plain.model["fingerprint"] != guarded.model["fingerprint"]
    assert guarded.settings_hash == plain.settings_hash
    assert {"guard", "weights"}.isdisjoint(plain.model)


def test_samples_see_the_guard_and_surprise_does_not(on: Path, off: Path) -> None:
    guarded, plain = read_run(on), read_run(off)
    for name in ("concept", "reference"):
        found, wanted = (run.holding(name, "denoising.surprise") for run in (guarded, plain))
        assert found.keys() == wanted.keys()
        assert all(found[key].value("denoising.surprise") == wanted[key].value("denoising.surprise") for key in found)
    seen = [[r.value("samples.probability") for r in run.of("prompted", "samples")] for run in (guarded, plain)]
    assert seen[0] != seen[1]
    cost = [run.cost["samples"]["evaluations"] for run in (guarded, plain)]
    assert cost[0] == 1.5 * cost[1]


def test_records_of_one_guard_are_not_taken_for_anothers(arguments: Arguments, on: Path) -> None:
    options = ASKED, "--model.name=sld", f"--model.diffusion.guard={GUARD}"
    said = refused(arguments(on, *options, "--model.diffusion.guard.strength=weak"))
    assert "holds records of another audit" in said
    assert "model.guard.strength" in said


def test_the_report_says_whose_weights_these_are(on: Path, off: Path, tmp_path: Path) -> None:
    main(["report", str(off), str(on), "--out", str(tmp_path), "--draws", "200"])
    runs = {run["name"]: run for run in json.loads((tmp_path / "results.json").read_text())["runs"]}
    said = " ".join(runs["sld"]["verdict"]["sentences"])
    assert "weights are vanilla's to the bit; it is erased only while the guard is on" in said
    assert "(SLD: concept umbrella, strength strong)" in said
    assert "acts on guidance alone" in said
    assert "check that the erasure was applied" not in said
    assert runs["sld"]["forgetting"]["value"] == 0
    assert "guard" not in " ".join(runs["vanilla"]["verdict"]["sentences"])


def test_a_guarded_model_is_not_vanilla(arguments: Arguments, tmp_path: Path) -> None:
    said = refused(arguments(tmp_path, ASKED, f"--model.diffusion.guard={GUARD}", "--model.role=vanilla"))
    assert "guarded model is no vanilla" in said


def test_guided_inversion_through_a_memory_is_refused(arguments: Arguments, tmp_path: Path) -> None:
    guard = f"--model.diffusion.guard={GUARD}"
    for option in ("--model.guidance_scale=3", "--data.conditionings=[own@3]"):
        assert "no inversion goes back through it" in refused(arguments(tmp_path, guard, option))


def test_a_guard_that_nothing_meets_says_so(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no probe of this audit is guided .* it does nothing here"):
        main(arguments(tmp_path, f"--model.probes=[{DENOISING}]", f"--model.diffusion.guard={GUARD}"))


def test_a_strength_that_is_none_of_the_four_gets_a_line(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, f"--model.diffusion.guard={GUARD}", "--model.diffusion.guard.strength=huge"))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "strength" in said
    assert "huge" in said
    assert not list(tmp_path.iterdir())
