"""Learning rate as a function of how far the run is, so that sites of different size share one schedule."""

import math


def learning_rate_factor(progress_epochs: float, total_epochs: float, warmup_epochs: float, schedule: str) -> float:
    """The share of the peak learning rate, between 0 and 1 (A12: linear warm-up, then cosine to 0).

    Args:
        progress_epochs: epochs done, with a fraction for the running one.
        total_epochs: length of the run; beyond it a cosine stays at 0.
        warmup_epochs: length of the linear rise; cut to half of the run.
        schedule: ``cosine`` or ``constant``.
    """
    warmup = min(warmup_epochs, total_epochs / 2)
    if progress_epochs < warmup:
        return progress_epochs / warmup
    if schedule == "constant":
        return 1.0
    share = min(1.0, (progress_epochs - warmup) / (total_epochs - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * share))


def step_progress(epoch: int, step: int, steps: int) -> float:
    """Epochs done in the middle of a step.

    The middle, not the start: the first step then has a rate above 0, and the mean over an epoch's steps is the same
    however many steps a site needs for it.
    """
    return epoch + (step + 0.5) / steps
