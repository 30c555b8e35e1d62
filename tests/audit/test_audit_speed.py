"""Options of speed by recipe: runs that may differ in their last bits do not pass for one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lit_memories.cli import main
from lit_memories.runs import read_run

Arguments = Callable[..., list[str]]


def test_what_may_change_the_last_bits_is_a_setting(arguments: Arguments, undisturbed: Path, tmp_path: Path) -> None:
    options = [f"--model.diffusion.speed.{name}" for name in ("compile=eager", "channels_last=true", "vae_tiling=true")]
    limits = ("--data.concept_images.limit=1", "--data.reference_images.limit=1", "--data.known=0", "--data.prompted=0")
    main(arguments(tmp_path / "run", *options, *limits))
    run, plain = read_run(tmp_path / "run"), read_run(undisturbed)
    assert run.info.settings["speed"] == {"compile": "eager", "channels_last": True, "vae_tiling": True}
    assert plain.info.settings["speed"] == {}
    assert run.of("concept", "seed")[0].value("seed.nll") == pytest.approx(
        plain.of("concept", "seed")[0].value("seed.nll"), rel=1e-5
    )
    with pytest.raises(SystemExit, match=r"settings\.speed"):
        main(arguments(undisturbed, options[1]))


def test_slicing_changes_no_byte(arguments: Arguments, undisturbed: Path, tmp_path: Path) -> None:
    main(arguments(tmp_path / "run", "--model.diffusion.speed.vae_slicing=true"))
    for name in ("records.jsonl", "seeds.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_backend_that_is_none_is_refused_in_one_line(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments(tmp_path / "run", "--model.diffusion.speed.compile=induktor"))
    message = str(stop.value)
    assert "\n" not in message
    assert "no backend 'induktor'" in message
    assert "inductor" in message
