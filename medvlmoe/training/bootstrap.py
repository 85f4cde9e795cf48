"""Confidence interval of the mean AUC by resampling patients. Shape suffixes: N rows, P patients, R resamples."""

from collections.abc import Iterator, Sequence

import numpy as np

from medvlmoe.training.metrics import Floats, RankedLabel

_ENTRIES_AT_ONCE = 1_000_000  # keeps a block of weights in the cache


def mean_area_interval(
    labels: Sequence[RankedLabel], patient_ids: Sequence[str], *, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean area over labels (A21: one beside every AUC).

    Patients are drawn with replacement, each with all of its rows, because rows of one patient are not independent.
    A label that lacks a class within a resample is left out of that resample's mean.

    Args:
        labels: the labels whose areas are averaged, ranked over the same N rows.
        patient_ids: N patient identifiers.
        resamples: number of resamples; 0 gives ``None``.
        seed: the same seed gives the same interval.
        level: share of the resamples inside the interval.

    Returns:
        Lower and upper bound; ``None`` with fewer than two patients or no label.
    """
    if len(set(patient_ids)) < 2 or not labels or resamples < 1:
        return None
    means: list[Floats] = []
    for weights_RN in resampled_weights(patient_ids, resamples, seed):
        areas_RY = np.stack([label.areas(weights_RN) for label in labels], axis=1)
        defined_RY = ~np.isnan(areas_RY)
        some_R = defined_RY.any(axis=1)
        means.append(np.nansum(areas_RY[some_R], axis=1) / defined_RY[some_R].sum(axis=1))
    mean_R = np.concatenate(means)
    if not mean_R.size:
        return None
    low, high = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_weights(patient_ids: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is in each resample of the patients, some resamples at a time; shape (R, N).

    Args:
        patient_ids: N patient identifiers.
        resamples: number of resamples, over all that is given.
        seed: the same seed gives the same resamples.
    """
    names, patient_of_row_N = np.unique(np.asarray(patient_ids, dtype=object).astype(str), return_inverse=True)
    patients = len(names)
    generator = np.random.default_rng(seed)
    at_once = max(1, _ENTRIES_AT_ONCE // len(patient_of_row_N))
    for start in range(0, resamples, at_once):
        count_RP = np.stack(
            [
                np.bincount(generator.integers(0, patients, patients), minlength=patients)
                for _ in range(min(at_once, resamples - start))
            ]
        )
        yield count_RP[:, patient_of_row_N].astype(np.float64)
