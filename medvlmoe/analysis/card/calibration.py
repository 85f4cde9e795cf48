"""How far probabilities can be taken at their word. Shape suffixes: N rows, C labels of a block, M compared pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medvlmoe.data.labels import LabelSpace

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one block of labels.

    In a multilabel block every known label of every row is one pair of a probability and an outcome. In a multiclass or
    ordinal block every row is one pair: the highest probability, and whether that class is right.

    Attributes:
        block: its name.
        pairs: M, compared pairs.
        brier: mean squared distance of probability and outcome: per label (0 to 1) in a multilabel block, summed over
            the classes of a row (0 to 2) otherwise.
        ece: expected calibration error (Guo et al. 2017, arXiv 1706.04599): over ten bins of equal width, the mean
            distance of mean probability and share of outcomes, weighted by pairs.
        bins: of each bin that has pairs ``low``, ``high``, ``pairs``, ``patients``, ``probability``, ``observed``.
    """

    block: str
    pairs: int
    brier: float
    ece: float
    bins: list[dict[str, Any]]


def calibration(
    scores_NY: npt.NDArray[np.float64], labels_NY: npt.NDArray[np.float32], patients: Sequence[str], space: LabelSpace
) -> list[Calibration]:
    """Calibration of every block that has a known label among the rows."""
    found = []
    patient_N = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)[1]
    for block in space.blocks:
        columns = space.columns(block)
        scores_NC, labels_NC = scores_NY[:, columns], labels_NY[:, columns].astype(np.float64)
        known_NC = ~np.isnan(labels_NC)
        if not known_NC.any():
            continue
        if block.exclusive:
            rows = known_NC.all(axis=1)
            scores_NC, labels_NC, owner_M = scores_NC[rows], labels_NC[rows], patient_N[rows]
            brier = float(((scores_NC - labels_NC) ** 2).sum(axis=1).mean())
            best_N = scores_NC.argmax(axis=1)
            probability_M = scores_NC.max(axis=1)
            outcome_M = (labels_NC.argmax(axis=1) == best_N).astype(np.float64)
        else:
            probability_M, outcome_M = scores_NC[known_NC], labels_NC[known_NC]
            owner_M = np.broadcast_to(patient_N[:, None], known_NC.shape)[known_NC]
            brier = float(((probability_M - outcome_M) ** 2).mean())
        bins = _bins(probability_M, outcome_M, owner_M)
        ece = sum(one["pairs"] * abs(one["probability"] - one["observed"]) for one in bins) / len(probability_M)
        found.append(Calibration(block=block.name, pairs=len(probability_M), brier=brier, ece=ece, bins=bins))
    return found


def _bins(
    probability_M: npt.NDArray[np.float64], outcome_M: npt.NDArray[np.float64], owner_M: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    bin_M = np.minimum((probability_M * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = bin_M == number
        if inside.any():
            bins.append(
                {
                    "low": number / BINS,
                    "high": (number + 1) / BINS,
                    "pairs": int(inside.sum()),
                    "patients": len(np.unique(owner_M[inside])),
                    "probability": float(probability_M[inside].mean()),
                    "observed": float(outcome_M[inside].mean()),
                }
            )
    return bins
