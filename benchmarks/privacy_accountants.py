"""Epsilon and time of both accountants for typical plans. Run: ``python benchmarks/privacy_accountants.py``."""

import time

from medvlmoe.analysis.comparison import markdown
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.noise import noise_for
from medvlmoe.privacy.renyi import divergences

DELTA = 1e-5
PLANS = {
    "DP-SGD: noise 1.0, rate 0.01, 1,000 steps": [(1.0, 0.01, 1000)],
    "DP-SGD: noise 1.5, rate 0.2, 60 steps": [(1.5, 0.2, 60)],
    "the same and 10 noised counts (noise 8)": [(1.5, 0.2, 60), (8.0, 1.0, 10)],
    "10 merges at the server, noise 4": [(4.0, 1.0, 10)],
}


def timed(call):  # type: ignore[no-untyped-def]
    started = time.process_time()
    found = call()
    return found, 1000 * (time.process_time() - started)


def main() -> None:
    rows = [["plan", "epsilon rdp", "ms", "ms again", "epsilon prv", "ms", "prv / rdp"]]
    for name, plan in PLANS.items():
        spent = [Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps) for noise, rate, steps in plan]
        divergences.cache_clear()
        rdp, cold = timed(lambda spent=spent: Accountant("rdp", spent).epsilon(DELTA))
        _, warm = timed(lambda spent=spent: Accountant("rdp", spent).epsilon(DELTA))
        prv, slow = timed(lambda spent=spent: Accountant("prv", spent).epsilon(DELTA))
        rows.append([name, f"{rdp:.3f}", f"{cold:.0f}", f"{warm:.2f}", f"{prv:.3f}", f"{slow:.0f}", f"{prv / rdp:.2f}"])
    print(markdown(rows))
    rows = [["target epsilon 3, rate 0.1, 100 steps", "noise", "seconds"]]
    for kind in ("rdp", "prv"):
        divergences.cache_clear()
        noise, spent_ms = timed(lambda kind=kind: noise_for(3.0, DELTA, sampling_rate=0.1, steps=100, kind=kind))
        rows.append([kind, f"{noise:.4f}", f"{spent_ms / 1000:.1f}"])
    print(markdown(rows))


if __name__ == "__main__":
    main()
