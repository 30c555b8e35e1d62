"""Attacks that need gradients have them on quantised and on compiled models, so that none is refused there."""

from pathlib import Path

import pytest
from attack_helpers import Attacked

from lit_memories.cli import main
from lit_memories.records import ARTEFACTS
from lit_memories.runs import read_run
from lit_memories.storage.tensors import read_tensors


@pytest.mark.parametrize(
    "option",
    [
        pytest.param("--model.diffusion.transform={class_path: Quantised, init_args: {bits: 8}}", id="quantised"),
        # Backends of use trace gradients ahead of time, as this one does and does nothing else.
        pytest.param("--model.diffusion.speed.compile=aot_eager", id="compiled", marks=pytest.mark.slow),
    ],
)
def test_a_search_by_gradients_gets_nearer(option: str, attacked: Attacked, tmp_path: Path) -> None:
    """Weights are rounded once, when the model is loaded, and computed with as any: nothing rounds on the way."""
    main(attacked("seed_search", tmp_path / "run", option, steps=10, lr=0.1, limit=2))
    answers = [r.probes["seed_search"] for r in read_run(tmp_path / "run").of("concept", "seed_search")]
    assert len(answers) == 2
    assert all("flag" not in answer for answer in answers)
    for file in (tmp_path / "run" / ARTEFACTS / "seed_search").iterdir():
        drawn, found = read_tensors(file)["discrepancy"].tolist()
        assert found < 0.9 * drawn
