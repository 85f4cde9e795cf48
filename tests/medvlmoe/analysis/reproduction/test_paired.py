"""Paired tests against plain references."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from medvlmoe.analysis.reproduction.paired import holm, influence, mean_interval, paired_test
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError
from medvlmoe.training.metrics import area_under_curve
from medvlmoe.training.predictions import Predictions

ROWS = 60


def predictions(labels: np.ndarray, skill: float, seed: int, patients: list[str] | None = None) -> Predictions:
    """Scores that tell the labels the better, the higher the skill; many ties."""
    noise = np.random.default_rng(seed).normal(size=labels.shape)
    scores = np.round(noise + skill * np.nan_to_num(labels), 1)
    space = LabelSpace.single("test", "multilabel", [f"label{place}" for place in range(labels.shape[1])])
    return Predictions(
        scores_NY=torch.from_numpy(scores),
        labels_NY=torch.from_numpy(labels).float(),
        patient_ids=patients or [f"p{row}" for row in range(len(labels))],
        label_space=space,
    )


def some_labels(columns: int, rows: int = ROWS, seed: int = 0) -> np.ndarray:
    labels = (np.random.default_rng(seed).random((rows, columns)) < 0.35).astype(float)
    labels[::7, 0] = np.nan
    return labels


def delong_reference(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Difference of two areas and its variance, by the formulas of DeLong et al. 1988, pair by pair."""
    positive, negative = np.flatnonzero(labels > 0.5), np.flatnonzero(labels <= 0.5)

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    v10, v01 = [], []
    for scores in (a, b):
        v10.append([np.mean([psi(scores[i], scores[j]) for j in negative]) for i in positive])
        v01.append([np.mean([psi(scores[i], scores[j]) for i in positive]) for j in negative])
    covariance = np.cov(v10) / len(positive) + np.cov(v01) / len(negative)
    contrast = np.array([1.0, -1.0])
    return float(np.mean(v10[0]) - np.mean(v10[1])), float(contrast @ covariance @ contrast)


def test_one_label_and_one_row_a_patient_is_delongs_test() -> None:
    labels = some_labels(1)
    a, b = predictions(labels, 1.5, 1), predictions(labels, 0.7, 2)
    found = paired_test([a], [b])
    difference, variance = delong_reference(a.scores_NY[:, 0].numpy(), b.scores_NY[:, 0].numpy(), labels[:, 0])
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-10)
    z = difference / math.sqrt(variance)
    assert found.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-9)
    assert (found.low + found.high) / 2 == pytest.approx(difference)


def test_the_mean_over_labels_and_seeds_has_the_variance_of_the_sum_over_patients() -> None:
    """Against a plain leave-one-patient-out jackknife, which has the same limit."""
    patients = [f"p{row // 2}" for row in range(120)]
    labels = some_labels(3, rows=120)
    first = [predictions(labels, 1.4, seed, patients) for seed in (1, 2)]
    second = [predictions(labels, 0.8, seed, patients) for seed in (3, 4)]
    found = paired_test(first, second)

    def mean_area(run: Predictions, rows: np.ndarray) -> float:
        return float(np.mean([area_under_curve(run.scores_NY[rows, y].numpy(), labels[rows, y]) for y in range(3)]))

    def difference(rows: np.ndarray) -> float:
        return float(np.mean([mean_area(a, rows) - mean_area(b, rows) for a, b in zip(first, second, strict=True)]))

    everybody = np.arange(120)
    assert found.difference == pytest.approx(difference(everybody))
    left_out = [difference(everybody[everybody // 2 != patient]) for patient in range(60)]
    jackknife = math.sqrt(59 / 60 * sum((value - np.mean(left_out)) ** 2 for value in left_out))
    assert found.standard_error == pytest.approx(jackknife, rel=0.06)
    assert (found.patients, found.rows, found.labels, found.seeds) == (60, 120, 3, 2)
    width = found.high - found.low
    assert found.bootstrap_high - found.bootstrap_low == pytest.approx(width, rel=0.2), "two ways to the same interval"


def test_rows_of_a_patient_are_not_independent() -> None:
    """Every row twice says no more than once; as many patients would say more."""
    labels = some_labels(1, rows=40)
    a, b = predictions(labels, 1.5, 1), predictions(labels, 0.5, 2)
    once = paired_test([a], [b])

    def doubled(run: Predictions, patients: list[str]) -> Predictions:
        return Predictions(scores_NY=run.scores_NY.repeat(2, 1), labels_NY=run.labels_NY.repeat(2, 1),
                           patient_ids=patients, label_space=run.label_space)  # fmt: skip

    same = [f"p{row}" for row in range(40)] * 2
    others = [f"p{row}" for row in range(80)]
    together = paired_test([doubled(a, same)], [doubled(b, same)])
    apart = paired_test([doubled(a, others)], [doubled(b, others)])
    assert together.standard_error == pytest.approx(once.standard_error, rel=0.05)
    assert apart.standard_error < 0.8 * once.standard_error


def test_the_error_rate_is_the_nominal_one() -> None:
    """Two models of equal skill: about one in twenty differs at 0.05."""
    hits = 0
    for trial in range(200):
        labels = some_labels(2, rows=80, seed=trial)
        a, b = predictions(labels, 1.0, 2 * trial), predictions(labels, 1.0, 2 * trial + 1)
        hits += paired_test([a], [b], resamples=2).p_value < 0.05
    assert 2 <= hits <= 22


def with_positives(counts: list[int], rows: int, seed: int) -> np.ndarray:
    labels = np.zeros((rows, len(counts)))
    for place, count in enumerate(counts):
        labels[np.random.default_rng([seed, place]).choice(rows, count, replace=False), place] = 1.0
    return labels


@pytest.mark.parametrize(("counts", "most"), [([1], 0), ([3], 4), ([5], 12), ([1, 2, 3, 1, 3, 28, 4, 3, 14, 20], 22)])
def test_labels_of_few_patients_make_no_difference_significant(counts: list[int], most: int) -> None:
    """With DeLong's own variance, which is 0 for a class of one, it is 157, 29, 21 and 37 of 200."""
    hits = 0
    for trial in range(200):
        labels = with_positives(counts, 80, trial)
        a, b = predictions(labels, 0.5, 2 * trial), predictions(labels, 0.5, 2 * trial + 1)
        hits += paired_test([a], [b], resamples=20).p_value < 0.05
    assert hits <= most


def test_a_single_positive_patient_adds_the_whole_difference_to_the_error() -> None:
    labels = with_positives([1], 30, 0)
    a, b = predictions(labels, 3.0, 1), predictions(labels, 0.0, 2)
    found = paired_test([a], [b], resamples=20)
    assert found.standard_error >= abs(found.difference) > 0 and found.low < 0 < found.high


def test_the_rows_of_few_patients_count_as_these_patients() -> None:
    """Twenty positive rows of two patients are no twenty witnesses."""
    patients = [f"p{row // 10}" for row in range(200)]
    labels = np.zeros((200, 1))
    labels[:20] = 1.0
    a, b = predictions(labels, 1.5, 1, patients), predictions(labels, 0.5, 2, patients)
    apart = [f"p{row}" for row in range(200)]
    assert paired_test([a], [b], resamples=20).p_value > 0.1
    a, b = predictions(labels, 1.5, 1, apart), predictions(labels, 0.5, 2, apart)
    assert paired_test([a], [b], resamples=20).p_value < 0.05


def test_a_model_does_not_differ_from_itself() -> None:
    run = predictions(some_labels(2), 1.0, 1)
    found = paired_test([run, run], [run, run])
    assert (found.difference, found.p_value, found.low, found.high) == (0.0, 1.0, 0.0, 0.0)
    assert (found.bootstrap_low, found.bootstrap_high) == (0.0, 0.0)


def test_the_t_interval_is_over_paired_differences() -> None:
    labels = some_labels(1)
    first = [predictions(labels, 1.0, seed) for seed in (1, 2, 3)]
    second = [predictions(labels, 0.2, seed) for seed in (4, 5, 6)]
    differences = [paired_test([a], [b], resamples=2).difference for a, b in zip(first, second, strict=True)]
    found = paired_test(first, second)
    assert found.difference == pytest.approx(np.mean(differences))
    assert found.seeds_half_width == pytest.approx(4.302653 * np.std(differences, ddof=1) / math.sqrt(3), rel=1e-5)
    assert paired_test(first[:1], second[:1]).seeds_half_width == math.inf


def test_influences_sum_to_nothing_and_squares_to_the_variance() -> None:
    labels = some_labels(1)[:, 0]
    scores = predictions(some_labels(1), 1.0, 1).scores_NY[:, 0].numpy()
    values = influence(scores, np.zeros_like(scores), labels, np.arange(ROWS))
    assert values[np.isnan(labels)].tolist() == [0.0] * int(np.isnan(labels).sum())
    assert values.sum() == pytest.approx(0.0, abs=1e-12)
    _, variance = delong_reference(scores, np.zeros_like(scores), labels)  # a constant score has no variance
    assert np.square(values).sum() == pytest.approx(variance)


@pytest.mark.parametrize("worse", [0.0, -1.0])
def test_a_difference_without_a_variance_is_no_certainty_of_none(worse: float) -> None:
    """Every row ranked right against none, or all wrong: DeLong's variance is 0, and the difference is there."""
    labels = np.repeat([[0.0], [1.0]], 40, axis=0)
    right, wrong = (replace(predictions(labels, 1.0, 1), scores_NY=torch.from_numpy(s * labels)) for s in (1.0, worse))
    found = paired_test([right], [wrong])
    assert found.difference == pytest.approx(1.0 if worse else 0.5)
    assert found.standard_error > 0 and found.low > 0 and found.p_value < 1e-4
    nothing = paired_test([right], [right])
    assert (nothing.standard_error, nothing.p_value) == (0.0, 1.0)


def test_other_rows_cannot_be_compared() -> None:
    a, b = predictions(some_labels(1), 1.0, 1), predictions(some_labels(1, seed=5), 1.0, 1)
    with pytest.raises(CheckpointError, match="different rows or labels"):
        paired_test([a], [b])
    empty = predictions(np.zeros((4, 1)), 1.0, 1)
    with pytest.raises(CheckpointError, match="no label has both"):
        mean_interval([empty])


def test_the_interval_of_the_mean_holds_it() -> None:
    labels = some_labels(2)
    runs = [predictions(labels, 1.2, seed) for seed in (1, 2)]
    low, high = mean_interval(runs)
    areas = [area_under_curve(r.scores_NY[:, y].numpy(), labels[:, y]) for r, y in product(runs, (0, 1))]
    assert low < np.mean(areas) < high


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
