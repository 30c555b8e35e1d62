"""The page of benchmarks/attacks.py and its section of docs/validity.md, from numbers alone."""

from collections.abc import Sequence
from typing import Any, Literal

from attacks_numbers import KNOWS, NEVER, TAUGHT, VANILLA, Row, never_there
from worlds_page import grid_of

from lit_memories.attacks import ATTACKS
from lit_memories.attacks.plain import Plain
from lit_memories.metrics.bootstrap import wilson_interval

Results = dict[str, list[dict[str, Any]]]
"""``rows``, ``proofs`` and ``transfers``."""
Evidence = Literal["by itself", "beside a control", "not shown"]
RARE = 0.25
"""An attack that brings back what was never there less often than this, by its interval, is evidence by itself."""
PART, WHOLE = "<!-- attacks -->\n", "<!-- /attacks -->"
KNOWN = VANILLA, KNOWS, NEVER, TAUGHT
HEAD = """# Every door

`python benchmarks/attacks.py`, seed 0: all attacks, as recipes/pictograms/attack has them, on {count} pictures of the
concept each, on models of known truth and erased ones. *Knows* is the control that never saw the other concept, and no
picture shows that; *never-knew* is the shipped control and, with its number, controls of other trainings
(`benchmarks/replicates.py`); *taught* that control after so many steps of 32 pictures of all kinds. Brackets are 95 %
intervals.

## What attacks prove
"""
LEGEND = """
- *Never there*: how often it "brought back" what a never-knew model never saw, over all such models and concepts.
- *Told apart*: the probability (AUC) that it opens *knows* further than *never-knew*. Any success is further than none,
  one with fewer pictures judged further than one with more, and then the likelier picture.
  A model that knows listens to its prompt, so that an attack which adds nothing tells the two apart as well as plain
  draws do: what it adds is in the last column.
- *Ordered right*: how often a picture orders two of never-knew and the taught models as the lesson's length does by how
  far they were opened; 0.5 is chance, as where an attack opens all or none.
- *Opens beyond luck*: erased models on which it gains over never-knew and over as many plain draws, both intervals
  above 0; in brackets of how many.
"""


def page(results: Results) -> str:
    """The page as Markdown.

    Args:
        results: of all concepts.
    """
    rows = results["rows"]
    attacks = _attacks(rows)
    parts = [
        HEAD.format(count=_count(rows)),
        *_proofs(results),
        *_concepts(rows, attacks),
        *_transfers(results["transfers"]),
    ]
    return "\n".join(parts)


def section(results: Results) -> str:
    """What docs/validity.md holds of attacks, between its markers.

    Args:
        results: of all concepts.
    """
    count = _count(results["rows"])
    intro = f"`python benchmarks/attacks.py`, {count} pictures a model ([all of it](results/attacks.md)).\n"
    return "\n".join([intro, *_proofs(results)])


def filled(text: str, results: Results) -> str:
    """docs/validity.md with its section of attacks made anew.

    Args:
        text: the page.
        results: of all concepts.

    Raises:
        ValueError: if it has no place for the section.
    """
    before, found, rest = text.partition(PART)
    _, ended, after = rest.partition(WHOLE)
    if not (found and ended):
        raise ValueError(f"the page has no lines {PART.strip()} and {WHOLE}: put them where the section belongs")
    return f"{before}{PART}{section(results)}{WHOLE}{after}"


def evidence(results: Results, attack: str) -> Evidence:
    """Of what a success of an attack is evidence, by its numbers.

    By itself where it tells knows from never-knew on every concept and is rare where nothing was ever there; beside a
    control where it tells them apart, and is not rare there; else it is not shown to be evidence.

    Args:
        results: of all concepts.
        attack: its name.
    """
    told = [proof["told_apart"] for proof in results["proofs"] if proof["attack"] == attack and proof["told_apart"]]
    hits, total = never_there(results["rows"], attack)
    if not told or total == 0 or min(low for _, low, _ in told) <= 0.5:
        return "not shown"
    return "by itself" if wilson_interval(hits, total).high <= RARE else "beside a control"


def orders(results: Results, attack: str) -> bool:
    """Whether an attack orders models as they learnt on every concept on which it was asked to, beyond chance.

    Args:
        results: of all concepts.
        attack: its name.
    """
    found = [proof["ordered"] for proof in results["proofs"] if proof["attack"] == attack and proof["ordered"]]
    return bool(found) and min(low for _, low, _ in found) > 0.5


def opens(rows: Sequence[Row], attack: str) -> tuple[list[str], int]:
    """The erased models that an attack opens beyond never-knew and luck, with their concepts; of how many.

    Args:
        rows: of all concepts.
        attack: its name.
    """
    own = [row for row in rows if row["attack"] == attack and not row["model"].startswith(KNOWN)]
    gains = [(row, row["over_never_knew"], row["over_draws"]) for row in own]
    sure = [row for row, never, draws in gains if never and draws and never[1] > 0 and draws[1] > 0]
    return [f"{row['model']} ({row['concept']})" for row in sure], len(own)


def _count(rows: Sequence[Row]) -> int:
    """Pictures that an attack was tried on; plain draws may be of more."""
    return max((row["count"] for row in rows if row["attack"] != Plain.name), default=0)


def _attacks(rows: Sequence[Row]) -> list[str]:
    return [name for name in ATTACKS if any(row["attack"] == name for row in rows)]


def _proofs(results: Results) -> list[str]:
    rows = results["rows"]
    table = []
    for attack in _attacks(rows):
        hits, total = never_there(rows, attack)
        said = wilson_interval(hits, total) if total else None
        threat = next((row["threat"] for row in rows if row["attack"] == attack and row["threat"]), None)
        never = "–" if said is None else f"{hits} of {total} [{100 * said.low:.0f}, {100 * said.high:.0f} %]"
        columns = [_by_concept(results["proofs"], attack, which) for which in ("told_apart", "ordered")]
        names, count = opens(rows, attack)
        beyond = "–" if attack == Plain.name else f"{', '.join(names) or 'none'} [{count}]"
        table.append([attack, threat or "–", never, *columns, beyond])
    head = ["attack", "attacker has", "never there", "told apart", "ordered right", "opens beyond luck"]
    return [grid_of(head, table), LEGEND, *_said(results)]


def _by_concept(proofs: Sequence[Row], attack: str, which: str) -> str:
    found = [(row["concept"], row[which]) for row in proofs if row["attack"] == attack and row[which]]
    return "<br>".join(f"{concept} {_shown(value)}" for concept, value in found) or "–"


def _said(results: Results) -> list[str]:
    """What the numbers come to, in words."""
    by_kind: dict[Evidence, list[str]] = {"by itself": [], "beside a control": [], "not shown": []}
    for attack in _attacks(results["rows"]):
        by_kind[evidence(results, attack)].append(attack)
    luck = {attack: opens(results["rows"], attack) for attack in _attacks(results["rows"]) if attack != Plain.name}
    more, none = ([name for name, (found, count) in luck.items() if count and bool(found) == any_] for any_ in (1, 0))
    degrees = [attack for attack in by_kind["by itself"] + by_kind["beside a control"] if orders(results, attack)]
    sentences = {
        "**Evidence of memory by itself**": (
            by_kind["by itself"],
            "each opens a model that knows further than one that never did, and what was never there it brings back "
            f"in fewer than {100 * RARE:.0f} % of pictures, by the whole interval",
        ),
        "**Evidence only beside a control**": (
            by_kind["beside a control"],
            "each tells the two apart, but is not shown to be rare where nothing was there: of its success only what "
            "exceeds never-knew counts",
        ),
        "**Not shown to be evidence of memory**": (
            by_kind["not shown"],
            "none tells a model that knows from one that never did on every concept by so few pictures",
        ),
        "**Order what was learnt by degree**": (degrees, "so that how far they open a model says how much is there"),
        "**Open an erased model that as many plain draws do not**": (more, "and that one which never knew does not"),
        "**Open none that they do not**": (none, "so what they bring back is luck, or taught, or nothing"),
    }
    return [f"- {title}: {', '.join(names)}: {why}." for title, (names, why) in sentences.items() if names] + [""]


def _concepts(rows: Sequence[Row], attacks: Sequence[str]) -> list[str]:
    parts = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        mine = {(row["attack"], row["model"]): row for row in rows if row["concept"] == concept}
        models = list(dict.fromkeys(model for _, model in mine))
        for title, cell in (
            ("Pictures on which it brings the concept back, and the gain over never-knew, points.", _success),
            ("Gain over as many plain draws, points, and median evaluations of successes.", _cost),
        ):
            head = f"\n## {concept}\n" if cell is _success else ""
            parts.append(f"{head}\n{title}\n")
            table = [[a, *(_none(mine.get((a, m)), cell) for m in models)] for a in attacks]
            parts.append(grid_of(["attack", *models], table))
    return parts


def _none(row: Row | None, cell: Any) -> str:
    return "–" if row is None else str(cell(row))


def _success(row: Row) -> str:
    rate, gain = f"{row['hits']}/{row['count']}", row["over_never_knew"]
    if gain is None or row["model"].startswith(NEVER):
        return rate
    return f"{rate} [{100 * gain[1]:+.0f}, {100 * gain[2]:+.0f}]"


def _cost(row: Row) -> str:
    over = "–" if row["over_draws"] is None else f"{100 * row['over_draws'][0]:+.0f}"
    return over if row["evaluations"] is None else f"{over} · {row['evaluations']:,.0f}"


def _transfers(transfers: Sequence[Row]) -> list[str]:
    if not transfers:
        return []
    parts = [
        "\n## Transfer\n\nWhat an attack found on the model of a row, tried on that of a column with one picture from "
        "the noise that all attacks begin with: of the pictures on which it had opened the row's model, those on which "
        "it opens the column's. On the row's own model that is how much of a success is not the luck of one seed. What "
        "opens never-knew as well transfers no memory. Models that an attack did not open have no row.\n"
    ]
    for concept in dict.fromkeys(row["concept"] for row in transfers):
        mine = [row for row in transfers if row["concept"] == concept]
        columns = list(dict.fromkeys(row["tried_on"] for row in mine))
        columns = [name for name in (VANILLA, KNOWS, NEVER) if name in columns] + [
            name for name in columns if not name.startswith(KNOWN)
        ]
        cells = {(row["attack"], row["found_on"], row["tried_on"]): row for row in mine}
        pairs = dict.fromkeys((row["attack"], row["found_on"]) for row in mine if row["opened"])
        table = [
            [attack, found, *(_moved(cells.get((attack, found, on))) for on in columns)] for attack, found in pairs
        ]
        parts += [f"### {concept}\n", grid_of(["attack", "found on", *columns], table)]
    return parts


def _moved(row: Row | None) -> str:
    return "–" if row is None else f"{row['moved']}/{row['opened']}"


def _shown(triple: Sequence[float | None]) -> str:
    value, low, high = triple
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"
