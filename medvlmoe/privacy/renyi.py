"""Rényi differential privacy of the subsampled Gaussian mechanism, and what it means as (epsilon, delta).

The divergences are Opacus's (Mironov, Talwar & Zhang 2019, arXiv 1908.10530), on an own grid of orders: Opacus stops
at 63, which is too low for small epsilons, and starts at 1.1, which is too high for large ones.
"""

import functools
import math

import numpy as np

# Finer where the best order lies for the epsilons in use. Any set of orders gives a valid bound, more a tighter one.
ORDERS_A = np.array(
    [1.005, 1.01, 1.02, 1.05]
    + [round(1.1 + 0.1 * i, 1) for i in range(20)]
    + [3.25 + 0.25 * i for i in range(15)]
    + [7.5 + 0.5 * i for i in range(7)]
    + list(range(11, 64))
    + [64, 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024]
)


@functools.lru_cache(maxsize=4096)
def divergences(noise_multiplier: float, sampling_rate: float) -> tuple[float, ...]:
    """Rényi divergence of one step at every order of ``ORDERS_A``; infinite where it cannot be computed."""
    return tuple(_divergence(noise_multiplier, sampling_rate, float(order)) for order in ORDERS_A)


def epsilon_of(divergences_A: np.ndarray, delta: float) -> float:
    """The smallest epsilon that the divergences imply at ``delta``, never below 0.

    Balle et al. 2020, arXiv 1905.09982, theorem 21: tighter than the classical ``rdp + log(1 / delta) / (order - 1)``.
    """
    epsilons_A = divergences_A + np.log1p(-1 / ORDERS_A) - (math.log(delta) + np.log(ORDERS_A)) / (ORDERS_A - 1)
    return max(0.0, float(np.min(epsilons_A)))


def _divergence(noise_multiplier: float, sampling_rate: float, order: float) -> float:
    from opacus.accountants.analysis.rdp import compute_rdp  # here: Opacus takes seconds to import

    try:
        found = float(compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=order))
    except (ValueError, OverflowError):  # its series for fractional orders cancels badly at times
        return math.inf
    return found if found >= 0 else math.inf  # NaN too
