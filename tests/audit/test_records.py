"""Records on disk: written, read back, and refused when they are none."""

import gc
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lit_memories.records import PARTS, Record, finite, image_path, order, read_lines, read_records
from lit_memories.runs import RunInfo, read_run
from lit_memories.settings import differences

FULL = Record(
    "k1",
    "concept",
    3,
    "umbrella",
    {
        "denoising": {"surprise": 2.5, "profile": [1.0, 2.0]},
        "seed": {"nll": 1.5, "residual": 1e-4, "evaluations": 7, "converged": True, "correct": {"object": True}},
        "typicality": {"ks": [0.1, 0.5], "flag": "x"},
    },
    "empty",
)
INFO = RunInfo("run", "vanilla", "umbrella", {"a": 1}, "hash", {"base": "b"}, 8, {}, {})


@pytest.mark.parametrize("record", [FULL, Record("k2", "known", 0, 'a "quoted" prompt\nof two lines, ünïcode')])
def test_a_line_comes_back(record: Record) -> None:
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record
    assert None not in json.loads(line).values()


def test_floats_come_back_to_the_bit() -> None:
    value = 1 / 3 * 1e3
    assert Record.from_json(replace(FULL, probes={"seed": {"nll": value}}).to_json()).number("seed.nll") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_json_has_not_are_no_records(value: float) -> None:
    assert finite(value) is None
    assert finite(1.5) == 1.5
    with pytest.raises(ValueError, match="JSON"):
        replace(FULL, probes={"seed": {"nll": value}}).to_json()


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", '{"key": "k"}', '{"key": "k", "set": "E", "index": 0, "prompt": ""}', '{"nonsense": 1}'],
)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(line)


@pytest.mark.parametrize(
    "probes",
    [
        {"seed": 3},
        {"seed": {"flag": 3}},
        {"seed": {"evaluations": -1}},
        {"seed": {"evaluations": 1.5}},
        {"../seed": {}},
        {"seed": {"a b": 1}},
        {"seed": {"nll": [[[1]]]}},
        {"seed": {"note": "\x1b[2J"}},
        {"seed": {"nll": 2**63}},
    ],
)
def test_answers_that_no_probe_gives_are_refused(probes: object) -> None:
    line = json.dumps({"key": "k", "set": "concept", "index": 0, "prompt": "", "probes": probes})
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(line)


@pytest.mark.parametrize(
    "value",
    [
        "1e999", "-1e40", "[1.0, 1e999]", f"[1.0, {2**63}]", f"[{-(2**63)}, 0.5]", f'{{"a": {2**63}}}', "NaN",
        "[0.5, Infinity]", '{"a": [1e999]}', '[1.0, "\\u001b"]', '"\\ud800"', '{"\\ud800": 1.0}', "[" * 40 + "]" * 40,
        f'{{"a": {"9" * 5000}}}',
    ],
)  # fmt: skip
def test_numbers_and_labels_are_looked_at_wherever_they_stand(value: str) -> None:
    line = '{"key": "k", "set": "concept", "index": 0, "prompt": "", "probes": {"seed": {"nll": %s}}}'
    assert Record.from_json(line % "[1.0, 2, true, -1e39]").value("seed.nll") == [1.0, 2, True, -1e39]
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(line % value)


def test_a_whole_number_that_no_integer_holds_is_the_nearest_float() -> None:
    line = f'{{"key": "k", "set": "concept", "index": 0, "prompt": "", "probes": {{"seed": {{"nll": {10**30}}}}}}}'
    assert Record.from_json(line).value("seed.nll") == 1e30


@pytest.mark.parametrize(("name", "value"), [("prompt", '"\\udc80"'), ("index", "1e999"), ("index", str(2**63))])
def test_fields_are_looked_at_too(name: str, value: str) -> None:
    plain = json.loads(FULL.to_json()) | {name: "?"}
    del plain["crc32"]
    assert Record.from_json(json.dumps(plain | {name: 4 if name == "index" else "\U0001f302"}))
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(json.dumps(plain).replace('"?"', value))


def test_whatever_is_read_garbage_is_collected_as_before(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("nonsense\n")
    for collecting in (False, True):
        (gc.enable if collecting else gc.disable)()
        with pytest.raises(ValueError, match="not a record"):
            read_records(tmp_path)
        assert gc.isenabled() == collecting


def test_what_is_no_number_is_said_where_one_is_asked_for() -> None:
    assert FULL.number("seed.nll") == 1.5
    assert FULL.number("seed.psnr") is FULL.number("reach.reach") is None
    with pytest.raises(ValueError, match=r"seed\.correct of the record k1 is no number"):
        FULL.number("seed.correct")


def lines(*records: Record) -> str:
    return "".join(record.to_json() + "\n" for record in records)


ONE, TWO = replace(FULL, key="a", index=0), replace(FULL, key="b", index=1)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_cut_last_line_is_left_out(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(lines(ONE, TWO)[:-cut])
    assert read_lines(file) == ([ONE, TWO] if cut == 1 else [ONE])
    file.write_bytes(lines(ONE).encode() + '{"key": "ü'.encode()[:-1])
    assert read_lines(file) == [ONE]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(lines(ONE) + "nonsense\n" + lines(TWO))
    with pytest.raises(ValueError, match=r"records\.jsonl:2: not a record"):
        read_lines(file)


def test_order_is_of_set_and_index_and_the_first_stays() -> None:
    sets = ("retained", "known", "concept")
    records = [replace(FULL, key=f"{name}{index}", set=name, index=index) for name in sets for index in (10, 2)]
    assert [record.key for record in order(records)] == [
        "concept2",
        "concept10",
        "known2",
        "known10",
        "retained2",
        "retained10",
    ]
    other = {"seed": {"nll": 0.0}, "reach": {"reach": 3.0}}
    assert order([ONE, replace(ONE, probes=other)]) == [replace(ONE, probes=ONE.probes | {"reach": {"reach": 3.0}})]


def test_a_folder_is_read_with_its_parts(tmp_path: Path) -> None:
    INFO.save(tmp_path)
    (tmp_path / "records.jsonl").write_text(lines(TWO))
    (tmp_path / PARTS).mkdir()
    (tmp_path / PARTS / "records-0.jsonl").write_text(lines(ONE, TWO))
    (tmp_path / PARTS / "records-1.jsonl").write_text("{")
    assert read_records(tmp_path) == [ONE, TWO]
    run = read_run(tmp_path)
    assert run.info == INFO
    assert run.records == (ONE, TWO)


def test_flagged_records_are_not_counted(tmp_path: Path) -> None:
    INFO.save(tmp_path)
    good = replace(ONE, conditioning=None, probes={"seed": {"nll": 1.0}})
    answers = {"seed": {"nll": 1.0, "flag": "diverged"}, "denoising": {"surprise": 2.0}}
    bad = replace(TWO, conditioning=None, probes=answers)
    (tmp_path / "records.jsonl").write_text(lines(good, bad))
    assert read_run(tmp_path).of("concept", "seed") == [good]
    assert read_run(tmp_path).of("concept", "denoising") == [bad], "a flag is one probe's own"
    assert read_run(tmp_path).of("reference", "seed") == []
    assert read_run(tmp_path).image("concept", 3, "original") == image_path(tmp_path, "concept", 3, "original")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not an audit run: it has no run\.json"):
        read_run(tmp_path)
    for content in ("", "[]", "{}", "null", json.dumps(asdict(INFO) | {"schema": 99}), json.dumps({"schema": 2})):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"damaged or of another version|of a newer release"):
            read_run(tmp_path)


def test_run_information_replaces_the_old_at_once(tmp_path: Path) -> None:
    INFO.save(tmp_path / "new")
    replace(INFO, complete=True).save(tmp_path / "new")
    assert RunInfo.load(tmp_path / "new").complete
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["run.json"]


def test_differences_name_what_differs() -> None:
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}, "e": None, "f": 5}
    assert differences(one, one) == []
    assert differences(one, two) == ["b.d: 3 | 4", "f: None | 5"]


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        ({"seed": {"nll": 1e308}}, "seed.nll is too large"),
        ({"seed": {"shows_concept": 7}}, "seed.shows_concept does not lie between 0 and 1"),
        ({"samples": {"probability": -0.1}}, "samples.probability does not lie between 0 and 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(probes: object, said: str) -> None:
    line = json.dumps({"key": "k", "set": "concept", "index": 0, "prompt": "", "probes": probes})
    with pytest.raises(ValueError, match=said):
        Record.from_json(line)
    assert finite(1e38) == 1e38
    assert finite(1e40) is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, None),
        ([], "data.concept does not describe a set"),
        ({"rows": -1}, "data.concept.rows cannot be '-1'"),
        ({"unreadable": -1}, "data.concept.unreadable cannot be '-1'"),
        ({"repeated": None}, "data.concept.repeated cannot be 'None'"),
        ({"unreadable": [3]}, "data.concept.unreadable are no names"),
    ],
)
def test_what_a_run_says_of_its_sets_is_checked(entry: object, said: str | None) -> None:
    made = asdict(INFO) | {"data": {"concept": entry}}
    if said is None:
        RunInfo(**made)
    else:
        with pytest.raises(ValueError, match=said):
            RunInfo(**made)
