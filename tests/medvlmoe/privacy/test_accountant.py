"""The accountant against plain references: quadrature, the analytic Gaussian mechanism, an own privacy loss."""

import math

import numpy as np
import pytest
from opacus.accountants.analysis.rdp import get_privacy_spent
from scipy import integrate, optimize
from scipy.stats import norm

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.noise import noise_for
from medvlmoe.privacy.renyi import ORDERS_A, divergences, epsilon_of

DELTA = 1e-5


def sgd(noise: float, rate: float, steps: int) -> Mechanism:
    return Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps)


def quadrature(noise: float, rate: float, order: float) -> float:
    """Rényi divergence of (1-q) N(0, s^2) + q N(1, s^2) from N(0, s^2), by its definition."""

    def integrand(x: float) -> float:
        ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
        return math.exp(order * ratio + norm.logpdf(x, scale=noise))

    peaks = [0.0, 1.0, order]
    value, _ = integrate.quad(integrand, -30 * noise, order + 30 * noise, points=peaks, limit=500, epsabs=0)
    return math.log(value) / (order - 1)


@pytest.mark.parametrize("noise", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.7])
def test_divergences_equal_their_definition(noise: float, rate: float) -> None:
    found = dict(zip(ORDERS_A, divergences(noise, rate), strict=True))
    for order in (1.1, 1.5, 2.0, 3.5, 8.0, 20):
        assert found[order] == pytest.approx(quadrature(noise, rate, order), rel=1e-5, abs=1e-11)


def test_the_conversion_is_the_tight_one() -> None:
    rdp_A = 50 * np.array(divergences(1.1, 0.05))
    theirs, _ = get_privacy_spent(orders=list(ORDERS_A), rdp=list(rdp_A), delta=DELTA)
    assert epsilon_of(rdp_A, DELTA) == pytest.approx(theirs)
    classical = np.min(rdp_A + math.log(1 / DELTA) / (ORDERS_A - 1))
    assert epsilon_of(rdp_A, DELTA) < 0.95 * classical


def analytic_gaussian(noise: float, delta: float) -> float:
    """Balle & Wang 2018, arXiv 1805.06530, theorem 8."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * noise), epsilon * noise
        return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta

    return optimize.brentq(excess, 0, 200)


@pytest.mark.parametrize("kind", ["rdp", "prv"])
@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 1), (3.0, 12), (20.0, 30)])
def test_without_sampling_it_is_the_gaussian_mechanism(kind: str, noise: float, steps: int) -> None:
    exact = analytic_gaussian(noise / math.sqrt(steps), DELTA)  # n Gaussian releases are one with noise / sqrt(n)
    found = Accountant(kind, [sgd(noise, 1.0, steps)]).epsilon(DELTA)
    assert exact <= found <= (1.12 * exact + 0.03 if kind == "rdp" else exact + 0.021)


def loss_curve(mechanisms: list[Mechanism], epsilon: float, *, remove: bool) -> float:
    """delta(epsilon) of a composition, from the discretised privacy loss, for removing or for adding a record.

    The loss is rounded to the nearest point of a fine grid, so this is an estimate, good to some 1e-3 of epsilon.
    """
    step, half = 1e-3, 2**15
    total = np.zeros(2 * half)
    total[0] = 1
    spectrum = np.fft.rfft(total)
    for mechanism in mechanisms:
        noise, rate = mechanism.noise_multiplier, mechanism.sampling_rate
        edges = np.linspace(-12 * noise, 1 + 12 * noise, 100_001)
        middle = (edges[1:] + edges[:-1]) / 2
        without = np.diff(norm.cdf(edges, scale=noise))
        with_it = (1 - rate) * without + rate * np.diff(norm.cdf(edges, loc=1, scale=noise))
        loss = np.log1p(rate * np.expm1((2 * middle - 1) / (2 * noise**2)))
        mass, loss = (with_it, loss) if remove else (without, -loss)
        cells = np.clip(np.round(loss / step).astype(int), -half, half - 1) % (2 * half)
        density = np.bincount(cells, weights=mass, minlength=2 * half)
        spectrum = spectrum * np.fft.rfft(density) ** mechanism.steps
    density = np.fft.irfft(spectrum)
    losses = step * np.concatenate([np.arange(half), np.arange(-half, 0)])
    above = losses > epsilon
    return float(np.sum(density[above] * -np.expm1(epsilon - losses[above])))


PLANS = [
    [sgd(1.0, 0.02, 400)],
    [sgd(0.8, 0.3, 10), sgd(5.0, 1.0, 3)],  # steps and noised counts
    [sgd(1.2, 0.1, 30), sgd(1.5, 0.05, 60), sgd(2.0, 0.5, 4)],  # a site whose data grew, or whose noise changed
]


@pytest.mark.parametrize("plan", PLANS)
def test_both_bounds_hold_for_adding_and_for_removing(plan: list[Mechanism]) -> None:
    rdp, prv = (Accountant(kind, plan).epsilon(DELTA) for kind in ("rdp", "prv"))
    assert prv < rdp
    for epsilon in (rdp, prv):
        for remove in (True, False):
            assert loss_curve(plan, epsilon, remove=remove) <= DELTA * 1.01
    assert loss_curve(plan, prv - 0.05, remove=True) > DELTA, "and the tighter one is tight"


@pytest.mark.parametrize("kind", ["rdp", "prv"])
def test_composition_does_not_depend_on_order_nor_on_how_it_was_counted(kind: str) -> None:
    whole = Accountant(kind, [sgd(1.1, 0.1, 40), sgd(6.0, 1.0, 4)])
    by_round = Accountant(kind)
    for _ in range(4):
        by_round.add(sgd(6.0, 1.0, 1))
        by_round.add(sgd(1.1, 0.1, 10))
    assert by_round.epsilon(DELTA) == whole.epsilon(DELTA)
    assert by_round.to_dict() == whole.to_dict()


def test_the_cost_of_a_composition_is_the_sum_of_the_divergences() -> None:
    one, other = np.array(divergences(1.3, 0.2)), np.array(divergences(4.0, 1.0))
    together = Accountant("rdp", [sgd(1.3, 0.2, 7), sgd(4.0, 1.0, 2)])
    assert together.epsilon(DELTA) == pytest.approx(epsilon_of(7 * one + 2 * other, DELTA))


@pytest.mark.parametrize("kind", ["rdp", "prv"])
def test_a_resumed_accountant_equals_an_uninterrupted_one(kind: str) -> None:
    whole, first = Accountant(kind), Accountant(kind)
    for _ in range(6):
        whole.add(sgd(1.0, 0.1, 5))
    for _ in range(3):
        first.add(sgd(1.0, 0.1, 5))
    second = Accountant.from_dict(first.to_dict())
    for _ in range(3):
        second.add(sgd(1.0, 0.1, 5))
    assert second.epsilon(DELTA) == whole.epsilon(DELTA)


def test_looking_ahead_counts_nothing() -> None:
    accountant = Accountant("rdp", [sgd(1.0, 0.1, 5)])
    before = accountant.epsilon(DELTA)
    ahead = accountant.epsilon_after([sgd(1.0, 0.1, 5)], DELTA)
    assert accountant.epsilon(DELTA) == before < ahead
    accountant.add(sgd(1.0, 0.1, 5))
    assert accountant.epsilon(DELTA) == ahead


def test_nothing_released_costs_nothing() -> None:
    assert Accountant().epsilon(DELTA) == 0
    assert Accountant("rdp", [sgd(1.0, 0.1, 0)]).epsilon(DELTA) == 0


def test_epsilon_grows_with_steps_and_rate_and_shrinks_with_noise_and_delta() -> None:
    def epsilon(noise: float, rate: float, steps: int, delta: float = DELTA) -> float:
        return Accountant("rdp", [sgd(noise, rate, steps)]).epsilon(delta)

    middle = epsilon(1.0, 0.1, 20)
    assert epsilon(1.0, 0.1, 21) > middle > epsilon(1.0, 0.1, 20, 1e-4)
    assert epsilon(1.0, 0.11, 20) > middle > epsilon(1.1, 0.1, 20)


@pytest.mark.parametrize(
    ("kind", "rate", "steps", "target"),
    [("rdp", 0.05, 200, 8.0), ("rdp", 1.0, 10, 0.5), ("prv", 0.05, 40, 1.0), ("prv", 1.0, 10, 8.0)],
)
def test_the_solved_noise_meets_the_target_and_wastes_nothing(
    kind: str, rate: float, steps: int, target: float
) -> None:
    noise = noise_for(target, DELTA, sampling_rate=rate, steps=steps, kind=kind)
    assert Accountant(kind, [sgd(noise, rate, steps)]).epsilon(DELTA) <= target
    assert Accountant(kind, [sgd(0.99 * noise, rate, steps)]).epsilon(DELTA) > target * 0.99


def test_what_was_spent_takes_more_noise() -> None:
    fresh = noise_for(3.0, DELTA, sampling_rate=0.1, steps=50)
    counts = [sgd(8.0, 1.0, 5)]
    later = noise_for(3.0, DELTA, sampling_rate=0.1, steps=50, already_spent=counts)
    assert later > fresh
    assert Accountant("rdp", [*counts, sgd(later, 0.1, 50)]).epsilon(DELTA) <= 3.0


def test_a_spent_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing of the target 1"):
        noise_for(1.0, DELTA, sampling_rate=0.1, steps=50, already_spent=[sgd(0.5, 1.0, 5)])


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [
        (0.0, 0.1, 1),
        (-1.0, 0.1, 1),
        (math.nan, 0.1, 1),
        (math.inf, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 1.1, 1),
        (1.0, 0.1, -1),
    ],
)
def test_impossible_mechanisms_are_refused(noise: float, rate: float, steps: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        sgd(noise, rate, steps)


@pytest.mark.parametrize(
    "state", [{}, {"accountant": "rdp"}, {"accountant": "rdp", "spent": [{"noise_multiplier": 0}]}, []]
)
def test_a_damaged_state_is_never_an_empty_one(state) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CheckpointError, match="damaged"):
        Accountant.from_dict(state)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_delta_is_a_probability(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        Accountant("rdp", [sgd(1.0, 1.0, 1)]).epsilon(delta)
