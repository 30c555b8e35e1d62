"""Run folders of the first schema, a record a sample with all numbers side by side, read as if they were of this one.

What a folder lacks the probes that measure it are simply not asked of; an audit of the same folder adds them, and
writes the folder anew with what is there.
"""

import json
from typing import Any

from lit_memories.storage.plain import parse_json

OLD_SCHEMA = 1
INVERTER = "inverter", "num_inference_steps", "guidance_scale"
SETTINGS: dict[str, tuple[str, ...]] = {
    "seed": (*INVERTER, "judge"),
    "typicality": INVERTER,
    "known": INVERTER,
    "likelihood": ("num_inference_steps",),
    "reach": (*INVERTER, "judge"),
    "samples": ("num_inference_steps", "judge"),
    "memories": (*INVERTER, "judge", "decoder", "reencode"),
}
"""Settings that went to the probes they belong to; all others are common."""
RENAMED = {
    "likelihood": ("likelihood_probes", "probes"),
    "reach": ("reach_directions", "directions"),
    "samples": ("sample_guidance_scale", "guidance_scale"),
}
"""Options of the audit that are a probe's now, and their names there; 0 meant that it was not asked."""
CONCEPT_LEVEL, IMAGE_LEVEL = ("seed", "typicality", "known", "likelihood", "reach", "samples"), ("memories",)
LEFT_SEEDS = "seed", "known", "memories"
SEEN = "shows_concept", "probability", "correct"
INVERTED = "nll", "psnr", "psnr_ceiling", "psnr_round_trip", "residual", "evaluations", "converged"
DISTANCES = "psnr_support", "psnr_decoder", "decoder_passes", "latent_cosine_distance", "distance", "cosine_distance"
NUMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    "concept": {"seed": INVERTED + SEEN, "likelihood": ("log_likelihood", "bits_per_dim"), "reach": ("reach",)},
    "reference": {"seed": INVERTED + SEEN, "likelihood": ("log_likelihood", "bits_per_dim")},
    "known": {"known": (*INVERTED, "seed_error", "nll_bias")},
    **{name: {"samples": SEEN} for name in ("prompted", "retained", "unprompted")},
    **{name: {"memories": INVERTED + SEEN + DISTANCES} for name in ("own", "repeat", "memory")},
}
"""Where each set's numbers went, by probe."""
SAMPLE = "key", "set", "index", "prompt", "conditioning", "support"


def renewed_record(line: str) -> str:
    """A line of ``records.jsonl`` with its numbers by probe.

    Raises:
        ValueError: if it is not JSON.
    """
    if '"probes"' in line:
        return line
    values = parse_json(line)
    if not isinstance(values, dict) or str(values.get("set")) not in NUMBERS:
        return line  # its reader says what is wrong with it
    probes: dict[str, dict[str, Any]] = {}
    for probe, names in NUMBERS[values["set"]].items():
        if answer := {name: values.pop(name) for name in names if name in values}:
            probes[probe] = answer
    if (correct := probes.get("samples", {}).get("correct")) and isinstance(correct, dict):
        probes["samples"]["met"] = float(all(correct.values()))
    if isinstance(tests := values.pop("typicality", None), dict):
        probes["typicality"] = dict(tests)
    if "likelihood_gap" in values:
        probes.setdefault("likelihood", {})["gap"] = values.pop("likelihood_gap")
    if (flag := values.pop("flag", None)) is not None:
        probes = {probe: {**answer, "flag": flag} for probe, answer in (probes or _nothing(values)).items()}
    return json.dumps({**values, "probes": probes})


def _nothing(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The probe whose answer was lost altogether."""
    return {next(iter(NUMBERS[values["set"]])): {}}


def renewed_info(text: str) -> str:
    """The text of ``run.json`` with the settings by probe.

    Raises:
        ValueError: if it is not JSON.
    """
    values = parse_json(text)
    if (
        not isinstance(values, dict)
        or values.get("schema") != OLD_SCHEMA
        or not isinstance(values.get("settings"), dict)
    ):
        return text
    settings = dict(values["settings"])
    level = IMAGE_LEVEL if settings.get("audit") == "ImageAudit" else CONCEPT_LEVEL
    probes = {}
    for probe in level:
        own = {name: settings[name] for name in SETTINGS[probe] if name in settings}
        if probe in RENAMED:
            old, new = RENAMED[probe]
            if not settings.get(old):
                continue
            own[new] = settings[old]
        probes[probe] = {"question": "", "settings": own, "sets": [], "conditioned": False, "numbers": []}
        probes[probe]["leaves_seeds"] = probe in LEFT_SEEDS
    gone = {name for probe in level for name in SETTINGS[probe]} | {old for old, _ in RENAMED.values()}
    values["settings"] = {name: value for name, value in settings.items() if name not in gone}
    return json.dumps({**values, "probes": probes})
