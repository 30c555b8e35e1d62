"""Every option of a recipe with odd values: they are taken, or refused in one line, and never a traceback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_memories.cli import main
from lit_memories.recipes import RecipeCLI

ROOT = Path(__file__).parents[2] / "recipes/pictograms"
VALUES = "null", "{}", "", "-1", "1e400", str(10**30), "\x1b[31m", "[1]"


def names(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Options as a user writes them."""
    for key, value in settings.items():
        if key == "init_args":
            yield from names(value, prefix)
        elif key != "class_path":
            yield f"{prefix}{key}"
            yield from names(value, f"{prefix}{key}.") if isinstance(value, dict) else ()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("command", "recipe"), [("predict", "audit/umbrella"), ("fit", "erase/esd"),
                                                 ("fit", "erase/salun"), ("fit", "pretrain/classifier")])  # fmt: skip
def test_odd_values_are_taken_or_refused_in_a_line(
    command: str,
    recipe: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Model, data and trainer are made; what they would do is not done."""
    monkeypatch.setattr(RecipeCLI, "_run_subcommand", lambda *_: None)
    base = [command, f"--config={ROOT / recipe}.yaml", f"--trainer.default_root_dir={tmp_path}"]
    if "pretrain" not in recipe:
        base.append(f"--model.diffusion.base={tiny}")
    if command == "predict":
        base.append(f"--model.judge.init_args.classifier={ROOT.parents[1] / 'checkpoints/classifier'}")
    with pytest.raises(SystemExit):
        main([*base, "--print_config"])
    options = [*names(yaml.safe_load(capsys.readouterr().out))]
    if recipe != "erase/esd":  # a trainer is a trainer
        options = [option for option in options if not option.startswith("trainer")]
    assert len(options) > 10
    monkeypatch.chdir(tmp_path)
    taken = 0
    for number, option in enumerate(options):
        for value in (VALUES * 2)[number % len(VALUES) :][::3][:3]:  # three of them, others for the next option
            argument = f"--{option}={value}"
            try:
                main([*base, argument])
                taken += 1
                continue
            except SystemExit as stop:
                said = stop.code if isinstance(stop.code, str) else capsys.readouterr().err.splitlines()[-1]
            except Exception as error:
                pytest.fail(f"{argument!r} ends in a {type(error).__name__}: {error}")
            assert said.startswith(f"lit-memories {command}: "), (argument, said)
            assert said.isprintable(), (argument, said)
    assert 0 < taken < len(options) * 3 / 2
