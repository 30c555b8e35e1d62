"""Model cards: those that this program wrote are known by their front matter, and what others wrote is kept."""

import re
import warnings
import zlib
from pathlib import Path

CARD_FILE = "README.md"
MARK = re.compile(r'^lit_memories_card: "([0-9a-f]{8})"\n', re.MULTILINE)
"""The line of a card's front matter that says what the rest of it was when it was written."""
ERASURE = re.compile(r'^erasure: "([0-9a-f]+)"$', re.MULTILINE)
"""The line of a card's front matter that says which erasure is in the folder."""


def marked(card: str) -> str:
    """A card that `own` knows for this program's.

    Args:
        card: that begins with front matter, three dashes above and below.
    """
    head = "---\n"
    return f'{head}lit_memories_card: "{_sum(card)}"\n{card.removeprefix(head)}'


def own(card: str) -> bool:
    """Whether this program wrote a card, and nobody has changed it since."""
    found = MARK.search(card)
    return found is not None and _sum(card[: found.start()] + card[found.end() :]) == found[1]


def erasure_of(folder: Path) -> str | None:
    """The erasure that a folder's card says is in it; None if it says nothing, or is not this program's."""
    text = _read(folder / CARD_FILE)
    found = ERASURE.search(text) if own(text) else None
    return found[1] if found else None


def kept(file: Path, called: str | None = None) -> bool:
    """Whether a card is somebody else's, or was changed, so that a new one must not replace it; warns of it.

    Args:
        file: that a card would be written to; it need not be there.
        called: its name in words; the file's own if None.
    """
    if not file.is_file() or own(_read(file)):
        return False
    warnings.warn(
        f"{called or file} is not of this program, or was changed: it stays, and no card is written", stacklevel=3
    )
    return True


def _sum(card: str) -> str:
    return f"{zlib.crc32(card.encode()):08x}"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
