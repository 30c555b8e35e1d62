"""The command, and what cannot be compared: one line that names folders and what differs, before any long work."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from board_runs import MODELS, WORLD, describe, modelled, write

from lit_memories.cli import main
from lit_memories.leaderboard import leaderboard
from lit_memories.leaderboard import main as command
from lit_memories.leaderboard.groups import grouped
from lit_memories.runs import RunInfo, read_run
from lit_memories.shared_runs import read_runs, run_folders


@pytest.fixture
def few(tmp_path: Path) -> list[Path]:
    """Vanilla, a control and an erased model."""
    return [write(tmp_path / "few", model, count=8) for model in MODELS[:3]]


def refused(folders: list[Path], tmp_path: Path) -> str:
    """The one line that the command ends with, before it computes or writes anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "board", lambda *_: pytest.fail("nothing is computed"))
        with pytest.raises(SystemExit) as stop:
            main(["leaderboard", *map(str, folders), "--out", str(tmp_path / "out")])
    assert isinstance(stop.value.code, str), "the interpreter prints a text and exits with 1"
    assert "\n" not in stop.value.code
    assert not (tmp_path / "out").exists()
    return stop.value.code


def test_the_command_writes_page_and_numbers_and_the_same_again(
    few: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder that holds runs, beside other things, as of the runs."""
    (tmp_path / "few" / "report.html").write_text("<script>alert(1)</script>")
    (tmp_path / "few" / "results.json").write_text("{}")
    (tmp_path / "few" / "figures").mkdir()
    main(["leaderboard", str(tmp_path / "few"), "--out", str(tmp_path / "one"), "--draws", "20"])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "“star” of shapes: 1 erased model",
        "hides: remembers",
        f"Leaderboard: {tmp_path / 'one' / 'leaderboard.html'}",
    ]
    assert {file.name for file in (tmp_path / "one").iterdir()} == {"leaderboard.html", "leaderboard.json"}
    assert json.loads((tmp_path / "one" / "leaderboard.json").read_text())["resampling"] == {"draws": 20, "seed": 0}
    leaderboard([str(folder) for folder in reversed(few)], tmp_path / "two", draws=20)
    for name in ("leaderboard.html", "leaderboard.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "alert(1)" not in (tmp_path / "one" / "leaderboard.html").read_text()


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["leaderboard", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "folders" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no folder given: name run folders"):
        leaderboard([])
    with pytest.raises(ValueError, match="draws must be positive"):
        leaderboard(["x"], draws=0)


def test_a_folder_that_is_no_run(few: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} is not an audit run: it has no run.json" in refused(
        [*few, tmp_path / "empty"], tmp_path
    )
    assert f"{tmp_path / 'gone'} is not an audit run" in refused([*few, tmp_path / "gone"], tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "results.json").write_text("{}")
    said = refused([*few, tmp_path / "report"], tmp_path)
    assert f"{tmp_path / 'report'} is a report without the runs it was made of" in said


def test_an_unfinished_run(few: list[Path], tmp_path: Path) -> None:
    info = RunInfo.load(few[2])
    replace(info, expected={"concept": {"denoising": 20, "seed": 8}}, complete=False).save(few[2])
    said = refused(few, tmp_path)
    assert f"{few[2]} is unfinished, it holds 8 of 20 answers of denoising for the concept set" in said
    assert "run the same audit again" in said


def test_references_alone(few: list[Path], tmp_path: Path) -> None:
    assert "no run is of an erased model" in refused(few[:2], tmp_path)


def test_no_vanilla(few: list[Path], tmp_path: Path) -> None:
    assert "exactly one run whose role is vanilla, found none" in refused(few[1:], tmp_path)


def test_two_of_one_name(few: list[Path], tmp_path: Path) -> None:
    twin = write(tmp_path / "others", replace(MODELS[3], name="hides"), count=8)
    said = refused([*few, twin], tmp_path)
    assert f"two runs are called 'hides' ({few[2]}, {twin})" in said


def change_settings(folder: Path) -> None:
    info = RunInfo.load(folder)
    replace(info, settings=info.settings | {"steps": 50}).save(folder)


def change_probe(folder: Path) -> None:
    info = RunInfo.load(folder)
    probe = info.probes["samples"] | {"settings": {"guidance_scale": 3.0}}
    replace(info, probes=info.probes | {"samples": probe}).save(folder)


def change_base(folder: Path) -> None:
    describe(folder, erasure={"method": "ESD"}, base="elsewhere", base_fingerprint="f-elsewhere")


def change_world(folder: Path) -> None:
    describe(folder, configuration={"unet": "u"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_settings, "their settings differ: steps: 20 | 50"),
        (change_probe, "their settings differ: samples.guidance_scale: 7.5 | 3.0"),
        (
            change_base,
            "hides was erased from elsewhere (f-elsewhere), and vanilla, whose role is vanilla, is shapes (f",
        ),
        (change_world, "no vanilla run of “star” is of its world (unet: 'u' | None)"),
    ],
)
def test_what_differs_is_named_with_the_folders(
    change: Callable[[Path], None], named: str, few: list[Path], tmp_path: Path
) -> None:
    change(few[2])
    said = refused(few, tmp_path)
    assert named in said
    assert str(few[2]) in said


def test_other_settings_of_what_vanilla_was_not_asked(few: list[Path], tmp_path: Path) -> None:
    more = write(tmp_path / "more", modelled("more", surprise=1.0), count=8)
    for folder, scale in ((few[2], 7.5), (more, 3.0)):
        info = RunInfo.load(folder)
        numbers = [{"name": "success", "title": "success"}]
        probe = {"question": "", "settings": {"scale": scale}, "sets": ["concept"], "numbers": numbers}
        replace(info, probes=info.probes | {"spell": probe | {"conditioned": False}}).save(folder)
    said = refused([*few, more], tmp_path)
    assert f"{few[2]} and {more} cannot be compared, their settings of spell differ: scale: 7.5 | 3.0" in said


def test_other_samples(few: list[Path], tmp_path: Path) -> None:
    """What they share would be another audit for each pair; references may have been asked about more."""
    more = write(tmp_path / "more", modelled("more", surprise=1.0), count=12)
    told = "were asked about other samples of the concept set: 8 of 'synthetic' | {} of 'synthetic', {} in common"
    said = refused([*few, more], tmp_path)
    assert f"{few[2]} and {more} cannot be compared, they {told.format(12, 8)}" in said
    less = write(tmp_path / "less", MODELS[1], count=6)
    assert told.format(6, 6) in refused([few[0], less, few[2]], tmp_path)
    large = [write(tmp_path / "large", model, count=12) for model in MODELS[:2]]
    (found,) = grouped([read_run(folder) for folder in (*large, few[2])])
    assert len(found.runs) == 3


@pytest.mark.parametrize("role", ["vanilla", "control"])
def test_other_references(role: str, few: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "others", modelled("other", role, surprise=1.0), count=8)
    said = refused([*few, other], tmp_path)
    assert f"are measured by different {role} models" in said
    assert f"{other} (f-other)" in said


def test_an_image_level_audit(few: list[Path], tmp_path: Path) -> None:
    image = write(tmp_path / "image", replace(modelled("i"), settings=WORLD | {"audit": "ImageAudit"}), count=8)
    assert f"{image} is an image-level audit" in refused([*few, image], tmp_path)


def test_output_among_what_is_read(few: list[Path], tmp_path: Path) -> None:
    for out in (few[0], few[0] / "deep", tmp_path / "few"):
        with pytest.raises(ValueError, match=r"--out .*: choose another folder"):
            leaderboard([str(tmp_path / "few")], out)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="it is no folder"):
        leaderboard([str(tmp_path / "few")], tmp_path / "file")
    link = tmp_path / "out"
    link.mkdir()
    (link / "leaderboard.html").symlink_to(few[0] / "run.json")
    with pytest.raises(ValueError, match="leads out of its folder"):
        leaderboard([str(tmp_path / "few")], link)


def test_runs_of_a_folder_are_its_own_not_those_below(few: list[Path], tmp_path: Path) -> None:
    assert run_folders(tmp_path / "few") == sorted(few)
    assert run_folders(tmp_path) == run_folders(tmp_path / "gone") == []
    assert run_folders(few[0]) == [few[0]]
    assert [run.folder for run in read_runs(str(tmp_path / "few"))] == sorted(few)
