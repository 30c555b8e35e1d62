"""Where a memory sits: surprise by noise level, less vanilla's."""

import torch

from lit_memories.statistics.pairing import PAIRED, Comparison

PATH = "denoising.profile"


def profile(comparison: Comparison, row: int) -> dict[str, list[float]] | None:
    """Of E and R, a run's mean surprise less vanilla's at each noise level, and the levels' ``log_snr``.

    Returns:
        None if the run or vanilla does not have it, or the levels are not known.
    """
    asked = comparison.runs[row].info.asked.get("denoising")
    levels = None if asked is None else asked.settings.get("log_snr")
    if not isinstance(levels, list):
        return None
    found = {"log_snr": [float(level) for level in levels]}
    for name in PAIRED:
        tables = comparison.shared([row, comparison.vanilla], name, PATH)
        values = [[record.value(PATH) for record in table] for table in tables]
        if not values[0] or any(not isinstance(x, list) or len(x) != len(levels) for table in values for x in table):
            return None
        own, vanilla = (torch.tensor(table, dtype=torch.float64) for table in values)
        found[name] = (own - vanilla).mean(0).tolist()
    return found
