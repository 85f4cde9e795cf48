"""Brier score, calibration error and reliability against plain loops."""

import math

import numpy as np
import pytest

from medvlmoe.analysis.card.calibration import calibration
from medvlmoe.data.labels import LabelBlock, LabelSpace

SPACE = LabelSpace.of(
    "both", LabelBlock("findings", "multilabel", ("a", "b")), LabelBlock("g", "ordinal", ("g/0", "g/1", "g/2"))
)


def rows(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first half of the rows knows the findings, the second half the grade."""
    generator = np.random.default_rng(seed)
    scores = np.hstack([generator.random((count, 2)), generator.dirichlet(np.ones(3), count)])
    labels = np.full((count, 5), np.nan, dtype=np.float32)
    half = count // 2
    labels[:half, :2] = generator.random((half, 2)) < 0.3
    labels[0, 1] = np.nan
    labels[half:, 2:] = np.eye(3)[generator.integers(0, 3, count - half)]
    return scores, labels, [f"p{row // 2}" for row in range(count)]


def test_findings_equal_a_plain_loop():
    scores, labels, patients = rows()
    found = calibration(scores, labels, patients, SPACE)[0]
    pairs = [
        (scores[row, column], labels[row, column], patients[row])
        for row in range(60)
        for column in range(2)
        if not math.isnan(labels[row, column])
    ]
    assert found.block == "findings" and found.pairs == len(pairs) == 59
    assert found.brier == pytest.approx(sum((p - y) ** 2 for p, y, _ in pairs) / len(pairs))
    expected = 0.0
    for entry in found.bins:
        inside = [pair for pair in pairs if entry["low"] <= pair[0] < entry["high"]]
        assert entry["pairs"] == len(inside)
        assert entry["patients"] == len({patient for _, _, patient in inside})
        mean, observed = (sum(pair[place] for pair in inside) / len(inside) for place in (0, 1))
        assert (entry["probability"], entry["observed"]) == (pytest.approx(mean), pytest.approx(observed))
        expected += len(inside) / len(pairs) * abs(mean - observed)
    assert found.ece == pytest.approx(expected)
    assert sum(entry["pairs"] for entry in found.bins) == 59


def test_grades_are_judged_by_the_most_probable_one():
    scores, labels, patients = rows()
    found = calibration(scores, labels, patients, SPACE)[1]
    assert found.pairs == 30
    assert found.brier == pytest.approx(np.mean(((scores[30:, 2:] - labels[30:, 2:]) ** 2).sum(axis=1)))
    right = scores[30:, 2:].argmax(axis=1) == labels[30:, 2:].argmax(axis=1)
    assert sum(entry["observed"] * entry["pairs"] for entry in found.bins) == pytest.approx(right.sum())


def test_perfect_and_wrong_probabilities():
    labels = np.array([[1.0, 0.0]] * 10, dtype=np.float32)
    space = LabelSpace.of("x", LabelBlock("findings", "multilabel", ("a", "b")))
    perfect = calibration(labels.astype(float), labels, ["p"] * 10, space)[0]
    assert (perfect.brier, perfect.ece) == (0, 0)
    wrong = calibration(1 - labels.astype(float), labels, ["p"] * 10, space)[0]
    assert (wrong.brier, wrong.ece) == (1, 1)


def test_probabilities_that_hold_have_no_error():
    generator = np.random.default_rng(0)
    scores = generator.random((20000, 1))
    labels = (generator.random((20000, 1)) < scores).astype(np.float32)
    space = LabelSpace.of("x", LabelBlock("findings", "multilabel", ("a",)))
    found = calibration(scores, labels, [str(row) for row in range(20000)], space)[0]
    assert found.ece < 0.02
    assert found.brier == pytest.approx(1 / 6, abs=0.01)


def test_a_block_without_known_labels_is_left_out():
    scores, labels, patients = rows()
    assert [one.block for one in calibration(scores[:30], labels[:30], patients[:30], SPACE)] == ["findings"]
