"""``lit-memories audit``: the common case in one command, which writes the recipe that it runs."""

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lit_memories.concept import check_described
from lit_memories.erasure import PROVENANCE_FILE, Provenance
from lit_memories.recipe_files import read_recipe
from lit_memories.recipe_names import find, library, nearest
from lit_memories.storage.configs import read_config
from lit_memories.storage.files import check_inside, write
from lit_memories.storage.hub import fetch, redact
from lit_memories.terminal import printable

FAMILIES = {
    "StableDiffusionPipeline": "sd14/audit/concept",
    "StableDiffusionXLPipeline": "sdxl/audit/concept",
    "StableDiffusion3Pipeline": "sd35/audit/concept",
    "FluxPipeline": "flux/audit/concept",
}
"""The library's audit for each kind of pipeline."""
ANY_CONCEPT = {
    "class_path": "lit_memories.judges.clip.CLIPJudge",
    "init_args": {"model_id": "openai/clip-vit-large-patch14"},
}
"""The judge of a concept that a recipe's own was not chosen for."""
WORLD = "pictograms"
"""In the place of a data set: pictures of the pictogram world, drawn on the spot."""
INDEX_FILE = "model_index.json"
SOURCES = "lit_memories.data.sources"
RECIPE_FILE = "recipe.yaml"


def audit(
    model: str,
    concept: Path,
    images: str,
    others: str | None = None,
    base: str | None = None,
    control: str | None = None,
    out: Path = Path("runs/audited"),
) -> None:
    """Audit a model, and the one that it was made of, for a concept, and write the report.

    The recipe is one of the library for such models, with this concept and these pictures; it is printed, and written
    to the folder, where it can be changed and run again by ``lit-memories predict``.

    Args:
        model: folder or hub id of an erasure, or of a whole pipeline that something was erased from.
        concept: file of the concept, or its name in the library.
        images: data set with pictures of the concept and captions: folder, files or hub id; or ``pictograms``.
        others: data set with pictures of other things; not needed of pictograms.
        base: folder or hub id of the model before; an erasure says it itself.
        control: folder or hub id of a model that never knew the concept, by which forgetting gets a scale.
        out: folder for everything that is made.

    Raises:
        ValueError: if pictures of other things or the base are not said, there is no recipe for such models, or the
            folder holds another.
        FileNotFoundError: if the model, the control, or the concept's file, is not there.
    """
    file = find(str(concept))
    if file is None:
        near = ", ".join(nearest(str(concept))) or "none in the library"
        raise FileNotFoundError(f"{concept} is no file of a concept, nor its name; nearest: {near}")
    described = read_recipe(file)
    check_described(described, str(concept))
    check_inside(out, ("vanilla", "audited", "control", RECIPE_FILE))
    erased, before = _before(model, base)
    if control is not None and (_known(control) / PROVENANCE_FILE).is_file():
        raise ValueError(f"{control} is an erasure, which cannot be --control: that is a whole model")
    name = _recipe_for(str(before["base"]), before.get("revision"), images)
    settings = read_recipe(library()[name])
    text = redact(
        yaml.safe_dump(_changed(settings, described, before, images, others), sort_keys=False, allow_unicode=True)
    )
    console = Console(highlight=False)
    console.print(printable(f"recipe {name}, with this concept, these pictures and this base:"), markup=False)
    console.print(text, markup=False, soft_wrap=True)
    recipe, text = out / RECIPE_FILE, f"# Made of {name} by lit-memories audit\n{text}"
    if recipe.exists() and recipe.read_text(encoding="utf-8", errors="replace") != text:
        raise ValueError(f"{recipe} is there and says something else: name another --out, or move it")
    write(recipe, text)
    changed = [f"--model.diffusion.erasure={model}"] if erased else [f"--model.diffusion.base={model}"]
    # the audited model first: an erasure that is not of this base is refused before hours of vanilla's audit
    runs: dict[str, list[str]] = {"audited": [*changed, "--model.role=erased"], "vanilla": []}
    if control is not None:
        runs["control"] = [f"--model.diffusion.base={control}", "--model.role=control"]
    for run, options in runs.items():
        console.rule(run)
        _predict(recipe, out / run, options)
    from lit_memories.report import report

    report([out / run for run in ("vanilla", "audited", "control") if run in runs], out)


def _predict(recipe: Path, folder: Path, options: list[str]) -> None:
    from lit_memories.recipes import run

    run(["predict", f"--config={recipe}", *options, f"--trainer.default_root_dir={folder}"])


def _known(name: str, revision: str | None = None) -> Path:
    """What says what an erasure or a model is, without its weights, so that a wrong one is told before any work.

    Raises:
        ValueError: if a folder is neither.
        FileNotFoundError: if nothing is there.
    """
    says = (PROVENANCE_FILE, INDEX_FILE)
    folder = fetch(name, lambda files: [file for file in files if file in says], revision).folder
    if folder.is_dir() and not any((folder / file).is_file() for file in says):
        raise ValueError(f"{name} is neither an erasure nor a model: it has no {' and no '.join(says)}")
    return folder


def _before(model: str, base: str | None) -> tuple[bool, dict[str, Any]]:
    """Whether a model is an erasure, and settings of the model that it was made of.

    Raises:
        ValueError: if a whole pipeline does not say what it was made of.
    """
    folder = _known(model)
    if not (file := folder / PROVENANCE_FILE).is_file():
        if base is None:
            raise ValueError(f"{model} is no erasure but a whole model: say with --base which one it was made of")
        return False, {"base": base}
    origin = Provenance.read(file)
    return True, {"base": base} if base is not None else {"base": origin.base, "revision": origin.base_revision}


def _recipe_for(base: str, revision: str | None, images: str) -> str:
    """The library's recipe for models like a base.

    Raises:
        ValueError: if there is none.
    """
    folder = _known(base, revision)
    kind = read_config(folder / INDEX_FILE).get("_class_name") if folder.is_dir() else "checkpoint in one file"
    if kind not in FAMILIES:
        raise ValueError(f"{base} is a {kind}, for which there is no recipe: known are {', '.join(FAMILIES)}")
    return "pictograms/audit/umbrella" if images == WORLD else FAMILIES[kind]


def _changed(
    settings: dict[str, Any], concept: dict[str, Any], before: dict[str, Any], images: str, others: str | None
) -> dict[str, Any]:
    """A recipe with another concept, base and pictures; its judge stays where it looks for this concept, or any.

    Raises:
        ValueError: if pictures of other things are not said, or the world has none of the concept.
    """
    model, data = settings["model"]["init_args"], settings["data"]["init_args"]
    if images == WORLD:
        if not concept.get("factors"):
            raise ValueError(f"the pictogram world has no {concept['name']}: its file needs factors, or name --images")
        data["concept_images"]["init_args"]["keep"] = concept["factors"]
        data["reference_images"]["init_args"]["withhold"] = [concept["factors"]]
    else:
        if others is None:
            raise ValueError("name pictures of other things with --others: forgetting is what moves beyond them")
        for name, path in (("concept_images", images), ("reference_images", others)):
            data[name] = {"class_path": f"{SOURCES}.ImageSource", "init_args": {"path": path}}
        if model["concept"]["name"] != concept["name"]:
            model["judge"] = ANY_CONCEPT
    model["concept"] = concept
    model["diffusion"] = {**model["diffusion"], **before}
    return settings
