"""The command line as a newcomer meets it: help, versions, and errors of one line."""

import contextlib
import gc
import inspect
import logging
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from lit_memories import recipes
from lit_memories.cli import MANY, OPTIONS, TOOLS, _is_news, main, wrong_option
from lit_memories.recipe_names import find
from lit_memories.recipes import RecipeCLI
from lit_memories.runs import RunInfo
from lit_memories.terminal import SAFE

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes/pictograms"
AUDIT = RECIPES / "audit/umbrella.yaml"


def ends(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[object, str]:
    """What a command exits with, and what it says; a message of our own is one line without a traceback."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    said = capsys.readouterr().err
    if isinstance(stop.value.code, str):  # printed by the interpreter, which exits with 1
        assert "\n" not in stop.value.code
        assert stop.value.code.startswith(f"lit-memories {argv[0]}: ")
        return 1, stop.value.code
    return stop.value.code, said


def as_a_program(*argv: str, out: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lit_memories", *argv]
    return subprocess.run(
        command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(argv)
    said = capsys.readouterr().out
    for command in ("fit", "validate", "predict", *TOOLS):
        assert f"\n  {command} " in said
    assert "--config pictograms/audit/umbrella" in said
    assert find("pictograms/audit/umbrella") == AUDIT


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.strip() == version("lit-memories")


@pytest.mark.parametrize("command", ["fit", "predict", *TOOLS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    usage = said.split("\n\n")[0]
    assert "lit-memories" in usage
    assert command in usage


@pytest.mark.parametrize(
    ("command", "near"),
    [("test", ""), ("prdict", ", did you mean predict?"), ("reprot", ", did you mean report?"), ("--config", ""),
     ("\x1b[31m", "")],
)  # fmt: skip
def test_an_unknown_command_is_named_with_all_there_are(
    command: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ends(capsys, command)
    assert code == 2
    escaped = command.replace("\x1b", "\\x1b")
    assert said.startswith(
        f"lit-memories: no command '{escaped}'{near or ':'} choose fit, validate, predict, plan, doctor, report, "
    )
    assert set(TOOLS) <= set(re.split(r"[, \n]+", said))


@pytest.mark.parametrize("command", ["fit", "validate", "predict", "plan"])
def test_a_recipe_is_asked_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--trainer.devices=1"], ["--data=x.yaml"]):
        code, said = ends(capsys, command, *options)
        assert code == 2
        begins = f"lit-memories {command}: it needs a recipe, and lit-memories recipes lists many: "
        assert said.startswith(begins)
        assert find(said.rpartition(" --config ")[2].strip()) is not None


def test_an_unknown_command_is_answered_before_anything_is_imported() -> None:
    code = "import sys; from lit_memories.cli import main\ntry: main(['nope'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "diffusers", "datasets"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predict", "--modle.seed=3"], "lit-memories predict: no option --modle, did you mean --model?"),
        (["report", "runs/a", "--draw", "3"], "lit-memories report: no option --draw, did you mean --draws?"),
        (
            ["quickstart", "--xyz"],
            "lit-memories quickstart: no option --xyz: lit-memories quickstart --help lists them",
        ),
    ],
)
def test_an_wrong_option_is_answered_before_anything_is_imported(argv: list[str], said: str) -> None:
    code = f"import sys; from lit_memories.cli import main\ntry: main({argv})\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == said
    assert not {"torch", "lightning", "diffusers", "datasets", "transformers"} & set(done.stdout.split())


def test_options_of_recipes_are_those_of_the_parser() -> None:
    from lightning import LightningModule

    found: set[str] = set()

    class Parsers(RecipeCLI):
        def parse_arguments(self, *_: object) -> None:
            for parser in self._subcommand_parsers.values():
                found.update(name for action in parser._actions for name in action.option_strings)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parsers(LightningModule, subclass_mode_model=True, auto_configure_optimizers=False, args=["predict"])
    assert {re.split(r"[.+]", name[2:])[0] for name in found if name.startswith("--")} == OPTIONS


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_options_of_tools_are_their_functions_own(tool: str) -> None:
    function = getattr(import_module(TOOLS[tool][0]), tool)
    for name in inspect.signature(function).parameters:
        assert wrong_option(tool, [f"--{name}", "1"]) is None
        assert wrong_option(tool, [f"--{name}.part=1"]) is None
    assert wrong_option(tool, ["--help"]) is None
    assert "no option --nonsense" in wrong_option(tool, ["--nonsense"])


def test_garbage_is_collected_again_whatever_a_command_ends_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not while libraries are imported; in the work itself it is."""
    seen = []
    monkeypatch.setattr(recipes, "quiet_libraries", lambda: seen.append(gc.isenabled()))
    for argv in (["probes"], ["predict", "--help"], ["predict", "--model=nonsense"], ["report", str(tmp_path)]):
        with contextlib.suppress(SystemExit):
            main(argv)
        assert gc.isenabled(), argv
    with pytest.raises(SystemExit):
        main(["predict", f"--config={AUDIT}", "--trainer.precision=16-mixed", f"--trainer.default_root_dir={tmp_path}"])
    assert seen == [True]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: object\nprompts: [a]", "the concept has no name: its file must have name, kind and prompts"),
        ("name: x\nkind: object", "the concept has no prompts"),
        ("name: x\nkind: object\nprompts: a", "prompts must be a list of texts, one a line after a dash, got 'a'"),
        ("name: x\nkind: object\nprompts: [1]", "prompts must be a list of texts"),
        ("name: x\nkind: thing\nprompts: [a]", "kind must be one of object, style, color, nudity, image, got 'thing'"),
        ("name: x\nkind: object\nprompts: [a]\nfactor: {object: star}", "has no field 'factor', did you mean factors?"),
        ("name: x\nkind: object\nprompts: [a]\nfactors: red", "factors must be names, each with a text"),
        ("name: x\nkind: object\nprompts: [a]\nfactors: {object: 3}", "factors must be names, each with a text"),
    ],
)
def test_what_is_wrong_with_the_file_of_a_concept_is_one_line(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a look of its own, fields that the file lacks would be those of the recipe's concept."""
    (tmp_path / "mine.yaml").write_text(text)
    code, said = ends(capsys, "predict", f"--config={AUDIT}", f"--model.concept={tmp_path / 'mine.yaml'}")
    assert code == 1
    assert said.startswith(f"lit-memories predict: {tmp_path / 'mine.yaml'}: ")
    assert named in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Denoisng", "no probe is called Denoisng, did you mean Denoising? there are Denoising, Seed,"),
        ("lit_memories.probes.rech.Reach", "did you mean lit_memories.probes.reach.Reach?"),
        ("Zzz", "no probe is called Zzz; there are Denoising, Seed,"),
    ],
)
def test_a_misspelt_probe_is_one_line(name: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capsys, "predict", f"--config={AUDIT}", f"--model.probes+={name}")
    assert code == 1
    assert meant in said


def test_as_a_program() -> None:
    """Exit codes as a shell sees them; beside an error no library speaks."""
    assert as_a_program("--help").returncode == 0
    done = as_a_program("predict", f"--config={AUDIT}", "--model.probes+=Zzz")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no probe is called Zzz" in line


def test_a_misspelt_probe_of_a_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = AUDIT.read_text().replace("../concepts", str(RECIPES / "concepts")).replace("reach", "")
    text = text.replace("trainer: trainer.yaml", f"trainer: {AUDIT.parent / 'trainer.yaml'}")
    (tmp_path / "recipe.yaml").write_text(text.replace("typicality.Typicality", "typicality.Typicalty"))
    code, said = ends(capsys, "predict", f"--config={tmp_path / 'recipe.yaml'}")
    assert code == 1
    assert "did you mean lit_memories.probes.typicality.Typicality?" in said


def test_other_messages_of_libraries_are_news() -> None:
    def record(message: str) -> logging.LogRecord:
        return logging.LogRecord("transformers", logging.WARNING, "", 0, message, (), None)

    assert not _is_news(record("`CLIPImageProcessor` requires torchvision (not installed); falling back"))
    assert _is_news(record("some weights were not used"))


def test_a_concept_without_a_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capsys, "predict", f"--config={AUDIT}", "--model.concept", str(tmp_path / "mine.yaml"))
    assert code == 1
    assert "is no file, and lit-memories recipes lists some: --model.concept names a concept's" in said


def test_an_unknown_key_on_the_command_line_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capsys, "predict", f"--config={AUDIT}", "--model.stepps=3")
    assert code == 2
    assert "stepps" in said


@pytest.mark.parametrize(
    ("replace", "named"),
    [
        (("num_inference_steps", "num_inference_stepps"), "num_inference_stepps"),
        (("known: 16", "knwon: 16"), "knwon"),
        (("data:", "dada:"), "dada"),
        (("FixedPoint", "FixedPint"), "FixedPint"),
        (("num_inference_steps: 20", "num_inference_steps: twenty"), "num_inference_steps"),
    ],
)
def test_an_unknown_key_in_a_recipe_is_named(
    replace: tuple[str, str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = AUDIT.read_text().replace("../concepts", str(RECIPES / "concepts"))
    text = text.replace("trainer: trainer.yaml", f"trainer: {AUDIT.parent / 'trainer.yaml'}")
    assert replace[0] in text
    (tmp_path / "recipe.yaml").write_text(text.replace(*replace))
    code, said = ends(capsys, "predict", f"--config={tmp_path / 'recipe.yaml'}")
    assert code == 2
    assert named in said
    assert "Traceback" not in said


def test_a_missing_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = AUDIT.read_text().replace("    concept: ../concepts/umbrella.yaml\n", "")
    text = text.replace("trainer: trainer.yaml", f"trainer: {AUDIT.parent / 'trainer.yaml'}")
    (tmp_path / "recipe.yaml").write_text(text)
    code, said = ends(capsys, "predict", f"--config={tmp_path / 'recipe.yaml'}")
    assert code == 2
    assert "concept" in said


@pytest.mark.parametrize(("logger", "extra"), [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb")])
def test_a_missing_extra_is_named(
    logger: str, extra: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded, alone or among others."""
    monkeypatch.setattr(recipes, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    one = f"{{class_path: lightning.pytorch.loggers.{logger}, init_args: {{save_dir: logs}}}}"
    for option in (f"--trainer.logger=lightning.pytorch.loggers.{logger}", f"--trainer.logger=[{one}]"):
        code, said = ends(capsys, "fit", f"--config={RECIPES / 'erase/esd.yaml'}", option)
        assert code == 1
        assert f"{logger} needs a package that is not installed: pip install 'lit-memories[{extra}]'" in said
    assert list(tmp_path.iterdir()) == []


ESD = RECIPES / "erase/esd.yaml"
WEIGHTS = next((ROOT / "checkpoints/classifier").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("command", "recipe", "option", "said"),
    [
        ("predict", AUDIT, "--trainer.accelerator=gpu", "no GPU is there for --trainer.accelerator gpu: choose cpu"),
        ("fit", ESD, "--trainer.accelerator=cuda", "no GPU is there for --trainer.accelerator cuda: choose cpu"),
        ("predict", AUDIT, "--trainer.accelerator=x", "no trainer can be made with accelerator x, devices 1, strategy"),
        ("predict", AUDIT, "--trainer.accelerator=tpu", "accelerator tpu, devices 1, strategy auto and its other set"),
        ("predict", AUDIT, "--trainer.devices=0", "accelerator cpu, devices 0, strategy auto and its other settings: "),
        ("fit", ESD, "--trainer.devices=-1", "accelerator cpu, devices -1, strategy auto and its other settings: "),
        ("fit", ESD, "--trainer.devices=[]", "devices [], strategy auto and its other settings: "),
        ("fit", ESD, "--trainer.strategy=x", "devices 1, strategy x and its other settings: "),
        ("fit", ESD, "--trainer.num_nodes=0", "its other settings: `num_nodes` must be a positive integer"),
        ("fit", ESD, "--trainer.limit_train_batches=-1", "its other settings: "),
        ("predict", ESD, "--model.steps=1", "ESD is not for predict: run it with lit-memories fit or lit-memories val"),
        ("fit", AUDIT, "--model.seed=1", "ConceptAudit is not for fit: run it with lit-memories predict"),
        ("validate", AUDIT, "--model.seed=1", "ConceptAudit is not for validate: run it with lit-memories predict"),
        ("predict", AUDIT, "--data=null", "ConceptAudit needs data, and data is null: leave it as the recipe has it"),
        ("fit", RECIPES / "pretrain/classifier.yaml", "--data=null", "needs data, and data is null"),
        ("predict", AUDIT, "--model=null", "the following arguments are required: predict.model"),
        ("predict", AUDIT, "--model.seed=99999999999999999999", "model.seed must have 64 bits at most, got 99999999"),
        ("predict", AUDIT, "--model.guidance_scale=1e400", "model.guidance_scale must be a finite number, got inf"),
        ("predict", AUDIT, "--model.guidance_scale=.nan", "model.guidance_scale must be a finite number, got nan"),
        ("predict", AUDIT, "--model.inverter.tolerance=.inf", "model.inverter.tolerance must be a finite number"),
        ("fit", ESD, "--model.lr=-1e400", "model.lr must be a finite number, got -inf"),
        ("predict", AUDIT, "--model.num_inference_steps=null", "model.num_inference_steps cannot be null"),
        (
            "predict",
            AUDIT,
            "--model.inverter.tolerance=null",
            "Parser key 'tolerance': Expected a <class 'float'>. Got value: None",
        ),
        ("predict", AUDIT, "--data.known=null", "data.known cannot be null"),
        (
            "predict",
            AUDIT,
            "--model.probes=[{class_path: Samples, init_args: {guidance_scale: null}}]",
            "model.probes.guidance_scale cannot be null",
        ),
        ("fit", ESD, "--model.seed=null", "model.seed cannot be null"),
        ("fit", RECIPES / "erase/salun.yaml", "--model.mask_guidance=null", "model.mask_guidance cannot be null"),
        ("fit", RECIPES / "erase/salun.yaml", "--data.cache=null", "data.cache cannot be null"),
        ("fit", RECIPES / "erase/salun.yaml", "--data.seed=null", "data.seed cannot be null"),
        ("fit", ESD, "--model.steps=1000000000", "model.steps must be at most 1000000, got 1000000000: choose a smal"),
        ("fit", ESD, "--model.probe_size=1000000000", "model.probe_size must be at most 1000000, got 1000000000"),
        ("fit", RECIPES / "erase/salun.yaml", "--data.count=1000000000", "data.count must be at most 1000000"),
        (
            "fit",
            RECIPES / "pretrain/classifier.yaml",
            "--data.train_size=1000000000",
            "data.train_size must be at most",
        ),
        ("predict", AUDIT, "--data.known=1000000000", "data.known must be at most 1000000, got 1000000000"),
        ("predict", AUDIT, "--data.prompted=1000000000", "data.prompted must be at most 1000000, got 1000000000"),
        ("predict", AUDIT, "--data.concept_images.size=1000000000", "data.concept_images.size must be at most 1000000"),
        (
            "predict",
            AUDIT,
            "--trainer.limit_predict_batches=1",
            "limit_predict_batches would leave the run incomplete: ",
        ),
        (
            "predict",
            AUDIT,
            "--trainer.limit_predict_batches=0.5",
            "fewer samples with --data.concept_images.limit, --d",
        ),
        (
            "predict",
            AUDIT,
            "--data.concept_images.limit=0",
            "data.concept_images.limit must be at least 1, got 0: leave",
        ),
        (
            "predict",
            AUDIT,
            "--data.reference_images.limit=-3",
            "data.reference_images.limit must be at least 1, got -3",
        ),
        ("predict", AUDIT, "--model.probes=[{class_path: Seed, init_args: {limit: 0}}]", "limit must be at least 1"),
        ("fit", RECIPES / "pretrain/classifier.yaml", "--data.limit=0", "data.limit must be at least 1, got 0: leave"),
        ("predict", AUDIT, "--trainer.fast_dev_run=true", "--trainer.fast_dev_run would leave the run incomplete: ask"),
        (
            "fit",
            ESD,
            f"--ckpt_path={ESD}",
            "erase/esd.yaml is refused: it is damaged, or no file of weights, or a pickle that",
        ),
        ("fit", ESD, f"--ckpt_path={WEIGHTS}", "safetensors is no checkpoint of a training: name one (.ckpt) with --"),
        ("fit", ESD, "--ckpt_path=nowhere.ckpt", "nowhere.ckpt does not exist: name a checkpoint of a training (.ckpt"),
        ("fit", ESD, f"--ckpt_path={ROOT}", "is no file: name a checkpoint of a training (.ckpt) with --ckpt_path"),
        ("validate", ESD, "--ckpt_path=nowhere.ckpt", "nowhere.ckpt does not exist: name a checkpoint of a training"),
        ("fit", ESD, "--seed_everything=-1", "seed_everything must be in 0..4294967295, got -1"),
        ("fit", ESD, f"--seed_everything={10**30}", "seed_everything must have 64 bits at most, got 1000000000"),
    ],
)
def test_settings_that_cannot_be_are_named(
    command: str, recipe: Path, option: str, said: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is made: not even the run folder is there."""
    base = [f"--model.diffusion.base={tiny}"] if "pretrain" not in recipe.parts else []
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    code, message = ends(capsys, command, f"--config={recipe}", *base, "--trainer.callbacks=[]", folder, option)
    assert code in (1, 2)
    assert said in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["quickstart", "--out", ""], "--out is empty: give it a value, or leave it out"),
        (["report", "a", "--out="], "--out is empty"),
        (["export", "", "e", "out"], "an argument is empty"),
        (["convert", "w.pt", "base", ""], "an argument is empty"),
        (["predict", f"--config={AUDIT}", "--model.diffusion.base", ""], "--model.diffusion.base is empty"),
        (["predict", f"--config={AUDIT}", "--model.diffusion.erasure="], "--model.diffusion.erasure is empty"),
        (["predict", f"--config={AUDIT}", "--data.concept_images.path", " "], "--data.concept_images.path is empty"),
        (["fit", f"--config={ESD}", "--model.concept", ""], "--model.concept is empty"),
        (["fit", f"--config={ESD}", "--trainer.default_root_dir", ""], "--trainer.default_root_dir is empty"),
        (["fit", f"--config={ESD}", "--ckpt_path="], "--ckpt_path is empty"),
        (["fit", "--config", ""], "--config is empty"),
        (
            ["predict", f"--config={AUDIT}", "--data.concept_images={class_path: ImageSource, init_args: {path: ''}}"],
            "data.concept_images.path is empty",
        ),
    ],
)
def test_an_empty_value_is_not_taken_for_this_folder(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = ends(capsys, *argv)
    assert code in (1, 2)
    assert said in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["default_root_dir", "save_to"])
def test_an_empty_value_in_a_recipe_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a folder, too, which the parser would make a path of that is this one."""
    where = "trainer" if name == "default_root_dir" else "model"
    text = "model: {class_path: X, init_args: {save_to: ''}}" if where == "model" else "trainer: {default_root_dir: ''}"
    (tmp_path / "recipe.yaml").write_text(text)
    code, said = ends(capsys, "fit", f"--config={tmp_path / 'recipe.yaml'}")
    assert (code, f"{where}.{name} is empty: give it a value, or leave it out" in said) == (1, True)


def test_an_empty_text_may_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={ESD}", "--model.concept.anchor=", "--print_config"])
    assert stop.value.code == 0


def test_a_method_that_selects_has_something_to_select(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--model.diffusion.base={tiny}", "--model.train=null", f"--trainer.default_root_dir={tmp_path}"
    code, said = ends(capsys, "fit", f"--config={ESD}", *options)
    assert (code, "ESD trains what train selects: null is for methods" in said) == (1, True)


def test_what_lightning_refuses_later_is_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks at some settings only when the model is there."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    def refuse(*_: object, **__: object) -> None:
        raise MisconfigurationException("this and that\ncannot be")

    monkeypatch.setattr("lightning.pytorch.trainer.trainer._verify_loop_configurations", refuse)
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    code, said = ends(capsys, "fit", f"--config={ESD}", f"--model.diffusion.base={tiny}", folder)
    assert (code, said) == (1, "lit-memories fit: this and that cannot be")


def test_a_missing_recipe_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capsys, "fit", "--config=recipes/nowhere.yaml")
    assert code in (1, 2)
    assert "nowhere.yaml" in said


def test_a_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing"
    code, said = ends(capsys, "predict", f"--config={AUDIT}", f"--model.diffusion.base={missing}")
    assert code in (1, 2)
    assert str(missing) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.num_inference_steps=0", "num_inference_steps must be in 1..1000, got 0"),
        ("--model.num_inference_steps=1001", "num_inference_steps"),
        ("--model.inverter.max_evaluations=0", "max_evaluations"),
        ("--model.block_size=0", "block_size"),
        ("--model.concept.prompts=[]", "needs at least one prompt"),
        ("--data.batch_size=0", "batch_size"),
        ("--data.concept_images.keep={object: unicorn}", "no object 'unicorn'"),
        ("--data.concept_images.limit=0", "limit must be at least 1"),
        ("--model.diffusion.erasure=nowhere.pt", "may be a pickle"),
        ("--model.diffusion.erasure=nowhere", "'nowhere' is neither a folder nor in the cache"),
        ("--model.judge.classifier=nowhere", "no classifier in nowhere"),
    ],
)
def test_bad_values_are_named(
    option: str, named: str, tiny: Path, tiny_classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = (f"--model.diffusion.base={tiny}", f"--model.judge.classifier={tiny_classifier}")
    quiet = ("--trainer.callbacks=[]", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}")
    code, said = ends(capsys, "predict", f"--config={AUDIT}", *base, *quiet, option)
    assert code in (1, 2)
    assert named in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["export", "nowhere", "nothing", "out"], "'nothing' is neither a folder nor in the cache"),
        (["report", "nowhere"], "nowhere"),
        (["status", "nowhere"], "nowhere is not an audit run"),
        (["quickstart", "--concept=unicorn"], "unicorn"),
    ],
)
def test_tools_name_what_is_missing(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = ends(capsys, *argv)
    assert code in (1, 2)
    assert named in said


def test_a_tools_wrong_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ends(capsys, "draw", "out", "--sizze=3")
    assert code == 2
    assert "sizze" in said


COMMANDS = {
    "report": ["x"], "status": ["x"], "quickstart": [], "probes": [], "export": ["a", "b", "c"], "push": ["a", "b"],
    "findings": ["x"], "transfers": ["x"], "generate": ["x"], "draw": ["x"], "measure": ["a", "b"],
    "convert": ["a", "b", "c", "d"], "audit": ["x", "--concept=y", "--images=z"], "recipes": [], "leaderboard": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_a_tool_that_is_interrupted_says_so_in_a_word(
    tool: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its libraries are imported, and at work."""
    import_module(TOOLS[tool][0])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if tool in MANY:
        monkeypatch.setattr("lit_memories.cli._of_many", interrupt)
    else:
        monkeypatch.setattr("jsonargparse.auto_cli", interrupt)
    assert ends(capsys, tool, *COMMANDS[tool]) == (130, f"lit-memories {tool}: interrupted\n")
    monkeypatch.undo()

    class Importing:
        find_spec = staticmethod(interrupt)

    monkeypatch.delitem(sys.modules, TOOLS[tool][0])
    monkeypatch.setattr(sys, "meta_path", [Importing()])
    assert ends(capsys, tool, *COMMANDS[tool]) == (130, f"lit-memories {tool}: interrupted\n")


def test_training_that_is_interrupted_ends_as_shells_expect(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning ends the program itself, with 1."""
    from lit_memories.erasers.esd import ESD

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ESD, "training_step", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        code, said = ends(
            capsys, "fit", f"--config={RECIPES / 'erase/esd.yaml'}", f"--model.diffusion.base={tiny}",
            "--trainer.callbacks=[]", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}",
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert said.splitlines()[-1] == "lit-memories fit: interrupted"
    assert not (tmp_path / "erasure.json").exists()


def test_an_audit_that_is_interrupted_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "run", interrupt)
    code, said = ends(capsys, "predict", f"--config={AUDIT}")
    assert code == 130
    assert said == f"lit-memories predict: interrupted; {SAFE}\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ends(capsys, "predict", f"--config={AUDIT}") == (130, ""), "the first process says it for all"


def test_output_that_nobody_reads_ends_a_command_without_a_word(tmp_path: Path) -> None:
    """Whether it is printed as it is, or by rich, which ends the program itself."""
    RunInfo("run", "vanilla", "x", {}, "x", {}, 4, {}, {}).save(tmp_path)
    for argv in (["--help"], ["status", str(tmp_path)]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = as_a_program(*argv, out=writing)
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (141, "")


def test_help_has_a_form_for_streams_that_have_no_signs() -> None:
    for argv in (["--help"], ["probes"]):
        done = as_a_program(*argv, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("report . --draws=nan", "Expected a <class 'int'>. Got value: nan"),
        ("report . --draws=1e9", "Expected a <class 'int'>. Got value: 1000000000.0"),
        ("report . --draws=1000000000", "draws must be at most 1000000, got 1000000000: choose a smaller one"),
        ("report . --draws=0", "draws must be positive, got 0"),
        ("report . --draws=-1", "draws must be positive, got -1"),
        (f"report . --seed={10**30}", "seed must have 64 bits at most, got 1000"),
        ("status", "runs"),
        ("draw out --size=1000000000", "size must be at most 1000000, got 1000000000: choose a smaller one"),
        ("generate list.csv --batch_size=1000000000", "batch_size must be at most 1000000"),
        ("convert a.pt base out --alpha=.nan", "alpha must be a finite number, got nan"),
        ("convert a.pt base out --alpha=nan", "Expected a <class 'float'>"),
        ("draw out --size=x", "Expected a <class 'int'>. Got value: x"),
    ],
)
def test_numbers_of_tools_that_cannot_be_are_named(
    argv: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything is read or made."""
    monkeypatch.chdir(tmp_path)
    code, message = ends(capsys, *argv.split())
    assert code in (1, 2)
    assert named in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.stepps=5", "--model.stepps: ConceptAudit has no option stepps; did you mean num_inference_steps?"),
        ("--model.diffusion.basee=x", "--model.diffusion.basee: Diffusion has no option basee; did you mean base?"),
        ("--data.batchsize=4", "--data.batchsize: AuditData has no option batchsize; did you mean batch_size?"),
        ("--model.foo=1", "--model.foo: ConceptAudit has no option foo; it has block_size, concept, "),
    ],
)
def test_a_misspelt_option_of_a_part_is_named_in_full_with_the_nearest(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = ends(capsys, "predict", f"--config={AUDIT}", option)
    assert code == 2
    assert line.startswith(f"lit-memories predict: {said}")
