"""How much noise a target epsilon takes."""

from collections.abc import Callable, Iterable

from medvlmoe.errors import ConfigError
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.mechanism import Mechanism

_LARGEST = 1e5
_TOLERANCE = 1e-3


def noise_for(
    target_epsilon: float,
    delta: float,
    *,
    sampling_rate: float,
    steps: int,
    already_spent: Iterable[Mechanism] = (),
    kind: str = "rdp",
) -> float:
    """The smallest noise multiplier (to 0.1 %) with which ``steps`` steps, and all that was spent, cost the target.

    Args:
        target_epsilon: must not be exceeded.
        delta: at this delta.
        sampling_rate: of the steps.
        steps: how many are planned.
        already_spent: earlier releases, and planned ones whose noise is fixed (noised counts).
        kind: how it is counted: ``rdp`` or ``prv``.

    Raises:
        ConfigError: what was spent already costs the target, or no noise is enough.
    """
    return solve_noise(
        lambda noise: [Mechanism(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)],
        target_epsilon,
        delta,
        already_spent=already_spent,
        kind=kind,
    )


def solve_noise(
    planned: Callable[[float], Iterable[Mechanism]],
    target_epsilon: float,
    delta: float,
    *,
    already_spent: Iterable[Mechanism] = (),
    kind: str = "rdp",
) -> float:
    """As :func:`noise_for`, for any plan that costs less with a larger noise multiplier."""
    spent = list(already_spent)
    before = Accountant(kind, spent).epsilon(delta)
    if before >= target_epsilon:
        raise ConfigError(
            f"epsilon {before:.3g} at delta {delta:g} is spent or planned already, which leaves nothing of the target "
            f"{target_epsilon:g}"
        )

    def fits(noise: float, counted: str) -> bool:
        return Accountant(counted, spent).epsilon_after(planned(noise), delta) <= target_epsilon

    # The Rényi bound is fast; the other one, never above it, only has to look below its answer.
    low, high = _bracket(lambda noise: fits(noise, "rdp"), 1.0, target_epsilon, delta)
    noise = _bisect(lambda noise: fits(noise, "rdp"), low, high)
    if kind != "rdp":
        low = 0.9 * noise
        while fits(low, kind):
            noise, low = low, 0.9 * low
        noise = _bisect(lambda noise: fits(noise, kind), low, noise)
    assert fits(noise, kind)  # whatever the search did, what it returns has been looked at
    return noise


def _bracket(fits: Callable[[float], bool], start: float, target: float, delta: float) -> tuple[float, float]:
    low = high = start
    while not fits(high):
        low, high = high, 2 * high
        if high > _LARGEST:
            raise ConfigError(
                f"no noise reaches epsilon {target:g} at delta {delta:g}; use a larger target or fewer steps"
            )
    while low == high or fits(low):
        high, low = low, low / 2
        if low < 1 / _LARGEST:
            break
    return low, high


def _bisect(fits: Callable[[float], bool], low: float, high: float) -> float:
    """The low end of what fits; ``high`` fits."""
    while high - low > _TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
