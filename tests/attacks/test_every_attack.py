"""What every attack of a recipe keeps to, whatever it does."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from attack_helpers import ROOT, SMALL, STEPS, Attacked

from lit_memories.attacks import ATTACKS, Attack
from lit_memories.cli import main
from lit_memories.costs import read_cost
from lit_memories.diffusion import Diffusion
from lit_memories.records import ARTEFACTS
from lit_memories.runs import Run, read_run

NAMES = sorted(set(ATTACKS) - {"replay"})
"""`test_replay.py` has the one that needs another audit."""


def names(recipe: Path) -> list[str]:
    """The attacks of a recipe."""
    probes = yaml.safe_load(recipe.read_text())["model"]["init_args"]["probes"]
    return [probe["class_path"].rsplit(".", 1)[1] for probe in probes]


ASKED = 3
"""Samples that an attack is asked about here: two batches of two, of which the second is not full."""


def few(name: str) -> tuple[str, str]:
    """Options for so many, and for those that the attack learns from."""
    learnt = SMALL[name].get("lesson", 0)
    return f"--data.concept_images.limit={ASKED + learnt}", f"--data.reference_images.limit={2 + learnt}"


def answers(run: Run, name: str) -> list[dict[str, Any]]:
    return [record.probes[name] for record in run.records if name in record.probes]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", ["pictograms", "sd14"])
def test_every_attack_has_its_recipe(name: str, world: str) -> None:
    assert ATTACKS[name].__name__ in names(ROOT / "recipes" / world / "attack" / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_costs_what_it_says_and_depends_on_its_sample_alone(
    name: str, attacked: Attacked, tmp_path: Path
) -> None:
    main(attacked(name, tmp_path / "one", *few(name)))
    run = read_run(tmp_path / "one")
    assert run.info.complete
    found = answers(run, name)
    attack = _probe(run, name)
    plan = attack.plan(STEPS)
    assert len(found) == ASKED
    assert list(plan) == sorted(set(plan)), "it grows"
    for answer in found:
        assert "flag" not in answer
        assert (answer["success"], answer["evaluations"], answer["looks"]) == (0.0, plan[-1], len(plan))
    spent = read_cost(tmp_path / "one")[name]
    shared = attack.shared(STEPS)
    assert spent["samples"] == ASKED
    assert spent["evaluations"] == shared + ASKED * (plan[-1] - shared), "counted, not only said"
    main(attacked(name, tmp_path / "other", *few(name), batch_size=2))
    assert (tmp_path / "one/records.jsonl").read_bytes() == (tmp_path / "other/records.jsonl").read_bytes()
    attack_leaves = ATTACKS[name].leaves_artefacts
    assert attack_leaves == (tmp_path / "one" / ARTEFACTS / name).is_dir(), "what is said to be left is"
    made = [sorted((tmp_path / folder / ARTEFACTS).rglob("*.safetensors")) for folder in ("one", "other")]
    assert [file.name for file in made[0]] == [file.name for file in made[1]]
    assert [file.read_bytes() for file in made[0]] == [file.read_bytes() for file in made[1]]


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_ends_with_the_first_picture_that_shows_the_concept(
    name: str, attacked: Attacked, tmp_path: Path
) -> None:
    main(attacked(name, tmp_path / "run", *few(name), least=-1.0))
    run = read_run(tmp_path / "run")
    attack = _probe(run, name)
    won = [(a["success"], a["evaluations"], a["looks"]) for a in answers(run, name)]
    assert won == [(1.0, attack.plan(STEPS)[0], 1)] * ASKED


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_below_the_first_picture_is_refused(name: str, diffusion: Diffusion) -> None:
    other = {"vanilla": diffusion} if "vanilla" in inspect.signature(ATTACKS[name]).parameters else {}
    attack = ATTACKS[name](**SMALL[name], **other, budget=1)
    with pytest.raises(ValueError, match=f"the attack {name} makes its first picture after"):
        attack.check(diffusion, STEPS)


def test_it_is_refused_at_once(attacked: Attacked, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(attacked("plain", tmp_path / "run", budget=1))
    assert "the attack plain makes its first picture after" in str(stop.value)
    assert not (tmp_path / "run/records.jsonl").exists()


def _probe(run: Run, name: str) -> Attack:
    """The attack as a run was asked it; what it says of other models is left out, as no plan depends on them."""
    settings, taken = run.info.probes[name]["settings"], inspect.signature(ATTACKS[name]).parameters
    return ATTACKS[name](**{key: value for key, value in settings.items() if key in taken and key != "vanilla"})
