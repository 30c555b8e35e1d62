"""The samples of an audit: what is read, what is left out, and what is refused."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lit_memories.concept import Concept
from lit_memories.data.audit import AuditData
from lit_memories.data.memories import MemoryData
from lit_memories.data.samples import ImageRows, Sample
from lit_memories.data.sources import ImageSource, save_images
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_rgb, to_tensor
from lit_memories.records import Place
from lit_memories.worlds import pictograms
from lit_memories.worlds.sources import PictogramSource

UMBRELLAS = PictogramSource("sets", 100, keep={"object": "umbrella"}, limit=3)
OTHERS = PictogramSource("sets", 20, withhold=[{"object": "umbrella"}], limit=4)


WINDOW = 20
"""Words."""


class FakeAudit:
    """Remembers what the data told it."""

    image_size = (64, 64)
    concept = Concept("umbrella", "object", ["an umbrella"])
    diffusion = SimpleNamespace(exceeds_window=lambda prompt: len(prompt.split()) > WINDOW)

    stages = (("one",),)
    lesson = 0

    def __init__(self, recorded: Sequence[str] = ()) -> None:
        self.done = set(recorded)

    def asked_of(self, place: Place) -> list[str]:
        return ["one"]

    def open_run(self, data: dict[str, Any], places: Mapping[str, Place]) -> dict[str, list[str]]:
        self.data, self.places = data, places
        return {name: [] if name in self.done else ["one"] for name in places}


def samples(audit: FakeAudit | None = None, world_size: int = 1, **options: Any) -> list[Sample]:
    data = AuditData(**({"concept_images": UMBRELLAS, "reference_images": OTHERS, "known": 5, "prompted": 4} | options))
    data.trainer = SimpleNamespace(lightning_module=audit or FakeAudit(), world_size=world_size)
    data.setup("predict")
    return [sample for batch in data.predict_dataloader() for sample in batch]


def of(found: Sequence[Sample], name: str) -> list[Sample]:
    return [sample for sample in found if sample.set == name]


def test_all_sets_in_order() -> None:
    audit = FakeAudit()
    found = samples(audit)
    names = ("concept", "reference", "known", "prompted", "retained")
    assert [sample.set for sample in found] == [n for n in names for _ in of(found, n)]
    assert [len(of(found, name)) for name in names] == [3, 4, 5, 4, 4]
    assert [(place.set, place.index) for place in audit.places.values()] == [(s.set, s.index) for s in found]
    assert len(found) == 20
    for name in names:
        assert [sample.index for sample in of(found, name)] == list(range(len(of(found, name))))
    assert len({(sample.set, sample.content) for sample in found}) == 20
    row = pictograms.build("sets", 100, keep={"object": "umbrella"}, limit=3)[1]
    assert torch.equal(of(found, "concept")[1].image, to_tensor(row["image"]))
    assert of(found, "concept")[1].prompt == row["caption"]
    assert all(sample.image is None for name in names[2:] for sample in of(found, name))


def test_prompts_come_from_the_sets() -> None:
    found = samples()
    concept, reference = ([s.prompt for s in of(found, name)] for name in ("concept", "reference"))
    assert [s.prompt for s in of(found, "known")] == [concept[0], reference[0], concept[1], reference[1], concept[2]]
    assert [s.prompt for s in of(found, "prompted")] == [*concept, concept[0]]
    assert [s.prompt for s in of(found, "retained")] == reference
    assert samples(known=0, prompted=0)[-1].set == "reference"


def test_what_is_recorded_is_left_out() -> None:
    whole = samples()
    keys = [f"{s.set}/{s.content}" for s in whole[::2]]
    assert [(s.set, s.index) for s in samples(FakeAudit(keys))] == [(s.set, s.index) for s in whole[1::2]]


def test_every_process_has_work() -> None:
    whole = samples()
    keys = [f"{s.set}/{s.content}" for s in whole]
    assert samples(FakeAudit(keys)) == []
    assert len(samples(FakeAudit(keys[:-1]), world_size=4)) == 4
    with pytest.raises(ValueError, match="20 samples cannot be shared by 30 processes"):
        samples(world_size=30)


def test_contents_are_of_pixels_and_caption(tmp_path: Path) -> None:
    """Same picture, same caption: same sample, wherever it came from. Another caption: another sample."""
    save_images(pictograms.build("sets", 100, keep={"object": "umbrella"}, limit=3), tmp_path / "a")
    again, renamed = ImageSource(str(tmp_path / "a")), ImageSource(str(tmp_path / "a"), caption="{caption}!")
    one, two, other = (ImageRows("concept", source, (64, 64)).samples for source in (UMBRELLAS, again, renamed))
    assert one == two
    assert not {s.content for s in one} & {s.content for s in other}
    assert [s.picture for s in one] == [s.picture for s in other]


def table(images: Sequence[bytes], path: Path) -> ImageSource:
    rows = {"image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]}
    rows["caption"] = [f"a thing {i}" for i in range(len(images))]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return ImageSource(str(path))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).convert(mode)


def filled(mode: str, value: Any, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, value)


def greys(values: list[float], kind: str) -> Image.Image:
    """A row of grey values in a type of numpy's."""
    return Image.fromarray(np.array([values], dtype=kind))


def palette(**info: Any) -> Image.Image:
    picture = filled("P", 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.info.update(info)
    return picture


MODES: dict[str, tuple[Image.Image, list[list[int]]]] = {
    "1": (filled("1", 1), [[255, 255, 255]]),
    "L": (filled("L", 100), [[100, 100, 100]]),
    "P": (palette(), [[255, 0, 0]]),
    "P, transparent": (palette(transparency=1), [[255, 255, 255]]),
    "P, half transparent": (palette(transparency=bytes([255, 51])), [[255, 204, 204]]),
    "PA": (palette().convert("PA"), [[255, 0, 0]]),
    "LA": (filled("LA", (100, 51)), [[224, 224, 224]]),
    "La": (filled("LA", (100, 51)).convert("La"), [[224, 224, 224]]),
    "RGB": (filled("RGB", (1, 2, 3)), [[1, 2, 3]]),
    "RGBA": (filled("RGBA", (0, 0, 255, 51)), [[204, 204, 255]]),
    "RGBa": (filled("RGBA", (0, 0, 255, 51)).convert("RGBa"), [[204, 204, 255]]),
    "RGBX": (filled("RGBX", (1, 2, 3, 0)), [[1, 2, 3]]),
    "CMYK": (filled("CMYK", (0, 255, 255, 0)), [[255, 0, 0]]),
    "YCbCr": (filled("YCbCr", (76, 85, 255)), [[254, 0, 0]]),
    "HSV": (filled("HSV", (0, 255, 255)), [[255, 0, 0]]),
    "LAB": (filled("LAB", (255, 128, 128)), [[255, 255, 255]]),
    "I;16": (greys([0, 257, 25700, 65535], "<u2"), [[0] * 3, [1] * 3, [100] * 3, [255] * 3]),
    "I;16B": (greys([0, 257, 25700, 65535], ">u2"), [[0] * 3, [1] * 3, [100] * 3, [255] * 3]),
    "I": (greys([0, 100, 255], "i4"), [[0] * 3, [100] * 3, [255] * 3]),
    "I, 16 bits": (greys([0, 25700, 65535], "i4"), [[0] * 3, [100] * 3, [255] * 3]),
    "I, 32 bits": (greys([0, 2**30, 2**31 - 1], "i4"), [[0] * 3, [128] * 3, [255] * 3]),
    "F": (greys([0, 0.4, 1], "f4"), [[0] * 3, [102] * 3, [255] * 3]),
    "F, to 255": (greys([0, 100, 255], "f4"), [[0] * 3, [100] * 3, [255] * 3]),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_right_pixels(mode: str) -> None:
    """Pillow by itself cuts what has more than 8 bits off at 255, and cannot convert some modes at all."""
    picture, pixels = MODES[mode]
    assert picture.mode == mode.split(",")[0]
    found = np.asarray(to_rgb(picture))[0, : len(pixels)].astype(int)
    assert np.abs(found - pixels).max() <= (1 if mode in ("La", "YCbCr", "LAB") else 0), found.tolist()


def test_no_mode_of_pillow_is_forgotten() -> None:
    tested = {name.split(",")[0] for name in MODES} | {"I;16L", "I;16N"}  # these two are I;16 by another name
    assert set(Image.MODES) <= tested


@pytest.mark.parametrize("values", [[0, 300.0], [-1, 1], [0, float("nan")], [0, float("inf")]])
def test_what_lies_in_no_range_is_left_out_and_named(values: list[float], tmp_path: Path) -> None:
    odd, sound = greys(values, "f4"), greys([0, 1], "f4")
    rows = ImageRows(
        "concept", table([encoded(odd, "TIFF"), encoded(sound, "TIFF")], tmp_path / "rows.parquet"), (2, 2)
    )
    assert rows.unreadable == ["0.png"]
    assert len(rows.samples) == 1
    with pytest.raises(ValueError, match="lie in no range of pictures: 0 to 1 or 255"):
        to_rgb(odd)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK", "I;16", "I", "F"])
def test_other_modes_are_read_from_files(mode: str, tmp_path: Path) -> None:
    image = noise("L").convert(mode) if mode in ("I;16", "I", "F") else noise(mode)
    data = encoded(image, "TIFF" if mode in ("CMYK", "I", "F") else "PNG")
    rows = ImageRows("concept", table([data], tmp_path / "rows.parquet"), (64, 64))
    assert rows.unreadable == []
    assert torch.equal(rows.pixels(0), to_tensor(image))
    assert rows.pixels(0).shape == (3, 64, 64)


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    """The middle is taken, or all of it squeezed; nothing else of the picture matters to either."""
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("lime", (100, 0, 200, 100))
    source = table([encoded(wide)], tmp_path / "rows.parquet")
    cropped, squeezed = (ImageRows("concept", source, (50, 50), how) for how in ("crop", "squeeze"))
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    assert torch.equal(cropped.pixels(0)[:, :, 1:-1], green.expand(3, 50, 48))
    assert torch.equal(squeezed.pixels(0)[:, :, 19:31], green.expand(3, 50, 12))
    assert torch.equal(squeezed.pixels(0), to_tensor(wide.resize((50, 50), Image.Resampling.BICUBIC)))
    assert squeezed.pixels(0)[0, :, :14].min() == 1, "what is cut otherwise is still there"
    assert cropped.samples[0].content != squeezed.samples[0].content
    assert ImageRows("concept", source, (64, 32)).pixels(0).shape == (3, 64, 32)


def test_the_way_of_resizing_stands_in_the_description() -> None:
    audits = FakeAudit(), FakeAudit()
    samples(audits[0])
    samples(audits[1], resize="squeeze")
    sources = [audit.data["concept"]["source"] for audit in audits]
    assert sources == ["pictograms [sets] object=umbrella", "pictograms [sets] object=umbrella, squeezed"]


def test_transparent_pictures_lie_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 32, 64))
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.info["transparency"] = 1
    rows = ImageRows("concept", table([encoded(clear), encoded(palette)], tmp_path / "rows.parquet"), (64, 64))
    assert rows.unreadable == []
    assert rows.pixels(0)[:, 0, 0].tolist() == [0, 0, 1]
    assert rows.pixels(0)[:, 0, 63].tolist() == [1, 1, 1]
    assert rows.pixels(1).min() == 1


def test_pictures_are_turned_as_their_exif_data_say(tmp_path: Path) -> None:
    picture, exif = noise(), Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    rows = ImageRows("concept", table([buffer.getvalue()], tmp_path / "rows.parquet"), (64, 64))
    assert torch.equal(rows.pixels(0), to_tensor(picture.transpose(Image.Transpose.ROTATE_270)))


def broken(number: int, kind: str = "PNG") -> bytes:
    """An image file with a few random bytes, its end, or all of it damaged."""
    rng = np.random.default_rng(number)
    data = bytearray(encoded(noise(), kind))
    if number % 3 == 0:
        return bytes(data[: int(rng.integers(0, len(data) - 20))])
    for _ in range(1 if number % 3 == 1 else 40):
        data[int(rng.integers(0, min(len(data), 400)))] = int(rng.integers(0, 256))
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_no_damaged_file_stops_an_audit(kind: str, tmp_path: Path) -> None:
    """A hundred ways to damage a file: each is read or counted, none raises."""
    files = [b"", b"text", *(broken(number, kind) for number in range(100))]
    rows = ImageRows("concept", table([*files, encoded(noise())], tmp_path / "rows.parquet"), (64, 64))
    assert len(rows.samples) + len(rows.unreadable) + rows.repeated == len(files) + 1
    assert {"0.png", "1.png"} <= set(rows.unreadable)
    assert len(files) not in [int(name.removesuffix(".png")) for name in rows.unreadable]
    for sample in rows.samples[:5]:
        assert rows.pixels(sample.index).shape == (3, 64, 64)


def test_damaged_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    save_images(pictograms.build("sets", 100, keep={"object": "umbrella"}, limit=3), tmp_path / "concept")
    file = tmp_path / "concept" / "000001.png"
    file.write_bytes(file.read_bytes()[:60])
    audit = FakeAudit()
    found = samples(audit, concept_images=ImageSource(str(tmp_path / "concept")))
    assert [sample.index for sample in of(found, "concept")] == [0, 2]
    assert audit.data["concept"]["rows"] == 2
    assert [Path(name).name for name in audit.data["concept"]["unreadable"]] == ["000001.png"]
    assert audit.data["reference"]["unreadable"] == []


def test_a_set_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    source = table([b"", b"nothing"], tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="the reference set is empty: none of its 2 images can be read"):
        samples(reference_images=source)
    with pytest.raises(ValueError, match="no rows left"):
        samples(
            concept_images=PictogramSource("sets", 1, keep={"object": "umbrella"}, withhold=[{"object": "umbrella"}])
        )


def test_sets_that_share_an_image_are_refused(tmp_path: Path) -> None:
    """Under another caption it is the same image still."""
    with pytest.raises(ValueError, match="share 3 images"):
        samples(reference_images=UMBRELLAS)
    save_images(pictograms.build("sets", 100, keep={"object": "umbrella"}, limit=3), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="share 2 images"):
        samples(reference_images=ImageSource(str(tmp_path / "rows.parquet"), caption="not {caption}", limit=2))


def test_one_picture_under_two_captions_is_two_samples(tmp_path: Path) -> None:
    source = table([encoded(noise())] * 3, tmp_path / "rows.parquet")
    rows = ImageRows("concept", source, (64, 64))
    assert [sample.prompt for sample in rows.samples] == ["a thing 0", "a thing 1", "a thing 2"]
    assert len({sample.picture for sample in rows.samples}) == 1


def test_prompts_beyond_the_window_are_counted(tmp_path: Path) -> None:
    rows = pictograms.build("sets", 100, keep={"object": "umbrella"}, limit=3)
    captions = [rows["caption"][0], rows["caption"][1] + " and" * WINDOW, rows["caption"][2]]
    save_images(rows.remove_columns("caption").add_column("caption", captions), tmp_path / "rows.parquet")
    audit = FakeAudit()
    with pytest.warns(UserWarning, match="1 of 8 prompts are longer than the text encoder's window"):
        samples(audit, concept_images=ImageSource(str(tmp_path / "rows.parquet")), conditionings=["empty", "own@3"])
    cut = {name: entry["cut"] for name, entry in audit.data.items()}
    # Known seeds: three of E's prompts and two of R's; prompted samples: E's three, and the first again.
    assert cut == {"concept": 1, "reference": 0, "conditioned": 1, "known": 1, "prompted": 1, "retained": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* window ")
        samples(audit)
    assert not any(entry["cut"] for entry in audit.data.values())


def test_few_pictures_and_pictures_of_other_things_are_warned_of_before_an_audit() -> None:
    with pytest.warns(UserWarning, match="none of the 4 captions of the concept set has a word for 'umbrella'"):
        samples(FakeAudit(), concept_images=OTHERS, reference_images=UMBRELLAS)
    with pytest.warns(
        UserWarning, match="the concept set has 3 pictures: with fewer than 8 a report concludes nothing"
    ):
        samples(FakeAudit())


@pytest.mark.parametrize("options", [{"known": -1}, {"prompted": -1}, {"batch_size": 0}])
def test_impossible_numbers_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AuditData(UMBRELLAS, OTHERS, **options)


def test_the_window_is_the_text_encoders(diffusion: Diffusion) -> None:
    """Up to the last token of a full window nothing is cut."""
    full = diffusion.tokenizer.model_max_length - 2  # a marker at either end
    assert not diffusion.exceeds_window(" ".join(["red"] * full))
    assert len(diffusion.words(" ".join(["red"] * full))) == full
    assert diffusion.exceeds_window(" ".join(["red"] * (full + 1)))


def test_queries_and_supports_that_share_an_image_are_refused(tmp_path: Path) -> None:
    save_images(pictograms.build("sets", 100, keep={"object": "umbrella"}, limit=3), tmp_path / "rows.parquet")
    again = ImageSource(str(tmp_path / "rows.parquet"), caption="not {caption}")
    data, audit = MemoryData(UMBRELLAS, again, queries=1, supports=2, resize="squeeze"), FakeAudit()
    data.trainer = SimpleNamespace(lightning_module=audit, world_size=1)
    with pytest.raises(ValueError, match="share 1 images"):
        data.setup("predict")
    data.sources = UMBRELLAS, OTHERS
    data.setup("predict")
    assert [audit.data[name]["cut"] for name in ("memory", "supports")] == [0, 0]
    assert audit.data["supports"]["source"].endswith(", squeezed")
