"""Metrics of an audit: torchmetrics over pure functions (`functional`), each number with its interval (`bootstrap`)."""

from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.distance import EarthMoversDistance, RelativeDistance
from lit_memories.metrics.forgetting import Forgetting
from lit_memories.metrics.functional import (
    DistanceForm,
    Null,
    damage,
    earth_movers_distance,
    forgetting,
    forgetting_fraction,
    gaussian_nll,
    gaussian_w2_squared,
    paired_shift,
    psnr,
    relative_distance,
)
from lit_memories.metrics.rate import ConceptRate, MeanPSNR
from lit_memories.metrics.seed import SeedNLL

__all__ = [
    "ConceptRate",
    "DistanceForm",
    "EarthMoversDistance",
    "Estimate",
    "Forgetting",
    "MeanPSNR",
    "Null",
    "RelativeDistance",
    "SeedNLL",
    "bootstrap",
    "damage",
    "earth_movers_distance",
    "forgetting",
    "forgetting_fraction",
    "gaussian_nll",
    "gaussian_w2_squared",
    "paired_shift",
    "psnr",
    "relative_distance",
    "wilson_interval",
]
