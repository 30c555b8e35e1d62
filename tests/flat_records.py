"""Records from numbers side by side, which go to the probe that measures them on the sample's set."""

import json
from typing import Any

from lit_memories.records import Record, SetName
from lit_memories.schemas import renewed_record


def flat(key: str, name: SetName, index: int, prompt: str, **numbers: Any) -> Record:
    """A record: ``surprise`` and its kin go to the probe ``denoising``, all else where the first schema's went."""
    own = {n: numbers.pop(n) for n in ("surprise", "surprise_empty", "gap", "profile") if n in numbers}
    values = {name: value for name, value in numbers.items() if value is not None}
    line = json.dumps({"key": key, "set": name, "index": index, "prompt": prompt, **values})
    record = Record.from_json(renewed_record(line))
    if own:
        record.probes["denoising"] = own
    return record
