"""A folder of pictures drawn from a prompt list, which can be taken up again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lit_memories.data.presets import PromptRow
from lit_memories.settings import differences
from lit_memories.storage.files import check_inside, check_writable, whole, write
from lit_memories.storage.plain import parse_json
from lit_memories.storage.unfinished import PART

SETTINGS_FILE, METADATA_FILE = "settings.json", "metadata.jsonl"


class Gallery:
    """Pictures ``NUMBER_0.png``, a line of ``metadata.jsonl`` for each, and the settings they were drawn with.

    A picture counts as there if it stands in the metadata, to which it is added when its file is whole.

    Args:
        folder: to make, or to go on with.
        settings: all that pictures depend on besides their rows; plain values.

    Raises:
        ValueError: if the folder holds pictures of other settings, naming what differs, a file in it is damaged,
            or a link leads out of it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = Path(folder), settings
        check_inside(self.folder, (".",))
        self._entries: dict[int, dict[str, Any]] = {}
        if (self.folder / SETTINGS_FILE).is_file():
            there = self._read(SETTINGS_FILE, (self.folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            self._refuse("pictures of other settings", differences(there, settings))
        elif self.folder.is_dir() and any(file.suffix != PART for file in self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds files, but no {SETTINGS_FILE}: choose another folder with --out")
        if (self.folder / METADATA_FILE).is_file():
            for line in (self.folder / METADATA_FILE).read_text(encoding="utf-8").splitlines():
                entry = self._read(METADATA_FILE, line)
                if (self.folder / _file_name(int(entry["case_number"]))).is_file():
                    self._entries[int(entry["case_number"])] = entry

    def _read(self, name: str, text: str) -> dict[str, Any]:
        try:
            values = parse_json(text)
            if name == METADATA_FILE:
                int(values["case_number"])
            return dict(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / name} is damaged: {error}") from None

    def _refuse(self, what: str, lines: Sequence[str]) -> None:
        if lines:
            raise ValueError(f"{self.folder} holds {what} ({'; '.join(lines)}): choose another folder with --out")

    def missing(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        """The rows whose pictures are still to be drawn.

        Raises:
            ValueError: if the picture of a row's number is one of another prompt, seed or guidance.
        """
        for row in rows:
            there = self._entries.get(row.case_number)
            if there is not None:
                self._refuse(f"another case {row.case_number}", differences(there, _entry(row)))
        return [row for row in rows if row.case_number not in self._entries]

    def open(self) -> None:
        """Make the folder."""
        check_writable(self.folder)
        write(self.folder / SETTINGS_FILE, json.dumps(self.settings, indent=2) + "\n")

    def add(self, rows: Sequence[PromptRow], pictures: Sequence[Image.Image]) -> None:
        """Put pictures on disk, and then into the metadata."""
        for row, picture in zip(rows, pictures, strict=True):
            with whole(self.folder / _file_name(row.case_number)) as part:
                picture.save(part, "PNG")
            self._entries[row.case_number] = _entry(row)
        # In the order of file names, as the official code lists pictures.
        lines = [json.dumps(self._entries[number]) + "\n" for number in sorted(self._entries, key=_file_name)]
        write(self.folder / METADATA_FILE, "".join(lines))


def _file_name(case_number: int) -> str:
    return f"{case_number}_0.png"


def _entry(row: PromptRow) -> dict[str, Any]:
    names = {"file_name": _file_name(row.case_number), "caption": row.prompt, "case_number": row.case_number}
    return names | {"seed": row.seed, "guidance_scale": row.guidance_scale}
