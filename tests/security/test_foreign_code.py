"""Models, data sets, checkpoints and recipes that bring code along: it does not run."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, CLIPModel

from lit_memories.data.sources import ImageSource
from lit_memories.diffusion import Diffusion
from lit_memories.judges.hub import load_image_processor, load_model, load_tokenizer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lit_memories"
Refused = Callable[..., str]


@pytest.fixture
def code(marker: Path) -> str:
    """A module that makes the marker when it is imported, and has a class of any name that is asked for."""
    return (
        f"open({str(marker)!r}, 'w').close()\nclass Evil:\n    from_pretrained = from_config = lambda *a, **k: None\n"
    )


@pytest.fixture(autouse=True)
def _nothing_ran(marker: Path, code: str) -> Any:
    """After every test: the module was not imported; and it does leave its mark if it is."""
    yield
    assert not marker.exists(), "foreign code was executed"
    exec(code, {})  # noqa: S102
    assert marker.exists()


def edited(tiny: Path, folder: Path, **entries: Any) -> Path:
    """A copy of a pipeline with other entries in its index."""
    shutil.copytree(tiny, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | entries))
    return folder


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_of_a_pipeline_that_is_its_own_class(part: str, tiny: Path, code: str, tmp_path: Path) -> None:
    folder = edited(tiny, tmp_path / "pipeline", **{part: ["evil", "Evil"]})
    for place in (folder, folder / part):
        (place / "evil.py").write_text(code)
    with pytest.raises(ValueError, match=f"the {part} of the pipeline in .* not supported"):
        Diffusion.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["pipeline", ["pipeline", "Evil"], "evil", "DiffusionPipeline", None, 3, {"a": 1}, "StableDiffusionPipelin"]
)
def test_a_pipeline_that_is_its_own_class(name: Any, tiny: Path, code: str, tmp_path: Path) -> None:
    folder = edited(tiny, tmp_path / "pipeline", _class_name=name)
    for file in ("pipeline.py", "evil.py"):
        (folder / file).write_text(code)
    with pytest.raises(ValueError, match=r"not supported|names no pipeline"):
        Diffusion.from_pretrained(folder)


def test_parts_from_other_libraries(tiny: Path, tmp_path: Path) -> None:
    for number, entry in enumerate((["os", "system"], ["builtins", "exec"], ["transformers", "pipeline"])):
        with pytest.raises(ValueError, match="not supported"):
            Diffusion.from_pretrained(edited(tiny, tmp_path / str(number), unet=entry))


def test_a_judge_with_code(code: str, tmp_path: Path) -> None:
    auto = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForImageClassification": "evil.Evil"}
    auto |= {"AutoTokenizer": ["evil.Evil", None], "AutoImageProcessor": "evil.Evil", "AutoProcessor": "evil.Evil"}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "evil", "auto_map": auto, "architectures": ["Evil"]}))
    (tmp_path / "evil.py").write_text(code)
    for load in (
        lambda: load_model(AutoModelForImageClassification, tmp_path),
        lambda: load_model(CLIPModel, tmp_path),
        lambda: load_tokenizer(tmp_path),
        lambda: load_image_processor(tmp_path),
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            load()


def test_a_data_set_that_is_a_script(code: str, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(code)
    with pytest.raises(FileNotFoundError, match="holds no pictures, nor parquet tables"):
        ImageSource(str(folder)).load()


def test_a_checkpoint_does_not_say_which_classes_are_made(tiny: Path, tmp_path: Path, refused: Refused) -> None:
    """Lightning would let a checkpoint's hyper-parameters replace the recipe's model."""
    hostile = {"_class_path": "lightning.pytorch.demos.boring_classes.BoringModel", "_instantiator": "x"}
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": hostile, "pytorch-lightning_version": "2.6.0"}, file)
    message = refused(
        "fit", f"--config={ROOT / 'recipes/pictograms/erase/esd.yaml'}", f"--model.diffusion.base={tiny}",
        "--trainer.callbacks=[]", f"--trainer.default_root_dir={tmp_path / 'run'}", f"--ckpt_path={file}",
        "--model.steps=nonsense",
    )  # fmt: skip
    assert "steps" in message, "the recipe's own model was parsed"


@pytest.mark.parametrize(
    "tag",
    ["object/apply:os.system ['touch MARKER']", "object/new:os.system ['touch MARKER']", "name:os.system", "module:os"],
)
def test_a_recipe_with_tags_of_python(tag: str, marker: Path, tmp_path: Path, refused: Refused) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"seed_everything: !!python/{tag.replace('MARKER', str(marker))}\n")
    assert "could not determine a constructor" in refused("predict", f"--config={recipe}")


UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
EVALUATORS = {"eval", "exec", "compile", "__import__", "unsafe_load", "full_load"}


def test_the_package_trusts_no_file() -> None:
    """Nothing unpickles, evaluates, or lets a library run what a repository brings."""
    loads = 0
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert "trust_remote_code=True" not in text, file
        assert "custom_pipeline" not in text, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not UNPICKLERS & names, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in EVALUATORS, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads += 1
                assert {word.arg: ast.unparse(word.value) for word in node.keywords}["weights_only"] == "True"
    assert loads, "this test looks at torch.load, which reads official files"
