"""Files of any content: readers accept what is sound, and refuse the rest with a ValueError of one line."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lit_memories.cli import main
from lit_memories.erasure import PROVENANCE_FILE, WEIGHTS_FILE, Erasure, Provenance
from lit_memories.probes import PROBES
from lit_memories.records import RUN_FILE, Record, read_lines
from lit_memories.runs import RunInfo

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes/pictograms").glob("*/*.yaml"))
FULL = Record(
    "k1", "concept", 3, "umbrella",
    {
        "denoising": {"surprise": 1.5, "profile": [1.0, 2.5]},
        "seed": {"nll": 20.0, "evaluations": 7, "converged": True, "correct": {"object": True}, "flag": "x"},
        "typicality": {"norm": [0.5, 0.25], "combined": [None, 0.5]},
    },
    "own@3", 2,
)  # fmt: skip
INFO = RunInfo(
    "run", "vanilla", "umbrella", {"a": 1, "inverter": {"b": [1, 2]}}, "hash", {"base": "b", "erasure": None}, 8,
    {"concept": {"source": "s", "rows": 4, "unreadable": []}}, {"torch": "2"}, metrics={"nll": 1.0},
    probes={"denoising": PROBES["denoising"].asked({"levels": 4}).to_dict()},
)  # fmt: skip
ORIGIN = Provenance("ESD", {"name": "umbrella"}, "base", None, "f" * 16, {"steps": 1}, 1, 0, {"torch": "2"})
TENSORS = save({"unet.a": torch.arange(6.0).view(2, 3), "text_encoder.b": torch.ones(2, dtype=torch.float16)})

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, 2**63, -1, "\ud800", "\x1b[2J", "../../x", math.inf]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def fuzz(count: int) -> Callable[[Any], Any]:
    """The same examples on every machine and at every time."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """Bytes with a few of them changed, removed, doubled or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 8, 100])))
        data[start:end] = draw(st.binary(max_size=4) | st.just(bytes(data[start:end]) * 2) | st.sampled_from(PIECES))
    return bytes(data)


PIECES = [b'"', b"{", b"}", b"]", b"null", b"NaN", b"1e999", b"-1", b"\n", b"\x00", b"\xff", b"[" * 3000, b"9" * 5000]


def outcome(read: Callable[[], Any], kinds: tuple[type[Exception], ...] = (ValueError,)) -> Any:
    """What a reader gives, or None if it refuses, which it must do with a line."""
    try:
        return read()
    except kinds as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


def sound(record: Record) -> None:
    """Every value is what the field says."""
    assert Record.from_json(record.to_json()) == record
    for field in fields(Record):
        value = getattr(record, field.name)
        if value is not None and str(field.type).startswith("int"):
            assert type(value) is int
            assert 0 <= value < 2**63
    assert record.prompt.encode().decode() == record.prompt
    for probe, answer in record.probes.items():
        for name, value in answer.items():
            if isinstance(value, int | float):
                assert math.isfinite(value)
                assert abs(record.number(f"{probe}.{name}") or 0.0) < 1e400
        assert record.counts(probe) == ("flag" not in answer)


@fuzz(120)
@given(data=st.binary(max_size=60) | mutated(FULL.to_json().encode() + b"\n" + FULL.to_json().encode() + b"\n"))
@example(data=b"[" * 100_000 + b"\n")
@example(data=FULL.to_json().replace("1.5", "1e999").encode() + b"\n")
@example(data=FULL.to_json().replace("1.5", "NaN").encode() + b"\n")
@example(data=FULL.to_json().replace("1.5", "9" * 5000).encode() + b"\n")
@example(data=b"\xef\xbb\xbf\n")
def test_lines_of_any_bytes(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(data)
    for record in outcome(lambda: read_lines(file)) or []:
        sound(record)


@fuzz(120)
@given(name=st.sampled_from([field.name for field in fields(Record)]), value=JSON)
def test_fields_of_any_value(name: str, value: Any) -> None:
    """Wrong types, booleans for numbers, numbers beyond all bounds, text that is none."""
    line = json.dumps(asdict(FULL) | {name: value})
    if (record := outcome(lambda: Record.from_json(line))) is not None:
        sound(record)


@fuzz(120)
@given(probe=st.sampled_from(["denoising", "seed", "typicality", "new", "../x"]), name=st.text(max_size=8), value=JSON)
def test_answers_of_any_value(probe: str, name: str, value: Any) -> None:
    line = json.dumps(asdict(FULL) | {"probes": {probe: {name: value}}})
    if (record := outcome(lambda: Record.from_json(line))) is not None:
        sound(record)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index", 1.0), ("index", True), ("index", -1), ("index", 2**63), ("prompt", None), ("prompt", 3),
        ("prompt", "\ud800"), ("key", 3), ("set", "E"), ("nonsense", 1), ("probes", []), ("probes", {"seed": 1}),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused_when_read(name: str, value: Any) -> None:
    """Not later, in the middle of the statistics."""
    with pytest.raises(ValueError, match=f"not a record.*{name}"):
        Record.from_json(json.dumps(asdict(FULL) | {name: value}))


@pytest.mark.parametrize("value", ["x", [1.0], {"a": 1.0}])
def test_what_is_no_number_is_refused_in_one_line_where_one_is_asked_for(value: Any) -> None:
    record = Record.from_json(json.dumps(asdict(FULL) | {"probes": {"seed": {"nll": value}}}))
    with pytest.raises(ValueError, match=r"seed\.nll of the record k1 is no number"):
        record.number("seed.nll")


def test_whole_numbers_are_read_as_the_floats_they_are() -> None:
    record = Record.from_json(json.dumps(asdict(FULL) | {"probes": {"seed": {"nll": 3}}}))
    assert type(record.number("seed.nll")) is float


@fuzz(80)
@given(data=mutated(json.dumps(asdict(INFO)).encode()))
def test_run_information_of_any_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_bytes(data)
    if (info := outcome(lambda: RunInfo.load(tmp_path))) is not None:
        info.save(tmp_path)
        assert RunInfo.load(tmp_path) == info


@fuzz(80)
@given(name=st.sampled_from([field.name for field in fields(RunInfo)]), value=JSON)
def test_run_information_of_any_value(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps(asdict(INFO) | {name: value}))
    if (info := outcome(lambda: RunInfo.load(tmp_path))) is not None:
        assert info.name.isprintable()
        json.dumps(asdict(info), allow_nan=False).encode()


@fuzz(120)
@given(
    weights=mutated(TENSORS) | st.binary(max_size=40), origin=mutated(json.dumps(asdict(ORIGIN)).encode()) | st.none()
)
def test_erasures_of_any_bytes(weights: bytes, origin: bytes | None, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    (tmp_path / PROVENANCE_FILE).write_bytes(json.dumps(asdict(ORIGIN)).encode() if origin is None else origin)
    if (erasure := outcome(lambda: Erasure.load(tmp_path))) is not None:
        assert erasure.card()


@fuzz(80)
@given(name=st.sampled_from([field.name for field in fields(Provenance)]), value=JSON)
def test_provenance_of_any_value(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).write_bytes(TENSORS)
    (tmp_path / PROVENANCE_FILE).write_text(json.dumps(asdict(ORIGIN) | {name: value}))
    if (erasure := outcome(lambda: Erasure.load(tmp_path))) is not None:
        assert erasure.card().encode()


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    """A real recipe with a few lines or bytes changed, or text that looks like YAML."""
    lines = draw(st.sampled_from(RECIPES)).read_text().splitlines()
    kind = draw(st.sampled_from(["value", "line", "bytes", "text"]))
    if kind == "text":
        return draw(st.text(st.sampled_from("abc:-[]{}&*!|>'\"#%@, \n\t0"), max_size=40)).encode()
    if kind == "bytes":
        return draw(mutated("\n".join(lines).encode()))
    number = draw(st.integers(0, len(lines) - 1))
    if kind == "value" and ":" in lines[number]:
        value = draw(
            st.sampled_from(["[]", "{}", "null", "-1", "nan", "x", "!!binary aGVsbG8=", "2020-01-01", "[[1]]"])
        )
        lines[number] = lines[number].split(":")[0] + ": " + value
    else:
        lines[number] = draw(st.sampled_from(["", "nonsense", "  - 3", lines[number] * 2, "\t" + lines[number]]))
    return "\n".join(lines).encode()


@fuzz(15)
@given(data=recipes())
def test_recipes_of_any_text(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line ends with 0, after a recipe that is one, or with an error of one line."""
    (tmp_path / "concepts").mkdir(exist_ok=True)
    (tmp_path / "here").mkdir(exist_ok=True)
    recipe = tmp_path / "here" / "recipe.yaml"
    recipe.write_bytes(data.replace(b"../", f"{ROOT}/recipes/pictograms/".encode()))
    with pytest.raises(SystemExit) as stop:
        main(["predict", f"--config={recipe}", "--print_config"])
    said = capsys.readouterr()
    if stop.value.code != 0:
        line = stop.value.code if isinstance(stop.value.code, str) else said.err.strip()
        assert line.startswith("lit-memories predict: ")
        assert "\n" not in line
        assert "Traceback" not in said.err
