"""The short way to an audit makes a recipe that predict takes, runs it for each model, and adds nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import lit_memories.report
from lit_memories.cli import main
from lit_memories.erasure import Erasure, Provenance
from lit_memories.recipe_files import read_recipe
from lit_memories.recipe_names import library
from lit_memories.tools import audit as module

Calls = list[tuple[str, list[str]]]
WORLD = ["--concept=pictograms/concepts/umbrella", "--images=pictograms"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """What is run, in place of running it; the working folder is an empty one."""
    found: Calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_predict", lambda recipe, folder, options: found.append((str(folder), options)))
    monkeypatch.setattr(lit_memories.report, "report", lambda runs, out: found.append((str(out), list(map(str, runs)))))
    return found


def erase(folder: Path, base: str) -> Path:
    import torch

    provenance = Provenance("ESD", {"name": "umbrella"}, base, None, "f", {}, 90, 0, {})
    Erasure({"unet.x": torch.ones(2)}, provenance).save(folder)
    return folder


def parsed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["predict", f"--config={recipe}", "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_an_erasure_says_its_base(calls: Calls, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other settings are those of the library's recipe; CLIP stands for a judge of another concept."""
    erase(Path("esd"), str(tiny))
    main(["audit", "esd", "--concept=sd14/concepts/van_gogh", "--images=mine", "--others=theirs", "--out=o"])
    assert calls == [
        ("o/audited", ["--model.diffusion.erasure=esd", "--model.role=erased"]),
        ("o/vanilla", []),
        ("o", ["o/vanilla", "o/audited"]),
    ]
    said = capsys.readouterr().out
    assert "recipe sd14/audit/concept, with" in said
    written = Path("o/recipe.yaml").read_text()
    assert all(line.rstrip() in said for line in written.splitlines()[1:])
    found, origin = yaml.safe_load(written), read_recipe(library()["sd14/audit/concept"])
    options, before = found["model"]["init_args"], origin["model"]["init_args"]
    assert options.pop("concept") == read_recipe(library()["sd14/concepts/van_gogh"])
    assert options.pop("diffusion") == {"base": str(tiny), "revision": None}
    assert options.pop("judge")["class_path"] == "lit_memories.judges.clip.CLIPJudge"
    assert options == {name: before[name] for name in before if name not in {"concept", "diffusion", "judge"}}
    sources = [found["data"]["init_args"].pop(name) for name in ("concept_images", "reference_images")]
    assert [source["init_args"] for source in sources] == [{"path": "mine"}, {"path": "theirs"}]
    assert found["trainer"] == origin["trainer"]
    config = parsed(Path("o/recipe.yaml"), capsys)
    assert config["model"]["init_args"]["concept"]["name"] == "van_gogh"
    assert any(probe["class_path"].endswith("ImagePrompt") for probe in options["probes"]), "which needs a judge"


def test_every_kind_of_model_has_an_audit_that_judges_any_concept() -> None:
    """What its probes need they have, whatever the concept: `lit-memories audit` takes these."""
    for name in module.FAMILIES.values():
        recipe = read_recipe(library()[name])["model"]["init_args"]
        assert recipe["judge"] == module.ANY_CONCEPT or name.startswith("sd14/")
        assert read_recipe(library()[name.replace("concept", "paper")])["model"]["init_args"]["posterior_seed"] == 42


def test_the_pictogram_world_needs_no_data(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    erase(Path("esd"), "checkpoints/pictograms")
    options = ["--concept=pictograms/concepts/yellow", "--images=pictograms", "--control=checkpoints/without-umbrella"]
    main(["audit", "esd", *options])
    assert calls[2] == (
        "runs/audited/control",
        ["--model.diffusion.base=checkpoints/without-umbrella", "--model.role=control"],
    )
    config = parsed(Path("runs/audited/recipe.yaml"), capsys)
    data = config["data"]["init_args"]
    assert data["concept_images"]["init_args"]["keep"] == {"color": "yellow"}
    assert data["reference_images"]["init_args"]["withhold"] == [{"color": "yellow"}]
    assert config["model"]["init_args"]["judge"]["class_path"].endswith("WorldJudge")


def test_a_whole_model_is_told_its_base(calls: Calls, tiny: Path, tiny_control: Path) -> None:
    options = ["--concept=pictograms/concepts/umbrella", "--images=mine", "--others=theirs"]
    main(["audit", str(tiny_control), *options, f"--base={tiny}"])
    assert calls[0][1] == [f"--model.diffusion.base={tiny_control}", "--model.role=erased"]
    assert yaml.safe_load(Path("runs/audited/recipe.yaml").read_text())["model"]["init_args"]["diffusion"] == {
        "base": str(tiny)
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["esd", "--concept=pictograms/concepts/umbrela", "--images=x"], "nearest: pictograms/concepts/umbrella"),
        (["esd", "--concept=sd14/concepts/church", "--images=x"], "name pictures of other things with --others"),
        (["esd", "--concept=sd14/concepts/church", "--images=pictograms"], "the pictogram world has no church"),
        (["checkpoints/pictograms", "--concept=sd14/concepts/church", "--images=x"], "say with --base which one"),
        (["nowhere/", "--concept=sd14/concepts/church", "--images=x"], "nowhere"),
        (["esd", "--images=x"], "concept"),
        (["empty", "--concept=sd14/concepts/church", "--images=x"], "empty is neither an erasure nor a model: it has"),
        (["esd", *WORLD, "--control=nowhere/"], "nowhere"),
        (["esd", *WORLD, "--control=esd"], "esd is an erasure, which cannot be --control"),
    ],
)
def test_what_is_missing_is_one_line_before_anything_runs(
    options: list[str], said: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    erase(Path("esd"), "checkpoints/pictograms")
    Path("empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["audit", *options])
    line = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
    assert said in line
    assert "\n" not in line
    assert calls == []
    assert not Path("runs").exists()


def test_a_recipe_that_was_changed_is_kept(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    erase(Path("esd"), "checkpoints/pictograms")
    recipe = Path("runs/audited/recipe.yaml")
    main(["audit", "esd", *WORLD])
    main(["audit", "esd", *WORLD])
    assert len(calls) == 6, "the same again goes on"
    recipe.write_text(mine := recipe.read_text() + "# mine\n")
    with pytest.raises(SystemExit, match=r"recipe.yaml is there and says something else: name another --out"):
        main(["audit", "esd", *WORLD])
    assert recipe.read_text() == mine
    assert len(calls) == 6


@pytest.mark.slow
def test_it_ends_in_a_report(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tiny: Path, tiny_control: Path, tmp_path: Path
) -> None:
    """All of it, on models of a few thousand weights and eight pictures."""
    from lit_memories.data.sources import save_images
    from lit_memories.worlds import pictograms

    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(module.FAMILIES, "StableDiffusionPipeline", "pictograms/audit/umbrella")  # few steps
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("audits", 200, keep=umbrella, limit=4), tmp_path / "mine")
    save_images(pictograms.build("audits", 20, withhold=[umbrella], limit=4), tmp_path / "theirs")
    options = ["--concept=pictograms/concepts/umbrella", "--images=mine", "--others=theirs", f"--base={tiny}"]
    main(["audit", str(tiny_control), *options, "--out=out"])
    assert (tmp_path / "out/report.html").is_file()
    assert {folder.name for folder in (tmp_path / "out").iterdir() if (folder / "run.json").is_file()} == {
        "vanilla", "audited"
    }  # fmt: skip
