"""Recipes are found by name wherever one stands, listed, shown, and copied with all that they need."""

from pathlib import Path

import pytest
import yaml

from lit_memories.cli import main
from lit_memories.recipe_files import read_recipe
from lit_memories.recipe_names import find, library, named, nearest, plain, purpose

ROOT = Path(__file__).parent.parent
ESD = ROOT / "recipes/pictograms/erase/esd.yaml"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_library_is_the_folder_of_recipes() -> None:
    assert sorted(library().values()) == sorted((ROOT / "recipes").rglob("*.yaml"))
    assert list(library()) == sorted(library())


@pytest.mark.parametrize(
    "name", ["pictograms/erase/esd", "pictograms/erase/esd.yaml", "recipes/pictograms/erase/esd.yaml", str(ESD)]
)
def test_a_recipe_has_one_name(name: str) -> None:
    """With or without what stands around it in a checkout, so that what a page of the manual says works anywhere."""
    assert find(name) == ESD


def test_a_file_that_exists_wins() -> None:
    mine = Path("pictograms/erase/esd")
    mine.parent.mkdir(parents=True)
    assert find("pictograms/erase") is None
    mine.mkdir()
    assert find("pictograms/erase/esd") == ESD, "a folder is no recipe"
    mine.rmdir()
    mine.write_text("model: {}")
    assert find("pictograms/erase/esd") == mine


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["fit", "--config", "pictograms/erase/esd"], ["fit", "--config", str(ESD)]),
        (["fit", "-c", "pictograms/erase/esd"], ["fit", "-c", str(ESD)]),
        (["fit", "--config=recipes/pictograms/erase/esd.yaml"], ["fit", f"--config={ESD}"]),
        (
            ["fit", "--model.concept=sd14/concepts/church", "--data", "sd14/images"],
            ["fit", f"--model.concept={ROOT / 'recipes/sd14/concepts/church.yaml'}", "--data",
             str(ROOT / "recipes/sd14/images.yaml")],
        ),
        (["plan", "--model.diffusion.guard=sd14/guard/sld"],
         ["plan", f"--model.diffusion.guard={ROOT / 'recipes/sd14/guard/sld.yaml'}"]),
        (["generate", "x", "--guard", "recipes/sd14/guard/sld.yaml"],
         ["generate", "x", "--guard", str(ROOT / "recipes/sd14/guard/sld.yaml")]),
        (["plan", "--model.diffusion.guard", "lit_memories.guards.sld.SLD"],
         ["plan", "--model.diffusion.guard", "lit_memories.guards.sld.SLD"]),
        (["fit", "--config=nowhere", "--model.name=sd14/images"],
         ["fit", "--config=nowhere", "--model.name=sd14/images"]),
        (["fit", "--config", "--model", "a=b"], ["fit", "--config", "--model", "a=b"]),
    ],
)  # fmt: skip
def test_names_stand_where_files_may(argv: list[str], expected: list[str]) -> None:
    assert named(argv) == expected


def test_a_recipe_named_is_read_with_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """Its relative paths begin where it is; what it says of models is a name."""
    options = ["--config", "pictograms/erase/esd", "--model.concept", "pictograms/concepts/striped"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options, "--print_config"])
    assert stop.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["model"]["init_args"]["concept"]["name"] == "striped"
    assert found["model"]["init_args"]["diffusion"]["init_args"]["base"] == "checkpoints/pictograms"
    assert found["trainer"]["default_root_dir"] == "runs/erasure"


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--config=pictograms/erase/edc", "pictograms/erase/edc does not exist; the nearest recipes are "),
        ("--config=esd", "/erase/esd: name a recipe with --config"),
        ("--config=qqqqqqqqqq", "qqqqqqqqqq does not exist, and lit-memories recipes lists some: name a recipe"),
        ("--model.concept=sd14/concepts/chruch", "; the nearest recipes are sd14/concepts/church"),
        ("--model.diffusion.guard=sd14/guard/sdl", "; the nearest recipes are sd14/guard/sld"),
        ("--model.diffusion.guard=nope.yaml", "nope.yaml is no file"),
        ("--model.diffusion.guard=sd14/concepts/church", "church.yaml is no guard's file, which begins with "),
        ("--config=sd14/concepts/church", "church.yaml is no recipe but a concept: name a recipe with --config, and "),
        ("--config=sd14/guard/sld", "sld.yaml is no recipe but a guard: name a recipe with --config, and this with "),
        ("--config=sd14/images", "images.yaml is no recipe but a part of one: name a recipe with --config"),
    ],
)
def test_what_is_no_name_is_one_line_with_the_nearest(option: str, meant: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config=pictograms/erase/esd", option])
    assert meant in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


def test_the_nearest_are_of_the_same_file_or_spelt_so() -> None:
    assert set(nearest("esd", 9)) == {name for name in library() if name.endswith("/esd")}
    assert nearest("pictograms/erase/edc")[0] in {"pictograms/erase/esd", "pictograms/erase/rece"}
    assert nearest("qqqqqqqqqq") == []


@pytest.mark.parametrize("name", sorted(library()))
def test_every_file_says_what_it_is_for(name: str) -> None:
    said = purpose(library()[name])
    assert 10 < len(said) < 200
    assert "\n" not in said
    assert "lit-memories" not in said


def test_they_are_listed_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(library())
    main(["recipes", "list", "recipes/pictograms/concepts/"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [n for n in library() if n.startswith("pictograms/concepts/")]
    assert "The object that the control `without_umbrella` never saw" in "".join(lines)


def test_one_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "show", "pictograms/erase/esd"])
    assert capsys.readouterr().out == ESD.read_text()


@pytest.mark.parametrize("name", ["pictograms/erase/esd", "sdxl", "."])
def test_a_copy_has_all_it_names_and_reads_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "copy", name, "mine"])
    copied = {Path(line) for line in capsys.readouterr().out.splitlines()}
    assert copied == set(Path("mine").rglob("*.yaml"))
    wanted = [known for known in library() if name == "." or f"{known}/".startswith(f"{name}/")]
    assert wanted
    for known in wanted:
        assert read_recipe(Path("mine") / f"{known}.yaml") == read_recipe(library()[known])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shwo"], "recipes shwo: it is recipes list [FOLDER], recipes show NAME, or recipes copy NAME|FOLDER DEST"),
        (["show"], "recipes show: it is recipes list"),
        (["copy", "sdxl"], "it is recipes list"),
        (["show", "pictograms/erase"], "pictograms/erase is a folder: lit-memories recipes list pictograms/erase says"),
        (["show", "pictograms/erase/es"], "no recipe is called pictograms/erase/es; nearest: pictograms/erase/esd, "),
        (["list", "qqqqqqqqqq"], "no recipe is called qqqqqqqqqq; lit-memories recipes lists them"),
        (["copy", "sdxl", "there"], "there/sdxl/audit/concept.yaml is there already: choose another"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(words: list[str], said: str) -> None:
    main(["recipes", "copy", "sdxl/audit", "there"])
    with pytest.raises(SystemExit) as stop:
        main(["recipes", *words])
    assert said in str(stop.value.code)
    assert not Path("there/sdxl/erase").exists(), "all or nothing"


def test_a_plain_name_is_that_of_the_file_in_the_library() -> None:
    assert {plain(f"recipes/{name}.yaml") for name in library()} == set(library())


def test_a_tools_guard_is_told_from_another_file_before_it_begins() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["generate", "prompts.txt", "checkpoints/pictograms", "--guard=pictograms/concepts/umbrella"])
    assert "umbrella.yaml is no guard's file" in str(stop.value.code)


@pytest.mark.parametrize(
    ("link", "to", "said"),
    [
        ("mine/sd14", "elsewhere", "mine/sd14 leads out of its folder, to "),
        ("mine/sd14/guard/sld.yaml", "nowhere", "mine/sd14/guard/sld.yaml leads out of its folder, to "),
        ("mine/sd14/guard/sld.yaml", "mine/nowhere", "mine/sd14/guard/sld.yaml is neither a file nor a folder"),
    ],
)
def test_a_copy_goes_through_no_link_and_is_all_or_nothing(link: str, to: str, said: str, tmp_path: Path) -> None:
    place, target = tmp_path / link, tmp_path / to
    place.parent.mkdir(parents=True)
    if to == "elsewhere":
        target.mkdir()
    place.symlink_to(target)
    with pytest.raises(SystemExit) as stop:
        main(["recipes", "copy", "sd14/guard", "mine"])
    assert said in str(stop.value.code)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
