"""A recipe that is none is one line that names it as the user did, and is said before anything heavy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_memories.cli import main
from lit_memories.recipe_files import overridden, probes_of, read_recipe

ROOT = Path(__file__).parent.parent
AUDIT = ROOT / "recipes/pictograms/audit/umbrella.yaml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "recipe.yaml has no settings: a recipe begins with model: and its class_path"),
        (b"- a\n- b\n", "recipe.yaml has no settings"),
        (b"hello", "recipe.yaml has no settings"),
        (bytes(range(256)), "recipe.yaml is not text in UTF-8: save it as such"),
        ("model: 1".encode("utf-16"), "recipe.yaml is not text in UTF-8"),
        (b"model: 1\0", "recipe.yaml is no recipe: unacceptable character #x0000"),
        (b"model: [", "recipe.yaml is not YAML: line 1: "),
        (b"model:\n\tx: 1", "recipe.yaml is not YAML: line 2: "),
        (b"model: !!python/object:os.system {}", "recipe.yaml is not YAML: line 1: could not determine a constructor"),
        (b"model: " + b"[" * 3000, "recipe.yaml is no recipe: it nests too deep"),
        (b"model:\n  steps: 1\n  steps: 2\n", "'steps' stands there twice, the second time in line 3"),
        (b"model: recipe.yaml", "recipe.yaml is no recipe: it nests too deep, or names itself"),
        (b"# " + b"x" * (1 << 20), "recipe.yaml is no recipe: it has more than 1048576 bytes"),
    ],
)
def test_what_is_no_recipe_is_one_line(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config=recipe.yaml"])
    message = str(stop.value.code)
    assert said in message
    assert "\n" not in message
    assert str(tmp_path) not in message, "as the user wrote it"


def test_what_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is not waited for."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("link").symlink_to("nowhere")
    for name, said in {
        "folder": "is no file", "pipe": "is no file", "link": "is a link to nowhere", "gone.yaml": "does not exist"
    }.items():  # fmt: skip
        for option in (["--config", name], [f"--config={name}"], ["-c", name]):
            with pytest.raises(SystemExit) as stop:
                main(["predict", *option])
            assert stop.value.code == (
                f"lit-memories predict: {name} {said}, and lit-memories recipes lists some: name a recipe with --config"
            )


def test_a_file_that_a_recipe_or_an_option_names_is_read_too(tmp_path: Path) -> None:
    concept = tmp_path / "concept.yaml"
    concept.write_text("name: a\nname: b\n")
    (tmp_path / "recipe.yaml").write_text("model: {init_args: {concept: concept.yaml}}\n")
    for options in (
        [f"--config={tmp_path / 'recipe.yaml'}"],
        [f"--config={AUDIT}", f"--model.concept={concept}"],
        [f"--config={AUDIT}", "--model.concept", str(concept)],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["predict", *options])
        assert f"{concept} is no recipe: 'name' stands there twice, the second time in line 2" in str(stop.value.code)


def test_a_byte_order_mark_and_links_are_no_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = AUDIT.read_text().replace("../concepts", str(AUDIT.parents[1] / "concepts"))
    text = text.replace("trainer: trainer.yaml", f"trainer: {AUDIT.parent / 'trainer.yaml'}")
    (tmp_path / "marked.yaml").write_text(text, encoding="utf-8-sig")
    (tmp_path / "link.yaml").symlink_to("marked.yaml")
    with pytest.raises(SystemExit) as stop:
        main(["predict", f"--config={tmp_path / 'link.yaml'}", "--print_config"])
    assert stop.value.code == 0
    assert "num_inference_steps: 20" in capsys.readouterr().out


def test_files_are_included_where_they_are_named() -> None:
    settings = read_recipe(AUDIT)
    assert settings["model"]["init_args"]["concept"]["name"] == "umbrella"
    assert settings["trainer"]["default_root_dir"].startswith("runs/")


@pytest.mark.parametrize(
    ("before", "lost"),
    [
        ("--model.num_inference_steps=5", True),
        ("--trainer.devices=2", True),
        ("--model.concept.name=x", True),
        ("--data.concept_images.limit=3", True),
        ("--data.init_args.concept_images.init_args.limit=3", True),
        ("--model.probes+=Likelihood", True),
        ("--seed_everything=3", False),
        ("--model.name=x", False),
        ("--trainer.fast_dev_run=true", False),
    ],
)
def test_options_that_a_recipe_overrides_are_those_it_says(before: str, lost: bool) -> None:
    names = [before.partition("=")[0].removesuffix("+")] if lost else []
    assert [name.removesuffix("+") for name in overridden([before, f"--config={AUDIT}"])] == names
    assert overridden([f"--config={AUDIT}", before]) == []


def test_an_option_that_is_overridden_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--trainer.devices=2", "--config", str(AUDIT), "--print_config"])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert "devices: 1" in said.out
    line = "--trainer.devices stands before --config and is overridden by it: put it after"
    assert said.err.splitlines() == [f"lit-memories predict: {line}"]


def test_it_is_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from lit_memories.cli import main\n"
        "try: main(['predict', '--config', sys.argv[1]])\nexcept SystemExit: print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "diffusers", "datasets"} & set(done.stdout.split())


def test_a_value_that_is_no_yaml_names_no_probe() -> None:
    assert probes_of(["--model.probes=\x1b[31m", "--model.probes+=Reach"]) == ["Reach"]
