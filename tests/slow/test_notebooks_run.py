"""The notebooks, run from the first cell to the last in an empty folder."""

import sys
from pathlib import Path

import pytest
from story import NOTEBOOKS, check, text_of

sys.path.append(str(NOTEBOOKS[0].parent))

from execute import execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs_and_comes_to_the_same(file: Path, tmp_path: Path) -> None:
    kept = file.read_bytes()
    book = execute(file, tmp_path)
    check(file.stem, book)
    assert "Traceback" not in text_of(book)
    assert file.read_bytes() == kept, "a test writes nothing"
