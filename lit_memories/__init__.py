"""Did this diffusion model forget, or does it only refuse the prompt?

The public vocabulary: `Concept` (what to forget), `Diffusion` (base weights and an optional erasure), `Erasure` (the
changed tensors on disk), `Record` and `Run` (what an audit found). Erasers, inverters, audits and data modules are
named by their dotted path in recipes.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_memories.concept import Concept
    from lit_memories.diffusion import Diffusion
    from lit_memories.erasure import Erasure
    from lit_memories.records import Record
    from lit_memories.runs import Run, read_run
    from lit_memories.shared_runs import read_runs

__all__ = ["Concept", "Diffusion", "Erasure", "Record", "Run", "read_run", "read_runs"]

_HOME = {
    "Concept": "concept",
    "Diffusion": "diffusion",
    "Erasure": "erasure",
    "Record": "records",
    "Run": "runs",
    "read_run": "runs",
    "read_runs": "shared_runs",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the report, for one, needs no diffusers. The version is that of the installed package."""
    if name == "__version__":
        return version("lit-memories")
    if name in _HOME:
        return getattr(import_module(f"lit_memories.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lit_memories' has no attribute {name!r}")
