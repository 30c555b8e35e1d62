"""Likelihoods by the probability flow against Gaussian models, whose flow is known, and against brute force."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor, nn

from lit_memories.ops.likelihood import log_likelihood
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.schedule import BetaSchedule

SHAPE = (4, 8, 8)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
ALPHAS = (1 - BETAS).cumprod(0)
SCHEDULE = BetaSchedule(ALPHAS, float(ALPHAS[0]))  # Stable Diffusion's
ANISOTROPIC = torch.logspace(-1.5, 0.5, math.prod(SHAPE), dtype=torch.float64).reshape(SHAPE)


def generators(count: int, first: int = 0) -> list[Generator]:
    return [Generator().manual_seed(first + k) for k in range(count)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


class Gaussian:
    """The exact denoiser of centred normal data; remembers where it was asked.

    Args:
        variance: of the data, a number or one an element; in the basis of `basis`.
        basis: orthogonal matrix (d, d) whose columns are the directions, or None for the elements themselves.
    """

    def __init__(self, variance: float | Tensor, basis: Tensor | None = None) -> None:
        self.variance, self.basis = torch.as_tensor(variance, dtype=torch.float64), basis
        self.levels: dict[int, float] = {}
        self.asked: list[tuple[int, list[int]]] = []

    def turn(self, x: Tensor, back: bool = False) -> Tensor:
        if self.basis is None:
            return x
        return (x.flatten(1) @ (self.basis.T if back else self.basis)).reshape(x.shape)

    def __call__(self, x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        self.asked.append((timestep, rows.tolist()))
        alpha = self.levels.get(timestep, float(ALPHAS[timestep]))
        marginal = alpha * self.variance + 1 - alpha
        return self.turn(math.sqrt(1 - alpha) * self.turn(x) / marginal, back=True).to(x.dtype)

    def gain(self, steps: list[DDIMStep]) -> Tensor:
        """Factor by which the flow stretches latents into seeds: marginals go into one another."""
        clean, noisy = steps[-1].alpha_prev, steps[0].alpha
        start, end = clean * self.variance + 1 - clean, noisy * self.variance + 1 - noisy
        return (end / start).sqrt()

    def truth(self, x: Tensor, steps: list[DDIMStep]) -> tuple[Tensor, Tensor, Tensor]:
        """Seeds, log-determinant and log-likelihood in closed form, for the flow without steps."""
        gain = self.gain(steps).expand(x.shape)
        turned = gain * self.turn(x)
        log_det = gain.log().flatten(1).sum(1)
        prior = -(turned.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
        return self.turn(turned, back=True), log_det, prior + log_det

    def data(self, count: int, steps: list[DDIMStep]) -> Tensor:
        """Latents as the model makes them of seeds."""
        return self.turn(normal(count, *SHAPE) / self.gain(steps), back=True)


@pytest.mark.parametrize("count", [3, 20])
def test_standard_normal_data_are_exact_at_any_number_of_steps(count: int) -> None:
    model, x = Gaussian(1.0), normal(3, *SHAPE)
    result = log_likelihood(model, x, SCHEDULE.ddim_steps(count), generators(3))
    expected = -(x.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
    torch.testing.assert_close(result.log_likelihood, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.seeds, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.log_det, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("variance", "tolerance"), [(0.1, 3e-4), (0.5, 3e-5), (2.0, 1e-4), (4.0, 3e-4), (ANISOTROPIC, 8e-4)]
)
def test_gaussian_data_have_their_closed_form(variance: float | Tensor, tolerance: float) -> None:
    """One probe is exact where the derivative is diagonal; tolerances in nats an element."""
    model, steps = Gaussian(variance), SCHEDULE.ladder(50)
    x = model.data(3, steps)
    result = log_likelihood(model, x, steps, generators(3))
    seeds, log_det, expected = model.truth(x, steps)
    size = x[0].numel()
    torch.testing.assert_close(result.log_likelihood / size, expected / size, rtol=0, atol=tolerance)
    torch.testing.assert_close(result.log_det / size, log_det / size, rtol=0, atol=max(4e-4, 2 * tolerance))
    torch.testing.assert_close(result.seeds, seeds, rtol=20 * tolerance, atol=1e-3)
    torch.testing.assert_close(result.bits_per_dim, -result.log_likelihood / size / math.log(2))


def test_directions_need_not_be_elements() -> None:
    """A covariance with correlations: the derivative is no longer diagonal, and the trace is estimated."""
    basis = torch.linalg.qr(normal(256, 256, seed=5)).Q
    model, steps = Gaussian(ANISOTROPIC, basis), SCHEDULE.ladder(30)
    x = model.data(2, steps)
    result = log_likelihood(model, x, steps, generators(2), probes=40)
    _, _, expected = model.truth(x, steps)
    assert (result.standard_error > 0.1).all()
    assert ((result.log_likelihood - expected).abs() < 4 * result.standard_error + 0.5).all()


def test_the_density_is_that_of_the_data() -> None:
    """Not only that of the flow: with clean latents at the end and next to no signal at the beginning."""
    schedule = BetaSchedule(
        torch.cos(torch.linspace(1e-3, math.pi / 2 - 1e-3, 1000, dtype=torch.float64)).square(), 1.0
    )
    model, steps = Gaussian(0.3), schedule.ladder(100)
    model.levels = {step.timestep: step.alpha for step in steps}
    x = 0.3**0.5 * normal(2, *SHAPE)
    result = log_likelihood(model, x, steps, generators(2))
    expected = torch.distributions.Normal(0, torch.tensor(0.3, dtype=torch.float64).sqrt()).log_prob(x)
    torch.testing.assert_close(result.log_likelihood, expected.flatten(1).sum(1), rtol=0, atol=0.05)


@pytest.mark.parametrize("variance", [0.2, 3.0])
def test_the_error_falls_with_the_square_of_the_steps(variance: float) -> None:
    """Of seeds and log-determinant; in the likelihood of typical data the leading errors of the two cancel."""
    errors = []
    for count in (20, 40, 80):
        angles = torch.linspace(0.05, 1.5, count + 1, dtype=torch.float64)
        levels = angles.cos().square().tolist()
        steps = [DDIMStep(k, levels[k], levels[k - 1]) for k in range(count, 0, -1)]
        model = Gaussian(variance)
        model.levels = dict(enumerate(levels))
        x = model.data(4, steps)
        result = log_likelihood(model, x, steps, generators(4))
        found, truth = (result.seeds, result.log_det, result.log_likelihood), model.truth(x, steps)
        errors.append(torch.stack([(a - b).abs().mean() for a, b in zip(found, truth, strict=True)]))
    for coarse, fine in pairwise(errors):
        seeds, log_det, likelihood = (coarse / fine).tolist()
        assert 3.3 < log_det < 5
        assert 3.3 < seeds < 5.5
        assert likelihood > 3.3


class Mixture:
    """The exact denoiser of an even mixture of normal distributions, whose flow is stiff between the centres."""

    def __init__(self, centres: Tensor, deviation: float) -> None:
        self.centres, self.deviation = centres, deviation

    def __call__(self, x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        alpha = float(ALPHAS[timestep])
        _, away, shares, variance = self.parts(x, alpha)
        return (math.sqrt(1 - alpha) * (shares[..., None] * away).sum(1) / variance).reshape(x.shape)

    def parts(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor, float]:
        """Log-densities (n, k) under each part at a level, ways from the centres, shares, and the parts' variance."""
        variance = alpha * self.deviation**2 + 1 - alpha
        away = x.flatten(1)[:, None] - math.sqrt(alpha) * self.centres
        each = -(away.square() / variance + math.log(2 * math.pi * variance)).sum(2) / 2 - math.log(len(self.centres))
        return each, away, each.softmax(1), variance

    def truth(self, x: Tensor, steps: list[DDIMStep]) -> Tensor:
        """Log-density at the clean end."""
        return self.parts(x, steps[-1].alpha_prev)[0].logsumexp(1)


def test_off_the_support_the_gap_tells_and_other_levels_do_not() -> None:
    """Against the exact density in 64 dimensions; the figures of docs/audit.md are these."""
    centres, noise = normal(8, 64), 0.3 * normal(2, 8, 64, seed=1)
    model, errors, gaps = Mixture(centres, 0.3), {}, {}
    for share in (0.0, 0.25, 0.5):  # of the way from one centre to another
        x = (centres.lerp(centres.roll(1, 0), share) + noise).reshape(16, 4, 4, 4)
        for count in (50, 100, 200):
            steps = SCHEDULE.ladder(count)
            result = log_likelihood(model, x, steps, generators(16))
            errors[share, count], gaps[share, count] = result.log_likelihood - model.truth(x, steps), result.gap
    assert errors[0, 50].abs().max() < 3
    assert errors[0.5, 50].median() > 120, "wrong by all that is to be measured"
    assert errors[0.5, 200].median() > 0.85 * errors[0.5, 50].median(), "hardly less with four times the levels"
    moved = {share: (errors[share, 50] - errors[share, 100]).abs() for share in (0.0, 0.5)}
    assert moved[0.5].median() < 0.05 * errors[0.5, 50].median(), "and twice the levels do not tell"
    assert moved[0.5].min() < moved[0.0].median(), "from a point that is right"
    for count in (50, 100, 200):
        assert gaps[0, count].max() < 0.1 < 0.3 < min(gaps[0.25, count].min(), gaps[0.5, count].min())


class Curved(nn.Module):
    """A small network whose derivative is neither diagonal nor constant nor symmetric."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Conv2d(2, 6, 3, padding=1).double(), nn.Conv2d(6, 2, 3, padding=1).double()
        self.backward_passes = 0

    def forward(self, x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        noise = 0.5 * x + self.outer(torch.tanh(self.inner(x) + timestep / 1000))
        if noise.requires_grad:
            noise.register_hook(self._count)
        return noise

    def _count(self, gradient: Tensor) -> None:
        self.backward_passes += 1


CURVED_STEPS = [
    DDIMStep(t, a, b) for t, a, b in [(900, 0.02, 0.2), (500, 0.2, 0.7), (200, 0.7, 0.95), (50, 0.95, 0.99)]
]


def test_the_trace_is_estimated_without_bias_and_its_error_is_known() -> None:
    """One node, where the log-determinant is a trace: against the whole derivative."""
    model, step, x = Curved(), DDIMStep(500, 0.5, 0.9), normal(1, 2, 4, 4)
    jacobian = torch.autograd.functional.jacobian(lambda y: model(y, 500, torch.arange(1)), x).reshape(32, 32)
    width = math.acos(math.sqrt(0.5)) - math.acos(math.sqrt(0.9))
    exact = width * float(jacobian.trace() - math.sqrt(0.5) * 32) / math.sqrt(0.5)
    results = [log_likelihood(model, x, [step], generators(1, first=k), probes=4) for k in range(400)]
    estimates = torch.cat([result.log_det for result in results])
    errors = torch.cat([result.standard_error for result in results])
    assert abs(float(estimates.mean()) - exact) < 4 * float(estimates.std()) / 20
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(estimates.std()), rel=0.15)


def test_the_log_determinant_is_that_of_the_map() -> None:
    """A nonlinear model's map from latents to seeds, differentiated numerically."""
    model = Curved()
    angles = torch.linspace(0.1, 1.45, 21, dtype=torch.float64).cos().square().tolist()
    steps = [DDIMStep(40 * k, angles[k], angles[k - 1]) for k in range(20, 0, -1)]
    x, size = normal(1, 2, 2, 2), 8
    moved = x.flatten() + 1e-5 * torch.cat([torch.eye(size), -torch.eye(size)]).double()
    ends = log_likelihood(model, moved.reshape(16, 2, 2, 2), steps, generators(16)).seeds.flatten(1)
    exact = torch.linalg.slogdet((ends[:size] - ends[size:]) / 2e-5).logabsdet
    result = log_likelihood(model, x, steps, generators(1), probes=250)
    assert float(result.standard_error) < 0.05
    assert float(result.log_det) == pytest.approx(float(exact), abs=4 * float(result.standard_error) + 0.03)


def test_nothing_is_evaluated_that_is_not_used() -> None:
    """Each level is asked for once, from the clean end on, for all rows; each probe is one way back."""
    gaussian = Gaussian(0.5)
    log_likelihood(gaussian, normal(3, *SHAPE), SCHEDULE.ddim_steps(7), generators(3), probes=2)
    steps = SCHEDULE.ddim_steps(7)
    assert gaussian.asked == [(step.timestep, [0, 1, 2]) for step in reversed(steps)]
    curved = Curved()
    log_likelihood(curved, normal(3, 2, 4, 4), CURVED_STEPS, generators(3), probes=5)
    assert curved.backward_passes == 4 * 5


def test_a_sample_does_not_feel_its_batch() -> None:
    scale = torch.tensor([0.2, 0.5, 0.8, 1.1], dtype=torch.float64)[:, None, None, None]

    def run(chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        def model(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
            """Each row with a prompt of its own, and its elements mixed."""
            strength = scale[torch.tensor(chosen)][rows]
            return strength * torch.sin(x + x.roll(1, -1)) + x.roll(1, 1) / 5

        random = [Generator().manual_seed(100 + k) for k in chosen]
        result = log_likelihood(model, normal(4, *SHAPE)[chosen], CURVED_STEPS, random, probes=2)
        return result.seeds, result.log_likelihood, result.standard_error

    whole = run([0, 1, 2, 3])
    for chosen in ([2], [3, 1], [1, 3, 0, 2]):
        assert all(torch.equal(some, every[chosen]) for some, every in zip(run(chosen), whole, strict=True))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_it_works_where_gradients_are_off(mode: type) -> None:
    """As in Lightning's predict, prompts encoded in there included; parameters get no gradient."""
    model = Curved()
    outside = log_likelihood(model, normal(2, 2, 4, 4), CURVED_STEPS, generators(2), probes=2)
    with mode():
        x, embeds = normal(2, 2, 4, 4), torch.zeros(2, 1, 1, 1, dtype=torch.float64)
        inside = log_likelihood(lambda x, t, rows: model(x, t, rows) + embeds[rows], x, CURVED_STEPS, generators(2), 2)
    assert torch.equal(inside.log_likelihood, outside.log_likelihood)
    assert torch.equal(inside.seeds, outside.seeds)
    assert not inside.seeds.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_equal_generators_give_two_models_the_same_probes() -> None:
    """The estimator's error then mostly cancels in their difference."""
    model = Curved()

    def other(x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        return 1.02 * model(x, timestep, rows)

    x = normal(1, 2, 4, 4).expand(60, -1, -1, -1)
    one = log_likelihood(model, x, CURVED_STEPS, generators(60)).log_likelihood
    shared, apart = (log_likelihood(other, x, CURVED_STEPS, generators(60, first)).log_likelihood for first in (0, 60))
    assert (shared - one).std() < 0.1 * (apart - one).std()


def test_probes_are_new_at_every_node() -> None:
    """With one set for the whole way, errors would add up: four equal nodes then have twice the spread."""
    levels = [0.5 - 1e-6 * k for k in range(5)]
    steps = [DDIMStep(500, levels[k], levels[k - 1]) for k in range(4, 0, -1)]
    x = normal(1, 2, 4, 4).expand(200, -1, -1, -1)
    spread = [
        float(log_likelihood(Curved(), x, part, generators(200)).log_det.std()) / (part[-1].alpha_prev - part[0].alpha)
        for part in (steps, [DDIMStep(500, levels[4], levels[0])])
    ]
    weights = torch.tensor([1.5, 1, 1, 0.5]) / 4  # of the trapezoidal rule after Euler's step
    assert spread[0] / spread[1] == pytest.approx(float(weights.norm()), rel=0.2)


def test_results_repeat_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before, x = torch.get_rng_state(), normal(2, *SHAPE).float()
    first, second = (log_likelihood(Gaussian(0.5), x, CURVED_STEPS, generators(2), 2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.log_likelihood, second.log_likelihood)
    assert first.seeds.dtype == torch.float32
    assert first.log_likelihood.dtype == torch.float64
    assert log_likelihood(Gaussian(0.5), x, CURVED_STEPS, generators(2)).standard_error.isnan().all()


@pytest.mark.parametrize("count", [2, 20, 50, 300])
@pytest.mark.parametrize("final", [float(ALPHAS[0]), 1.0])
def test_a_ladder_goes_down_evenly_in_the_log_of_the_noise(count: int, final: float) -> None:
    steps = BetaSchedule(ALPHAS, final).ladder(count)
    timesteps = [step.timestep for step in steps]
    assert (timesteps[0], timesteps[-1], steps[-1].alpha_prev) == (999, 0, final)
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert [step.alpha for step in steps] == [float(ALPHAS[t]) for t in timesteps]
    assert [step.alpha_prev for step in steps[:-1]] == [step.alpha for step in steps[1:]]
    if count <= 20:
        noise = torch.tensor([(1 - step.alpha) / step.alpha for step in steps]).log()
        assert len(steps) == count
        torch.testing.assert_close(
            noise.diff(), ((noise[-1] - noise[0]) / (count - 1)).expand(count - 1), rtol=0.4, atol=0
        )


def test_a_ladder_suits_data_with_quiet_directions() -> None:
    model, errors = Gaussian(0.01), []
    for steps in (SCHEDULE.ddim_steps(50), SCHEDULE.ladder(50)):
        x = model.data(2, steps)
        result = log_likelihood(model, x, steps, generators(2))
        errors.append(float((result.log_likelihood - model.truth(x, steps)[2]).abs().mean()) / x[0].numel())
    assert errors[0] > 0.015
    assert errors[1] < 0.004


GOOD = {"latents": normal(2, *SHAPE), "steps": CURVED_STEPS, "generators": generators(2), "probes": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": normal(2, 5)}, r"latents must be \(n, c, h, w\) with n > 0, got \(2, 5\)"),
        ({"latents": torch.zeros(0, *SHAPE), "generators": []}, r"got \(0, 4, 8, 8\)"),
        ({"generators": generators(3)}, "give 2 generators and a probe or more, got 3 and 1"),
        ({"probes": 0}, "got 2 and 0"),
        ({"steps": []}, "steps must be given noise first"),
        ({"steps": CURVED_STEPS[::-1]}, "steps must be given noise first"),
        ({"steps": [DDIMStep(9, 0.0, 0.5)]}, "noise predicted where there is nothing else"),
        ({"steps": [DDIMStep(9, 0.5, 0.4)]}, "the last step must end between its alpha 0.5 and 1, got 0.4"),
        ({"predict": lambda x, t, rows: x.detach()}, "predictions came without a gradient"),
    ],
)
def test_misuse_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_likelihood(**{"predict": Gaussian(1.0)} | GOOD | change)


@pytest.mark.parametrize(
    ("alphas", "count", "message"), [(ALPHAS, 1, "got 1"), (ALPHAS / ALPHAS[0], 9, "without noise")]
)
def test_ladders_that_lead_nowhere_are_refused(alphas: Tensor, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BetaSchedule(alphas, 1.0).ladder(count)
