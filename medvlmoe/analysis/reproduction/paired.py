"""Paired tests between two models on the same test rows. Shape suffixes: N rows, Y labels, P patients, R resamples.

The quantity is the difference of mean AUCs (over labels, then over seeds). Its standard error over patients comes from
DeLong's structural components (DeLong, DeLong and Clarke-Pearson 1988), summed over the rows of a patient because they
are not independent (as in Obuchowski 1997). With one label, one seed and one row a patient it is DeLong's test.

A class of few patients cannot tell its own spread: of a single one DeLong's variance is 0, whatever the models do.
There the spread is taken about no difference instead of about the class's own mean difference. Where the models are
equal both are right on average; where they are not, this one is the larger. It is taken so, too, where DeLong's
variance is 0 and the difference is not (a model that ranks everything right against one that ranks nothing).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from medvlmoe.analysis.table import t_interval
from medvlmoe.errors import CheckpointError
from medvlmoe.training.bootstrap import resampled_weights
from medvlmoe.training.metrics import Floats, RankedLabel
from medvlmoe.training.predictions import Predictions

_QUANTILE = NormalDist().inv_cdf(0.975)
FEW_PATIENTS = 10
"""A class of fewer patients is few."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """First model minus second model, AUC as a share.

    Attributes:
        difference: mean over the seeds of the difference of mean AUCs.
        standard_error: over patients, for these trained models.
        low: of the 95 % interval over patients, difference ± 1.96 standard errors.
        high: see ``low``.
        p_value: two-sided, of no difference.
        bootstrap_low: of the 95 % percentile interval over resampled patients.
        bootstrap_high: see ``bootstrap_low``.
        seeds_half_width: half of the 95 % t-interval of the paired differences over seeds; infinite for one seed.
        seeds: how many seeds both models have.
        labels: labels averaged.
        rows: test rows.
        patients: of these rows.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    bootstrap_low: float
    bootstrap_high: float
    seeds_half_width: float
    seeds: int
    labels: int
    rows: int
    patients: int


def paired_test(
    first: Sequence[Predictions], second: Sequence[Predictions], *, resamples: int = 1000, seed: int = 0
) -> PairedTest:
    """Compare two models, seed by seed, on the same rows.

    Args:
        first: predictions of the first model, one a seed.
        second: of the second model, for the same seeds.
        resamples: of the patients.
        seed: of the resampling.

    Raises:
        CheckpointError: the predictions are not of the same rows, or no label has both classes.
    """
    labels_NY = _common_labels([*first, *second])
    patient_N = _patient_numbers(first[0].patient_ids)
    areas = [(_areas(a, labels_NY), _areas(b, labels_NY)) for a, b in zip(first, second, strict=True)]
    defined = [place for place in range(labels_NY.shape[1]) if areas[0][0][place].defined]
    if not defined:
        raise CheckpointError("no label has both a positive and a negative test row, so nothing can be compared")
    differences = [
        _mean([a[place].area() for place in defined]) - _mean([b[place].area() for place in defined]) for a, b in areas
    ]
    difference = math.fsum(differences) / len(differences)
    error = _standard_error(first, second, labels_NY, patient_N, defined, few=FEW_PATIENTS)
    if error == 0 and difference != 0:
        error = _standard_error(first, second, labels_NY, patient_N, defined, few=len(patient_N) + 1)
    low, high = _bootstrap_interval(areas, defined, first[0].patient_ids, resamples, seed)
    return PairedTest(
        difference=difference,
        standard_error=error,
        low=difference - _QUANTILE * error,
        high=difference + _QUANTILE * error,
        p_value=math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else 1.0,  # both tails of the normal
        bootstrap_low=low,
        bootstrap_high=high,
        seeds_half_width=t_interval(differences)[1],
        seeds=len(first),
        labels=len(defined),
        rows=len(labels_NY),
        patients=int(patient_N.max()) + 1,
    )


def mean_interval(runs: Sequence[Predictions], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval over resampled patients of a model's mean AUC, averaged over its seeds.

    Raises:
        CheckpointError: as for :func:`paired_test`.
    """
    labels_NY = _common_labels(runs)
    areas = [_areas(run, labels_NY) for run in runs]
    defined = [place for place in range(labels_NY.shape[1]) if areas[0][place].defined]
    if not defined:
        raise CheckpointError("no label has both a positive and a negative test row")
    return _bootstrap_interval([(own, None) for own in areas], defined, runs[0].patient_ids, resamples, seed)


def _standard_error(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    labels_NY: NDArray[np.floating],
    patient_N: NDArray[np.int64],
    defined: Sequence[int],
    few: int,
) -> float:
    influence_N = np.zeros(len(labels_NY))
    for a, b in zip(first, second, strict=True):
        for place in defined:
            scores = a.scores_NY[:, place].numpy(), b.scores_NY[:, place].numpy()
            influence_N += influence(*scores, labels_NY[:, place], patient_N, few) / (len(defined) * len(first))
    by_patient_P = np.bincount(patient_N, weights=influence_N)
    return math.sqrt(float(np.square(by_patient_P).sum()))


def influence(
    first_N: NDArray[np.floating],
    second_N: NDArray[np.floating],
    labels_N: NDArray[np.floating],
    patient_N: NDArray[np.int64],
    few: int = FEW_PATIENTS,
) -> Floats:
    """What each row adds to the error of a difference of areas; the sum of squares is DeLong's variance of it.

    A positive row's component is the share of negatives that it is scored above; a negative row's the share of
    positives that are scored above it; first model minus second, minus the mean of the class unless the class is of few
    patients. Rows with an unknown label have 0.

    Args:
        first_N: the first model's scores of the rows.
        second_N: the second model's.
        labels_N: 0, 1 or NaN.
        patient_N: number of each row's patient.
        few: a class of fewer patients is one of few.
    """
    values_N = np.zeros(len(labels_N))
    positive, negative = np.flatnonzero(labels_N > 0.5), np.flatnonzero(labels_N <= 0.5)
    for rows, others, sign in ((positive, negative, 1.0), (negative, positive, -1.0)):
        own, theirs = (_share_below(np.sort(scores[others]), scores[rows]) for scores in (first_N, second_N))
        components = sign * (own - theirs)
        if len(np.unique(patient_N[rows])) < few:
            values_N[rows] = components / len(rows)
        else:
            values_N[rows] = (components - components.mean()) / math.sqrt(len(rows) * (len(rows) - 1))
    return values_N


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): each below 0.05 is significant with all the others considered."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _share_below(sorted_scores: NDArray[np.floating], scores: NDArray[np.floating]) -> Floats:
    """Share of the sorted scores below each score, ties counting half."""
    both = np.searchsorted(sorted_scores, scores, "left") + np.searchsorted(sorted_scores, scores, "right")
    return both / (2 * len(sorted_scores))


def _areas(predictions: Predictions, labels_NY: NDArray[np.floating]) -> list[RankedLabel]:
    scores_NY = predictions.scores_NY.numpy()
    return [RankedLabel(scores_NY[:, place], labels_NY[:, place]) for place in range(labels_NY.shape[1])]


def _bootstrap_interval(
    areas: Sequence[tuple[list[RankedLabel], list[RankedLabel] | None]],
    defined: Sequence[int],
    patient_ids: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    found = []
    for weights_RN in resampled_weights(patient_ids, resamples, seed):
        total_R = np.zeros(len(weights_RN))
        for own, other in areas:
            total_R += _mean_areas(own, defined, weights_RN)
            if other is not None:
                total_R -= _mean_areas(other, defined, weights_RN)
        found.append(total_R / len(areas))
    values_R = np.concatenate(found)
    low, high = np.quantile(values_R[~np.isnan(values_R)], [0.025, 0.975])
    return float(low), float(high)


def _mean_areas(labels: list[RankedLabel], defined: Sequence[int], weights_RN: Floats) -> Floats:
    """Mean area over the labels that are defined in a resample; NaN without any."""
    areas_RY = np.stack([labels[place].areas(weights_RN) for place in defined], axis=1)
    count_R = (~np.isnan(areas_RY)).sum(axis=1)
    return np.where(count_R > 0, np.nansum(areas_RY, axis=1) / np.maximum(count_R, 1), np.nan)


def _common_labels(runs: Sequence[Predictions]) -> NDArray[np.floating]:
    first = runs[0]
    for other in runs[1:]:
        same = (
            list(other.patient_ids) == list(first.patient_ids)
            and other.label_space.labels == first.label_space.labels
            and bool(((other.labels_NY == first.labels_NY) | (other.labels_NY.isnan() & first.labels_NY.isnan())).all())
        )
        if not same:
            raise CheckpointError("two models were tested on different rows or labels; they cannot be compared")
    return first.labels_NY.numpy()


def _patient_numbers(patient_ids: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(patient_ids, dtype=object).astype(str), return_inverse=True)[1]


def _mean(areas: Sequence[float | None]) -> float:
    known = [area for area in areas if area is not None]
    return math.fsum(known) / len(known)
