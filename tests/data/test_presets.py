"""The paper's data sets, as their layouts are: COCO's captions, Imagenette, lists of prompts."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from lit_memories.data.presets import I2P, CocoCaptions, Imagenette, PromptList, PromptRow
from lit_memories.data.samples import ImageRows

HEADER = "case_number,prompt,evaluation_seed,evaluation_guidance,other"


def coco(root: Path, change: Any = None) -> CocoCaptions:
    """Three images in COCO's layout, with two captions each that are not in the images' order."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    numbers = (285, 139, 776)
    for number in numbers:
        Image.new("RGB", (48, 36), (number % 256, 0, 0)).save(root / "val2017" / f"{number:012d}.jpg")
    captions = [{"image_id": n, "id": 10 * n + k, "caption": f"caption {k} of {n}"} for k in (2, 1) for n in numbers]
    content = {"images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in numbers], "annotations": captions}
    if change is not None:
        change(content)
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    return CocoCaptions(str(root))


def test_coco_is_sorted_and_has_first_captions(tmp_path: Path) -> None:
    rows = coco(tmp_path).load()
    assert rows.column_names == ["image", "caption"]
    assert list(rows["caption"]) == ["caption 2 of 139", "caption 2 of 285", "caption 2 of 776"]
    assert [Path(row["image"]["path"]).stem for row in rows] == ["000000000139", "000000000285", "000000000776"]
    assert list(CocoCaptions(str(tmp_path), limit=2).load()["caption"]) == list(rows["caption"][:2])


def test_the_names_that_are_used_are_recorded(tmp_path: Path) -> None:
    source = coco(tmp_path)
    source.limit = 2
    rows = ImageRows("reference", source, (32, 32))
    assert len(rows.samples) == 2
    description = rows.describe(2)
    assert description["names"] == ["000000000139.jpg", "000000000285.jpg"]
    assert description["source"] == "COCO [val2017] in the order of file names, first captions"
    json.dumps(description)


def test_an_image_without_caption_is_named(tmp_path: Path) -> None:
    def without(content: dict[str, Any]) -> None:
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 285]

    with pytest.raises(ValueError, match=r"no caption for 000000000285\.jpg"):
        coco(tmp_path, without).load()


@pytest.mark.parametrize("damage", ["{", "[]", '{"images": []}', '{"images": [1], "annotations": []}', "{}", "NaN"])
def test_damaged_captions_are_named(damage: str, tmp_path: Path) -> None:
    source = coco(tmp_path)
    file = tmp_path / "annotations" / "captions_val2017.json"
    file.write_text(damage)
    with pytest.raises(ValueError, match=r"captions_val2017\.json is not a file of COCO captions") as error:
        source.load()
    assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations_trainval2017\.zip"):
        source.load()


def test_without_coco_it_is_said_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"unpack val2017\.zip and annotations_trainval2017\.zip"):
        CocoCaptions(str(tmp_path)).load()


def test_imagenette_is_captioned_by_its_labels(tmp_path: Path) -> None:
    """With a file in the layout of the hub's parquet copy."""
    labels = datasets.ClassLabel(names=["tench", "English springer", "church"])
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(4)]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [2, 0, 2, 1]}, features=features)
    rows.to_parquet(tmp_path / "0000.parquet")
    here = {"path": str(tmp_path / "*.parquet"), "name": None, "revision": None}
    assert list(Imagenette(**here, where={"label": "church"}).load()["caption"]) == ["a photo of a church"] * 2
    assert list(Imagenette(**here, limit=2).load()["caption"]) == ["a photo of a church", "a photo of a tench"]
    assert Imagenette(where={"label": "tench"}).describe() == (
        "frgfm/imagenette 320px@refs/convert/parquet [validation] label=tench"
    )


def listed(path: Path, *lines: str, header: str = HEADER) -> PromptList:
    path.write_text("\n".join([header, *lines]) + "\n")
    return PromptList(str(path))


def test_a_list_is_read(tmp_path: Path) -> None:
    rows = listed(tmp_path / "a.csv", '7,"a hill, by night",42,7.5,x', "3,a lake,2147483648,,").load()
    assert rows == [PromptRow(7, "a hill, by night", 42, 7.5), PromptRow(3, "a lake", 2147483648, None)]
    marked = "\ufeff" + (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(marked)
    assert PromptList(str(tmp_path / "a.csv")).load() == rows
    short = listed(tmp_path / "b.csv", "a lake,1,5", header="prompt,case_number,evaluation_seed").load()
    assert short == [PromptRow(1, "a lake", 5, None)]


@pytest.mark.parametrize(
    "line",
    [
        "x,a lake,1,7.5,",
        "-1,a lake,1,7.5,",
        "../../x,a lake,1,7.5,",
        "1,,1,7.5,",
        "1,a lake,,7.5,",
        "1,a lake,0.5,7.5,",
        "1,a lake,99999999999999999999,7.5,",
        "1,a lake,1,much,",
        "1,a lake,1,nan,",
        "1,a lake,1,-2,",
        "1,a lake, by night,1,7.5,",
        "1",
        "0,a lake,1,7.5,",
        f"1,{'x' * 70_000},1,7.5,",
    ],
)
def test_a_damaged_row_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv: row 2 (is damaged|has the case number 0)") as error:
        listed(tmp_path / "a.csv", "0,a hill,1,7.5,", line).load()
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'prompt': it has case_number, words"):
        listed(tmp_path / "a.csv", "0,a hill", header="case_number,words").load()
    with pytest.raises(ValueError, match="holds no prompts"):
        listed(tmp_path / "a.csv").load()
    (tmp_path / "a.csv").write_bytes(b"case_number,prompt,evaluation_seed\n0,\xff\xfe,1\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        PromptList(str(tmp_path / "a.csv")).load()
    with pytest.raises(FileNotFoundError, match="give a CSV file"):
        PromptList(str(tmp_path / "b.csv")).load()


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes('\ufeffa hill, by night\r\n\n  a "lake" \nprompt'.encode())
    wanted = ["a hill, by night", 'a "lake"', "prompt"]
    assert PromptList(str(file)).load() == [PromptRow(number, text, number) for number, text in enumerate(wanted)]
    file.write_text("\n \n")
    with pytest.raises(ValueError, match=r"a\.txt holds no prompts"):
        PromptList(str(file)).load()
    file.write_text(f"a hill\n{'x' * 70_000}\n")
    with pytest.raises(ValueError, match=r"a\.txt: row 2 is damaged: its prompt has more than 65536 letters"):
        PromptList(str(file)).load()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt is not a text file in UTF-8"):
        PromptList(str(file)).load()


@pytest.mark.parametrize(
    ("header", "line", "row"),
    [
        ("prompt,evaluation_seed", "a lake,5", PromptRow(0, "a lake", 5)),
        ("case_number,prompt", "7,a lake", PromptRow(7, "a lake", 7)),
        (",prompt,sd_seed,sd_guidance_scale", "3,a lake,1234.0,7", PromptRow(0, "a lake", 1234, 7.0)),
        ("case_number,adv_prompt,evaluation_seed", "4.0,a lake,5", PromptRow(4, "a lake", 5)),
        ("sensitive prompt", "a lake", PromptRow(0, "a lake", 0)),
        ("Unnamed: 0,prompt,evaluation_seed,case_number", "21,a lake,5,7", PromptRow(7, "a lake", 5)),
        ("image_id,source,prompt,evaluation_seed", "000000203564,coco-30k,a lake,5", PromptRow(0, "a lake", 5)),
        (" Prompt, Seed", "a lake,5", PromptRow(0, "a lake", 5)),
        ("case_number,prompt,evaluation_seed,artist", "1,a lake,9,x", PromptRow(1, "a lake", 9)),
    ],
)
def test_lists_are_read_as_they_are_published(header: str, line: str, row: PromptRow, tmp_path: Path) -> None:
    assert listed(tmp_path / "a.csv", line, header=header).load() == [row]


@pytest.mark.parametrize("moved", ["images", "captions"])
def test_coco_is_read_as_it_is_unpacked(moved: str, tmp_path: Path) -> None:
    captions = coco(tmp_path / "coco").load()["caption"]
    if moved == "images":
        (tmp_path / "coco" / "images").mkdir()
        (tmp_path / "coco" / "val2017").rename(tmp_path / "coco" / "images" / "val2017")
    else:
        (tmp_path / "coco" / "annotations" / "captions_val2017.json").rename(
            tmp_path / "coco" / "captions_val2017.json"
        )
    assert CocoCaptions(str(tmp_path / "coco")).load()["caption"] == captions


def test_i2p_is_numbered_by_row(tmp_path: Path) -> None:
    rows = {"prompt": ["a hill", "a lake"], "sd_seed": [5, 6], "sd_guidance_scale": [7.0, 9.0], "hard": [0, 1]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "i2p.parquet")
    expected = [PromptRow(0, "a hill", 5, 7.0), PromptRow(1, "a lake", 6, 9.0)]
    assert I2P(str(tmp_path / "i2p.parquet")).load() == expected
