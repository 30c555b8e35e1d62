"""An attack is one file: the contributors' example runs as it stands there."""

import re
import sys
from pathlib import Path

import pytest
from attack_helpers import ROOT, STEPS, Attacked

import lit_memories.attacks
from lit_memories.cli import main
from lit_memories.records import artefact_path
from lit_memories.runs import read_run
from lit_memories.storage.tensors import read_tensors

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = re.findall(r"```python\n(# lit_memories/attacks/hint\.py.*?)```", TEXT, re.DOTALL)
COMMAND = re.findall(r"--model\.probes\+=lit_memories\.attacks\.hint\.\w+", TEXT)


def test_the_contributors_attack_runs(attacked: Attacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "attacks"
    place.mkdir()
    (example,), (option,) = EXAMPLE, COMMAND
    (place / "hint.py").write_text(example)
    monkeypatch.setattr(lit_memories.attacks, "__path__", [*lit_memories.attacks.__path__, str(place)])
    run_folder = tmp_path / "run"
    main(attacked("plain", run_folder, option))
    run = read_run(run_folder)
    assert run.info.complete
    found = run.of("concept", "hint")
    assert [record.value("hint.evaluations") for record in found] == [2 * 2 * STEPS] * 5
    for record in found:
        assert read_tensors(artefact_path(run_folder, "hint", record.key)).keys() == {"seed"}
    sys.modules.pop("lit_memories.attacks.hint")
