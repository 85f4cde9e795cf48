import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvlmoe.training.bootstrap import mean_area_interval
from medvlmoe.training.metrics import RankedLabel


def example(rows: int, labels: int = 3, prevalence: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, labels)) < prevalence).astype(float)
    return truth + generator.normal(size=truth.shape), truth


def ranked(scores: np.ndarray, truth: np.ndarray) -> list[RankedLabel]:
    return [RankedLabel(scores[:, label], truth[:, label]) for label in range(truth.shape[1])]


def test_interval_is_that_of_a_plain_loop() -> None:
    scores, truth = example(40, prevalence=0.06)  # some resamples lack a positive row
    patients = np.array([f"p{row // 3}" for row in range(40)])
    names = np.unique(patients)
    generator = np.random.default_rng(5)
    means, skipped = [], 0
    for _ in range(200):
        counts = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names))
        rows = np.concatenate([np.repeat(np.flatnonzero(patients == name), counts[i]) for i, name in enumerate(names)])
        defined = [label for label in range(3) if 0 < truth[rows, label].sum() < len(rows)]
        skipped += len(defined) < 3
        if defined:
            means.append(np.mean([roc_auc_score(truth[rows, label], scores[rows, label]) for label in defined]))
    assert skipped  # otherwise the test does not test the rule
    interval = mean_area_interval(ranked(scores, truth), list(patients), resamples=200, seed=5)
    assert interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)


def test_more_rows_of_the_same_patients_are_no_more_evidence() -> None:
    scores, truth = example(60)
    patients = [f"p{row}" for row in range(60)]
    once = mean_area_interval(ranked(scores, truth), patients, resamples=300, seed=0)
    twice = ranked(np.tile(scores, (2, 1)), np.tile(truth, (2, 1)))
    assert mean_area_interval(twice, patients * 2, resamples=300, seed=0) == pytest.approx(once)
    as_strangers = mean_area_interval(twice, [f"p{row}" for row in range(120)], resamples=300, seed=0)
    assert once is not None
    assert as_strangers is not None
    assert as_strangers[1] - as_strangers[0] < 0.85 * (once[1] - once[0])


def test_interval_covers_the_true_area_about_95_times_in_100() -> None:
    # Scores differ by one standard deviation: the area of two unit normals is Phi(1/sqrt(2)) = 0.7602.
    covered = 0
    for seed in range(100):
        scores, truth = example(150, labels=1, prevalence=0.5, seed=seed)
        interval = mean_area_interval(ranked(scores, truth), [str(row) for row in range(150)], resamples=200, seed=seed)
        assert interval is not None
        covered += interval[0] <= 0.7602 <= interval[1]
    assert 88 <= covered <= 99


def test_it_depends_on_the_seed_only() -> None:
    scores, truth = example(50)
    patients = [str(row) for row in range(50)]
    intervals = [mean_area_interval(ranked(scores, truth), patients, resamples=100, seed=s) for s in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_without_two_patients_or_a_label_there_is_no_interval() -> None:
    scores, truth = example(10)
    assert mean_area_interval(ranked(scores, truth), ["p"] * 10, resamples=10, seed=0) is None
    assert mean_area_interval([], ["a", "b"], resamples=10, seed=0) is None
    assert mean_area_interval(ranked(scores, truth), list("abcdefghij"), resamples=0, seed=0) is None


def test_a_chest_test_set_takes_seconds() -> None:
    scores, truth = example(5000, labels=14, prevalence=0.05)
    patients = [f"p{row // 2}" for row in range(5000)]
    started = time.monotonic()
    assert mean_area_interval(ranked(scores, truth), patients, resamples=1000, seed=0) is not None
    assert time.monotonic() - started < 20
