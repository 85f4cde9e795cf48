"""Test results of a site as a whole and by subgroup, none of them of too few patients. Shape suffix: N rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medvlmoe.analysis.card.calibration import calibration
from medvlmoe.data.demographics import DIMENSIONS, UNKNOWN
from medvlmoe.training.evaluation import evaluate_scores
from medvlmoe.training.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class Disclosure:
    """What a card may tell.

    Attributes:
        min_patients: smallest group that results are shown of.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    min_patients: int
    resamples: int
    seed: int

    @property
    def min_of_a_class(self) -> int:
        """Fewest patients with, and without, a label for its area to count: half of ``min_patients``, at least 2."""
        return max(2, self.min_patients // 2)


def results_of(predictions: Predictions, how: Disclosure) -> dict[str, Any]:
    """Results of a site: ``patients``, ``images``, ``auc`` …, ``labels``, ``calibration`` and ``subgroups``.

    Every part says with ``suppressed`` whether its numbers are withheld. Of a site with too few patients only that is
    told. In ``subgroups`` each dimension (age, sex, view) is a list of
    groups; a group with too few patients is withheld, and so is the smallest other group of its dimension where
    it would be the only one: its numbers would follow from those of the whole.
    """
    everyone = np.arange(len(predictions.patient_ids))
    if _patients(predictions, everyone) < how.min_patients:
        return {"suppressed": True}
    return {
        "suppressed": False,
        **_metrics(predictions, everyone, how),
        "labels": _labels(predictions, how),
        "calibration": [_calibration(one, how) for one in _calibrations(predictions, everyone)],
        "subgroups": {name: _groups(predictions, name, how) for name in DIMENSIONS},
    }


def withheld(patients: Mapping[Any, int], min_patients: int) -> set[Any]:
    """Names of the groups whose numbers are not shown: too few patients, and the smallest other if that is only one.

    Without the second the hidden group's numbers would follow from those of all and of the shown ones.
    """
    hidden = {name for name, count in patients.items() if count < min_patients}
    others = [name for name in patients if name not in hidden]
    if len(hidden) == 1 and others:
        hidden.add(min(others, key=lambda name: (patients[name], name)))
    return hidden


def _groups(predictions: Predictions, dimension: str, how: Disclosure) -> list[dict[str, Any]]:
    if predictions.demographics is None:
        return []
    values = np.asarray(getattr(predictions.demographics, dimension), dtype=object)
    names = sorted(set(values.tolist()), key=lambda name: (name == UNKNOWN, name))
    if names == [UNKNOWN]:
        return []
    rows = {name: np.flatnonzero(values == name) for name in names}
    patients = {name: _patients(predictions, rows[name]) for name in names}
    hidden = withheld(patients, how.min_patients)
    return [
        {"group": name, "suppressed": True}
        if name in hidden
        else {"group": name, "suppressed": False, **_metrics(predictions, rows[name], how)}
        for name in names
    ]


def _metrics(predictions: Predictions, rows: npt.NDArray[np.int64], how: Disclosure) -> dict[str, Any]:
    found = evaluate_scores(
        predictions.scores_NY[torch.from_numpy(rows)],
        predictions.labels_NY[torch.from_numpy(rows)],
        [predictions.patient_ids[row] for row in rows.tolist()],
        predictions.label_space,
        resamples=how.resamples,
        seed=how.seed,
        min_patients=how.min_of_a_class,
    )
    calibrations = _calibrations(predictions, rows)
    return {
        "patients": _patients(predictions, rows),
        "images": len(rows),
        "auc": found.auc,
        "auc_ci": None if found.auc_ci is None else list(found.auc_ci),
        "labels_averaged": found.labels_averaged,
        "accuracy": found.accuracy,
        "quadratic_kappa": found.quadratic_kappa,
        "brier": {one.block: one.brier for one in calibrations},
        "ece": {one.block: one.ece for one in calibrations},
    }


def _labels(predictions: Predictions, how: Disclosure) -> list[dict[str, Any]]:
    """Area of each label that the site knows, where enough patients have it and have it not."""
    found = []
    scores_NY, labels_NY = predictions.scores_NY, predictions.labels_NY
    for place, name in enumerate(predictions.label_space.labels):
        known_N = ~labels_NY[:, place].isnan()
        if not known_N.any():
            continue
        classes = [
            np.flatnonzero((known_N & ((labels_NY[:, place] > 0.5) == value)).numpy()) for value in (True, False)
        ]
        counts = [_patients(predictions, rows) for rows in classes]
        entry: dict[str, Any] = {"label": name, "suppressed": min(counts) < how.min_of_a_class}
        if entry["suppressed"]:
            found.append(entry)
            continue
        rows = np.flatnonzero(known_N.numpy())
        alone = labels_NY[torch.from_numpy(rows)].clone()
        alone[:, [other for other in range(labels_NY.shape[1]) if other != place]] = float("nan")
        area = evaluate_scores(
            scores_NY[torch.from_numpy(rows)],
            alone,
            [predictions.patient_ids[row] for row in rows.tolist()],
            predictions.label_space,
            resamples=how.resamples,
            seed=how.seed,
        )
        ends = None if area.auc_ci is None else list(area.auc_ci)
        found.append(entry | {"positive": counts[0], "negative": counts[1], "auc": area.auc, "auc_ci": ends})
    return found


def _calibrations(predictions: Predictions, rows: npt.NDArray[np.int64]) -> list[Any]:
    return calibration(
        predictions.scores_NY.numpy()[rows],
        predictions.labels_NY.numpy()[rows],
        [predictions.patient_ids[row] for row in rows.tolist()],
        predictions.label_space,
    )


def _calibration(one: Any, how: Disclosure) -> dict[str, Any]:
    """As JSON values, without the numbers of bins with too few patients."""
    hidden = withheld({entry["low"]: entry["patients"] for entry in one.bins}, how.min_patients)
    bins = [
        {"suppressed": True, "low": entry["low"], "high": entry["high"]}
        if entry["low"] in hidden
        else {"suppressed": False, **entry}
        for entry in one.bins
    ]
    return {**asdict(one), "bins": bins}


def _patients(predictions: Predictions, rows: npt.NDArray[np.int64] | Sequence[int]) -> int:
    return len({predictions.patient_ids[row] for row in rows})
