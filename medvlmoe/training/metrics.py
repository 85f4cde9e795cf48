"""Rank and agreement statistics in NumPy. Shape suffixes: N rows, R resamples, Y labels, C classes of a block."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvlmoe.data.labels import LabelSpace

Floats = NDArray[np.float64]


def scores_from_logits(logits_NY: Tensor, space: LabelSpace) -> Tensor:
    """Probabilities: sigmoid in a multilabel block, softmax inside each other block; float64, so that few tie."""
    scores_NY = logits_NY.double()
    parts = []
    for block in space.blocks:
        block_NC = scores_NY[:, space.columns(block)]
        parts.append(block_NC.softmax(dim=1) if block.exclusive else block_NC.sigmoid())
    return torch.cat(parts, dim=1)


class RankedLabel:
    """The area under the ROC curve of one label, for any number of row weightings after one sort.

    The area is the chance that a positive row scores above a negative one, ties counting half.

    Args:
        scores_N: scores of the rows.
        labels_N: 0, 1 or NaN; rows with NaN play no part.
    """

    def __init__(self, scores_N: NDArray[np.floating], labels_N: NDArray[np.floating]) -> None:
        positive = np.flatnonzero(labels_N > 0.5)
        negative = np.flatnonzero(labels_N <= 0.5)  # NaN is in neither
        self._positive = positive
        self._negative = negative[np.argsort(scores_N[negative], kind="stable")]
        ranked = scores_N[self._negative]
        self._below = np.searchsorted(ranked, scores_N[positive], side="left")
        self._below_or_tied = np.searchsorted(ranked, scores_N[positive], side="right")

    @property
    def defined(self) -> bool:
        """Whether both a positive and a negative row are there."""
        return bool(self._positive.size and self._negative.size)

    def area(self) -> float | None:
        """The area with every row counted once; ``None`` if undefined."""
        if not self.defined:
            return None
        return float((self._below + self._below_or_tied).mean() / (2 * self._negative.size))

    def areas(self, weights_RN: Floats) -> Floats:
        """One area for each row weighting, shape R; NaN where a weighting has no positive or no negative row."""
        positive_RP = weights_RN[:, self._positive]
        up_to_R_ = np.zeros((len(weights_RN), self._negative.size + 1))
        np.cumsum(weights_RN[:, self._negative], axis=1, out=up_to_R_[:, 1:])
        halves_RP = up_to_R_[:, self._below] + up_to_R_[:, self._below_or_tied]
        pairs_R = positive_RP.sum(axis=1) * up_to_R_[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs_R > 0, 0.5 * np.einsum("rp,rp->r", positive_RP, halves_RP) / pairs_R, np.nan)


def area_under_curve(scores_N: NDArray[np.floating], labels_N: NDArray[np.floating]) -> float | None:
    """Area under the ROC curve of one label; ``None`` unless both classes are there. NaN labels are left out."""
    return RankedLabel(scores_N, labels_N).area()


def accuracy(scores_NC: NDArray[np.floating], one_hot_NC: NDArray[np.floating]) -> tuple[int, int]:
    """Rows whose highest score is the true class, and rows that have a class."""
    known = ~np.isnan(one_hot_NC).any(axis=1)
    return int((scores_NC[known].argmax(axis=1) == one_hot_NC[known].argmax(axis=1)).sum()), int(known.sum())


def quadratic_kappa(scores_NC: NDArray[np.floating], one_hot_NC: NDArray[np.floating]) -> float | None:
    """Cohen's kappa with quadratic weights between the highest score and the true grade.

    ``None`` without rows, or if all rows have and get one and the same grade: chance alone then agrees.
    """
    known = ~np.isnan(one_hot_NC).any(axis=1)
    if not known.any():
        return None
    classes = scores_NC.shape[1]
    predicted, true = scores_NC[known].argmax(axis=1), one_hot_NC[known].argmax(axis=1)
    observed_CC = np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
    expected_CC = np.outer(observed_CC.sum(axis=1), observed_CC.sum(axis=0)) / known.sum()
    cost_CC = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    by_chance = float((cost_CC * expected_CC).sum())
    return 1.0 - float((cost_CC * observed_CC).sum()) / by_chance if by_chance > 0 else None
