"""The probe of utility in an audit: what it keeps, that nothing beside a picture matters, and what happens offline."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_errors import refused
from torch import nn

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance
from lit_memories.judges.measures import TextScore
from lit_memories.judges.networks import CLIPFeatures
from lit_memories.probes.utility import OUT_OF_REACH, Utility
from lit_memories.records import artefact_path
from lit_memories.runs import Run, read_run
from lit_memories.storage.tensors import read_tensors
from lit_memories.worlds.classifier import WorldClassifier
from lit_memories.worlds.judge import WorldDistance, WorldFeatures
from lit_memories.worlds.pictograms import GRAMMAR

Arguments = Callable[..., list[str]]
Probes = Callable[..., str]


@pytest.fixture(scope="module")
def asked(calm: Path, tiny_classifier: Path) -> Probes:
    """The option that asks for utility by the classifier's features, and what else is given."""

    def build(*more: dict[str, Any], **options: Any) -> str:
        of = {"init_args": {"classifier": str(tiny_classifier)}}
        usual = {
            "features": [{"class_path": "lit_memories.worlds.judge.WorldFeatures", **of}, *more],
            "distance": {"class_path": "lit_memories.worlds.judge.WorldDistance", **of},
            "vanilla": {"base": str(calm)},
            "guidance_scale": 3.0,
        }
        probes = [
            {"class_path": "Denoising", "init_args": {"levels": 3}},
            {"class_path": "Judging"},
            {"class_path": "Samples", "init_args": {"guidance_scale": 3.0}},
            {"class_path": "Utility", "init_args": usual | options},
        ]
        return f"--model.probes={json.dumps(probes)}"

    return build


SMALL = ("--data.known=0", "--data.prompted=7")


@pytest.fixture(scope="module")
def vanilla(arguments: Arguments, asked: Probes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("utility") / "vanilla"
    main(arguments(folder, asked(), *SMALL, batch_size=7))
    return folder


@pytest.fixture(scope="module")
def erasure(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that draws other pictures under any prompt."""
    diffusion = Diffusion.from_pretrained(calm)
    changed = {name: p.detach() * 4 for name, p in diffusion.named_parameters() if name.endswith("attn2.to_v.weight")}
    folder = tmp_path_factory.mktemp("erasure")
    provenance = Provenance("ESD", {"name": "umbrella"}, str(calm), None, diffusion.fingerprint, {}, 1, None, {})
    Erasure(changed, provenance).save(folder)
    return folder


def features(run: Run) -> dict[str, torch.Tensor]:
    """What it keeps of each picture, by the record's key."""
    records = [*run.of("retained", "utility"), *run.of("reference", "utility")]
    return {r.key: read_tensors(artefact_path(run.folder, "utility", r.key))["classifier"] for r in records}


def test_every_picture_leaves_features_and_vanilla_is_at_no_distance(vanilla: Path) -> None:
    run = read_run(vanilla)
    assert run.info.complete
    assert not run.gaps
    assert len(features(run)) == 7 + 5
    assert all(row.shape == (8,) for row in features(run).values())
    drawn, real = run.of("retained", "utility"), run.of("reference", "utility")
    assert [record.value("utility.distance") for record in drawn] == [0.0] * 7
    assert all(record.value("utility.distance") is None for record in real)
    assert run.of("concept", "utility") == []
    assert run.cost["utility"]["evaluations"] == 7 * 4 * 2 * 2, "guided, and vanilla's too; real pictures ask nothing"


def test_the_pictures_are_those_of_samples(vanilla: Path, tiny_classifier: Path) -> None:
    from PIL import Image

    from lit_memories.images import to_tensor

    run = read_run(vanilla)
    (first,) = [record for record in run.of("retained", "utility") if record.index == 0]
    picture = to_tensor(Image.open(run.image("retained", 0, "sample")))
    assert torch.equal(WorldFeatures(tiny_classifier)(picture[None])[0], features(run)[first.key])


def test_neither_batches_nor_a_lost_file_change_anything(
    vanilla: Path, arguments: Arguments, asked: Probes, tmp_path: Path
) -> None:
    run = read_run(vanilla)
    other = Path(shutil.copytree(vanilla, tmp_path / "other"))
    gone = artefact_path(other, "utility", run.of("retained", "utility")[3].key)
    gone.unlink()
    with pytest.warns(UserWarning, match="1 artefacts of utility in .* are lost"):
        main(arguments(other, asked(), *SMALL, batch_size=2))
    again = read_run(other)
    assert (vanilla / "records.jsonl").read_bytes() == (other / "records.jsonl").read_bytes()
    assert all(torch.equal(row, features(again)[key]) for key, row in features(run).items())


@pytest.fixture(scope="module")
def results(
    vanilla: Path, erasure: Path, arguments: Arguments, asked: Probes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Of a report on vanilla and the other model."""
    folder = tmp_path_factory.mktemp("report")
    main(
        arguments(
            folder / "esd", asked(), *SMALL, f"--model.diffusion.erasure={erasure}", "--model.name=esd", batch_size=3
        )
    )
    main(["report", str(vanilla), str(folder / "esd"), f"--out={folder / 'out'}", "--draws=20"])
    assert "<h2>Utility</h2>" in (folder / "out" / "report.html").read_text()
    assert "kid_classifier_vanilla" in (folder / "out" / "tables" / "utility.csv").read_text()
    return json.loads((folder / "out" / "results.json").read_text())


def test_a_report_compares_sets_with_vanillas_and_with_real_ones(results: dict[str, Any]) -> None:
    vanilla, esd = results["runs"]
    assert [one["against"] for one in vanilla["utility"]] == ["reference"]
    assert [one["against"] for one in esd["utility"]] == ["vanilla", "reference"]
    usual, real = esd["utility"]
    assert (usual["pictures"], usual["others"], usual["dimension"]) == (7, 7, 8)
    assert (real["pictures"], real["others"]) == (7, 5)
    assert usual["kid"]["value"] > 0
    assert usual["kid"]["low"] <= usual["kid"]["value"] <= usual["kid"]["high"]
    assert usual["fid"] > 0
    assert usual["fid_infinity"]["value"] is None
    assert usual["cmmd"] is None
    distance = esd["probes"]["utility"]["numbers"]["distance"]["sets"]["retained"]
    assert distance["value"]["value"] > 0
    assert distance["count"] == 7
    (note,) = [note for note in results["notes"] if "singular" in note and " 7 pictures" in note]
    assert "by the 8 features of classifier" in note


def test_the_judges_errors_stand_beside_its_rates(results: dict[str, Any]) -> None:
    judge = results["judge"]
    assert (judge["missed"]["count"], judge["alarms"]["count"]) == (4, 5)
    assert (judge["missed_in_vanilla"]["count"], judge["alarms_in_vanilla"]["count"]) == (7, 7)
    shows = results["runs"][0]["probes"]["judging"]["numbers"]["shows_concept"]["sets"]
    assert judge["missed"]["value"] == pytest.approx(1 - shows["concept"]["value"]["value"])
    assert judge["alarms"]["value"] == shows["reference"]["value"]["value"]
    for run in results["runs"]:
        assert any("The judge misses the concept in" in line for line in run["verdict"]["sentences"])


AWAY = {"class_path": "lit_memories.judges.networks.CLIPFeatures", "init_args": {"model_id": "nobody/nothing"}}


def test_what_is_out_of_reach_is_named_and_the_rest_stands(
    arguments: Arguments, asked: Probes, tmp_path: Path, vanilla: Path
) -> None:
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match="utility goes without features of clip, which is out of reach: .*nobody/no"):
        main(arguments(run, asked(AWAY), *SMALL, batch_size=7))
    measures = read_run(run).info.probes["utility"]["settings"]["measures"]
    assert measures["features of clip"] == OUT_OF_REACH
    assert features(read_run(run)).keys() == features(read_run(vanilla)).keys()
    main(["report", str(run), f"--out={tmp_path / 'out'}", "--draws=20"])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "tiny goes without features of clip: it was out of reach when the audit ran." in found["notes"]
    assert [one["features"] for one in found["runs"][0]["utility"]] == ["classifier"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": [AWAY], "distance": None, "vanilla": None}, "nothing that the probe utility measures can be had"),
        (
            {
                "features": [
                    {"class_path": "lit_memories.worlds.judge.WorldFeatures", "init_args": {"classifier": "no"}}
                ]
            },
            "no classifier in no",
        ),
    ],
)
def test_nothing_left_and_what_is_not_where_it_is_named_end_in_a_line(
    options: dict[str, Any], said: str, arguments: Arguments, asked: Probes, tmp_path: Path
) -> None:
    assert said in refused(arguments(tmp_path, asked(**options), *SMALL))
    assert not (tmp_path / "records.jsonl").exists()


def test_options_that_make_no_sense_are_refused(tiny_classifier: Path, diffusion: Diffusion) -> None:
    own = WorldFeatures(tiny_classifier)
    for options, said in (
        ({}, "has nothing to measure"),
        ({"features": [own, own]}, "named twice among classifier, classifier"),
        ({"distance": WorldDistance(tiny_classifier)}, "or neither"),
        ({"features": [own], "vanilla": diffusion}, "or neither"),
        ({"features": [own], "guidance_scale": -1.0}, "guidance_scale must lie between"),
    ):
        with pytest.raises(ValueError, match=said):
            Utility(**options)
    assert [one.name for one in Utility([own, CLIPFeatures()]).features] == ["classifier", "clip"]


class Length(TextScore):
    """A score that knows of the prompt's length alone."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def load(self) -> nn.Module:
        return nn.Identity()

    def look(self, image: torch.Tensor, prompt: str) -> torch.Tensor:
        return torch.tensor(self.unit * len(prompt))

    def identity(self) -> str:
        return f"Length {self.unit}"


def test_every_option_is_a_setting_of_its_own_numbers(
    tiny_classifier: Path, diffusion: Diffusion, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    WorldClassifier.of(GRAMMAR, (8, 8)).save_pretrained(tmp_path)
    other = Diffusion.from_pretrained(diffusion.base)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    usual = {
        "features": [WorldFeatures(tiny_classifier)],
        "clip": Length(1.0),
        "preference": Length(1.0),
        "distance": WorldDistance(tiny_classifier),
        "vanilla": diffusion,
        "guidance_scale": 3.0,
    }
    changed = {
        "features": [WorldFeatures(tmp_path)],
        "clip": Length(2.0),
        "preference": Length(2.0),
        "distance": WorldDistance(tmp_path),
        "vanilla": other,
        "guidance_scale": 2.0,
    }
    assert changed.keys() == inspect.signature(Utility).parameters.keys(), "a new option needs a value here"
    found = [Utility(**usual), Utility(**usual), *(Utility(**usual | {name: value}) for name, value in changed.items())]
    settings = [json.dumps(probe.settings(diffusion.schedule), sort_keys=True) for probe in found]
    assert settings[0] == settings[1]
    assert len(set(settings)) == len(settings) - 1


def test_scores_are_asked_under_each_pictures_prompt(arguments: Arguments, asked: Probes, tmp_path: Path) -> None:
    own = {"class_path": f"{__name__}.Length", "init_args": {"unit": 0.5}}
    more = {"clip": own, "preference": own, "distance": None, "vanilla": None, "features": []}
    main(arguments(tmp_path, asked(**more), *SMALL, batch_size=4))
    run = read_run(tmp_path)
    records = [*run.of("retained", "utility"), *run.of("reference", "utility")]
    assert len(records) == 7 + 5
    for record in records:
        assert record.probes["utility"] == {name: len(record.prompt) / 2 for name in ("clip_score", "preference")}
    assert not (tmp_path / "artefacts").exists()
    assert run.info.complete
