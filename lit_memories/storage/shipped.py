"""What ships with this package: a library of recipes within it, and small models in a package beside it."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MODELS = "checkpoints"
"""What recipes call the folder of shipped models, ``checkpoints/NAME``."""
MODELS_PACKAGE = "lit-memories-models"
SUMS = "SHA256SUMS"


def shipped(name: str) -> Path:
    """A folder of the repository: where a wheel has it, within the package, or that of the checkout.

    Args:
        name: ``recipes`` or ``checkpoints``, of which a wheel has the checksums alone.
    """
    installed = PACKAGE / "shipped" / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def model_folder(name: str | Path) -> Path:
    """Where a model is that a recipe calls ``checkpoints/NAME``; another name, and one of a folder here, stays.

    Args:
        name: of the model, or of a part of it, ``checkpoints/NAME/vae``.

    Raises:
        FileNotFoundError: if it is neither here, nor in the checkout, nor in the installed package of models.
        ValueError: if the installed one is not the model that this release ships.
    """
    path = Path(name)
    if path.parts[:1] != (MODELS,) or len(path.parts) < 2 or ".." in path.parts or path.exists():
        return path
    if (ours := shipped(MODELS).joinpath(*path.parts[1:])).exists():
        return ours
    try:
        installed = distribution(MODELS_PACKAGE)
    except PackageNotFoundError:
        raise FileNotFoundError(
            f"{name} is not here: install the wheel {MODELS_PACKAGE}, which has the shipped models, or train them by "
            "make checkpoints in a checkout"
        ) from None
    root = Path(str(installed.locate_file(MODELS_PACKAGE.replace("-", "_"))))
    if not (theirs := root.joinpath(*path.parts[1:])).exists():
        there = ", ".join(sorted(folder.name for folder in root.glob("*/")))
        raise FileNotFoundError(
            f"{name} is not here, and {MODELS_PACKAGE} {installed.version} has {there or 'no model'}: name one of "
            f"them as {MODELS}/NAME, or train this one by its recipe, see lit-memories recipes list pictograms/pretrain"
        )
    check_sums(root, path.parts[1], shipped(MODELS) / SUMS)
    return theirs


@cache
def check_sums(root: Path, model: str, sums: Path) -> None:
    """Refuse a model whose files are not, to the byte, those that a list of checksums has; looked at once a process.

    Args:
        root: folder of models.
        model: name of the one.
        sums: lines of a SHA-256 and a path from `root`.

    Raises:
        ValueError: naming the first file that is another one or missing, or the model if the list has none of it.
    """
    lines = [line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines()]
    expected = {name: digest for digest, name in lines if name.startswith(f"{model}/")}
    if not expected:
        raise ValueError(f"{root / model} is not of the models of this release: install {MODELS_PACKAGE} of the same")
    for name, digest in expected.items():
        file = root / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{file} is damaged, or of another release: its SHA-256 is not the one in {sums}; install "
                f"{MODELS_PACKAGE} anew"
            )
