"""Every recipe parses, and says in full what it would run with."""

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.trainer.connectors.logger_connector import logger_connector

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.recipes import option_in_full

ROOT = Path(__file__).parent.parent
COMMANDS = {"erase": "fit", "pretrain": "fit", "audit": "predict", "attack": "predict"}
RECIPES = [
    file
    for depth in ("*/*", "*/flow/*")
    for file in sorted((ROOT / "recipes").glob(f"{depth}/*.yaml"))
    if "model" in yaml.safe_load(file.read_text())
]


SD14 = [file for file in RECIPES if file.parts[-3:-1] == ("sd14", "erase")]
OPTIONS = re.compile(r"# (?P<label>[^:]+): (?P<options>--[^(]+)(?: \((?P<origin>.+)\))?")
"""A comment that says what to pass for another kind of concept, or for another form of the method, and whence it is."""


def configuration(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        main([COMMANDS[file.parent.name], f"--config={file}", *more, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


PARSED: dict[Path, dict[str, Any]] = {}
"""What was printed of recipes as they are, each parsed once for all tests of this module."""


@pytest.fixture
def parsed(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    """A recipe's configuration, printed in a working directory that is empty."""
    monkeypatch.chdir(tmp_path)
    if file not in PARSED:
        PARSED[file] = configuration(file, capsys)
    return PARSED[file]


def test_there_are_recipes() -> None:
    assert {file.parent.name for file in RECIPES} == set(COMMANDS)


MOST_USED = ("pictograms", "sd14")
"""Families whose recipes the quick suite parses, each; of the others, the first of a folder."""


def often(file: Path) -> bool:
    """Whether the quick suite parses it."""
    return file.parts[-3] in MOST_USED or file == next(other for other in RECIPES if other.parent == file.parent)


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=() if often(file) else pytest.mark.slow) for file in RECIPES],
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)
def test_print_config(file: Path, parsed: dict[str, Any]) -> None:
    """From any working directory; what is printed says what the recipe says, in full."""
    config, recipe = parsed, yaml.safe_load(file.read_text())
    assert config["model"]["class_path"] == recipe["model"]["class_path"]
    for name, value in recipe["model"]["init_args"].items():
        if isinstance(value, int | float | str) and not str(value).endswith(".yaml"):
            found = config["model"]["init_args"][name]
            assert str(found["class_path"] if isinstance(found, dict) else found) == str(value), name
    if "concept" in recipe["model"]["init_args"]:
        assert config["model"]["init_args"]["concept"]["prompts"]
    assert config["seed_everything"] == 0
    assert config["trainer"]["default_root_dir"].startswith("runs/")


def first_of_its_kind(file: Path) -> bool:
    """Whether it is the pictograms' first recipe of its class."""
    kind = yaml.safe_load(file.read_text())["model"]["class_path"]
    own = (other for other in RECIPES if other.parts[-3] == "pictograms")
    return file == next((other for other in own if kind in other.read_text()), None)


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=() if first_of_its_kind(file) else pytest.mark.slow) for file in RECIPES],
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)
def test_what_is_printed_can_be_run_again(
    file: Path, parsed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(parsed))
    with pytest.raises(SystemExit) as stop:
        main([COMMANDS[file.parent.name], "--config=again.yaml", "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out) == parsed


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_recipes_are_short_and_say_what_they_are(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("# ")
    assert "class_path" in "".join(lines[:5])


AUDITS = [file for file in RECIPES if file.parent.name == "audit"]


@pytest.mark.parametrize("file", AUDITS, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_rows_of_an_audit_fill_whole_blocks(parsed: dict[str, Any]) -> None:
    """A block that a query or a batch fills in part only is filled up, and costs as much as a whole one."""
    data, block_size = parsed["data"]["init_args"], parsed["model"]["init_args"]["block_size"]
    image_level = parsed["model"]["class_path"].endswith("ImageAudit")
    rows = 2 + data["supports"] if image_level else data["batch_size"]  # a query's own latent, the repeated one
    assert rows % block_size == 0


def test_options_reach_into_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    audit = ROOT / "recipes/pictograms/audit/umbrella.yaml"
    striped = ROOT / "recipes/pictograms/concepts/striped.yaml"
    options = (
        "--model.diffusion.erasure=runs/esd",
        "--model.inverter.max_evaluations=7",
        f"--model.concept={striped}",
        "--data.concept_images.limit=5",
        "--data.reference_images={class_path: ImageSource, init_args: {path: some/folder}}",
    )
    config = configuration(audit, capsys, *options)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["diffusion"]["init_args"]["erasure"] == "runs/esd"
    assert model["inverter"]["init_args"]["max_evaluations"] == 7
    assert model["concept"]["name"] == "striped"
    assert data["concept_images"]["init_args"]["limit"] == 5
    assert data["concept_images"]["init_args"]["keep"] == {"object": "umbrella"}
    assert data["reference_images"]["init_args"]["path"] == "some/folder"


@pytest.mark.parametrize("form", ["--model.concept={}", "--model.concept {}"])
def test_another_concept_keeps_nothing_of_the_recipes_own(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Van Gogh's file has templates and anchor prompts, a church's has none; what follows the file still counts."""
    church = ROOT / "recipes/sd14/concepts/church.yaml"
    options = [*form.format(church).split(), "--model.concept.anchor=chapel"]
    found = configuration(ROOT / "recipes/sd14/erase/ac.yaml", capsys, *options)["model"]["init_args"]["concept"]
    expected = Concept(**{**yaml.safe_load(church.read_text()), "anchor": "chapel"})
    assert Concept(**found) == expected


LOGGERS = "lightning.pytorch.loggers"


def test_another_logger_takes_no_more_than_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    options = (f"--trainer.logger={LOGGERS}.WandbLogger", "--trainer.logger.project=memories")
    logger = configuration(ROOT / "recipes/pictograms/erase/esd.yaml", capsys, *options)["trainer"]["logger"]
    assert logger["class_path"] == f"{LOGGERS}.WandbLogger"
    assert (logger["init_args"]["project"], logger["init_args"]["name"]) == ("memories", None)


def test_training_is_logged_as_csv(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run folder, and also where Lightning itself would choose TensorBoard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logger_connector, "_TENSORBOARD_AVAILABLE", True)
    small = ("steps=2", "batch_size=2", "probe_size=2", "num_inference_steps=2")
    main(
        [
            "fit",
            f"--config={ROOT / 'recipes/pictograms/erase/esd.yaml'}",
            f"--model.diffusion.base={tiny}",
            *(f"--model.{option}" for option in small),
            "--trainer.log_every_n_steps=1",
            "--trainer.default_root_dir=here",
        ]
    )
    with (tmp_path / "here/lightning_logs/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.slow if file.stem not in {"ac", "esd"} else ()) for file in SD14],
    ids=lambda file: file.stem,
)
def test_options_in_comments_are_understood(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are some for every kind of concept, each says where it is from, and each arrives."""
    monkeypatch.chdir(ROOT)
    plain = configuration(file, capsys)["model"]["init_args"]
    kinds = {plain["concept"]["kind"]}
    comments = [line for line in file.read_text().splitlines()[1:] if line.startswith("#") and "--" in line]
    for comment in comments:
        found = OPTIONS.fullmatch(comment)
        assert found, comment
        assert found["origin"], comment
        changed = configuration(file, capsys, *shlex.split(found["options"]))["model"]["init_args"]
        if found["label"] in {"object", "style", "nudity"}:
            assert changed["concept"]["kind"] == found["label"]
            kinds.add(found["label"])
        assert changed != plain, comment
    assert kinds == {"object", "style", "nudity"}


@pytest.mark.parametrize("file", SD14, ids=lambda file: file.stem)
def test_every_number_has_an_origin(file: Path) -> None:
    """A value of a recipe for Stable Diffusion says in a comment which script, configuration or paper it is from."""
    for line in file.read_text().splitlines():
        if re.match(r"    \w+: ", line) and "diffusion:" not in line and "concept:" not in line:
            assert re.search(r" # .*(paper|README|config|prompt|ours|\.py|\.sh|\.yaml|code|projection)", line), line


def test_an_option_of_no_kind_yet_asks_for_the_kind() -> None:
    kind = "Problem with given class_path 'lit_memories.guards.base.Guard'"
    said = option_in_full(f"Parser key 'guard': {kind}: Option 'strength' is not accepted")
    assert said == "--guard.strength: Guard has no option strength; name first, with --guard, which of its kinds it is"
