import json

import pytest
from synthetic_runs import INVERTER, SETTINGS, Model, asked, change_records, write

from lit_memories.records import RECORDS_FILE
from lit_memories.report.verdict import judge
from lit_memories.statistics.pairing import Pairing, compare
from lit_memories.statistics.summary import summarise


@pytest.fixture
def pair(tmp_path):
    return [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("ESD"))]


def test_roles_order_the_rows(runs):
    assert [run.info.role for run in compare(runs).runs] == ["vanilla", "erased", "erased", "control", "random"]


def test_rows_of_all_runs_are_the_same_sample(runs):
    comparison = compare(runs)
    keys = [[record.key for record in records] for records in comparison.shared(range(5), "concept", "seed.nll")]
    assert all(one == keys[0] for one in keys)


def test_settings_that_differ_are_named(tmp_path, pair):
    other = asked(seed=INVERTER | {"inverter": {"class_path": "x", "init_args": {"iterations": 6}}})
    third = write(tmp_path, Model("UCE", settings=SETTINGS | {"steps": 50}, info={"probes": other}))
    with pytest.raises(ValueError, match=r"steps: 20 \| 50; seed.inverter.class_path: "):
        compare([*pair, third])


def test_dimension_is_a_setting(tmp_path, pair):
    third = write(tmp_path, Model("UCE", info={"dimension": 4096}))
    with pytest.raises(ValueError, match=r"dimension: 1024 \| 4096"):
        compare([*pair, third])


def test_other_concept_is_refused(tmp_path, pair):
    third = write(tmp_path, Model("UCE", info={"concept": "moon"}))
    with pytest.raises(ValueError, match="'star' and 'moon'"):
        compare([*pair, third])


def test_no_vanilla(pair):
    with pytest.raises(ValueError, match=r"exactly one run whose role is vanilla, found none; .* lit-memories predict"):
        compare(pair[1:])


def test_two_vanilla(tmp_path, pair):
    with pytest.raises(ValueError, match="exactly one"):
        compare([*pair, write(tmp_path, Model("vanilla-2", "vanilla"))])


def test_no_run_and_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no run given"):
        compare([])
    with pytest.raises(FileNotFoundError, match="not an audit run"):
        compare([tmp_path])


def test_two_runs_of_one_name(tmp_path, pair):
    twin = write(tmp_path / "other", Model("ESD"))
    with pytest.raises(ValueError, match="two runs are called 'ESD'"):
        compare([*pair, twin])


def test_unknown_role(tmp_path, pair):
    with pytest.raises(ValueError, match="role cannot be 'gold'"):
        compare([*pair, write(tmp_path, Model("UCE", "gold"))])


@pytest.mark.parametrize("name", ["concept", "reference"])
def test_empty_set(pair, name):
    change_records(pair[1], lambda record: None if record["set"] == name else record)
    with pytest.raises(ValueError, match=f"holds no records of the {name} set"):
        compare(pair)


def test_common_keys_are_used_and_the_rest_counted_and_said(pair):
    change_records(pair[1], lambda record: None if record["key"] in ("concept3", "concept4") else record)
    comparison = compare(pair)
    assert len(comparison.used(1, "concept", "seed.nll")) == 22
    assert comparison.pairing(1, "concept", "seed.nll") == Pairing(used=22, left_out=2)
    assert (
        comparison.pairing(1, "reference", "seed.nll")
        == comparison.pairing(0, "concept", "seed.nll")
        == Pairing(used=24, left_out=0)
    )
    verdict = judge(summarise(comparison, draws=20))[1].paragraph()
    assert "This rests on 22 of 24 images of the concept: the others" in verdict


def test_nothing_in_common(pair):
    change_records(pair[1], lambda record: record | {"key": record["key"] + "x"})
    with pytest.raises(ValueError, match="no sample of the concept set is common"):
        compare(pair)


def test_flagged_and_unmeasured_records_leave_the_pairing(pair):
    def change(record):
        if record["key"] == "reference0":
            return record | {"flag": "not finite"}
        if record["key"] == "reference1":
            record.pop("nll")
        return record

    change_records(pair[1], change)
    assert compare(pair).pairing(1, "reference", "seed.nll").left_out == 2


def test_record_cut_short_is_left_out(pair):
    file = pair[1] / RECORDS_FILE
    lines = [line for line in file.read_text().splitlines() if '"set": "concept"' not in line]
    cut = [line for line in file.read_text().splitlines() if '"set": "concept"' in line]
    file.write_text("\n".join([*lines, *cut])[:-20])
    assert compare(pair).pairing(1, "concept", "seed.nll").left_out == 1


def test_incomplete_run_is_said(tmp_path, pair):
    third = write(tmp_path, Model("UCE", info={"complete": False}))
    change_records(third, lambda record: None if record["key"] == "concept0" else record)
    notes = compare([*pair, third]).notes
    assert any(note.startswith("UCE is incomplete: 23 of 24 records of the concept set. To finish") for note in notes)


def test_precision_and_unreadable_files_are_said(tmp_path, pair):
    data = {"concept": {"source": "x", "rows": 24, "unreadable": ["a.png", "b.png"]}}
    third = write(tmp_path, Model("UCE", info={"precision": "16-true", "data": data}))
    notes = " ".join(compare([*pair, third]).notes)
    assert "UCE: 2 image files could not be read." in notes
    assert "different precisions (vanilla 32-true, ESD 32-true, UCE 16-true)" in notes


def test_repeated_images_are_said(tmp_path):
    data = {name: {"source": "x", "rows": 24, "unreadable": [], "repeated": 2} for name in ("concept", "reference")}
    runs = [write(tmp_path, Model("v", "vanilla", info={"data": data})), write(tmp_path, Model("e"))]
    (note,) = (note for note in compare(runs).notes if "more than once" in note)
    assert note.startswith("4 images")
    plain = [write(tmp_path, Model(name, role)) for name, role in (("w", "vanilla"), ("f", "erased"))]
    assert not any("more than once" in note for note in compare(plain).notes)


def test_a_probe_that_one_run_alone_was_asked_is_said(pair):
    assert not any("alone" in note for note in compare(pair).notes)
    info = json.loads((pair[0] / "run.json").read_text())
    del info["probes"]["reach"]
    info.pop("crc32", None)
    (pair[0] / "run.json").write_text(json.dumps(info))
    (note,) = (note for note in compare(pair).notes if "alone" in note)
    assert note.startswith("The probe reach was asked of ESD alone, so its numbers compare with nothing")
