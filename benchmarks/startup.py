"""How long the command line takes to answer: docs/results/startup.{md,json}.

    python benchmarks/startup.py

Each command in a process of its own, a few times in turns; seconds of the fastest, and as a multiple of what importing
torch alone takes on the same machine. What else runs there shows.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from jsonargparse import auto_cli

AUDIT = "--config=recipes/pictograms/audit/umbrella.yaml"
COMMANDS = {
    "lit-memories --help": (["-m", "lit_memories", "--help"], 2.0),
    "lit-memories nonsense": (["-m", "lit_memories", "nonsense"], 2.0),
    "lit-memories predict --modle.seed 3": (["-m", "lit_memories", "predict", "--modle.seed", "3"], 2.0),
    "lit-memories report --drawz 3": (["-m", "lit_memories", "report", "--drawz", "3"], 2.0),
    "lit-memories probes": (["-m", "lit_memories", "probes"], None),
    "lit-memories report --help": (["-m", "lit_memories", "report", "--help"], None),
    "lit-memories predict --help": (["-m", "lit_memories", "predict", "--help"], 5.0),
    "lit-memories predict --config … --print_config": (["-m", "lit_memories", "predict", AUDIT, "--print_config"], 5.0),
    "python -c 'import torch'": (["-c", "import torch"], None),
}
"""Commands, and the seconds they are wanted in on an idle core."""


def main(out: Path = Path("docs/results/startup"), rounds: int = 5) -> None:
    """Measure and write the page.

    Args:
        out: where the table goes, without suffix.
        rounds: of all commands; the first is not counted, as files are read from the disk then.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (command, _) in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=False)  # noqa: S603
            seconds[name].append(time.perf_counter() - began)
    best = {name: min(taken[1:] or taken) for name, taken in seconds.items()}
    unit = best["python -c 'import torch'"]
    rows = [
        {"command": name, "seconds": best[name], "times torch": best[name] / unit, "wanted": wanted}
        for name, (_, wanted) in COMMANDS.items()
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    lines = [
        "# How long the command line takes to answer\n",
        f"`python benchmarks/startup.py`: the fastest of {rounds - 1} processes each, on one machine; beside it as a "
        "multiple of importing torch, and the seconds it is wanted in.\n",
        "| command | seconds | times torch | wanted |",
        "|---|---|---|---|",
    ]
    for row in rows:
        wanted = "–" if row["wanted"] is None else f"{row['wanted']:.0f}"
        lines.append(f"| `{row['command']}` | {row['seconds']:.2f} | {row['times torch']:.1f} | {wanted} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    auto_cli(main)
