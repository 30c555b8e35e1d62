"""What a test asks of the machine it runs on."""

from pathlib import Path


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that work on a run folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if str(folder) in line]
