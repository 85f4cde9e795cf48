import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from medvlmoe.data.labels import LabelSpace
from medvlmoe.training.metrics import (
    RankedLabel,
    accuracy,
    area_under_curve,
    quadratic_kappa,
    scores_from_logits,
)

# Few distinct scores, so that ties are common.
rows = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0]), st.sampled_from([0.0, 1.0])), min_size=2)


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count)[classes]


@settings(deadline=None)
@given(rows)
def test_area_is_that_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    scores, labels = np.array(pairs).T
    area = area_under_curve(scores, labels)
    if len(set(labels)) < 2:
        assert area is None
    else:
        assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@settings(deadline=None)
@given(rows, st.data())
def test_weighted_areas_are_those_of_repeated_rows(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    scores, labels = np.array(pairs).T
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs))))
    weights = np.stack([counts, np.ones_like(counts)]).astype(float)
    areas = RankedLabel(scores, labels).areas(weights)
    for area, repeat in zip(areas, (counts, np.ones_like(counts)), strict=True):
        repeated = np.repeat(labels, repeat)
        if len(set(repeated)) < 2:
            assert np.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(repeated, np.repeat(scores, repeat)), abs=1e-12)


@settings(deadline=None)
@given(rows)
def test_area_depends_on_the_order_of_the_scores_only(pairs: list[tuple[float, float]]) -> None:
    scores, labels = np.array(pairs).T
    area = area_under_curve(scores, labels)
    assert area_under_curve(np.exp(scores), labels) == area
    mirrored = area_under_curve(-scores, labels)
    assert (mirrored is None) == (area is None)
    if area is not None and mirrored is not None:
        assert mirrored == pytest.approx(1 - area)


def test_unknown_labels_play_no_part() -> None:
    scores, labels = np.array([0.1, 0.9, 0.5, 0.4]), np.array([0, 1, np.nan, 1])
    assert area_under_curve(scores, labels) == area_under_curve(scores[[0, 1, 3]], labels[[0, 1, 3]]) == 1.0
    assert area_under_curve(scores, np.full(4, np.nan)) is None


def test_scores_are_probabilities_block_by_block(label_space: LabelSpace) -> None:
    logits = torch.randn(6, len(label_space)) * 5
    scores = scores_from_logits(logits, label_space)
    torch.testing.assert_close(scores[:, :3], torch.special.expit(logits[:, :3].double()))
    torch.testing.assert_close(scores[:, 3:6].sum(dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(scores[:, 6:8].sum(dim=1), torch.ones(6, dtype=torch.float64))
    shifted = scores_from_logits(logits + 7.0, label_space)
    torch.testing.assert_close(shifted[:, 3:], scores[:, 3:])


def test_large_logits_keep_their_order(label_space: LabelSpace) -> None:
    logits = torch.zeros(2, len(label_space))
    logits[:, 0] = torch.tensor([20.0, 21.0])  # both are 1 in float32
    scores = scores_from_logits(logits, label_space)
    assert scores[1, 0] > scores[0, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, true = np.array(pairs).T
    kappa = quadratic_kappa(one_hot(predicted, 4), one_hot(true, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = cohen_kappa_score(predicted, true, weights="quadratic", labels=[0, 1, 2, 3])
    if kappa is None:
        assert len(set(predicted) | set(true)) == 1
    else:
        assert kappa == pytest.approx(reference, abs=1e-12)


def test_accuracy_counts_rows_that_have_a_class() -> None:
    true = one_hot(np.array([0, 1, 2]), 3)
    true[2] = np.nan
    assert accuracy(one_hot(np.array([0, 2, 2]), 3), true) == (1, 2)
    assert quadratic_kappa(np.zeros((2, 3)), np.full((2, 3), np.nan)) is None
