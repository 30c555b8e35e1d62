"""Worlds of any labelled data set: what their recipes may say, what their rows are, and what they refuse."""

import gzip
import struct
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.worlds.base import Grammar, labels_of
from lit_memories.worlds.classifier import WorldClassifier, load_classifier
from lit_memories.worlds.data import Exposure, WorldData
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.labelled import LabelledImages
from lit_memories.worlds.sources import WorldSource

RECIPES = Path(__file__).parents[2] / "recipes/fashion"
FEW = ["--data.train_size=16", "--data.validation_size=4", "--data.batch_size=4", "--model.warmup_steps=1"]
SILENT = [
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.callbacks=[]",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_checkpointing=false",
]
OWN = ["world=mine.yaml", "split=train", "limit=2"]
KINDS = ["bag", "ankle boot", "t-shirt"]


def picture(number: int, size: int = 28) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)
    return Image.fromarray(pixels)


def table(path: Path, labels: Any, kind: Any, sizes: tuple[int, ...] = (28,)) -> Path:
    """Rows of pictures and labels as parquet."""
    pictures = [picture(number, sizes[number % len(sizes)]) for number in range(len(labels))]
    columns = datasets.Features({"image": datasets.Image(), "label": kind})
    datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=columns).to_parquet(path)
    return path


def world(path: Path, **options: Any) -> LabelledImages:
    asked = {"factors": {"kind": "label"}, "caption": "a photo of a {kind}", "shorter": ["{kind}"], "image_size": 32}
    return LabelledImages(str(path), **{**asked, "name": "things", "held_out": 4, **options})


@pytest.fixture(scope="module")
def sorted_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rows, sorted by their class labels."""
    folder = tmp_path_factory.mktemp("rows")
    return table(folder / "rows.parquet", [n // 10 for n in range(30)], datasets.ClassLabel(names=KINDS))


def test_rows_are_pictures_captions_and_labels(sorted_table: Path) -> None:
    things = world(sorted_table)
    splits = {split: things.rows(split) for split in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 22, "validation": 4, "test": 4}
    seen = [np.asarray(row["image"]).tobytes() for rows in splits.values() for row in rows]
    assert len(set(seen)) == 30, "splits share no picture"
    assert len(set(splits["train"]["kind"])) == 3, "what is held out is drawn, not the last of a sorted table"
    row = splits["train"][0]
    assert row["image"].size == (32, 32)
    assert row["image"].mode == "RGB"
    assert row["caption"] == f"a photo of a {KINDS[row['kind']]}"
    assert things.rows("train", 5)["caption"] == splits["train"]["caption"][:5]
    assert things.asked("test", 9)[4:8] == things.asked("asked", 4), "round and round"
    with pytest.raises(ValueError, match=r"the split 'test' of .*rows.parquet has 4 rows, not 5"):
        things.rows("test", 5)


@pytest.mark.parametrize(
    ("labels", "kind", "values"),
    [
        (["bag", "boot"] * 10, datasets.Value("string"), None),
        ([1, 0] * 10, datasets.Value("int64"), {"kind": ["boot", "bag"]}),
        ([0, 1] * 10, datasets.ClassLabel(names=["Bag & more", "Ankle boot"]), {"kind": ["bag", "boot"]}),
    ],
)
def test_labels_may_be_texts_numbers_or_class_labels(
    tmp_path: Path, labels: list[Any], kind: Any, values: dict[str, list[str]] | None
) -> None:
    things = world(table(tmp_path / "rows.parquet", labels, kind), values=values)
    shown = {np.asarray(picture(n).convert("RGB").resize((32, 32), 3)).tobytes(): n % 2 for n in range(20)}
    for row, named in zip(things.rows("train"), labels_of(things.rows("train"), things.grammar.factors), strict=True):
        assert named["kind"] == ("bag", "boot")[shown[np.asarray(row["image"]).tobytes()]]
        assert row["caption"] == f"a photo of a {named['kind']}"


def test_withheld_and_counted_as_in_any_world(sorted_table: Path) -> None:
    things = world(sorted_table)
    data = WorldData(
        things, validation_size=None, withhold=[{"kind": "bag"}], exposures=[Exposure({"kind": "t-shirt"}, 2)]
    )
    data.setup("fit")
    names = [KINDS[label] for label in list(data.train["kind"])]
    assert "bag" not in names
    assert names.count("t-shirt") == 2 < names.count("ankle boot")
    with pytest.raises(ValueError, match="no such thing in things: no kind 'hat' in factors: choose one of bag"):
        WorldData(things, validation_size=None, withhold=[{"kind": "hat"}]).setup("fit")
    kept = WorldSource(things, split="train", keep={"kind": "bag"}, limit=3)
    assert kept.load()["caption"] == ["a photo of a bag"] * 3
    assert kept.describe() == "things [train] kind=bag"
    others = WorldSource(things, split="train", withhold=[{"kind": "bag"}]).load()["caption"]
    assert set(others) == {"a photo of a ankle boot", "a photo of a t-shirt"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 28}, "image_size must be a multiple of 16, got 28"),
        ({"name": "two words"}, "name must be one word, got 'two words'"),
        ({"splits": {"dev": "dev"}}, "splits has 'dev': it may name train, validation, test"),
        ({"held_out": 0}, "held_out be 1 or more"),
        ({"factors": {}}, "factors must name a column of labels at least"),
        ({"values": {"colour": ["red"]}}, "values has 'colour', which is no factor: there are kind"),
    ],
)
def test_what_cannot_be_a_world_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        world(Path("nowhere"), **options)


@pytest.mark.parametrize(
    ("labels", "kind", "options", "said"),
    [
        (
            [0, 1],
            datasets.Value("int64"),
            {},
            r"holds no texts, but int64: say what its numbers stand for with values: ",
        ),
        (["bag"] * 2, datasets.Value("string"), {}, "kind has one value, 'bag': there is nothing to tell apart"),
        ([0, 2], datasets.Value("int64"), {"values": {"kind": ["a", "b"]}}, "2 in column 'label' of row [01] is none"),
        ([0, 1], datasets.ClassLabel(names=["a", "b"]), {"values": {"kind": ["a"] * 3}}, "must differ"),
        (
            [0, 1],
            datasets.ClassLabel(names=["a", "b"]),
            {"values": {"kind": ["a", "b", "c"]}},
            "names 3 of the 2 labels",
        ),
        ([0, 1], datasets.ClassLabel(names=["a", "b"]), {"caption": "a {colour}"}, "has {colour}, which is no factor"),
        ([0, 1], datasets.ClassLabel(names=["a", "b"]), {"caption": "a thing"}, "does not say 'kind'"),
        ([0, 1], datasets.ClassLabel(names=["a", "b"]), {"factors": {"kind": "sort"}}, "has no column 'sort'"),
        (
            [0, 1],
            datasets.ClassLabel(names=["a", "b"]),
            {"splits": {}},
            "too few to hold out 4 for validation and test",
        ),
    ],
)
def test_labels_that_say_nothing_are_refused_in_a_line(
    tmp_path: Path, labels: list[Any], kind: Any, options: dict[str, Any], said: str
) -> None:
    path = table(tmp_path / "rows.parquet", labels, kind)
    with pytest.raises(ValueError, match=said) as refused:
        world(path, **{"splits": {"validation": "train", "test": "train"}, **options}).rows("train")
    assert "\n" not in str(refused.value)


def test_pictures_of_mixed_sizes_are_said(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.parquet", ["bag", "boot"] * 8, datasets.Value("string"), sizes=(28, 20, 40))
    with pytest.warns(UserWarning, match="are of 3 sizes, such as 20 x 20 and 40 x 40: all come to 32 x 32, crop"):
        rows = world(path).rows("train")
    assert {row["image"].size for row in rows} == {(32, 32)}


def test_a_grammar_reads_what_it_says() -> None:
    grammar = Grammar(
        {"kind": ("bag", "ankle boot"), "hue": ("red", "dark (red)")}, "a {hue} {kind}, {hue}", ("{kind}",)
    )
    for kind in grammar.factors["kind"]:
        for hue in grammar.factors["hue"]:
            labels = {"kind": kind, "hue": hue}
            assert grammar.parse(grammar.say(labels)) == labels
            assert grammar.say_less(labels) == [kind]
    for other in ("a red bag, dark (red)", "a red bag", "A red bag, red"):
        with pytest.raises(ValueError, match="not a caption of this world"):
            grammar.parse(other)
    assert grammar.words == ["a", ",", "bag", "ankle", "boot", "red", "dark", "(", ")"]


def idx(folder: Path, split: str, pictures: np.ndarray[Any, Any], labels: list[int]) -> None:
    content = bytes((0, 0, 8, 3)) + struct.pack(">3I", *pictures.shape) + pictures.tobytes()
    (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    content = bytes((0, 0, 8, 1)) + struct.pack(">I", len(labels)) + bytes(labels)
    (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))


def test_idx_files_are_read_as_they_are(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    idx(tmp_path, "train", pictures, [n % 3 for n in range(12)])
    idx(tmp_path, "t10k", pictures[:3], [2, 1, 0])
    there = world(Path("some/hub-id"), local=str(tmp_path), values={"kind": KINDS}, splits={"test": "test"}, held_out=2)
    tests = there.rows("test")
    assert tests["caption"] == ["a photo of a t-shirt", "a photo of a ankle boot", "a photo of a bag"]
    assert all((np.asarray(row["image"])[..., 0] == pictures[n]).all() for n, row in enumerate(tests))
    assert len(there.rows("train")) == 10
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    for content, said in [
        (b"no gzip", "is damaged"),
        (gzip.compress(b"short"), "is no IDX file of bytes in 3 dimensions"),
        (gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 2, 2) + bytes(7)), "says that it holds 2 x 2 x 2"),
    ]:
        images.write_bytes(content)
        with pytest.raises(Exception, match=said):
            world(Path("x"), local=str(tmp_path), values={"kind": KINDS}, splits={"test": "test"}).rows("test")


def test_a_judge_knows_its_world(tmp_path: Path) -> None:
    torch.manual_seed(0)
    grammar = Grammar({"kind": tuple(KINDS)}, "a photo of a {kind}")
    WorldClassifier.of(grammar, (8, 8)).save_pretrained(tmp_path)
    judge, images = WorldJudge(tmp_path), torch.rand(2, 3, 32, 32)
    seen = load_classifier(tmp_path).predict(images)["kind"]
    bag = Concept("bag", "object", ["a bag"], factors={"kind": "bag"})
    verdicts = judge(images, ["a photo of a bag", "something else"], bag)
    assert verdicts[0]["correct"] == {"kind": seen[0] == "bag"}
    assert verdicts[1]["correct"] is None
    assert [one["shows_concept"] for one in verdicts] == [float(kind == "bag") for kind in seen]
    with pytest.raises(ValueError, match=r"no factor 'object' in factors: choose of kind"):
        judge.check(Concept("star", "object", ["a star"], factors={"object": "star"}))


def test_any_labelled_data_set_becomes_models_by_recipes_alone(
    sorted_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autoencoder, classifier, text-to-image model, its measure, and an audit of it."""
    monkeypatch.chdir(tmp_path)
    own = (RECIPES / "world.yaml").read_text()
    for line, other in [
        ("path: zalando-datasets/fashion_mnist", f"path: {sorted_table}"),
        ("local: /usr/share", "local: /nowhere"),
        ("  splits: {test: test}\n", ""),
        ("held_out: 512", "held_out: 4"),
    ]:
        assert line in own
        own = own.replace(line, other)
    own = "\n".join(line for line in own.splitlines() if "values:" not in line)
    Path("mine.yaml").write_text(own)
    for recipe, options in {
        "autoencoder": ["--model.block_out_channels=[8, 8]"],
        "classifier": ["--model.widths=[8, 8]"],
        "text_to_image": ["--model.block_out_channels=[8, 16]", "--model.text_width=32"],
    }.items():
        worlds = ["--data.world=mine.yaml", *(["--model.world=mine.yaml"] if recipe != "autoencoder" else [])]
        kept = ["--data.withhold=[{kind: bag}]"] if recipe == "text_to_image" else []
        main(["fit", f"--config={RECIPES / 'pretrain' / recipe}.yaml", *worlds, *kept, *options, *FEW, *SILENT])
    model = Diffusion("runs/fashion/trunk")
    assert model.latent_shape == (4, 16, 16)
    main(
        [
            "measure",
            "runs/fashion/trunk",
            "--classifier=runs/fashion/classifier",
            "--world=mine.yaml",
            "--withheld=[{kind: bag}]",
            "--prompts=4",
            "--images=4",
            "--num_inference_steps=2",
            "--out=measured.json",
        ]
    )
    assert '"bag prompts"' in Path("measured.json").read_text()
    concept = "{name: bag, kind: object, prompts: [bag], factors: {kind: bag}, retain: [t-shirt]}"
    main(
        [
            "predict",
            f"--config={RECIPES / 'audit/bag.yaml'}",
            "--model.diffusion.base=runs/fashion/trunk",
            f"--model.concept={concept}",
            "--model.judge.classifier=runs/fashion/classifier",
            *(f"--data.{name}_images.{option}" for name in ("concept", "reference") for option in OWN),
            "--data.known=0",
            "--data.prompted=2",
            "--model.num_inference_steps=2",
            "--model.probes=[{class_path: lit_memories.probes.samples.Samples}]",
            "--trainer.default_root_dir=audit",
        ]
    )
    assert Path("audit/records.jsonl").read_text().count("\n") >= 4
