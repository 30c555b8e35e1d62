"""The data sets of the audit's paper: COCO's captions, Imagenette, and lists of prompts to draw from.

Nothing of them ships here: they come from the hub, or from files of the user.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from lit_memories.data.folders import Folder
from lit_memories.data.local import at_home
from lit_memories.data.opening import PARQUET_COPY, open_rows
from lit_memories.data.sources import LONGEST_CAPTION, ImageSource, Source
from lit_memories.storage.hub import redact
from lit_memories.storage.plain import parse_json

SEED_LIMIT = 2**63


@dataclass
class CocoCaptions(Source):
    """Images of COCO with the first caption of each, in the order of their file names: the audit's reference.

    The official code takes them in the order of the directory, which depends on the file system; the names that are
    used stand in ``run.json``.

    Args:
        root: folder with ``val2017/`` and ``annotations/captions_val2017.json``, as COCO's own archives unpack; images
            may lie in ``images/val2017/``, the captions beside them.
        limit: keep only the first images; None for all.
        split: which images: ``val2017``, officially.
    """

    root: str
    limit: int | None = None
    split: str = "val2017"

    def __post_init__(self) -> None:
        self._names: list[str] = []

    def describe(self) -> str:
        """One line for reports."""
        return f"COCO [{self.split}] in the order of file names, first captions"

    def details(self) -> dict[str, Any]:
        """The names of the images."""
        return {"names": self._names}

    def load(self) -> datasets.Dataset:
        """Find the images and their captions.

        Raises:
            FileNotFoundError: if there are none.
            ValueError: if the captions are damaged, or an image has none.
        """
        root = at_home(self.root)
        folder = next((place for place in (root / self.split, root / "images" / self.split) if place.is_dir()), root)
        name = f"captions_{self.split}.json"
        file = next((place for place in (root / "annotations" / name, root / name) if place.is_file()), root / name)
        there = Folder(folder).names if folder.is_dir() else []
        names = [image for image in there if "/" not in image and image.endswith(".jpg")]
        images = [folder / image for image in names[: self.limit]]
        if not images or not file.is_file():
            place, lacking = redact(self.root), "no captions" if images else "no images"
            raise FileNotFoundError(
                f"{place} holds {lacking} of COCO: unpack {self.split}.zip and "
                f"annotations_trainval{self.split[-4:]}.zip of cocodataset.org into {place}"
            )
        captions = _first_captions(file)
        if missing := [image.name for image in images if image.name not in captions]:
            place = redact(str(file))
            raise ValueError(f"{place} has no caption for {missing[0]}, nor for {len(missing) - 1} other images")
        self._names = [image.name for image in images]
        rows = {
            "image": [{"bytes": None, "path": str(image)} for image in images],
            "caption": [captions[name] for name in self._names],
        }
        features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
        return datasets.Dataset.from_dict(rows, features=features)


def _first_captions(file: Path) -> dict[str, str]:
    """Of each image's captions the first in the order of annotations, by file name."""
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[str, str] = {}
        for annotation in content["annotations"]:
            captions.setdefault(names[annotation["image_id"]], str(annotation["caption"]))
    except (KeyError, TypeError, ValueError) as error:
        place, reason = redact(str(file)), f"{type(error).__name__} {error}"
        raise ValueError(f"{place} is not a file of COCO captions: {reason}") from None
    return captions


@dataclass
class Imagenette(ImageSource):
    """Ten classes of ImageNet, four of the paper's among them: tench, church, garbage truck and parachute.

    The data set on the hub is a script, which is not run: this reads the hub's parquet copy of it. Choose a class with
    ``where: {label: church}``. Arguments as for `ImageSource`, with these defaults.
    """

    path: str = "frgfm/imagenette"
    split: str = "validation"
    caption: str = "a photo of a {label}"
    revision: str | None = PARQUET_COPY
    name: str | None = "320px"


@dataclass(frozen=True)
class PromptRow:
    """A picture to be drawn.

    Args:
        case_number: which in its list; names the picture's file.
        prompt: what to draw.
        seed: of its latents.
        guidance_scale: the list's, if it has one; officially ignored.
    """

    case_number: int
    prompt: str
    seed: int
    guidance_scale: float | None = None


@dataclass
class PromptList:
    """A list of prompts: a text file (``.txt``) with one a line, or a CSV file whose first row names its columns.

    Published ones are laid out in the second way. Columns are ``case_number``, ``prompt`` and ``evaluation_seed``, and
    ``evaluation_guidance`` if there is one, as in the paper's six; or go by the other names of `COLUMNS`, under which
    I2P and the lists of attacks have them. Without case numbers rows are numbered from 0, and without seeds the number
    is the seed. Other columns are ignored, and so are empty lines of a text file.

    Args:
        path: the file.
    """

    path: str

    def load(self) -> list[PromptRow]:
        """Read it.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if a column is missing or a row damaged; names file and row.
        """
        file, place = at_home(self.path), redact(self.path)
        if not file.is_file():
            raise FileNotFoundError(f"{place} is not a file: give a CSV file with case_number, prompt and "
                                    "evaluation_seed, or a text file (.txt) with one prompt a line")  # fmt: skip
        plain = file.suffix.lower() == ".txt"
        with file.open(encoding="utf-8-sig", newline=None if plain else "") as opened:
            try:
                texts = ({"prompt": line.strip()} for line in opened if plain and line.strip())
                lines = list(texts if plain else csv.DictReader(opened))
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{place} is not a {'text' if plain else 'CSV'} file in UTF-8: {error}") from None
        return _prompt_rows(lines, place)


@dataclass
class I2P:
    """The prompts of the benchmark I2P (Schramowski et al. 2023), of which the paper's list for nudity is a part.

    Args:
        path: hub id.
        revision: git revision.
    """

    path: str = "AIML-TUDA/i2p"
    revision: str | None = None

    def load(self) -> list[PromptRow]:
        """Read them; their number is that of the row.

        Raises:
            FileNotFoundError: if the hub cannot be reached.
            ValueError: if a column is missing or a row damaged.
        """
        columns = {"prompt", "sd_seed", "sd_guidance_scale"}
        rows = open_rows(self.path, None, "train", self.revision, streaming=False, wanted=columns).rows
        return _prompt_rows([dict(row) for row in rows], redact(self.path))


COLUMNS = {
    "prompt": ("prompt", "adv_prompt", "adversarial_prompt", "sensitive prompt", "target_prompt", "text"),
    "case_number": ("case_number", "case", "id"),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance_scale": ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance"),
}
"""What columns of published lists are called, the first name first."""


def _prompt_rows(lines: list[Any], where: str) -> list[PromptRow]:
    """Rows of a table as pictures to draw."""
    if not lines:
        raise ValueError(f"{where} holds no prompts")
    there = {name.strip().lower(): name for name in lines[0] if isinstance(name, str)}
    columns = {kind: next((there[name] for name in names if name in there), None) for kind, names in COLUMNS.items()}
    if columns["prompt"] is None:
        raise ValueError(f"{where} has no column 'prompt': it has {', '.join(map(str, lines[0]))}")
    rows: dict[int, PromptRow] = {}
    for number, line in enumerate(lines):
        try:
            row = _prompt_row(line, number, columns)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: row {number + 1} is damaged: {error}") from None
        if row.case_number in rows:
            raise ValueError(f"{where}: row {number + 1} has the case number {row.case_number} of another row")
        rows[row.case_number] = row
    return list(rows.values())


def _prompt_row(line: Mapping[str, Any], row: int, columns: Mapping[str, str | None]) -> PromptRow:
    def number(name: str, default: int) -> int:
        if (column := columns[name]) is None:
            return default
        value = _whole(line[column])
        if not 0 <= value < SEED_LIMIT:
            raise ValueError(f"{column} cannot be {value}")
        return value

    prompt, guidance = line[str(columns["prompt"])], line.get(str(columns["guidance_scale"]))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("it has no prompt")
    if len(prompt) > LONGEST_CAPTION:
        raise ValueError(f"its prompt has more than {LONGEST_CAPTION} letters")
    if None in line:
        raise ValueError("it has more values than there are columns: a prompt with a comma needs quotation marks")
    scale = None if guidance in (None, "") else float(guidance)
    if scale is not None and not 0 <= scale < 1000:
        raise ValueError(f"{columns['guidance_scale']} cannot be {guidance}")
    case_number = number("case_number", row)
    return PromptRow(case_number, prompt, number("seed", case_number), scale)


def _whole(value: Any) -> int:
    """A whole number, as tables have it that were floating point once: ``123.0``."""
    try:
        return int(value)
    except ValueError:
        if float(value).is_integer():
            return int(float(value))
        raise
