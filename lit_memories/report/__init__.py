"""From audit runs to tables, figures, verdicts and one page; imports neither Lightning nor diffusers."""

from lit_memories.report.main import report

__all__ = ["report"]
