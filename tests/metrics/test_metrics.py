"""Every metric through one harness: splits, processes, copies, precision, and an independent value."""

import copy
import datetime
import math
import os
import pickle
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import scipy.stats
import scipy_typicality
import torch
from forked import forked
from torch import distributed
from torchmetrics import MetricCollection

from lit_memories.metrics import (
    ConceptRate,
    EarthMoversDistance,
    Forgetting,
    MeanPSNR,
    RelativeDistance,
    SeedNLL,
    Typicality,
    mean_interval,
    wilson_interval,
)

COUNT = 11
DRAWS = 200
MEAN, SD = 32 * math.log(2 * math.pi) + 32, math.sqrt(32)  # of the null for seeds of 64 elements
RNG = np.random.default_rng(0)


def numbers(mean, sd, *shape):
    return torch.from_numpy(RNG.normal(mean, sd, shape))


SEEDS = numbers(0, 1.2, COUNT, 4, 4, 4)
VANILLA, CONTROL, NLL = numbers(80, 9, COUNT), numbers(99, 9, COUNT), numbers(90, 9, COUNT)
IS_CONCEPT = torch.arange(COUNT) % 3 != 0
CONTROL = CONTROL + 400 * IS_CONCEPT  # told from vanilla, or it would set no scale
TARGET = numbers(0.5, 0.1, COUNT, 3, 4, 4).clamp(0, 1)
IMAGES = (TARGET + 0.05 * numbers(0, 1, COUNT, 3, 4, 4)).clamp(0, 1)


def seed_numbers():
    nll = -scipy.stats.norm.logpdf(SEEDS.numpy()).reshape(COUNT, -1).sum(1)
    return {"value": nll.mean(), "sd": nll.std(), "z": ((nll - MEAN) / SD).mean()}


def w1(nll):
    """On scipy's transport to a fine grid of scipy's chi-square."""
    p = (np.arange(200_000) + 0.5) / 200_000
    return scipy.stats.wasserstein_distance(nll, scipy.stats.chi2(64).ppf(p) / 2 - 32 + MEAN)


def w2_squared(nll):
    return (nll.mean() - MEAN) ** 2 + (nll.std() - SD) ** 2


def relative(distance):
    return distance(NLL[IS_CONCEPT].numpy()) / distance(NLL[~IS_CONCEPT].numpy())


def shifts(values):
    shift = (values - VANILLA).numpy()
    return shift[IS_CONCEPT].mean(), shift[~IS_CONCEPT].mean()


def forgetting_numbers(with_control):
    (concept, reference), (concept_all, reference_all) = shifts(NLL), shifts(CONTROL)
    values = {"value": concept - reference, "damage": reference}
    return values | ({"fraction": (concept - reference) / (concept_all - reference_all)} if with_control else {})


def psnr_numbers():
    mse = (IMAGES - TARGET).square().numpy().mean((1, 2, 3))
    return {"value": (-10 * np.log10(mse)).mean()}


@dataclass
class Case:
    """A metric, what it is updated with (cases first), and its numbers by other means."""

    make: partial
    inputs: dict
    expected: dict


PAIRED = {"nll": NLL, "vanilla_nll": VANILLA, "is_concept": IS_CONCEPT}
RELATIVE = {"nll": NLL, "is_concept": IS_CONCEPT}
CASES = {
    "seed": Case(partial(SeedNLL, draws=DRAWS), {"latents": SEEDS}, seed_numbers()),
    "typicality": Case(partial(Typicality, draws=DRAWS), {"latents": SEEDS}, scipy_typicality.numbers(SEEDS)),
    "w1": Case(partial(EarthMoversDistance, 64, draws=DRAWS), {"nll": NLL}, {"value": w1(NLL.numpy())}),
    "w2": Case(
        partial(EarthMoversDistance, 64, form="w2_squared", draws=DRAWS),
        {"nll": NLL},
        {"value": w2_squared(NLL.numpy())},
    ),
    "relative": Case(partial(RelativeDistance, 64, draws=DRAWS), RELATIVE, {"value": relative(w1)}),
    "relative_w2": Case(
        partial(RelativeDistance, 64, form="w2_squared", draws=DRAWS), RELATIVE, {"value": relative(w2_squared)}
    ),
    "forgetting": Case(partial(Forgetting, draws=DRAWS), PAIRED, forgetting_numbers(False)),
    "fraction": Case(
        partial(Forgetting, with_control=True, draws=DRAWS),
        PAIRED | {"control_nll": CONTROL},
        forgetting_numbers(True),
    ),
    "rate": Case(ConceptRate, {"shows": IS_CONCEPT}, {"value": float(IS_CONCEPT.double().mean())}),
    "psnr": Case(partial(MeanPSNR, draws=DRAWS), {"images": IMAGES, "target": TARGET}, psnr_numbers()),
}
every_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def feed(metric, inputs, batches):
    """Update with the given rows, a batch at a time."""
    for rows in batches:
        metric.update(**{name: values[rows] for name, values in inputs.items()})
    return metric


def whole(case):
    return feed(case.make(), case.inputs, [torch.arange(COUNT)]).compute()


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.allclose(left[name], right[name], 0, 0, equal_nan=True) for name in left), (left, right)


@every_metric
def test_numbers_are_those_of_an_independent_computation(case):
    result = whole(case)
    for name, expected in case.expected.items():
        assert float(result[name]) == pytest.approx(float(expected), rel=1e-5), name
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in result.values())


@every_metric
def test_every_number_lies_in_its_interval(case):
    result = whole(case)
    assert set(result) == {"sd", "z"} & set(case.expected) | {
        key
        for name in set(case.expected) - {"sd", "z"}
        for key in ((name, "low", "high") if name == "value" else (name, f"{name}_low", f"{name}_high"))
    }
    for name in set(case.expected) - {"sd", "z"}:
        prefix = "" if name == "value" else f"{name}_"
        assert result[f"{prefix}low"] < result[name] < result[f"{prefix}high"]


@every_metric
@pytest.mark.parametrize("sizes", [(1,) * COUNT, (4, 4, 3), (10, 1), (0, 6, 0, 5)])
def test_batches_do_not_matter(case, sizes):
    metric = feed(case.make(), case.inputs, torch.arange(COUNT).split(list(sizes)))
    assert_same(metric.compute(), whole(case))


@every_metric
def test_order_does_not_matter(case):
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert_same(feed(case.make(), case.inputs, order.split(3)).compute(), whole(case))


@every_metric
def test_copies_and_pickles_go_on_where_they_were(case):
    first, rest = torch.arange(COUNT).split([4, COUNT - 4])
    metric = feed(case.make(), case.inputs, [first])
    for twin in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):  # noqa: S301 - our own
        assert_same(feed(twin, case.inputs, [rest]).compute(), whole(case))


@every_metric
def test_reset_forgets_all(case):
    metric = feed(case.make(), case.inputs, [torch.arange(5)])
    metric.compute()
    metric.reset()
    assert_same(feed(metric, case.inputs, [torch.arange(COUNT)]).compute(), whole(case))


@every_metric
def test_forward_returns_the_batch_and_accumulates(case):
    metric = case.make()
    parts = [torch.arange(6), torch.arange(6, COUNT)]
    for rows in parts:
        batch = metric(**{name: values[rows] for name, values in case.inputs.items()})
        assert_same(batch, feed(case.make(), case.inputs, [rows]).compute())
    assert_same(metric.compute(), whole(case))


@every_metric
@pytest.mark.parametrize("convert", [lambda m: m.half(), lambda m: m.to(torch.float32), lambda m: m.to("cpu")])
def test_moving_an_empty_metric_does_not_cost_precision(case, convert):
    assert_same(feed(convert(case.make()), case.inputs, [torch.arange(COUNT)]).compute(), whole(case))


@every_metric
def test_float32_inputs_are_kept_as_given(case):
    """Nothing is lost after the input: the same numbers as from the float32 values written in float64."""
    single = {name: values.float() for name, values in case.inputs.items()}
    double = {name: values.double() for name, values in single.items()}
    rows = [torch.arange(COUNT)]
    assert_same(feed(case.make(), single, rows).compute(), feed(case.make(), double, rows).compute())


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
@pytest.mark.parametrize("batches", [[], [torch.arange(0)]])
def test_no_cases_are_a_clear_error(case, batches):
    with pytest.raises(ValueError, match=r"has no cases: call update before compute|set is empty: a rate needs"):
        feed(case.make(), case.inputs, batches).compute()


@every_metric
def test_nothing_is_saved_with_a_model(case):
    assert feed(case.make(), case.inputs, [torch.arange(COUNT)]).state_dict() == {}


def test_collection_gives_every_metric_its_share():
    """Metrics of equal state share it, and every key says whose number it is."""
    names = ["w1", "w2", "relative", "forgetting"]
    together = MetricCollection({name: CASES[name].make() for name in names})
    for rows in torch.arange(COUNT).split(4):
        together.update(**{name: values[rows] for name, values in PAIRED.items()})
    result = together.compute()
    for name in names:
        assert_same({key: result[f"{name}_{key}"] for key in whole(CASES[name])}, whole(CASES[name]))


def test_intervals_are_the_functions_own():
    assert_interval(whole(CASES["rate"]), wilson_interval(int(IS_CONCEPT.sum()), COUNT))
    shift = (NLL - VANILLA)[~IS_CONCEPT]
    metric = whole(CASES["forgetting"])
    damage = {name or "value": metric[f"damage_{name}".strip("_")] for name in ("", "low", "high")}
    assert_interval(damage, mean_interval(shift))
    moved = NLL - VANILLA
    assert_interval(metric, mean_interval(moved[IS_CONCEPT], shift))


def assert_interval(result, estimate):
    assert [float(result[name]) for name in ("value", "low", "high")] == [estimate.value, estimate.low, estimate.high]


def test_prior_seeds_score_zero():
    metric = SeedNLL(draws=DRAWS)
    metric.update(torch.randn(200, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert abs(float(metric.compute()["z"])) < 3 / math.sqrt(200)


def test_vanilla_and_control_are_the_ends_of_the_scale():
    ends = []
    for nll in (VANILLA, CONTROL):
        metric = Forgetting(with_control=True, draws=DRAWS)
        metric.update(nll, VANILLA, IS_CONCEPT, CONTROL)
        ends.append(metric.compute())
    assert [float(ends[0][name]) for name in ("value", "low", "high")] == [0, 0, 0]
    names = ("fraction", "fraction_low", "fraction_high")
    assert [float(ends[1][name]) for name in names] == pytest.approx([1, 1, 1], abs=1e-12)


def test_images_stay_paired_when_resampled():
    """Images differ by 30 nats, shifts by 1: an interval that broke the pairs would be ten times as wide."""
    vanilla = numbers(1400, 30, 40)
    metric = Forgetting(draws=DRAWS)
    metric.update(vanilla + numbers(5, 1, 40), vanilla, torch.arange(40) < 20)
    result = metric.compute()
    assert float(result["high"] - result["low"]) < 2


@pytest.mark.parametrize("name", ["relative", "forgetting", "fraction"])
@pytest.mark.parametrize(("value", "missing"), [(True, "reference"), (False, "concept")])
def test_a_missing_set_is_named(name, value, missing):
    inputs = CASES[name].inputs | {"is_concept": torch.full((COUNT,), value)}
    with pytest.raises(ValueError, match=f"the {missing} set is empty"):
        feed(CASES[name].make(), inputs, [torch.arange(COUNT)]).compute()


def test_one_case_has_a_value_and_no_interval():
    result = feed(CASES["w1"].make(), {"nll": NLL}, [torch.arange(1)]).compute()
    assert math.isfinite(result["value"])
    assert math.isnan(result["low"])
    assert math.isnan(result["high"])


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda: EarthMoversDistance(64).update(torch.tensor([1.0, math.nan])), "nll has 1 non-finite of 2 values"),
        (lambda: EarthMoversDistance(64).update(torch.ones(2, 2)), r"expected one number a case, \(n,\) each"),
        (lambda: RelativeDistance(64).update(NLL, IS_CONCEPT[:3]), r"\(n,\) each, got .*\(3,\)"),
        (lambda: Forgetting().update(NLL, VANILLA, IS_CONCEPT, CONTROL), "with_control is False"),
        (lambda: Forgetting(with_control=True).update(NLL, VANILLA, IS_CONCEPT), "with_control is True"),
        (lambda: Forgetting().update(NLL, VANILLA[:1], IS_CONCEPT), "expected one number a case"),
        (lambda: ConceptRate().update(torch.tensor([0.4])), "shows must be 0 or 1"),
        (lambda: ConceptRate().update(torch.tensor([math.nan])), "shows must be 0 or 1"),
        (lambda: SeedNLL().update(torch.full((2, 4), math.inf)), "nll has 2 non-finite of 2 values"),
        (lambda: MeanPSNR().update(IMAGES, TARGET - 1), r"target must be in \[0, 1\]"),
        (lambda: RelativeDistance(64, form="w2"), "unknown distance form"),
        (lambda: EarthMoversDistance(0), "must be positive"),
    ],
)
def test_misuse_is_refused_at_once(update, message):
    with pytest.raises(ValueError, match=message):
        update()


SPLITS = {"uneven": (7, COUNT - 7), "one process without cases": (COUNT, 0)}


def run_rank(folder):
    """One of two processes: every metric on its share of the cases."""
    rank, store = int(os.environ["RANK"]), f"file://{folder}/store"
    timeout = datetime.timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timeout)
    results = {}
    for split, sizes in SPLITS.items():
        rows = torch.arange(COUNT).split(list(sizes))[rank]
        for name, case in CASES.items():
            metric = feed(case.make(), case.inputs, rows.split(3) if len(rows) else [])
            results[split, name] = metric.compute()
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    ended = forked(run_rank, folder, processes=2)
    assert [process.code for process in ended] == [0, 0], ended
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.distributed
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(results_of_two_processes, split, name):
    for results in results_of_two_processes:
        assert_same(results[split, name], whole(CASES[name]))
