"""Absurd options of attacks and audits end in one line that names the range, before anything is computed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from attack_helpers import Attacked

from lit_memories.attacks import P4D, NoiseProbe, Plain, SeedSearch, TextualInversion, UnlearnDiffAtk
from lit_memories.cli import main
from lit_memories.data.conditionings import Conditioning
from lit_memories.numbers import check_range
from lit_memories.probes import Relearning, Samples

NAN = float("nan")


@pytest.mark.parametrize(
    "made",
    [
        lambda x: Plain(guidance_scale=x),
        lambda x: NoiseProbe(etas=[1.0, x]),
        lambda x: NoiseProbe(scales=[x]),
        lambda x: SeedSearch(lr=x),
        lambda x: P4D(lr=x),
        lambda x: UnlearnDiffAtk(lr=x),
        lambda x: TextualInversion(lr=x),
        lambda x: Samples(guidance_scale=x),
        lambda x: Relearning(guidance_scale=x),
        lambda x: Relearning(lr=x),
    ],
)
@pytest.mark.parametrize("absurd", [1e30, -1.0, NAN, float("inf")])
def test_options_have_a_range(made: Callable[[float], object], absurd: float) -> None:
    with pytest.raises(ValueError, match=r"between .* and .*, got"):
        made(absurd)


def test_a_range_holds_its_ends_and_a_list_something() -> None:
    check_range("x", [0, 1.0], 0, 1)
    check_range("x", 1, 0, 1)
    with pytest.raises(ValueError, match=r"^x must lie between 0 and 1, got 2$"):
        check_range("x", 2, 0, 1)
    with pytest.raises(ValueError, match=r"^x must be one number or more, each between 0 and 1, got \[\]$"):
        check_range("x", [], 0, 1)
    with pytest.raises(ValueError, match="0 to 100"):
        Conditioning.parse("own@1e30")


def said(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return str(stop.value)


def test_the_line_is_the_reason_alone(attacked: Attacked, tmp_path: Path) -> None:
    """Within a list of probes too, of which the parser has much to say."""
    line = said(attacked("noise_probe", tmp_path / "run", etas=[1e9]))
    assert line == "lit-memories predict: etas must be one number or more, each between 0 and 100, got [1000000000.0]"
    line = said(attacked("plain", tmp_path / "run", guidance_scale=1e30))
    assert line == "lit-memories predict: guidance_scale must lie between 0 and 100, got 1e+30"
    line = said(attacked("plain", tmp_path / "run", "--model.guidance_scale=1e30"))
    assert "guidance_scale must lie between 0 and 100" in line
    assert not (tmp_path / "run/records.jsonl").exists()


def test_a_transformed_model_is_no_vanilla(attacked: Attacked, tmp_path: Path) -> None:
    transform = "--model.diffusion.transform={class_path: Quantised, init_args: {bits: 8}}"
    line = said(attacked("plain", tmp_path / "run", transform, "--model.role=vanilla"))
    assert "a transformed or guarded model is no vanilla" in line
    assert "\n" not in line
