import csv
import io
import json
import os
import re
import types
import typing
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from synthetic_runs import Model, change_records, world, write

import lit_memories.report
from lit_memories.cli import main
from lit_memories.report import progress, report, schema
from lit_memories.report.formats import decimal, escape_latex, to_csv, to_latex
from lit_memories.report.tables import tables
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.summary import summarise
from lit_memories.terminal import printable

DOC = Path(__file__).parents[2] / "docs" / "results-schema.md"
TABLES = "main", "paper", "hygiene", "placebos", "probe_known", "probe_samples", "probe_seed"
EVIL = '<script>alert("$x_1$")</script> & 100 % \\emph{x}'


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two of few samples, for what is the same whatever is reported; read only."""
    return world(tmp_path_factory.mktemp("pair"), count=6)[-2:]


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "deep" / "out"
    report(runs, out=out, draws=100)
    return out


@pytest.fixture(scope="module")
def found(made):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((made / "results.json").read_text(), parse_constant=refuse)


def conforms(value, kind, where="results"):
    """Check a JSON value against TypedDicts, exactly: no key more, no key less."""
    if isinstance(kind, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if value is None:
            assert type(None) in typing.get_args(kind), f"{where} is null"
            return
        conforms(value, options[0], where)
    elif typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        assert set(value) == set(hints), where
        for name, hint in hints.items():
            conforms(value[name], hint, f"{where}.{name}")
    elif typing.get_origin(kind) is list:
        for index, item in enumerate(value):
            conforms(item, typing.get_args(kind)[0], f"{where}[{index}]")
    elif typing.get_origin(kind) is dict:
        for name, item in value.items():
            conforms(item, typing.get_args(kind)[1], f"{where}.{name}")
    elif kind is not typing.Any:
        numbers = (int, float) if kind is float else kind
        assert isinstance(value, numbers), f"{where} is {value!r}"
        assert kind is bool or not isinstance(value, bool), where


def test_files(made):
    names = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    assert names == {
        "report.html", "results.json",
        *(f"tables/{name}.{kind}" for name in TABLES for kind in ("csv", "tex")),
        *(f"figures/{name}.png" for name in ("forgetting", "nll", "shifts", "rebuilt", "prompted")),
    }  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_bar_and_a_file_none(terminal, pair, tmp_path, monkeypatch, capsys):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False)
    monkeypatch.setattr(progress, "Console", lambda stderr: console if stderr else None)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    report(pair, out=tmp_path, draws=20)
    shown = console.file.getvalue()
    seen = [shown.find(stage) for stage in ("reading vanilla", "tests", "placebos of vanilla", "figures", "page")]
    assert seen == sorted(seen) if terminal else shown == ""
    assert (-1 in seen) != terminal
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == terminal, "the cursor is back"
    printed = capsys.readouterr()
    assert "Report: " in printed.out
    assert "reading" not in printed.out + printed.err


def test_an_error_ends_the_bar_and_the_name_of_a_folder_commands_no_terminal(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(FileNotFoundError):
        report([tmp_path / "[red]\x1b]0;owned\x07"], out=tmp_path / "out")
    shown = console.file.getvalue()
    assert r"reading [red]\x1b]0;owned\x07" in shown
    assert "\x1b]0" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


def test_results_match_the_schema(found):
    conforms(found, schema.Results)
    assert found["schema"] == schema.RESULTS_SCHEMA


def test_results_of_the_barest_audit_match_the_schema(tmp_path):
    runs = [write(tmp_path, Model(name, role), count=1) for name, role in (("v", "vanilla"), ("e", "erased"))]
    for folder in runs:
        change_records(folder, lambda record: record if record["set"] in ("concept", "reference") else None)
    report(runs, out=tmp_path / "out", draws=20)
    text = (tmp_path / "out" / "results.json").read_text()
    conforms(json.loads(text), schema.Results)
    assert "NaN" not in text


@pytest.mark.parametrize("kind", [kind for kind in vars(schema).values() if typing.is_typeddict(kind)])
def test_every_field_is_documented(kind):
    documented = set(re.findall(r"`(\w+)`", DOC.read_text()))
    assert set(kind.__annotations__) <= documented


def test_every_documented_category_exists():
    from lit_memories.statistics.criteria import Category

    section = DOC.read_text().split("| category | when |")[1].split("###")[0]
    assert set(re.findall(r"^\| `([a-z ]+)` \|", section, re.MULTILINE)) == set(typing.get_args(Category))


def test_numbers_in_results_are_those_of_the_tables(made, found):
    rows = list(csv.DictReader(io.StringIO((made / "tables" / "main.csv").read_text())))
    assert [row["model"] for row in rows] == [run["name"] for run in found["runs"]]
    for row, run in zip(rows, found["runs"], strict=True):
        for name in ("forgetting", "fraction", "damage", "prompted", "retained"):
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                assert float(row[name + suffix]) == run[name][end]
    html = (made / "report.html").read_text()
    for run in found["runs"]:
        assert decimal(run["forgetting"]["value"], 1) in html


def test_same_runs_same_bytes(runs, made, tmp_path):
    report(runs, out=tmp_path, draws=100)
    for file in (file for file in made.rglob("*") if file.is_file()):
        again = (tmp_path / file.relative_to(made)).read_bytes()
        assert again == file.read_bytes(), file


def test_page_is_self_contained(made):
    html = (made / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', html))
    assert html.count("<img") == 5
    assert len(re.findall(r"<(section|article|details|div|table|dl)\b", html)) == len(
        re.findall(r"</(section|article|details|div|table|dl)>", html)
    )


def test_untrusted_text_is_harmless(tmp_path, capsys):
    runs = [
        write(tmp_path, Model("vanilla", "vanilla", info={"concept": EVIL}), pictures=1, prompt=EVIL),
        write(tmp_path, Model("[red]" + EVIL, info={"concept": EVIL}), pictures=1, prompt=EVIL),
    ]
    data = {"concept": {"source": EVIL, "rows": 24, "unreadable": [EVIL + ".png"]}}
    runs.append(write(tmp_path, Model("日本", info={"concept": EVIL, "data": data}), prompt=EVIL))
    change_records(runs[2], lambda record: record | {"flag": EVIL} if record["key"] == "concept1" else record)
    report(runs, out=tmp_path / "out", draws=20)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "[red]<script>" in "".join(capsys.readouterr().out.split())


def test_control_characters_do_not_command_a_terminal(tmp_path, capsys):
    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    data = {"concept": {"source": evil, "rows": 24, "unreadable": [evil], "repeated": 1}}
    runs = [write(tmp_path, Model("v", "vanilla")), write(tmp_path, Model("e", info={"data": data}), prompt=evil)]
    change_records(runs[1], lambda record: record | {"prompt": evil})
    report(runs, out=tmp_path / "out", draws=20)
    assert not {"\x1b", "\x07", "\u202e"} & set(capsys.readouterr().out)
    assert printable("a\x1b[0m\n b") == "a\\x1b[0m b"


def test_spreadsheets_see_text(tmp_path):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("=1+1"))]
    assert "\n'=1+1,erased," in to_csv(tables(summarise(compare(runs), draws=20))[0])


def test_latex(runs):
    summary = summarise(compare(runs), draws=50)
    for table in tables(summary):
        text = to_latex(table)
        body = [line for line in text.splitlines() if line.endswith("\\\\")]
        assert len(body) == 1 + len(runs)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(table.columns) - 1}
        assert text.startswith("\\begin{tabular}{l")
        assert "\\toprule" in text
        assert not re.search(r"(?<!\\)%|[–−²]", text)


def test_latex_escapes():
    assert escape_latex("a_b & 5 % #1 {x} $y$ ~ ^ \\") == (
        r"a\_b \& 5 \% \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape_latex("−1") == "$-$1"


def test_latex_row_that_begins_with_a_bracket(tmp_path):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("[b]"))]
    assert "\n{}[b] & erased" in to_latex(tables(summarise(compare(runs), draws=20))[0])


def test_csv_quotes(tmp_path):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model('a,"b"'))]
    rows = list(csv.reader(io.StringIO(to_csv(tables(summarise(compare(runs), draws=20))[0]))))
    assert rows[2][0] == 'a,"b"'
    assert len({len(row) for row in rows}) == 1


def test_missing_control_reads_not_calibrated(tmp_path, capsys):
    runs = [write(tmp_path, Model("vanilla", "vanilla")), write(tmp_path, Model("ESD", concept_shift=30, noise=5))]
    report(runs, out=tmp_path / "out", draws=50)
    printed = capsys.readouterr().out
    assert "not calibrated" in printed
    assert "lit-memories predict --config RECIPE --model.diffusion.base MODEL" in " ".join(printed.split())
    assert "not calibrated" in (tmp_path / "out" / "tables" / "main.tex").read_text()


def test_terminal_ends_with_where_and_how(pair, tmp_path, capsys):
    report(pair, out=tmp_path / "out", draws=20)
    how, where = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert " ".join(how.split()).endswith("a verdict holds for these prompts, this guidance and this inverter only.")
    assert where.strip() == f"Report: {tmp_path / 'out' / 'report.html'}"


def test_missing_and_broken_pictures_are_said(tmp_path):
    runs = world(tmp_path, count=6, pictures=2)[-2:]
    (runs[0] / "images" / "concept-0000-regenerated.png").write_bytes(b"no picture")
    (runs[1] / "images" / "concept-0001-regenerated.png").unlink()
    report(runs, out=tmp_path / "out", draws=20)
    assert "2 pictures were not kept or cannot be read." in (tmp_path / "out" / "report.html").read_text()


def test_no_pictures_and_figures_of_an_earlier_report(tmp_path):
    out = tmp_path / "out"
    report(world(tmp_path / "a", count=6, pictures=1)[-2:], out=out, draws=20)
    assert (out / "figures" / "rebuilt.png").exists()
    report(world(tmp_path / "b", count=6)[-2:], out=out, draws=20)
    assert not (out / "figures" / "rebuilt.png").exists()
    html = (out / "report.html").read_text()
    assert "No run kept such pictures." in html
    assert html.count("<img") == 3


def test_figures_fit_a_page(made):
    for file in (made / "figures").glob("*.png"):
        with Image.open(file) as image:
            assert 900 < image.width < 2000, file


def test_vanilla_alone(tmp_path):
    report([write(tmp_path, Model("vanilla", "vanilla"))], out=tmp_path / "out", draws=20)
    assert (tmp_path / "out" / "report.html").is_file()


def test_output_that_cannot_be_written(tmp_path, runs):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write the report to .*pass another --out"):
        report(runs, out=tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_output(tmp_path, runs):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot write"):
        report(runs, out=tmp_path / "out")


def test_draws_must_be_positive(runs, tmp_path):
    with pytest.raises(ValueError, match="draws must be positive"):
        report(runs, out=tmp_path, draws=0)


def test_command_line(pair, tmp_path):
    main(["report", *map(str, pair), "--out", str(tmp_path), "--draws", "20"])
    assert json.loads((tmp_path / "results.json").read_text())["resampling"] == {"draws": 20, "seed": 0}


def test_a_folder_that_is_no_run_is_one_line_and_exit_code_1(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert len(stop.value.code.splitlines()) == 1, "the interpreter prints a text and exits with 1"
    assert "is not an audit run" in stop.value.code


def test_the_report_has_no_second_command_line_with_other_errors():
    assert lit_memories.report.__all__ == ["report"]


def test_the_page_says_of_each_number_which_way_it_goes_as_its_probe_does(made):
    html = (made / "report.html").read_text()
    assert "<b>NLL of the seed</b>, nats: grows as a model forgets." in html
    assert "<b>PSNR</b>, dB." in html
    assert "<b>VAE ceiling</b>, dB." in html
    assert "<b>bias on known seeds</b>, nats." in html
