"""Both wheels, installed into a fresh environment, do from an empty folder what a checkout does."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import lit_memories
from lit_memories.recipe_names import library

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NEEDED = "pyproject.toml", "setup.py", "README.md", "LICENSE", "lit_memories", "recipes", "checkpoints"


def ran(*command: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=own | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the code and of the models, made of a copy of the checkout without a network."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made)
    ran(sys.executable, "-m", "pip", "wheel", *options, ".", "./checkpoints", folder=source)
    return sorted(made.glob("*.whl"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees this one's libraries, but not this one's checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    return folder / "bin/python"


def install(wheel: Path, python: Path) -> None:
    """Into an environment, before it sees this one's libraries, among which pip would find the package installed."""
    seen = next(python.parents[1].glob("lib/python*/site-packages")) / "seen.pth"
    seen.unlink(missing_ok=True)
    options = "--quiet", "--no-index", "--no-deps"
    pip = sys.executable, "-m", "pip", "--python", str(python), "install", *options
    ran(*pip, str(wheel), folder=python.parent)
    seen.write_text(f"{sysconfig.get_path('purelib')}\n")


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_code_is_small_and_whole(wheels: Sequence[Path]) -> None:
    code, _ = wheels
    assert code.stat().st_size < 2_000_000
    package = ROOT / "lit_memories"
    kinds = ("*.py", "*.html", "*.css", "*.js", "*.json", "py.typed")
    files = {file for kind in kinds for file in package.rglob(kind)}
    expected = {file.relative_to(ROOT).as_posix() for file in files}
    expected |= {f"lit_memories/shipped/recipes/{name}.yaml" for name in library()}
    expected |= {"lit_memories/shipped/checkpoints/SHA256SUMS"}
    assert {name for name in names(code) if ".dist-info/" not in name} == expected


def test_the_models_are_those_of_the_checksums(wheels: Sequence[Path]) -> None:
    listed = {line.split()[1] for line in (ROOT / "checkpoints/SHA256SUMS").read_text().splitlines()}
    found = {name for name in names(wheels[1]) if ".dist-info/" not in name}
    assert found == {f"lit_memories_models/{name}" for name in (*listed, "SHA256SUMS")}


def test_from_an_empty_folder(wheels: Sequence[Path], python: Path, tmp_path: Path) -> None:
    """Versions, listings, a copy, and an erasure by a recipe's name: first without the models, then with them."""
    program = str(python.parent / "lit-memories")
    install(wheels[0], python)
    said = ran(str(python), "-c", "import lit_memories; print(lit_memories.__file__)", folder=tmp_path).stdout
    assert Path(said.strip()).is_relative_to(python.parents[1])
    assert ran(program, "--version", folder=tmp_path).stdout.strip() == lit_memories.__version__
    listed = ran(program, "recipes", folder=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(library())
    ran(program, "recipes", "copy", "pictograms/erase", "mine", folder=tmp_path)
    assert (tmp_path / "mine/pictograms/concepts/umbrella.yaml").is_file()
    missing = ran(program, "quickstart", folder=tmp_path, check=False)
    assert missing.returncode == 1
    assert re.fullmatch(r"lit-memories quickstart: .* install the wheel lit-memories-models.*\n", missing.stderr)

    install(wheels[1], python)
    small = "--model.steps=2", "--model.batch_size=2", "--model.num_inference_steps=2", "--model.probe_size=2"
    for recipe, out in (("pictograms/erase/esd", "named"), ("mine/pictograms/erase/esd.yaml", "copied")):
        ran(program, "fit", "--config", recipe, *small, f"--trainer.default_root_dir={out}", folder=tmp_path)
        found = json.loads((tmp_path / out / "erasure.json").read_text())
        assert (found["base"], found["steps"]) == ("checkpoints/pictograms", 2)
    assert not (tmp_path / "checkpoints").exists()


def test_the_index_would_take_them(wheels: Sequence[Path], tmp_path: Path) -> None:
    """Metadata and descriptions are in order; twine comes with the extra for linting."""
    pytest.importorskip("twine")
    ran(sys.executable, "-m", "twine", "check", "--strict", *map(str, wheels), folder=tmp_path)
