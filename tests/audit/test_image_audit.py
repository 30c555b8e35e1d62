"""Many memories of one image: what is recorded, what is shared, and what a second run adds."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_errors import refused
from PIL import Image
from safetensors.torch import load_file
from torch import Generator

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.images import to_tensor
from lit_memories.inverters.decoder import DecoderInversion
from lit_memories.metrics import gaussian_nll
from lit_memories.records import PARTS, Record
from lit_memories.runs import read_run
from lit_memories.statistics.image_level import distances, embed, summarise_memories

ROOT = Path(__file__).parents[2]
Arguments = Callable[..., list[str]]
RESULTS = ("records.jsonl", "seeds.safetensors")


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the module's audits share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def command(calm: Path, images: Path, cache: Path) -> Arguments:
    """The command line of a small image-level audit: two queries by way of two supports each."""
    sources = {name: f"{{path: {images / name}, limit: 99}}" for name in ("concept", "reference")}

    def build(folder: Path, *more: str) -> list[str]:
        return [
            "predict",
            f"--config={ROOT / 'recipes/pictograms/audit/image.yaml'}",
            f"--model.diffusion.base={calm}",
            "--model.judge=null",
            "--model.num_inference_steps=3",
            "--model.decoder.max_passes=6",
            f"--model.cache={cache}",
            f"--data.query_images={{class_path: ImageSource, init_args: {sources['concept']}}}",
            f"--data.support_images={{class_path: ImageSource, init_args: {sources['reference']}}}",
            "--data.queries=2",
            "--data.supports=2",
            "--trainer.callbacks=[]",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={folder}",
            *more,
        ]

    return build


@pytest.fixture(scope="module")
def whole(command: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an audit that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    main(command(folder))
    return folder


def results(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in RESULTS)


def test_every_query_has_its_seeds(whole: Path) -> None:
    run, seeds = read_run(whole), load_file(whole / "seeds.safetensors")
    assert run.info.complete
    assert [(r.set, r.index, r.support) for r in run.records] == [
        *(("own", k, None) for k in (0, 1)),
        *(("repeat", k, None) for k in (0, 1)),
        *(("memory", k, support) for k in (0, 1) for support in (2 * k, 2 * k + 1)),
    ]
    assert set(seeds) == {record.key for record in run.records}
    own = {record.index: seeds[record.key].double().flatten() for record in run.of("own", "memories")}
    for record in run.records:
        seed = seeds[record.key].double().flatten()
        assert record.value("memories.nll") == pytest.approx(float(gaussian_nll(seeds[record.key][None])), abs=1e-9)
        assert None not in (
            record.value("memories.psnr"),
            record.value("memories.psnr_ceiling"),
            record.value("memories.psnr_decoder"),
            record.value("memories.psnr_round_trip"),
        )
        if record.set != "own":
            centre = own[record.index]
            assert record.value("memories.distance") == pytest.approx(
                float(((seed - centre) ** 2).sum().sqrt()), rel=1e-9
            )
            cosine = torch.nn.functional.cosine_similarity(seed, centre, dim=0)
            assert record.value("memories.cosine_distance") == pytest.approx(1 - float(cosine), abs=1e-9)
            assert record.value("memories.distance") > 0
    for record in run.of("memory", "memories"):
        assert record.value("memories.psnr_support") > 0
        assert record.value("memories.decoder_passes") >= 10, "both stages count"
    assert run.image("memory", 1, "regenerated-0003").is_file()


def test_the_latent_found_is_the_one_that_was_inverted(whole: Path, calm: Path) -> None:
    """The picture of a memory's seed, made by the plain generation call, is the one kept."""
    diffusion, run = Diffusion.from_pretrained(calm), read_run(whole)
    record = run.of("memory", "memories")[0]
    seed = load_file(whole / "seeds.safetensors")[record.key][None]
    made = diffusion.generate([record.prompt], seed, 3)[0]
    with Image.open(run.image("memory", 0, "regenerated-0000")) as picture:
        kept = to_tensor(picture)
    assert (made - kept).abs().max() <= 1.01 / 255
    assert record.value("memories.psnr_round_trip") > record.value("memories.psnr"), (
        "regeneration goes back to the latent, not to the query"
    )


def test_the_official_decoder_is_an_option(command: Arguments, tmp_path: Path) -> None:
    """The recipe's comment says which."""
    recipe = ROOT / "recipes/pictograms/audit/image.yaml"
    (option,) = re.findall(r"Official decoder inversions: (.+)", recipe.read_text())
    one = ("--data.queries=1", "--data.supports=1", "--model.decoder.max_passes=2")
    main(command(tmp_path / "run", *one, *option.split()))
    run = read_run(tmp_path / "run")
    assert run.info.probes["memories"]["settings"]["decoder"] == {
        "name": "DecoderInversion",
        "max_passes": 2,
        "faithful": True,
        "lr": 1e-2,
    }
    assert [record.value("memories.decoder_passes") for record in run.records] == [2, 2, 4], "exactly as many as it may"


def test_a_second_model_takes_decoder_inversions_from_the_cache(
    whole: Path, command: Arguments, tiny_control: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Diffusion.from_pretrained(tiny_control).pipeline()
    other.vae = Diffusion.from_pretrained(calm).vae
    other.save_pretrained(tmp_path / "other")

    def refuse(*_: object) -> None:
        raise AssertionError("a decoder inversion was made again")

    monkeypatch.setattr(DecoderInversion, "__call__", refuse)
    main(command(tmp_path / "run", f"--model.diffusion.base={tmp_path / 'other'}"))
    first, second = (read_run(folder).records for folder in (whole, tmp_path / "run"))
    assert [r.key for r in first] == [r.key for r in second]
    assert [r.value("memories.psnr_decoder") for r in first] == [r.value("memories.psnr_decoder") for r in second]
    assert all(a.value("memories.nll") != b.value("memories.nll") for a, b in zip(first, second, strict=True))


def test_without_the_cache_the_bytes_are_the_same(whole: Path, command: Arguments, tmp_path: Path) -> None:
    calls, original = [], DecoderInversion.__call__

    def count(self: DecoderInversion, *arguments: object) -> object:
        calls.append(arguments)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderInversion, "__call__", count)
        main(command(tmp_path / "run", f"--model.cache={tmp_path / 'cache'}"))
    assert len(calls) == 2 * (2 + 2 * 2)
    assert len(list((tmp_path / "cache").iterdir())) == len(calls)
    assert results(tmp_path / "run") == results(whole)


def test_an_interrupted_run_is_completed(whole: Path, command: Arguments, tmp_path: Path) -> None:
    """Killed in the middle of the second query's lines: one of them is there, one is cut."""
    original, written = Record.to_json, []

    def cut(self: Record) -> str:
        written.append(self)
        if len(written) == 6:
            raise Killed
        return original(self)

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "to_json", cut)
        with pytest.raises(Killed):
            main(command(run))
    with (run / PARTS / "records-0.jsonl").open("a") as lines:
        lines.write(original(written[4]) + "\n" + original(written[5])[:30])
    assert len(read_run(run).records) == 5
    main(command(run))
    assert results(run) == results(whole)
    assert read_run(run).info.complete


def test_more_supports_can_be_added(whole: Path, command: Arguments, tmp_path: Path) -> None:
    main(command(tmp_path / "run", "--data.supports=1", "--data.stride=2"))
    assert len(read_run(tmp_path / "run").of("memory", "memories")) == 2
    main(command(tmp_path / "run"))
    assert results(tmp_path / "run") == results(whole)


def test_encoding_again_throws_the_latent_away(whole: Path, command: Arguments, tmp_path: Path) -> None:
    main(command(tmp_path / "run", "--model.reencode=true"))
    latent, again = (read_run(folder) for folder in (whole, tmp_path / "run"))
    assert again.info.probes["memories"]["settings"]["reencode"]
    assert {r.key for r in latent.records} == {r.key for r in again.records}, "of the same pictures"
    assert [r.value("memories.psnr_decoder") for r in latent.records] == [
        r.value("memories.psnr_decoder") for r in again.records
    ]
    assert all(
        a.value("memories.latent_cosine_distance") != b.value("memories.latent_cosine_distance")
        for a, b in zip(latent.of("memory", "memories"), again.of("memory", "memories"), strict=True)
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.queries=5", "the query set has 4 different images that can be read, 5 are needed"),
        ("--data.supports=3", "the support set has 5 different images that can be read, 6 are needed"),
        ("--data.supports=0", "must be at least 1"),
    ],
)
def test_sets_that_do_not_suffice_are_refused(option: str, message: str, command: Arguments, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command(tmp_path, option))
    assert message in str(stop.value)


def test_queries_are_no_supports(command: Arguments, images: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command(tmp_path, f"--data.support_images.path={images / 'concept'}"))
    assert "share 2 images" in str(stop.value)


def test_the_summary_measures_what_the_seeds_say(whole: Path) -> None:
    summary, run = summarise_memories(whole), read_run(whole)
    queries = [[r for r in run.of("memory", "memories") if r.index == k] for k in (0, 1)]
    for name, field in (("euclidean", "memories.distance"), ("cosine", "memories.cosine_distance")):
        spread = getattr(summary, name)
        to_own = [sum(r.number(field) for r in records) / 2 for records in queries]
        assert spread.to_own.value == pytest.approx(sum(to_own) / 2)
        gaps = [abs(a.number(field) - b.number(field)) / 2 for a, b in queries]
        assert spread.to_own_sd.value == pytest.approx(sum(gaps) / 2)
        repeats = [r.number(field) for r in run.of("repeat", "memories")]
        assert spread.repeat.value == pytest.approx(sum(repeats) / 2)
        assert spread.pairwise.value == pytest.approx(sum(float(getattr(q, name)[1, 2]) for q in summary.queries) / 2)
    assert summary.euclidean.independent == pytest.approx((2 * 4 * 16 * 16) ** 0.5)


def test_the_tool_writes_table_and_figures(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("one", "two"):
        main(["report", str(whole), "--out", str(tmp_path / out), "--draws", "100"])
    assert "null: independent" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "one" / "results.json").read_text())["memories"]["runs"]
    assert found["euclidean"]["independent"] == pytest.approx(45.255, abs=1e-3)
    assert [query["supports"] for query in found["queries"]] == [[0, 1], [2, 3]]
    figures = [(tmp_path / out / "figures" / "memories-1.png").read_bytes() for out in ("one", "two")]
    assert figures[0] == figures[1]


def test_other_runs_hold_no_memories(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((whole / "run.json").read_bytes())
    assert "holds no memories" in refused(["report", str(tmp_path), "--out", str(tmp_path / "out")])
    twice = refused(["report", str(whole), str(whole), "--out", str(tmp_path / "out")])
    assert "two runs are called 'whole'" in twice


def test_seeds_of_the_prior_are_as_far_apart_as_the_null_says() -> None:
    euclidean, cosine = distances(torch.randn(4, 4, 32, 32, generator=Generator().manual_seed(0)))
    pairs = tuple(torch.triu_indices(4, 4, 1))
    assert euclidean[pairs].mean() == pytest.approx((2 * 4096) ** 0.5, rel=0.02)
    assert cosine[pairs].mean() == pytest.approx(1, abs=0.03)


def test_points_of_a_plane_come_back() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [1.0, 1.0]]).double()
    matrix = torch.cdist(points, points)
    found = embed(matrix)
    assert torch.allclose(torch.cdist(found, found), matrix, atol=1e-6)
    assert torch.equal(found, embed(matrix))
    assert embed(torch.zeros(1, 1).double()).tolist() == [[0, 0]]
