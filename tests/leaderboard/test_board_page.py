"""The leaderboard's page: in a real browser it sorts, filters and loads nothing; without scripts it is all there."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from board_runs import EVIL, Made, describe, modelled, write
from browser import BROWSER, Browser, browser

from lit_memories.leaderboard import leaderboard
from lit_memories.runs import RunInfo

NO_BROWSER = pytest.mark.skipif(BROWSER is None, reason="no browser here: .ci/run installs Debian's chromium")
BY_NAME = ["also-hides", "Forgets", "hides", "wrecks"]
ROWS = (
    "[...document.querySelectorAll('tbody.rows tr')].filter(row => !row.hidden).map(row => row.cells[0].dataset.text)"
)
SORTED = "[...document.querySelectorAll('th[aria-sort]')].map(e => [e.innerText.split('\\n')[0], e.ariaSort])"
SHOWN = "document.getElementById('shown').textContent"
REFERENCES = "[...document.querySelectorAll('tbody.references th[data-text]')].map(cell => cell.dataset.text)"


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(opened: Browser, made: Made) -> Browser:
    opened.open(made.out / "leaderboard.html")
    return opened


def head(page: Browser, title: str) -> str:
    """The selector of a column's button."""
    find = (
        f"[...document.querySelectorAll('.board thead th')].findIndex(e => e.innerText.startsWith({json.dumps(title)}))"
    )
    place = page.run(find)
    assert place >= 0, title
    return f".board thead th:nth-child({place + 1}) button"


@pytest.mark.slow
@NO_BROWSER
def test_a_column_sorts_best_first_then_the_other_way(page: Browser) -> None:
    assert page.run(ROWS) == BY_NAME, "until a column is chosen"
    assert page.run(SORTED) == [["model", "ascending"]]
    for title, best in (
        ("of control", ["Forgets", "wrecks", "also-hides", "hides"]),  # more is better
        ("other prompts met", ["also-hides", "hides", "Forgets", "wrecks"]),  # ties stand by name
        ("damage", ["hides", "also-hides", "Forgets", "wrecks"]),  # -1.5 is more than 1
    ):
        page.click(head(page, title))
        assert page.run(ROWS) == best, title
        ((chosen, way),) = page.run(SORTED)
        assert chosen.startswith(title)
        assert way == ("ascending" if title == "damage" else "descending")
        assert page.run(SHOWN) == f"sorted by {chosen}, {way}"
    page.click(head(page, "damage"))
    assert page.run(ROWS) == ["wrecks", "Forgets", "also-hides", "hides"]
    assert page.run(SORTED) == [["damage", "descending"]]
    page.click(head(page, "model"))
    assert page.run(ROWS) == BY_NAME
    assert page.run(REFERENCES) == ["vanilla", "never-knew"], "which never move"


@pytest.mark.slow
@NO_BROWSER
def test_rows_without_a_number_come_last_whichever_way(page: Browser) -> None:
    empty = "[...document.querySelectorAll('tbody.rows tr')].filter(row => row.cells[13].dataset.order === '').length"
    assert page.run(empty) == 1, "a damaged model stands on no scale of pictures"
    title = page.run("document.querySelectorAll('.board thead th')[13].innerText.split('\\n')[0]")
    for _ in range(2):
        page.click(head(page, title))
        assert page.run(ROWS)[-1] == "wrecks"
    assert page.run(ROWS)[0] == "hides", "like a model that saw most pictures of these"


@pytest.mark.slow
@NO_BROWSER
def test_the_keyboard_reaches_and_sorts(page: Browser) -> None:
    page.run("document.getElementById('words').focus()")
    seen = []
    for _ in range(8):
        page.press("Tab")
        seen.append(page.run("document.activeElement.tagName"))
    assert seen[0] == "DIV", "the table's own scrolling"
    assert seen[1:] == ["BUTTON"] * 7
    assert page.run("document.activeElement.innerText") == "other prompts met"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    for key in ("Enter", " "):
        before = page.run(SORTED)
        page.press(key)
        assert page.run(SORTED) != before


@pytest.mark.slow
@NO_BROWSER
def test_words_filter_rows(page: Browser) -> None:
    for typed, left in (
        ("hides", ["also-hides", "hides"]), (" SPM", ["also-hides"]), (" uce", []),
    ):  # fmt: skip
        page.run("document.getElementById('words').focus()")
        page.type(typed)
        assert page.run(ROWS) == left
        assert page.run(SHOWN) == f"{len(left)} of 4 models"
    assert page.run("getComputedStyle(document.querySelector('.empty')).display") != "none"
    page.run("document.getElementById('words').select()")
    page.type("remembers")
    assert page.run(ROWS) == ["also-hides", "hides"]
    page.click(head(page, "damage"))
    assert page.run(ROWS) == ["hides", "also-hides"], "what is filtered out stays out"
    assert page.run("document.querySelector('.empty').hidden")


@pytest.mark.slow
@NO_BROWSER
def test_a_name_leads_to_what_the_audit_says_of_it(page: Browser) -> None:
    for name in ("hides", "vanilla"):
        page.click(f'th[data-text="{name}"] a')
        target = page.run("document.querySelector(':target').innerText")
        assert target.split("\n", 1)[1].strip().startswith(name)
    assert page.requested == [page.run("location.href.split('#')[0]")], "within the page"


@pytest.mark.slow
@NO_BROWSER
def test_nothing_is_loaded_and_nothing_goes_wrong(page: Browser, made: Made) -> None:
    assert page.requested == [(made.out / "leaderboard.html").resolve().as_uri()]
    assert page.said == []
    page.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.owned = 1'}))")
    page.run("document.body.append(Object.assign(document.createElement('img'), {src: 'https://127.0.0.1:9/x.png'}))")
    page.run("new Promise(done => setTimeout(done, 100))")
    assert page.run("window.owned") is None, "the page's policy knows one script"
    assert page.requested == [(made.out / "leaderboard.html").resolve().as_uri()]
    assert len(page.said) >= 1
    assert all("Content Security Policy" in line for line in page.said)


@pytest.mark.slow
@NO_BROWSER
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_narrow_screens_and_dark_ones(opened: Browser, made: Made, width: int, dark: bool) -> None:
    opened.open(made.out / "leaderboard.html", width, dark)
    assert opened.run("document.documentElement.scrollWidth <= innerWidth"), "only the table scrolls sideways"
    shades = "[document.body, document.querySelector('tbody.rows td')].map(e => getComputedStyle(e))"
    ink = opened.run(f"{shades}.map(s => s.color.match(/\\d+/g).reduce((a, b) => a + +b, 0))")
    paper = opened.run(f"{shades}[0].backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)")
    assert all((shade > paper) == dark for shade in ink)
    assert all(abs(shade - paper) > 350 for shade in ink), "and is read"
    name = opened.run(
        "(b => { b.scrollLeft = 200; return b.querySelector('tbody th').getBoundingClientRect().left"
        " - b.getBoundingClientRect().left; })(document.querySelector('.wide'))"
    )
    assert abs(name) < 2, "names stay while numbers scroll"


@pytest.mark.slow
@NO_BROWSER
def test_without_scripts_all_is_there(opened: Browser, made: Made) -> None:
    opened.scripts(allowed=False)
    try:
        opened.open(made.out / "leaderboard.html")
        text = opened.run("document.querySelector('.board').innerText")
        assert opened.run("document.querySelectorAll('button').length") == 0, "nothing that would do nothing"
        assert opened.run("getComputedStyle(document.getElementById('filter')).display") == "none"
    finally:
        opened.scripts(allowed=True)
    assert all(name in text for name in (*BY_NAME, "vanilla", "never-knew", "ranks 2 to 3 of 3", "damaged: no rank"))


class Document(HTMLParser):
    """Elements of a page in order, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_document_is_whole(made: Made) -> None:
    """As any parser sees it, whether or not there is a browser."""
    page = Document((made.out / "leaderboard.html").read_text())
    assert page.open == []
    tags = [tag for tag, _ in page.seen]
    assert tags.count("script") == 1
    assert not {"img", "link", "iframe", "object", "base"} & set(tags)
    anchors = {attributes["id"] for _, attributes in page.seen if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.seen if tag == "a"]
    assert len(links) == len(set(links)) == 6
    assert {link[1:] for link in links if link[0] == "#"} == {one for one in anchors if one.startswith("model-")}
    assert tags.count("button") == 0
    rows = [attributes for tag, attributes in page.seen if tag == "th" and attributes.get("scope") == "row"]
    assert [row["data-text"] for row in rows] == [*BY_NAME, "vanilla", "never-knew"]
    heads = [attributes for tag, attributes in page.seen if attributes.get("scope") == "col"]
    assert [one.get("aria-sort") for one in heads] == ["ascending", *[None] * (len(heads) - 1)]
    bars = [attributes for tag, attributes in page.seen if attributes.get("class") == "bar"]
    cells = [attributes for tag, attributes in page.seen if attributes.get("data-order")]
    assert len(bars) == len(cells) > 40, "a bar beside each number"
    places = re.findall(r'style="left:([\d.]+)%', (made.out / "leaderboard.html").read_text())
    assert all(0 <= float(place) <= 100 for place in places)


def test_hostile_runs_make_a_harmless_page(tmp_path: Path) -> None:
    """Every text that a stranger can set, set to HTML and template code: it is shown, and nothing of it is obeyed."""
    text = f"{EVIL}[red]</script></style>-->"
    info = {
        "concept": text, "versions": {text: text}, "settings": {text: {text: [text]}},
        "data": {name: {"source": text, "rows": 8, "unreadable": [text]} for name in ("concept", "reference")},
    }  # fmt: skip
    folders = []
    for name, role in (("vanilla", "vanilla"), ("erased", "erased"), ("control", "control")):
        model = modelled(name, role, concept_shift=9.0 * (name != "vanilla"), surprise=5.0, info=info)
        folders.append(write(tmp_path / "<b>runs", model, count=8, prompt=text))
        describe(folders[-1], base=text, guard={"name": text, text: text})
        replace(RunInfo.load(folders[-1]), name=name + text).save(folders[-1])
    leaderboard(list(map(str, folders)), tmp_path / "out", draws=20)
    page = Document((tmp_path / "out" / "leaderboard.html").read_text())
    assert page.open == []
    tags = [tag for tag, _ in page.seen]
    assert tags.count("script") == 1
    assert not {"img", "b>runs", "red"} & set(tags)
    assert not [name for _, attributes in page.seen for name in attributes if name.startswith("on")]
    assert "{{7*7}}" in page.text, "and was not calculated"
    assert text in page.text
    if BROWSER is not None:
        with browser() as opened:
            opened.open(tmp_path / "out" / "leaderboard.html")
            assert opened.said == []
            assert opened.run(ROWS) == ["erased" + text]
            opened.click(head(opened, "prompted rate"))
            assert opened.run(SORTED) == [["prompted rate", "ascending"]]
            assert len(opened.requested) == 1
