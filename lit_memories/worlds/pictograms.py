"""The pictogram world: small pictures whose every fact is known.

A picture shows one object in one colour on one background, in one style, at a random place, size and tilt. Its
caption names the four factors: ``"a red umbrella on a blue background, striped style"``. Row ``index`` of split
``split`` is a pure function of the two, so a data set can be rebuilt anywhere, and a control that never saw a concept
is trained on exactly the same rows less those that show it.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import matplotlib
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from lit_memories.data.unpacked import rows_cache
from lit_memories.worlds.base import Grammar, World, features, passes, shows

OBJECTS: dict[str, str] = {
    "umbrella": "☂",
    "anchor": "⚓",
    "airplane": "✈",
    "telephone": "☎",
    "skull": "☠",
    "scissors": "✂",
    "knight": "♞",
    "snowflake": "❄",
    "star": "★",
    "heart": "♥",
    "clover": "♣",
    "note": "♪",
    "gear": "⚙",
    "crown": "♛",
    "flag": "⚑",
    "castle": "♜",
}
"""Object names and the glyph of DejaVu Sans (the font inside matplotlib) that draws each."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (206, 52, 52),
    "yellow": (240, 196, 64),
    "green": (48, 146, 84),
    "blue": (64, 100, 206),
    "white": (232, 232, 232),
    "black": (40, 40, 40),
}
"""Colour names and 8-bit RGB values; object and background never share one."""

STYLES: tuple[str, ...] = ("solid", "outline", "striped")

FACTORS: dict[str, tuple[str, ...]] = {
    "object": tuple(OBJECTS),
    "color": tuple(COLORS),
    "background": tuple(COLORS),
    "style": STYLES,
}
"""The four factors of a picture and the values each can take, in class-label order."""

GRAMMAR = Grammar(
    FACTORS,
    "a {color} {object} on a {background} background, {style} style",
    (
        "{object}",
        "{style} style",
        "a {color} {object}",
        "{object}, {style} style",
        "a {color} {object} on a {background} background",
        "a {object} on a {background} background, {style} style",
    ),
)
"""How a caption names them."""

VERSION = 2
"""To be raised with every change of what a row looks like; caches are named by it."""

IMAGE_SIZE = 64
_SUPERSAMPLING = 4
_STROKE_PX = 3
_STRIPE_PERIOD_PX = 10
_STRIPE_DUTY = 0.55
_STRIPE_FAINT = 90  # between the stripes the object stays faintly visible, else thin ones fall apart


@dataclass(frozen=True)
class Pictogram:
    """What a picture shows: one value of each factor in `FACTORS`."""

    object: str
    color: str
    background: str
    style: str

    def __post_init__(self) -> None:
        for factor, values in FACTORS.items():
            if (value := getattr(self, factor)) not in values:
                raise ValueError(f"unknown {factor} {value!r}: choose one of {', '.join(values)}")
        if self.color == self.background:
            raise ValueError(f"a {self.color} {self.object} on a {self.background} background cannot be seen")

    @property
    def labels(self) -> dict[str, str]:
        """Its value of each factor."""
        return {factor: getattr(self, factor) for factor in FACTORS}

    @property
    def caption(self) -> str:
        """The picture's caption, by the world's one grammar."""
        return GRAMMAR.say(self.labels)


@dataclass(frozen=True)
class Placement:
    """Where the object stands: centre and longest side in pixels of a 64 x 64 image, tilt in degrees."""

    x: float = IMAGE_SIZE / 2
    y: float = IMAGE_SIZE / 2
    size: float = 46.0
    tilt: float = 0.0


def parse_caption(caption: str) -> Pictogram:
    """Read the factors back from a caption.

    Raises:
        ValueError: if the caption does not follow the grammar of `Pictogram.caption`.
    """
    try:
        return Pictogram(**GRAMMAR.parse(caption))
    except ValueError as error:
        raise ValueError(f"not a pictogram caption: {caption!r} ({error})") from None


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _glyph(name: str, pixels: int, tilt: float, stroke: int = 0) -> Image.Image:
    """The glyph's mask, its longest side `pixels`, tilted about its centre, on a square canvas."""
    box = _font(1000).getbbox(OBJECTS[name], anchor="mm")
    font_size = round(1000 * pixels / max(box[2] - box[0], box[3] - box[1]))
    font = _font(font_size)
    left, top, right, bottom = font.getbbox(OBJECTS[name], anchor="mm")
    canvas = math.ceil(pixels * 1.5) + 4 * stroke
    mask = Image.new("L", (canvas, canvas), 0)
    center = (canvas / 2 - (left + right) / 2, canvas / 2 - (top + bottom) / 2)
    ImageDraw.Draw(mask).text(center, OBJECTS[name], font=font, fill=255, anchor="mm", stroke_width=stroke)
    return mask.rotate(tilt, resample=Image.Resampling.BICUBIC)


def _stripes(size: int, period: int) -> Image.Image:
    rows, columns = np.indices((size, size))
    on = ((rows + columns) % period) < _STRIPE_DUTY * period
    return Image.fromarray(np.where(on, 255, _STRIPE_FAINT).astype(np.uint8))


def render(picture: Pictogram, placement: Placement = Placement()) -> Image.Image:
    """Draw a picture: 64 x 64 pixels, RGB, anti-aliased.

    Args:
        picture: the four factors.
        placement: where the object stands.
    """
    scale = _SUPERSAMPLING
    pixels = round(placement.size * scale)
    if picture.style == "outline":
        stroke = _STROKE_PX * scale
        pixels -= 2 * stroke
        mask = _glyph(picture.object, pixels, placement.tilt, stroke)
        inside = _glyph(picture.object, pixels, placement.tilt)
        margin = (mask.width - inside.width) // 2
        hole = Image.new("L", mask.size, 0)
        hole.paste(inside, (margin, margin))
        mask = ImageChops.subtract(mask, hole)
    else:
        mask = _glyph(picture.object, pixels, placement.tilt)
        if picture.style == "striped":
            mask = ImageChops.multiply(mask, _stripes(mask.width, _STRIPE_PERIOD_PX * scale))
    image = Image.new("RGB", (IMAGE_SIZE * scale,) * 2, COLORS[picture.background])
    corner = (round(placement.x * scale - mask.width / 2), round(placement.y * scale - mask.height / 2))
    image.paste(COLORS[picture.color], corner, mask)
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def draw(split: str, index: int) -> tuple[Pictogram, Placement]:
    """The content of row `index` of split `split`: a pure function of the two."""
    digest = hashlib.sha256(f"pictograms/{split}/{index}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    color, background = rng.choice(list(COLORS), size=2, replace=False)
    picture = Pictogram(
        object=str(rng.choice(list(OBJECTS))),
        color=str(color),
        background=str(background),
        style=str(rng.choice(STYLES)),
    )
    size = rng.uniform(42, 48)
    x, y = IMAGE_SIZE / 2 + rng.uniform(-4, 4, size=2)
    return picture, Placement(float(x), float(y), float(size), float(rng.uniform(-8, 8)))


FEATURES = datasets.Features({**features(FACTORS), "split": datasets.Value("string"), "index": datasets.Value("int64")})


def _rows(
    split: str,
    size: int,
    withhold: Sequence[Mapping[str, str]],
    keep: Mapping[str, str],
    limit: int | None,
    version: int,  # only there to change the fingerprint under which `datasets` caches the rows
) -> Iterator[dict[str, Any]]:
    left = size if limit is None else limit
    for index in range(size):
        picture, placement = draw(split, index)
        if left > 0 and passes(picture.labels, keep, withhold):
            left -= 1
            facts = {"caption": picture.caption, **picture.labels, "split": split, "index": index}
            yield {"image": render(picture, placement), **facts}


def build(
    split: str,
    size: int,
    *,
    withhold: Sequence[Mapping[str, str]] = (),
    keep: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> datasets.Dataset:
    """Build a split as a Hugging Face data set (cached by `datasets` under its own fingerprint).

    Args:
        split: any name; ``"train"``, ``"validation"`` and ``"test"`` are the ones used here.
        size: number of rows before `withhold` and `keep` take their share away.
        withhold: concepts to leave out, each a mapping of factor to value.
        keep: if given, only rows with these factor values stay.
        limit: if given, only the first rows that pass stay.

    Returns:
        Columns ``image``, ``caption``, the four factors as class labels, ``split`` and ``index``.
    """
    for factors in (*withhold, keep or {}):
        PictogramWorld().check(factors)
    arguments: dict[str, Any] = {
        "split": split,
        "size": size,
        "withhold": tuple(withhold),
        "keep": dict(keep or {}),
        "limit": limit,
    }
    arguments["version"] = VERSION  # and no lists: `datasets` would take them for shards and run once for each entry
    if next(_rows(**arguments), None) is None:
        return datasets.Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
    return datasets.Dataset.from_generator(_rows, features=FEATURES, cache_dir=rows_cache(), gen_kwargs=arguments)


class PictogramWorld(World):
    """Every row of it is drawn on the spot, and every split is endless."""

    name = "pictograms"
    image_size = IMAGE_SIZE

    @property
    def grammar(self) -> Grammar:
        """Four factors, and captions that say them."""
        return GRAMMAR

    def rows(self, split: str, size: int | None = None) -> datasets.Dataset:
        """The first rows of a split, 24 000 if none says how many, as models are trained on."""
        return build(split, 24_000 if size is None else size)

    def chosen(
        self,
        split: str,
        size: int | None = None,
        keep: Mapping[str, str] | None = None,
        withhold: Sequence[Mapping[str, str]] = (),
        limit: int | None = None,
    ) -> datasets.Dataset:
        """The first rows of a split that show one thing and none of others; no others are drawn."""
        return build(split, 2000 if size is None else size, keep=keep, withhold=withhold, limit=limit)

    def asked(self, split: str, count: int, concept: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """Factor values of the first rows of a split, without drawing them."""
        self.check(concept or {})
        pictures = (draw(split, index)[0].labels for index in itertools.count())
        return list(itertools.islice((labels for labels in pictures if shows(labels, concept or {})), count))


def contact_sheet(seed: int = 0, cell: int = 72) -> Image.Image:
    """Every object (columns) in every style (rows), colours drawn at random: the world at a glance."""
    rng = np.random.default_rng(seed)
    sheet = Image.new("RGB", (cell * len(OBJECTS), cell * len(STYLES)), "white")
    for column, thing in enumerate(OBJECTS):
        for row, style in enumerate(STYLES):
            color, background = rng.choice(list(COLORS), size=2, replace=False)
            image = render(Pictogram(thing, str(color), str(background), style))
            sheet.paste(image, (column * cell + (cell - IMAGE_SIZE) // 2, row * cell + (cell - IMAGE_SIZE) // 2))
    return sheet
