"""The probes of the audit's recipe with fewer noise levels, for audits whose numbers do not matter."""

import json

USUAL = ("denoising.Denoising", "samples.Samples", "seed.Seed", "typicality.Typicality", "known.Known")
OPTIONS = {"denoising.Denoising": {"levels": 4}, "samples.Samples": {"guidance_scale": 3.0}}
FEW_LEVELS = "--model.probes=" + json.dumps(
    [{"class_path": f"lit_memories.probes.{name}", "init_args": OPTIONS.get(name, {})} for name in USUAL]
)
