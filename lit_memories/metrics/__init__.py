"""Metrics of an audit: torchmetrics over pure functions (`functional`), each number with its interval."""

from lit_memories.metrics.bootstrap import Estimate, bootstrap, wilson_interval
from lit_memories.metrics.boschloo import rates_differ
from lit_memories.metrics.distance import EarthMoversDistance, RelativeDistance
from lit_memories.metrics.forgetting import Forgetting
from lit_memories.metrics.functional import (
    TESTS,
    DistanceForm,
    Null,
    SeedTest,
    auc,
    combined_p_value,
    damage,
    earth_movers_distance,
    forgetting,
    forgetting_fraction,
    gaussian_nll,
    gaussian_w2_squared,
    holm,
    images_to_resolve,
    paired_shift,
    permutation_test,
    permutation_tests,
    psnr,
    relative_distance,
    resolvable,
    typicality,
)
from lit_memories.metrics.intervals import (
    mean_interval,
    paired_rate_interval,
    rate_difference_interval,
    ratio_interval,
)
from lit_memories.metrics.permutation import PermutationTest
from lit_memories.metrics.rate import ConceptRate, MeanPSNR
from lit_memories.metrics.seed import SeedNLL, Typicality

__all__ = [
    "TESTS",
    "ConceptRate",
    "DistanceForm",
    "EarthMoversDistance",
    "Estimate",
    "Forgetting",
    "MeanPSNR",
    "Null",
    "PermutationTest",
    "RelativeDistance",
    "SeedNLL",
    "SeedTest",
    "Typicality",
    "auc",
    "bootstrap",
    "combined_p_value",
    "damage",
    "earth_movers_distance",
    "forgetting",
    "forgetting_fraction",
    "gaussian_nll",
    "gaussian_w2_squared",
    "holm",
    "images_to_resolve",
    "mean_interval",
    "paired_rate_interval",
    "paired_shift",
    "permutation_test",
    "permutation_tests",
    "psnr",
    "rate_difference_interval",
    "rates_differ",
    "ratio_interval",
    "relative_distance",
    "resolvable",
    "typicality",
    "wilson_interval",
]
