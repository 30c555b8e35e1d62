"""How much sooner a concept is back than in a model that never saw it: the sentence."""

import math
from dataclasses import replace

from lit_memories.report.formats import number
from lit_memories.statistics.quantities import RunStatistics


def relearning_sentences(run: RunStatistics) -> list[str]:
    """Savings (Ebbinghaus 1885): one less the fraction of what a model that never saw it reads during the lesson."""
    found = run.numbers.get("relearning.area")
    if found is None or found.fraction is None or math.isnan(found.fraction.low):
        return []
    area, lesson = found.fraction, run.asked["relearning"].settings.get("lesson")
    saved = replace(area, value=1 - area.value, low=1 - area.high, high=1 - area.low)
    many = f"{lesson} pictures" if isinstance(lesson, int) else "pictures"
    return [
        f"Taught {many} of it again, it saves {number(saved, digits=2)} of what a model that never saw it has to learn "
        "(1 = it learns as easily as vanilla learns on, 0 = as if it had never known)."
    ]
