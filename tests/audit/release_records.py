"""The audit whose records in ``release/`` every later release has to give again.

``PYTHONPATH=. python tests/audit/release_records.py FOLDER`` writes them; the ones here are of the last release that
knew no path but DDIM's, whose numbers those of Gaussian paths must equal.
"""

import platform
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
RELEASE = Path(__file__).parent / "release"


def command(folder: Path) -> list[str]:
    """The command line: denoising, a sample, the seed of the fixed point, a known one, likelihood, of few images."""
    return [
        *("predict", f"--config={ROOT / 'recipes/pictograms/audit/umbrella.yaml'}"),
        *("--data.concept_images.limit=1", "--data.reference_images.limit=1", "--data.known=1", "--data.prompted=1"),
        *("--model.num_inference_steps=4", "--model.keep_images=0", "--model.probes+=Likelihood"),
        *("--trainer.callbacks=[]", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *(f"--trainer.default_root_dir={folder}", "--model.name=vanilla"),
    ]


def machine() -> str:
    """What last bits depend on."""
    return " ".join((platform.machine(), torch.__version__, torch.backends.cpu.get_cpu_capability(), _model()))


def _model() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    from lit_memories.cli import main

    main(command(Path(sys.argv[1])))
    (Path(sys.argv[1]) / "machine.txt").write_text(machine() + "\n", encoding="utf-8")
